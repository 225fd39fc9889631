// Log sums of exp(squared hinge / temperature), near-linear: items in bins, expanded about their
// centres.
//
// With z = y - x + margin, phi = z^2 above the kink z = 0. For an item at s half-widths w / 2 from
// the centre of its bin, and zeta the centre's z,
//
//   exp(z^2 / T) = exp(zeta^2 / T) exp((s w / 2)^2 / T) exp(t s),  t = zeta w / T,
//
// and exp(t s) is its power series: t is at most kReach, so that kTerms of them are exact to the
// rounding of the scores' type. Rows: each anchor against the moments of the bins above its kink, a
// polynomial a bin; the bin of the kink itself pair by pair; the items below it by their weight.
// Columns: the transpose. Work: O((P + M) kTerms + P C kTerms + P M / C) for C bins. Bytes: the
// items three times. Hazard: exponents are differences from the anchor's peak, in doubles.
#pragma once

#include <memory>

#include "cpu/executor.h"
#include "cpu/log_sums.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

// What log_rows and log_columns (cpu/log_sums.h) compute, for one set of items of positive weight.
template <class T>
class BinnedLogSums {
 public:
  // Null where the surrogate is another, or the direct way is the faster: the narrower the
  // temperature, the more bins are needed.
  static std::unique_ptr<BinnedLogSums> make(const LogSums<T>& call, Scratch& scratch,
                                             const Executor& executor);

  void rows(double* log_sums, double* slopes, double* masses);
  void columns(const double* anchor_weights, const double* masses, T* out);

 private:
  static constexpr int kTerms = sizeof(T) == sizeof(float) ? 12 : 20;
  static constexpr double kReach = 1.25;

  BinnedLogSums(const LogSums<T>& call, Scratch& scratch, const Executor& executor)
      : call_(call), scratch_(scratch), executor_(executor) {}
  void sort_anchors();
  void fill_bins();
  void row_of(int64_t sorted, double* log_sums, double* slopes, double* masses) const;
  void columns_of(int64_t bin, const double* weights, T* out) const;
  // exp((phi - peak) / T) of the items of a bin against one anchor, and z+.
  void kink(int64_t bin, int64_t sorted, double* __restrict z, double* __restrict e) const;
  double centre(int64_t bin) const { return low_ + (static_cast<double>(bin) + 0.5) * width_; }

  const LogSums<T>& call_;
  Scratch& scratch_;
  const Executor& executor_;
  double inverse_ = 1.0;  // of the temperature
  double low_ = 0, high_ = 0, width_ = 0;
  int64_t bins_ = 0, widest_ = 0;  // entries of the fullest bin
  // anchors by key x - margin, ascending
  int32_t* order_ = nullptr;
  double *keys_ = nullptr, *peaks_ = nullptr;
  int32_t* kink_bins_ = nullptr;  // -1: below all items; bins_: at or above all of them
  // items by bin
  int64_t* starts_ = nullptr;  // [C + 1]
  int32_t* positions_ = nullptr;
  double *items_ = nullptr, *weights_ = nullptr;
  double* offsets_ = nullptr;  // s
  double* bumps_ = nullptr;    // w exp((s w / 2)^2 / T)
  int64_t stride_ = 0;         // of a power's moments: bins, and padding
  double* moments_ = nullptr;  // [kTerms + 1, C]: sum of bumps s^n / n!
  double* below_ = nullptr;    // [C + 1]: weight of the bins before
};

}  // namespace xrisk::cpu
