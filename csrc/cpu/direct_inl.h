// Direct pair sums, O(P M), any pair term.
//
//   rows:    sums_i = sum_j w_j term(y_j - x_i), slopes_i the same with the slope
//   columns: out_j  = sum_i a_i slope(y_j - x_i)
//
// Mapping: rows keep four anchors in registers against a stream of item vectors, columns keep four
// item vectors against a stream of anchors; nothing of size P x M is stored. Bytes: the items once
// for every four anchors, from L1. Hazard: long float sums; every few hundred terms the
// float sums are flushed into doubles, and y - x is formed first, so that uncentred scores lose
// nothing.
#pragma once

#include "core/pair_term.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"

namespace xrisk::cpu::XRISK_ISA {

// Terms whose sum stays in T: 32 to a lane of the rows, 64 anchors in the columns.
constexpr int64_t kBlock = 32 * Vec<float>::kLanes;
constexpr int64_t kColumnBlock = 64;

enum class Channels { kNone, kOne, kMany };  // weights: none, [M], [C, M]

template <Channels kValue>
struct ChannelsConstant {
  constexpr Channels operator()() const { return kValue; }
};

// Calls f with the pair term of the call and the kind of its weights. The exponential terms come
// with one channel of weights only: 8 surrogates x 2 types x (3 + 1) = 64 instances of a kernel.
template <class T, class F>
XRISK_HD void visit_channels(const PairTermParams& term, const Items<T>& items, F&& f) {
  visit_surrogate<T>(term.surrogate, term.params, [&](auto phi) {
    using Phi = decltype(phi);
    if (term.inverse_temperature > 0) {
      const T inverse_temperature = static_cast<T>(term.inverse_temperature);
      f(ExponentialTerm<T, Phi>{phi, inverse_temperature}, ChannelsConstant<Channels::kOne>{});
    } else if (items.channels > 1) {
      f(PlainTerm<T, Phi>{phi}, ChannelsConstant<Channels::kMany>{});
    } else if (items.weights != nullptr) {
      f(PlainTerm<T, Phi>{phi}, ChannelsConstant<Channels::kOne>{});
    } else {
      f(PlainTerm<T, Phi>{phi}, ChannelsConstant<Channels::kNone>{});
    }
  });
}

// w * x, but 0 where w is 0: a weight of zero leaves an item out, even if its score is not finite.
template <class T>
XRISK_HD Vec<T> weighted(Vec<T> w, Vec<T> x) {
  const typename Vec<T>::Native zero{};
  return select({w.v != zero}, w * x, Vec<T>(T(0)));
}

// One vector of items against kAnchors anchors, added to their partial sums.
template <Channels kChannels, int kAnchors, class T, class Term>
XRISK_HD void add_items(const Term& term, Vec<T> y, Vec<T> weight, const Vec<T>* x,
                        const Vec<T>* shift, Vec<T>* sums, Vec<T>* slopes) {
  for (int a = 0; a < kAnchors; ++a) {
    Vec<T> value, slope;
    term.unscaled(y - x[a], shift[a], value, slope);
    if constexpr (kChannels == Channels::kNone) {
      sums[a] = sums[a] + value;
      slopes[a] = slopes[a] + slope;
    } else {
      sums[a] = sums[a] + weighted(weight, value);
      slopes[a] = slopes[a] + weighted(weight, slope);
    }
  }
}

template <Channels kChannels, int kAnchors, class T, class Term>
void rows_of_anchors(const DirectRows<T>& call, const Term& term, int64_t anchor, int64_t begin,
                     int64_t end) {
  using V = Vec<T>;
  V x[kAnchors], shift[kAnchors];
  double sums[kAnchors] = {}, slopes[kAnchors] = {};
  for (int a = 0; a < kAnchors; ++a) {
    x[a] = V(call.anchors[anchor + a]);
    shift[a] = V(call.shifts == nullptr ? T(0) : static_cast<T>(call.shifts[anchor + a]));
  }
  const T* y = call.items.scores;
  const T* w = call.items.weights;
  for (int64_t block = begin; block < end; block += kBlock) {
    const int64_t stop = block + kBlock < end ? block + kBlock : end;
    V sum_v[kAnchors], slope_v[kAnchors];
    for (int a = 0; a < kAnchors; ++a) sum_v[a] = slope_v[a] = V(T(0));
    int64_t j = block;
    for (; j + V::kLanes <= stop; j += V::kLanes) {
      V weight(T(1));
      if constexpr (kChannels == Channels::kOne) weight = V::load(w + j);
      add_items<kChannels, kAnchors>(term, V::load(y + j), weight, x, shift, sum_v, slope_v);
    }
    if (j < stop) {  // the lanes past the end repeat a real score and weigh nothing
      V weight(T(0));
      if constexpr (kChannels == Channels::kOne) {
        weight = V::load_partial(w + j, stop - j, T(0));
      } else {
        T ones[V::kLanes];
        for (int k = 0; k < V::kLanes; ++k) ones[k] = j + k < stop ? T(1) : T(0);
        weight = V::load(ones);
      }
      add_items<Channels::kOne, kAnchors>(term, V::load_partial(y + j, stop - j, y[j]), weight, x,
                                          shift, sum_v, slope_v);
    }
    for (int a = 0; a < kAnchors; ++a) {
      sums[a] += static_cast<double>(sum(sum_v[a]));
      slopes[a] += static_cast<double>(sum(slope_v[a]));
    }
  }
  for (int a = 0; a < kAnchors; ++a) {
    call.sums[anchor + a] = sums[a];
    call.slopes[anchor + a] = term.slope_scale() * slopes[a];
  }
}

// Many channels: the pair term of a block once, into a buffer in L1, then one product per channel.
template <class T, class Term>
void rows_many_channels(const DirectRows<T>& call, const Term& term, int64_t anchor, int64_t begin,
                        int64_t end) {
  using V = Vec<T>;
  const int64_t channels = call.items.channels, count = call.items.count;
  const V x(call.anchors[anchor]);
  for (int64_t c = 0; c < channels; ++c) {
    call.sums[c * call.stride + anchor] = call.slopes[c * call.stride + anchor] = 0.0;
  }
  alignas(64) T values[kBlock], slopes[kBlock];
  for (int64_t block = begin; block < end; block += kBlock) {
    const int64_t size = end - block < kBlock ? end - block : kBlock;
    const T* y = call.items.scores + block;
    for (int64_t j = 0; j < size; j += V::kLanes) {
      const V item =
          j + V::kLanes <= size ? V::load(y + j) : V::load_partial(y + j, size - j, y[j]);
      V value, slope;
      term(item - x, V(T(0)), value, slope);
      value.store(values + j);
      slope.store(slopes + j);
    }
    for (int64_t c = 0; c < channels; ++c) {
      const T* w = call.items.weights + c * count + block;
      V sum_v(T(0)), slope_v(T(0));
      for (int64_t j = 0; j < size; j += V::kLanes) {
        const V weight =
            j + V::kLanes <= size ? V::load(w + j) : V::load_partial(w + j, size - j, T(0));
        sum_v = sum_v + weighted(weight, V::load(values + j));
        slope_v = slope_v + weighted(weight, V::load(slopes + j));
      }
      call.sums[c * call.stride + anchor] += static_cast<double>(sum(sum_v));
      call.slopes[c * call.stride + anchor] += static_cast<double>(sum(slope_v));
    }
  }
}

template <class T>
void direct_rows(const DirectRows<T>& call, int64_t anchor_begin, int64_t anchor_end,
                 int64_t item_begin, int64_t item_end) {
  constexpr int64_t kAnchors = 4;
  visit_channels<T>(call.term, call.items, [&](const auto& term, auto channels) {
    int64_t i = anchor_begin;
    if constexpr (channels() == Channels::kMany) {
      for (; i < anchor_end; ++i) rows_many_channels(call, term, i, item_begin, item_end);
    } else {
      for (; i + kAnchors <= anchor_end; i += kAnchors) {
        rows_of_anchors<channels(), kAnchors>(call, term, i, item_begin, item_end);
      }
      if (i < anchor_end && anchor_end - anchor_begin >= kAnchors) {
        i = anchor_end - kAnchors;  // some a second time: cheaper than one by one
        rows_of_anchors<channels(), kAnchors>(call, term, i, item_begin, item_end);
        i += kAnchors;
      }
      for (; i < anchor_end; ++i) {
        rows_of_anchors<channels(), 1>(call, term, i, item_begin, item_end);
      }
    }
  });
}

// What anchors [begin, end), at most kColumnBlock, add to the sums of kVectors vectors of items.
template <int kVectors, class T, class Term>
XRISK_HD void add_anchors(const DirectColumns<T>& call, const Term& term, const T* weights,
                          int64_t begin, int64_t end, const Vec<T>* y, Vec<T>* sums) {
  for (int64_t i = begin; i < end; ++i) {
    const Vec<T> x(call.anchors[i]);
    const Vec<T> shift(call.shifts == nullptr ? T(0) : static_cast<T>(call.shifts[i]));
    const Vec<T> weight(weights[i - begin]);
    for (int v = 0; v < kVectors; ++v) {
      Vec<T> value, slope;
      term.unscaled(y[v] - x, shift, value, slope);
      sums[v] = sums[v] + weight * slope;
    }
  }
}

// The weights of anchors [begin, end) as add_anchors takes them.
template <class Term, class T>
void column_weights(const DirectColumns<T>& call, const Term& term, int64_t begin, int64_t end,
                    T* out) {
  const double scale = term.slope_scale();
  for (int64_t i = begin; i < end; ++i) {
    out[i - begin] = static_cast<T>(scale * call.anchor_weights[i]);
  }
}

// The same with many channels: the weight of a pair, sum_c w_cj a_ci, is formed on the fly, so that
// the pair term is still evaluated once. `size`: items of the vectors that there are.
template <int kVectors, class T, class Term>
XRISK_HD void add_anchors_of_channels(const DirectColumns<T>& call, const Term& term, int64_t begin,
                                      int64_t end, int64_t item, int64_t size, const Vec<T>* y,
                                      Vec<T>* sums) {
  using V = Vec<T>;
  for (int64_t i = begin; i < end; ++i) {
    const V x(call.anchors[i]);
    for (int v = 0; v < kVectors; ++v) {
      V value, slope;
      term(y[v] - x, V(T(0)), value, slope);
      V pair_weight(T(0));
      const int64_t left = size - v * V::kLanes;
      for (int64_t c = 0; c < call.items.channels; ++c) {
        const T* w = call.items.weights + c * call.items.count + item + v * V::kLanes;
        const V item_weight =
            left >= V::kLanes ? V::load(w) : V::load_partial(w, left > 0 ? left : 0, T(0));
        const double anchor_weight = call.anchor_weights[c * call.anchor_count + i];
        pair_weight = pair_weight + item_weight * V(static_cast<T>(anchor_weight));
      }
      sums[v] = sums[v] + weighted(pair_weight, slope);
    }
  }
}

// kVectors vectors of items, or what there is of them, against all anchors.
template <Channels kChannels, int kVectors, class T, class Term>
void columns_of_items(const DirectColumns<T>& call, const Term& term, int64_t begin, int64_t end) {
  using V = Vec<T>;
  constexpr int kWidth = kVectors * V::kLanes;
  const int64_t size = end - begin < kWidth ? end - begin : kWidth;
  const T* scores = call.items.scores + begin;
  V y[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t left = size - v * V::kLanes;
    y[v] = left >= V::kLanes ? V::load(scores + v * V::kLanes)
           : left > 0        ? V::load_partial(scores + v * V::kLanes, left, scores[0])
                             : V(scores[0]);
  }
  double totals[kWidth] = {};
  for (int64_t block = 0; block < call.anchor_count; block += kColumnBlock) {
    const int64_t stop =
        block + kColumnBlock < call.anchor_count ? block + kColumnBlock : call.anchor_count;
    V sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = V(T(0));
    if constexpr (kChannels == Channels::kMany) {
      add_anchors_of_channels<kVectors>(call, term, block, stop, begin, size, y, sums);
    } else {
      T weights[kColumnBlock];
      column_weights(call, term, block, stop, weights);
      add_anchors<kVectors>(call, term, weights, block, stop, y, sums);
    }
    T lanes[kWidth];
    for (int v = 0; v < kVectors; ++v) sums[v].store(lanes + v * V::kLanes);
    for (int k = 0; k < kWidth; ++k) totals[k] += static_cast<double>(lanes[k]);
  }
  for (int64_t k = 0; k < size; ++k) {
    T total = static_cast<T>(totals[k]);
    if (kChannels == Channels::kOne) {
      const T weight = call.items.weights[begin + k];
      total = weight == T(0) ? T(0) : total * weight;
    }
    call.out[begin + k] = total;
  }
}

// Few anchors, no weights, whole vectors: nothing but the pairs. Returns where it stopped.
template <int kVectors, class T, class Term>
int64_t columns_of_few_anchors(const DirectColumns<T>& call, const Term& term, int64_t begin,
                               int64_t end) {
  using V = Vec<T>;
  constexpr int kWidth = kVectors * V::kLanes;
  T weights[kColumnBlock];
  column_weights(call, term, 0, call.anchor_count, weights);
  for (; begin + kWidth <= end; begin += kWidth) {
    V y[kVectors], sums[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      y[v] = V::load(call.items.scores + begin + v * V::kLanes);
      sums[v] = V(T(0));
    }
    add_anchors<kVectors>(call, term, weights, 0, call.anchor_count, y, sums);
    for (int v = 0; v < kVectors; ++v) sums[v].store(call.out + begin + v * V::kLanes);
  }
  return begin;
}

template <class T>
void direct_columns(const DirectColumns<T>& call, int64_t item_begin, int64_t item_end) {
  constexpr int kVectors = 4;
  constexpr int64_t kWidth = kVectors * Vec<T>::kLanes;
  visit_channels<T>(call.term, call.items, [&](const auto& term, auto channels) {
    int64_t j = item_begin;
    if constexpr (channels() == Channels::kNone) {
      if (call.anchor_count <= kColumnBlock) {
        j = columns_of_few_anchors<kVectors>(call, term, j, item_end);
      }
    }
    for (; j < item_end; j += kWidth) {
      const int64_t stop = j + kWidth < item_end ? j + kWidth : item_end;
      columns_of_items<channels(), kVectors>(call, term, j, stop);
    }
  });
}

}  // namespace xrisk::cpu::XRISK_ISA
