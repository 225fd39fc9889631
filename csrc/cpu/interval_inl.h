// The streaming halves of the one-sided sort algorithm: P sorted keys cut the line into intervals.
//
//   accumulate: moments[rank_j] += w_j {1, d, d^2}, d = y_j - (lower key of its interval)
//   evaluate:   out_j = w_j (linear[rank_j] d + constant[rank_j])
//
// Mapping: items are streamed in blocks of 64; one 256-bit read-modify-write per item and channel.
// Bytes: 4 or 8 per item in, 4 out (its rank), and the intervals, which stay in cache up to ~1e5
// keys; beyond that the block's intervals are prefetched one block ahead. Hazard: raw moments
// cancel; relative to the interval's own key they do not, and the sums are doubles.
#pragma once

#include "cpu/rank_inl.h"
#include "cpu/sums_inl.h"

namespace xrisk::cpu::XRISK_ISA {

typedef double Moments __attribute__((vector_size(kMomentSlots * sizeof(double))));

template <bool kWeighted, bool kTies, class T>
void accumulate_block(const RankIndex<T>& index, const Items<T>& items, int64_t begin, int64_t end,
                      const int32_t* ranks, double* moments) {
  const T* keys = index.keys;
  const int64_t channels = kWeighted ? items.channels : 1;
  for (int64_t j = begin; j < end; ++j) {
    const int64_t rank = ranks[j];
    const T y = items.scores[j];
    const double d = static_cast<double>(y - index.references[rank]);
    const Moments powers = {1.0, d, d * d, 0.0};
    for (int64_t c = 0; c < channels; ++c) {
      const double w = kWeighted ? static_cast<double>(items.weights[c * items.count + j]) : 1.0;
      double* slot = moments + (rank * channels + c) * kMomentSlots;
      Moments m;
      memcpy(&m, slot, sizeof(m));
      m += powers * w;
      memcpy(slot, &m, sizeof(m));
      if (kTies && rank < index.count && keys[rank + 1] == y) {
        moments[((rank + 1) * channels + c) * kMomentSlots + 3] += w;
      }
    }
  }
}

// Whether a block lies above the highest key (rank = count) or below the lowest (rank 0). With
// scores in [0, 1] and margin 1 every block lies above: then there is nothing to search, and no
// chain of additions through one place in memory.
template <class T>
XRISK_HD bool uniform_rank(const RankIndex<T>& index, const T* scores, int64_t count,
                           int32_t& rank) {
  using V = Vec<T>;
  // Most blocks are told by their first score.
  if (!(scores[0] > index.keys[index.count]) && !(scores[0] < index.keys[1])) return false;
  V low = V::load_partial(scores, count < V::kLanes ? count : V::kLanes, scores[0]), high = low;
  for (int64_t k = V::kLanes; k < count; k += V::kLanes) {
    const V y = k + V::kLanes <= count ? V::load(scores + k)
                                       : V::load_partial(scores + k, count - k, scores[0]);
    low = select(greater(low, y), y, low);
    high = select(greater(y, high), y, high);
  }
  T lows[V::kLanes], highs[V::kLanes];
  low.store(lows);
  high.store(highs);
  const T top = index.keys[index.count], bottom = index.keys[1];
  bool above = true, below = true;
  for (int k = 0; k < V::kLanes; ++k) {
    above &= lows[k] > top;
    below &= highs[k] < bottom;
  }
  rank = above ? static_cast<int32_t>(index.count) : 0;
  return above || below;
}

// Items [begin, end) share one interval.
template <class T>
XRISK_HD void accumulate_uniform(const RankIndex<T>& index, const Items<T>& items, int64_t begin,
                                 int64_t end, int64_t rank, double* moments) {
  const int64_t channels = items.weights == nullptr ? 1 : items.channels;
  const double key = static_cast<double>(index.references[rank]);
  for (int64_t c = 0; c < channels; ++c) {
    double sums[3];
    power_sums(items.scores + begin,
               items.weights == nullptr ? nullptr : items.weights + c * items.count + begin,
               end - begin, key, sums);
    double* slot = moments + (rank * channels + c) * kMomentSlots;
    for (int k = 0; k < 3; ++k) slot[k] += sums[k];
  }
}

template <class T>
void accumulate_moments(const RankIndex<T>& index, const Items<T>& items, int64_t begin,
                        int64_t end, bool ties, int32_t* ranks, double* moments) {
  const int64_t channels = items.weights == nullptr ? 1 : items.channels;
  const bool prefetch = index.count * channels >= 16384;
  const auto add = [&](int64_t from, int64_t to) {
    if (items.weights == nullptr) {
      if (ties) return accumulate_block<false, true>(index, items, from, to, ranks, moments);
      return accumulate_block<false, false>(index, items, from, to, ranks, moments);
    }
    if (ties) return accumulate_block<true, true>(index, items, from, to, ranks, moments);
    return accumulate_block<true, false>(index, items, from, to, ranks, moments);
  };
  int64_t waiting = begin;  // ranked and prefetched, not yet added
  for (int64_t j = begin; j < end; j += kRankBlock) {
    const int64_t stop = j + kRankBlock < end ? j + kRankBlock : end;
    int32_t shared;
    if (uniform_rank(index, items.scores + j, stop - j, shared)) {
      add(waiting, j);
      waiting = stop;
      for (int64_t k = j; k < stop; ++k) ranks[k] = shared;
      accumulate_uniform(index, items, j, stop, shared, moments);
      continue;
    }
    ranks_of(index, items.scores + j, stop - j, ranks + j);
    if (prefetch) {
      for (int64_t k = j; k < stop; ++k) {
        __builtin_prefetch(moments + ranks[k] * channels * kMomentSlots, 1);
      }
      add(waiting, j);
      waiting = j;
    } else {
      add(j, stop);
      waiting = stop;
    }
  }
  add(waiting, end);
}

template <bool kWeighted, class T>
XRISK_HD void evaluate_range(const T* table, int64_t stride, const int32_t* ranks,
                             const Items<T>& items, int64_t begin, int64_t end, bool add, T* out) {
  const int64_t channels = kWeighted ? items.channels : 1;
  for (int64_t j = begin; j < end; ++j) {
    const T* entry = table + ranks[j] * stride;
    const T d = items.scores[j] - entry[0];
    T total = T(0);
    for (int64_t c = 0; c < channels; ++c) {
      const T slope = d * entry[1 + 2 * c] + entry[2 + 2 * c];
      total += kWeighted ? items.weights[c * items.count + j] * slope : slope;
    }
    out[j] = add ? out[j] + total : total;
  }
}

template <class T>
void evaluate_intervals(const T* table, int64_t stride, const int32_t* ranks, const Items<T>& items,
                        int64_t begin, int64_t end, bool add, T* out) {
  if (items.weights == nullptr) {
    evaluate_range<false>(table, stride, ranks, items, begin, end, add, out);
  } else {
    evaluate_range<true>(table, stride, ranks, items, begin, end, add, out);
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
