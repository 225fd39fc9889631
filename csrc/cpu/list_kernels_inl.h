// Kernels of ranked lists.
//
//   weighted_pairs: every pair (i, j) of a list once, its value, and its slope to both ends
//   neural_sort, dot_and_add, softmax_gradient: P = softmax rows, Sinkhorn, and back
//
// Mapping: four anchors in registers against a stream of item vectors, whose pulls are loaded and
// stored once for the four. The matrix of a list (384 KB for 310 items) stays in L2; a row is in L1
// for both halves of dot_and_add. Hazard: (n - 1 - 2 k) h_j is large and cancels against the
// distances, so the exponents are formed in double whatever T is.
#pragma once

#include "core/surrogate.h"
#include "cpu/lambda_scan_inl.h"
#include "cpu/list_kernels.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"
#include "cpu/sums_inl.h"

namespace xrisk::cpu::XRISK_ISA {

enum class ListWeights { kNone, kItem, kLambda };

template <ListWeights kValue>
struct ListWeightsConstant {
  constexpr ListWeights operator()() const { return kValue; }
};

template <ListWeights kWeights, int kAnchors, class T>
double pairs_of_anchors(const WeightedPairs<T>& call, int64_t anchor, int64_t begin, int64_t end) {
  using V = Vec<T>;
  constexpr int64_t kFlush = 32 * V::kLanes;  // items whose sums stay in T
  const Logistic<T> phi{call.scale};
  V x[kAnchors], gain[kAnchors], discount[kAnchors];
  double value = 0.0, slopes[kAnchors] = {};
  for (int a = 0; a < kAnchors; ++a) {
    x[a] = V(call.scores[anchor + a]);
    if constexpr (kWeights == ListWeights::kLambda) {
      gain[a] = V(call.gains[anchor + a]);
      discount[a] = V(call.discounts[anchor + a]);
    }
  }
  V value_v(T(0)), slope_v[kAnchors];
  const auto load = [](const T* p, int64_t left) {
    return left >= V::kLanes ? V::load(p) : V::load_partial(p, left, p[0]);
  };
  const auto add = [&](int64_t j, int64_t left, V inside) {
    const V y = load(call.scores + j, left);
    V pull = load(call.pulls + j, left), item_weight, item_gain, item_discount;
    if constexpr (kWeights == ListWeights::kItem) item_weight = load(call.weights + j, left);
    if constexpr (kWeights == ListWeights::kLambda) {
      item_gain = load(call.gains + j, left);
      item_discount = load(call.discounts + j, left);
    }
    for (int a = 0; a < kAnchors; ++a) {
      V term, slope;
      phi(y - x[a], term, slope);
      if constexpr (kWeights == ListWeights::kItem) {
        term = item_weight * term;
        slope = item_weight * slope;
      }
      if constexpr (kWeights == ListWeights::kLambda) {
        const V w = absolute((gain[a] - item_gain) * (discount[a] - item_discount));
        term = w * term;
        slope = w * slope;
      }
      value_v = value_v + inside * term;
      slope = inside * slope;
      slope_v[a] = slope_v[a] + slope;
      pull = pull + slope;
    }
    if (left >= V::kLanes) {
      pull.store(call.pulls + j);
    } else {
      pull.store_partial(call.pulls + j, left);
    }
  };
  for (int64_t block = begin; block < end; block += kFlush) {
    const int64_t stop = block + kFlush < end ? block + kFlush : end;
    value_v = V(T(0));
    for (int a = 0; a < kAnchors; ++a) slope_v[a] = V(T(0));
    int64_t j = block;
    for (; j + V::kLanes <= stop; j += V::kLanes) add(j, V::kLanes, V(T(1)));
    if (j < stop) {  // the lanes past the end repeat an item and weigh nothing
      T inside[V::kLanes];
      for (int k = 0; k < V::kLanes; ++k) inside[k] = j + k < stop ? T(1) : T(0);
      add(j, stop - j, V::load(inside));
    }
    value += static_cast<double>(sum(value_v));
    for (int a = 0; a < kAnchors; ++a) slopes[a] += static_cast<double>(sum(slope_v[a]));
  }
  for (int a = 0; a < kAnchors; ++a) call.own_slopes[anchor + a] = slopes[a];
  return value;
}

template <class T>
double weighted_pairs(const WeightedPairs<T>& call, int64_t begin, int64_t end, int64_t item_begin,
                      int64_t item_end) {
  const auto run = [&](auto weights) {
    double value = 0.0;
    int64_t i = begin;
    for (; i + 4 <= end; i += 4) {
      value += pairs_of_anchors<weights(), 4>(call, i, item_begin, item_end);
    }
    for (; i < end; ++i) value += pairs_of_anchors<weights(), 1>(call, i, item_begin, item_end);
    return value;
  };
  if (call.gains != nullptr) return run(ListWeightsConstant<ListWeights::kLambda>{});
  if (call.weights != nullptr) return run(ListWeightsConstant<ListWeights::kItem>{});
  return run(ListWeightsConstant<ListWeights::kNone>{});
}

template <class T>
XRISK_HD T largest_of(const T* x, int64_t count) {
  using V = Vec<T>;
  V largest(x[0]);
  for (int64_t j = 0; j < count; j += V::kLanes) {
    const int64_t left = count - j;
    const V y = left >= V::kLanes ? V::load(x + j) : V::load_partial(x + j, left, x[0]);
    largest = select(greater(y, largest), y, largest);
  }
  T lanes[V::kLanes], top = x[0];
  largest.store(lanes);
  for (T lane : lanes) top = lane > top ? lane : top;
  return top;
}

template <class T>
double cross_entropy(const T* h, const T* y, int64_t count, T* out, T* powers) {
  using V = Vec<T>;
  constexpr int64_t kFlush = 32 * V::kLanes;  // terms whose sums stay in T
  constexpr T kNone = T(-1e4);                // a power of zero
  const V top(largest_of(h, count)), y_top(largest_of(y, count));
  double total = 0.0, y_total = 0.0, gap = 0.0;  // gap: sum of powers of y times (top - h)
  for (int64_t block = 0; block < count; block += kFlush) {
    const int64_t stop = block + kFlush < count ? block + kFlush : count;
    V sum_v(T(0)), y_sum_v(T(0)), gap_v(T(0));
    for (int64_t j = block; j < stop; j += V::kLanes) {
      const int64_t left = count - j;
      const bool whole = left >= V::kLanes;
      const V d = whole ? V::load(h + j) - top : V::load_partial(h + j, left, h[0]) - top;
      V e = exponential(d);
      V y_d = whole ? V::load(y + j) - y_top : V::load_partial(y + j, left, y[0]) - y_top;
      if (!whole) {  // the lanes past the end repeat an item and weigh nothing
        T inside[V::kLanes];
        for (int k = 0; k < V::kLanes; ++k) inside[k] = k < left ? T(0) : kNone;
        y_d = y_d + V::load(inside);
        e = select(greater(V::load(inside), V(kNone / T(2))), e, V(T(0)));
      }
      const V w = exponential(y_d);
      sum_v = sum_v + e;
      y_sum_v = y_sum_v + w;
      gap_v = gap_v - w * d;
      if (whole) {
        e.store(out + j);
        w.store(powers + j);
      } else {
        e.store_partial(out + j, left);
        w.store_partial(powers + j, left);
      }
    }
    total += static_cast<double>(sum(sum_v));
    y_total += static_cast<double>(sum(y_sum_v));
    gap += static_cast<double>(sum(gap_v));
  }
  const V share(static_cast<T>(1.0 / total)), y_share(static_cast<T>(1.0 / y_total));
  for (int64_t j = 0; j < count; j += V::kLanes) {
    const int64_t left = count - j;
    if (left >= V::kLanes) {
      (V::load(out + j) * share - V::load(powers + j) * y_share).store(out + j);
    } else {
      const V e = V::load_partial(out + j, left, T(0)), w = V::load_partial(powers + j, left, T(0));
      (e * share - w * y_share).store_partial(out + j, left);
    }
  }
  return std::log(total) + gap / y_total;
}

template <class T>
void neural_sort(const double* scores, const double* distances, double inverse_temperature,
                 const SquareMatrix<T>& p) {
  const int64_t n = p.size;
  for (int64_t k = 0; k < n; ++k) {
    T* row = p.row(k);
    const D factor(static_cast<double>(n - 1 - 2 * k));
    const auto exponent = [&](int64_t j) {
      return factor * widen(scores + j, n - j, scores[j]) -
             widen(distances + j, n - j, distances[j]);
    };
    D largest(-INFINITY);
    for (int64_t j = 0; j < n; j += D::kLanes) {
      const D e = exponent(j);
      largest = select(greater(e, largest), e, largest);
    }
    double lanes[D::kLanes], top = -INFINITY;
    largest.store(lanes);
    for (double lane : lanes) top = lane > top ? lane : top;
    double total = 0.0;
    for (int64_t j = 0; j < n; j += D::kLanes) {
      const D e = exponential((exponent(j) - D(top)) * D(inverse_temperature));
      e.store(lanes);
      for (int64_t m = 0; m < D::kLanes && j + m < n; ++m) {
        row[j + m] = static_cast<T>(lanes[m]);
        total += lanes[m];
      }
    }
    const T inverse = static_cast<T>(1.0 / total);
    for (int64_t j = 0; j < n; ++j) row[j] *= inverse;
    for (int64_t j = n; j < p.stride; ++j) row[j] = T(0);
  }
}

template <class T>
void dot_and_add(const SquareMatrix<T>& p, const T* x, const T* square, T* coefficients, T* out) {
  using V = Vec<T>;
  constexpr T kTiny = static_cast<T>(1e-30);
  for (int64_t j = 0; j < p.stride; ++j) out[j] = T(0);
  for (int64_t k = 0; k < p.size; ++k) {
    const T* row = p.row(k);
    V dot[2] = {V(T(0)), V(T(0))};
    for (int64_t j = 0, half = 0; j < p.stride; j += V::kLanes, half ^= 1) {
      dot[half] = dot[half] + V::load(row + j) * V::load(x + j);
    }
    const T product = sum(dot[0] + dot[1]);
    const T c = square == nullptr ? T(1) / (product > kTiny ? product : kTiny)
                                  : -product * square[k] * square[k];
    coefficients[k] = c;
    for (int64_t j = 0; j < p.stride; j += V::kLanes) {
      (V::load(out + j) + V(c) * V::load(row + j)).store(out + j);
    }
  }
}

// kRows rows of b, two vectors at a time, as a small matrix product.
template <int kRows, class T>
void rows_of_product(const SquareMatrix<T>& p, int64_t k, int64_t depth, const T* left,
                     const T* right, T* b) {
  using V = Vec<T>;
  for (int64_t j = 0; j < p.stride; j += V::kLanes) {
    V sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = V(T(0));
    for (int64_t t = 0; t < depth; ++t) {
      const V values = V::load(right + t * p.stride + j);
      for (int r = 0; r < kRows; ++r) sums[r] = sums[r] + V(left[t * p.stride + k + r]) * values;
    }
    for (int r = 0; r < kRows; ++r) sums[r].store(b + r * p.stride + j);
  }
}

template <class T>
void softmax_gradient(const SquareMatrix<T>& p, int64_t depth, const T* left, const T* right, T* b,
                      double* plain, double* ranked) {
  using V = Vec<T>;
  constexpr int kRows = 4;
  const int64_t n = p.size;
  for (int64_t j = 0; j < n; ++j) plain[j] = ranked[j] = 0.0;
  for (int64_t first = 0; first < n; first += kRows) {
    const int64_t rows = n - first < kRows ? n - first : kRows;
    if (rows == kRows) {
      rows_of_product<kRows>(p, first, depth, left, right, b);
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        rows_of_product<1>(p, first + r, depth, left, right, b + r * p.stride);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = p.row(first + r);
      const T* of_row = b + r * p.stride;
      V dot(T(0));
      for (int64_t j = 0; j < p.stride; j += V::kLanes) {
        dot = dot + V::load(row + j) * V::load(of_row + j);
      }
      const T mean = sum(dot);
      const double factor = static_cast<double>(n - 1 - 2 * (first + r));
      for (int64_t j = 0; j < n; ++j) {
        const double g = static_cast<double>(row[j] * (of_row[j] - mean));
        plain[j] += g;
        ranked[j] += factor * g;
      }
    }
  }
}

template <class T>
XRISK_HD constexpr ListKernels<T> make_list_kernels() {
  return {weighted_pairs<T>, lambda_scan<T>, cross_entropy<T>,
          neural_sort<T>,    dot_and_add<T>, softmax_gradient<T>};
}

}  // namespace xrisk::cpu::XRISK_ISA
