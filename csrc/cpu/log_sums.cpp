#include "cpu/log_sums.h"

#include <algorithm>
#include <cmath>

#include "cpu/direct.h"

namespace xrisk::cpu {
namespace {

// Every surrogate is convex or monotone in d, so its maximum over the items is at the highest or
// the lowest of them: the shift needs no pass over the pairs.
template <class T>
struct Extremes {
  T low, high;
  bool any;
};

template <class T>
Extremes<T> weighed_extremes(const Items<T>& items) {
  Extremes<T> e{T(0), T(0), false};
  for (int64_t j = 0; j < items.count; ++j) {
    if (items.weights != nullptr && items.weights[j] == 0) continue;
    const T y = items.scores[j];
    if (!e.any || y < e.low || y != y) e.low = y;  // a NaN stays
    if (!e.any || y > e.high || y != y) e.high = y;
    e.any = true;
  }
  return e;
}

// The kernel wants weights, and no item whose exponential could overflow before its weight 0
// removes it: such items take the place of a real one.
template <class T>
Items<T> prepared_items(const Items<T>& items, const Extremes<T>& extremes, Scratch& scratch) {
  Items<T> result = items;
  if (items.weights == nullptr) {
    T* ones = scratch.allocate<T>(items.count);
    std::fill(ones, ones + items.count, T(1));
    result.weights = ones;
    return result;
  }
  T* scores = scratch.allocate<T>(items.count);
  for (int64_t j = 0; j < items.count; ++j) {
    scores[j] = items.weights[j] == 0 ? extremes.low : items.scores[j];
  }
  result.scores = scores;
  return result;
}

// The largest phi of every anchor, by the kernels' own arithmetic: an exponent is a difference of
// two of them over a temperature that may be tiny, so that not even an ulp may come between.
template <class T>
const double* peaks_of(const LogSums<T>& call, const Extremes<T>& extremes, Scratch& scratch) {
  const int64_t count = call.anchor_count;
  T* differences = scratch.allocate<T>(2 * count);
  T* values = scratch.allocate<T>(2 * count);
  T* slopes = scratch.allocate<T>(2 * count);
  for (int64_t i = 0; i < count; ++i) {
    differences[2 * i] = extremes.low - call.anchors[i];
    differences[2 * i + 1] = extremes.high - call.anchors[i];
  }
  kernels<T>().surrogate(call.term.surrogate, call.term.params, differences, 2 * count, values,
                         slopes);
  double* peaks = scratch.allocate<double>(count);
  for (int64_t i = 0; i < count; ++i) {
    const T low = values[2 * i], high = values[2 * i + 1];
    const T sum = low + high;  // NaN where an infinite score meets one of its own sign
    peaks[i] = static_cast<double>(sum != sum ? sum : low > high ? low : high);
  }
  return peaks;
}

}  // namespace

template <class T>
void log_rows(const LogSums<T>& call, double* log_sums, double* slopes, double* masses,
              Scratch& scratch, const Executor& executor) {
  const Extremes<T> extremes = weighed_extremes(call.items);
  if (!extremes.any) {
    std::fill(log_sums, log_sums + call.anchor_count, -INFINITY);
    std::fill(slopes, slopes + call.anchor_count, 0.0);
    std::fill(masses, masses + call.anchor_count, 1.0);
    return;
  }
  DirectRows<T> rows;
  rows.term = call.term;
  rows.anchors = call.anchors;
  rows.shifts = peaks_of(call, extremes, scratch);
  rows.items = prepared_items(call.items, extremes, scratch);
  rows.sums = masses;
  rows.slopes = slopes;
  direct_rows(rows, call.anchor_count, scratch, executor);
  for (int64_t i = 0; i < call.anchor_count; ++i) {
    if (rows.shifts[i] == INFINITY) {  // phi itself is past the range of T
      log_sums[i] = slopes[i] = INFINITY;
      masses[i] = 1.0;
      continue;
    }
    slopes[i] /= masses[i];
    log_sums[i] = rows.shifts[i] * call.term.inverse_temperature + std::log(masses[i]);
  }
}

template <class T>
void log_columns(const LogSums<T>& call, const double* anchor_weights, const double* masses, T* out,
                 Scratch& scratch, const Executor& executor) {
  const Extremes<T> extremes = weighed_extremes(call.items);
  if (!extremes.any) {
    std::fill(out, out + call.items.count, T(0));
    return;
  }
  double* weights = scratch.allocate<double>(call.anchor_count);
  for (int64_t i = 0; i < call.anchor_count; ++i) weights[i] = anchor_weights[i] / masses[i];
  DirectColumns<T> columns;
  columns.term = call.term;
  columns.anchors = call.anchors;
  columns.shifts = peaks_of(call, extremes, scratch);
  columns.anchor_weights = weights;
  columns.anchor_count = call.anchor_count;
  columns.items = prepared_items(call.items, extremes, scratch);
  columns.out = out;
  direct_columns(columns, executor);
}

#define XRISK_INSTANTIATE(T)                                                                       \
  template void log_rows(const LogSums<T>&, double*, double*, double*, Scratch&, const Executor&); \
  template void log_columns(const LogSums<T>&, const double*, const double*, T*, Scratch&,         \
                            const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
