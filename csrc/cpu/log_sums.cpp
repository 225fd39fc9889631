// The direct log sums, O(P M), and the choice of the algorithm.
#include "cpu/log_sums.h"

#include <algorithm>
#include <cmath>

#include "core/log_sums.h"
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

template <class T>
class DirectLogSums final : public LogPairs<T> {
 public:
  DirectLogSums(const LogSums<T>& call, Scratch& scratch, const Executor& executor)
      : call_(call),
        scratch_(scratch),
        executor_(executor),
        extremes_(weighed_extremes(call.items)) {
    if (!extremes_.any) return;
    peaks_ = peaks_of(call, extremes_, scratch);
    items_ = prepared_items(call.items, extremes_, scratch);
  }

  void rows(double* log_sums, double* slopes, double* masses) override {
    const int64_t anchors = call_.anchor_count;
    if (!extremes_.any) {
      std::fill(log_sums, log_sums + anchors, -INFINITY);
      std::fill(slopes, slopes + anchors, 0.0);
      std::fill(masses, masses + anchors, 1.0);
      return;
    }
    DirectRows<T> rows;
    rows.term = call_.term;
    rows.anchors = call_.anchors;
    rows.shifts = peaks_;
    rows.items = items_;
    rows.sums = masses;
    rows.slopes = slopes;
    direct_rows(rows, anchors, scratch_, executor_, tiny_is_zero());
    for (int64_t i = 0; i < anchors; ++i) {
      if (peaks_[i] == INFINITY) {  // phi itself is past the range of T
        log_sums[i] = slopes[i] = INFINITY;
        masses[i] = 1.0;
        continue;
      }
      slopes[i] /= masses[i];
      log_sums[i] = peaks_[i] * call_.term.inverse_temperature + std::log(masses[i]);
    }
  }

  void columns(const double* anchor_weights, const double* masses, T* out) override {
    if (!extremes_.any) {
      std::fill(out, out + call_.items.count, T(0));
      return;
    }
    double* weights = scratch_.allocate<double>(call_.anchor_count);
    double largest = 0.0;
    for (int64_t i = 0; i < call_.anchor_count; ++i) {
      weights[i] = anchor_weights[i] / masses[i];
      largest = std::max(largest, std::abs(weights[i]));
    }
    DirectColumns<T> columns;
    columns.term = call_.term;
    columns.anchors = call_.anchors;
    columns.shifts = peaks_;
    columns.anchor_weights = weights;
    columns.anchor_count = call_.anchor_count;
    columns.items = items_;
    columns.out = out;
    direct_columns(columns, executor_, largest > 1e-20 && tiny_is_zero());
  }

 private:
  // A steep temperature leaves most shares below the normal range, where arithmetic is slow. Beside
  // the largest term, which is 1, they are nothing, even 10^9 of them, unless the weights differ
  // by as much.
  bool tiny_is_zero() const {
    constexpr T kLight = T(1e-10), kHeavy = T(1e10);
    // A step, of the value or of the slope, tells a denormal difference of scores from zero.
    const Surrogate kind = call_.term.surrogate;
    const bool hinged = kind == Surrogate::kHinge || kind == Surrogate::kBarrierHinge;
    if (kind == Surrogate::kZeroOne || (hinged && call_.term.params.margin < 1e-30)) return false;
    bool alike = call_.term.inverse_temperature < 1e20;
    const T* weights = call_.items.weights;
    for (int64_t j = 0; weights != nullptr && j < call_.items.count; ++j) {
      alike &= (weights[j] == 0) | ((weights[j] >= kLight) & (weights[j] <= kHeavy));
    }
    return alike;
  }

  const LogSums<T> call_;
  Scratch& scratch_;
  const Executor& executor_;
  const Extremes<T> extremes_;
  const double* peaks_ = nullptr;
  Items<T> items_;
};

// Whether differences of these scores, and exponents, are numbers, and there is what to sum.
template <class T>
bool fits_near_linear(const LogSums<T>& call) {
  const Extremes<T> items = weighed_extremes(call.items);
  if (!items.any || call.anchor_count == 0) return false;
  const T anchors = kernels<T>().largest_magnitude(call.anchors, call.anchor_count);
  const double low = static_cast<double>(items.low), high = static_cast<double>(items.high);
  const double reach =
      static_cast<double>(anchors) + std::abs(low) + std::abs(high) + call.term.params.margin;
  return fits_log_sums(reach, call.term.params.scale, call.term.inverse_temperature);
}

}  // namespace

template <class T>
bool has_sorted_log_sums(const PairTermParams& term) {
  switch (term.surrogate) {
    case Surrogate::kHinge:
    case Surrogate::kBarrierHinge:
      return true;
    case Surrogate::kLogistic:
      return whole_inverse<T>(term.inverse_temperature) > 0;
    default:
      return false;
  }
}

bool has_smooth_log_sums(const PairTermParams& term) {
  return term.surrogate == Surrogate::kSquaredHinge;
}

template <class T>
Algorithm choose_log_algorithm(const LogSums<T>& call, Algorithm wanted) {
  if (wanted == Algorithm::kDirect) return wanted;
  const bool sorted = has_sorted_log_sums<T>(call.term), smooth = has_smooth_log_sums(call.term);
  if (!sorted && !smooth) return Algorithm::kDirect;
  if (wanted == Algorithm::kAuto) {
    // Nanoseconds for rows and columns on one core, fitted to times from 10 x 100 to 1000 x 10^4 on
    // a 2-core AVX-512 machine; there direct and near-linear meet about 100 x 1000 (squared hinge),
    // 15 x 150 (the other hinges) and below (logistic).
    const double p = static_cast<double>(call.anchor_count);
    const double m = static_cast<double>(call.items.count);
    const bool logistic = call.term.surrogate == Surrogate::kLogistic;
    const double lanes = kernel_table().lanes * 4.0 / sizeof(T);
    const double direct = 12.0 * p + (logistic ? 90.0 : 28.0) / lanes * p * m;
    double near = 2000.0 + 40.0 * (p + m);
    if (smooth) near = 60000.0 + 100.0 * (p + m) + 500.0 * std::min(p, 700.0);
    if (logistic) near = 500.0 + (p + m) * (17.0 + 2.2 * call.term.inverse_temperature);
    if (direct < near) return Algorithm::kDirect;
  }
  if (!fits_near_linear(call)) return Algorithm::kDirect;
  return sorted ? Algorithm::kSort : Algorithm::kSmooth;
}

template <class T>
std::unique_ptr<LogPairs<T>> make_log_sums(const LogSums<T>& call, Algorithm algorithm,
                                           Scratch& scratch, const Executor& executor) {
  if (algorithm == Algorithm::kSmooth) return make_binned_log_sums(call, scratch, executor);
  if (algorithm != Algorithm::kSort) return make_direct_log_sums(call, scratch, executor);
  return call.term.surrogate == Surrogate::kLogistic
             ? make_power_log_sums(call, scratch, executor)
             : make_linear_log_sums(call, scratch, executor);
}

template <class T>
std::unique_ptr<LogPairs<T>> make_direct_log_sums(const LogSums<T>& call, Scratch& scratch,
                                                  const Executor& executor) {
  return std::make_unique<DirectLogSums<T>>(call, scratch, executor);
}

#define XRISK_INSTANTIATE(T)                                                                  \
  template bool has_sorted_log_sums<T>(const PairTermParams&);                                \
  template Algorithm choose_log_algorithm(const LogSums<T>&, Algorithm);                      \
  template std::unique_ptr<LogPairs<T>> make_log_sums(const LogSums<T>&, Algorithm, Scratch&, \
                                                      const Executor&);                       \
  template std::unique_ptr<LogPairs<T>> make_direct_log_sums(const LogSums<T>&, Scratch&,     \
                                                             const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
