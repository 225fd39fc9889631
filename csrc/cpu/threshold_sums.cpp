#include "cpu/threshold_sums.h"

#include <algorithm>
#include <cmath>

#include "cpu/direct.h"

namespace xrisk::cpu {

template <class T>
ThresholdSums<T>::ThresholdSums(const PairwiseSpec& spec, Anchors<T> anchors,
                                const double* thresholds, const Items<T>& items, double item_weight,
                                Scratch& scratch, const Executor& executor)
    : spec_(spec),
      anchors_(anchors),
      thresholds_(thresholds),
      items_(items),
      item_weight_(item_weight),
      scratch_(scratch),
      executor_(executor) {
  const bool squared = spec.surrogate == Surrogate::kSquaredHinge;
  if (!squared && spec.surrogate != Surrogate::kHinge) {
    if (items_.weights != nullptr) return;
    T* ones = scratch.allocate<T>(items.count);
    std::fill(ones, ones + items.count, T(1));
    items_.weights = ones;
    return;
  }
  T* keys = scratch.allocate<T>(anchors.count);
  gaps_ = scratch.allocate<double>(anchors.count);
  residuals_ = scratch.allocate<double>(anchors.count);
  for (int64_t i = 0; i < anchors.count; ++i) {
    const double above_zero = std::max(thresholds[i], 0.0);  // phi is never below 0
    gaps_[i] = squared ? std::sqrt(above_zero) : above_zero;
    const double key = static_cast<double>(anchors.scores[i]) - spec.params.margin + gaps_[i];
    keys[i] = static_cast<T>(key);
    residuals_[i] = key - static_cast<double>(keys[i]);
  }
  hinge_ = part(Surrogate::kHinge, keys);
  if (squared) squared_ = part(Surrogate::kSquaredHinge, keys);
}

template <class T>
typename ThresholdSums<T>::Part ThresholdSums<T>::part(Surrogate surrogate, const T* keys) {
  PairwiseSpec spec = spec_;
  spec.surrogate = surrogate;
  spec.params.margin = 0.0;
  spec.algorithm = choose_algorithm<T>(spec, anchors_.count, items_.count, 1);
  const Anchors<T> anchors{keys, anchors_.count};
  return {make_pairwise_sums(spec, anchors, scratch_, executor_), {items_}};
}

template <class T>
void ThresholdSums<T>::direct_rows_of(Above above, double* sums, double* slopes) {
  DirectRows<T> call;
  call.term = {spec_.surrogate, spec_.params, 0.0, above};
  call.anchors = anchors_.scores;
  call.shifts = thresholds_;
  call.items = items_;
  call.sums = sums;
  call.slopes = slopes;
  direct_rows(call, anchors_.count, scratch_, executor_);
}

template <class T>
void ThresholdSums<T>::rows(double* excess, double* slopes, double* counts) {
  double* spare = scratch_.allocate<double>(anchors_.count);
  if (!by_keys()) {
    direct_rows_of(Above::kExcess, excess, slopes);
    direct_rows_of(Above::kCount, counts, spare);
    return;
  }
  // moments of y - key over the items above the rounded key: m0 in counts, m1 in slopes
  hinge_.pairs->rows(hinge_.pass, slopes, counts);
  const bool squared = squared_.pairs != nullptr;
  if (squared) squared_.pairs->rows(squared_.pass, excess, spare);
  for (int64_t i = 0; i < anchors_.count; ++i) {
    const double r = residuals_[i], m0 = counts[i], m1 = slopes[i] - r * m0;
    if (squared) {
      const double m2 = excess[i] - r * (2 * slopes[i] - r * m0);
      excess[i] = m2 + 2 * gaps_[i] * m1;
      slopes[i] = 2 * (m1 + gaps_[i] * m0);
    } else {
      excess[i] = m1;
      slopes[i] = m0;
    }
    if (thresholds_[i] < 0) {  // below every phi
      excess[i] -= thresholds_[i] * item_weight_;
      counts[i] = item_weight_;
    }
  }
}

template <class T>
void ThresholdSums<T>::columns(const double* anchor_weights, T* out) {
  const int64_t count = anchors_.count;
  if (!by_keys()) {
    DirectColumns<T> call;
    call.term = {spec_.surrogate, spec_.params, 0.0, Above::kExcess};
    call.anchors = anchors_.scores;
    call.shifts = thresholds_;
    call.anchor_weights = anchor_weights;
    call.anchor_count = count;
    call.items = items_;
    call.out = out;
    direct_columns(call, executor_);
    return;
  }
  if (squared_.pairs == nullptr) return hinge_.pairs->columns(hinge_.pass, anchor_weights, out);
  squared_.pairs->columns(squared_.pass, anchor_weights, out);
  double* weights = scratch_.allocate<double>(count);
  for (int64_t i = 0; i < count; ++i) {
    weights[i] = 2 * anchor_weights[i] * (gaps_[i] - residuals_[i]);
  }
  T* more = scratch_.allocate<T>(items_.count);
  hinge_.pairs->columns(hinge_.pass, weights, more);
  for (int64_t j = 0; j < items_.count; ++j) out[j] += more[j];
}

template class ThresholdSums<float>;
template class ThresholdSums<double>;

}  // namespace xrisk::cpu
