// K-SONG's threshold of one query: what its step needs of the query's items, and how lambda and s
// of all queries of a batch are then written.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ranking_rules.h"
#include "core/topk.h"
#include "cpu/kernel_table.h"
#include "cpu/moving_average.h"
#include "cpu/query_items.h"
#include "cpu/topk.h"

namespace xrisk::cpu {

// The items near the thresholds of all queries, those of a query from its first entry on.
template <class T>
struct NearItems {
  int32_t* positions = nullptr;  // among the items of the query
  T* slopes = nullptr;           // w t / W, t the slope of sigma((h - lambda) / tau1)
};

struct QueryThreshold {
  double lambda = -INFINITY;  // before the step; -inf: at most k items, all of them in the top k
  double curvature = 1.0;     // H, then s
  double next = 0.0;          // lambda after the step
  int64_t row = -1;           // of the state; -1: none
  int64_t near = 0;           // items near lambda

  bool cuts() const { return lambda > -INFINITY; }
};

// Where lambda starts: the highest score that more than this share of the items' weight reaches.
template <class T>
double first_threshold(const Items<T>& items, double total, double share, Scratch& scratch) {
  if (items.weights == nullptr) {
    const auto rank = static_cast<int64_t>(share * static_cast<double>(items.count));
    return static_cast<double>(
        kth_largest(items.scores, items.count, std::min(rank, items.count - 1)));
  }
  int32_t* order = scratch.allocate<int32_t>(items.count);
  for (int64_t j = 0; j < items.count; ++j) order[j] = static_cast<int32_t>(j);
  std::sort(order, order + items.count, [&](int32_t a, int32_t b) {
    return items.scores[a] > items.scores[b] || (items.scores[a] == items.scores[b] && a < b);
  });
  double reached = 0.0;
  int64_t k = 0;
  for (; k < items.count - 1; ++k) {
    reached += static_cast<double>(items.weights[order[k]]);
    if (reached > share * total) break;
  }
  return static_cast<double>(items.scores[order[k]]);
}

// L' and H at the query's lambda, from the items within `reach` times tau1 of it alone: those
// beyond are above or below it.
template <class T>
SoftDerivatives look_within(double reach, const ItemList<T>& list, const SmoothTopK& problem,
                            QueryThreshold& threshold, const NearItems<T>& near, Scratch& scratch) {
  const Items<T>& items = list.items;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const double distance = reach * problem.tau1;
  const T low = std::nextafter(static_cast<T>(threshold.lambda - distance), -kInfinity);
  const T high = std::nextafter(static_cast<T>(threshold.lambda + distance), kInfinity);
  int64_t above;
  const int64_t count = threshold.near =
      kernels<T>().near_items(items.scores, items.count, low, high, near.positions, &above);
  T* scores = scratch.allocate<T>(count);
  T* weights = items.weights == nullptr ? nullptr : scratch.allocate<T>(count);
  for (int64_t k = 0; k < count; ++k) {
    scores[k] = items.scores[near.positions[k]];
    if (weights != nullptr) weights[k] = items.weights[near.positions[k]];
  }
  double weight_above = static_cast<double>(above);
  if (weights != nullptr) {
    weight_above = 0.0;
    for (int64_t j = 0; j < items.count; ++j) {
      if (items.scores[j] >= high) weight_above += static_cast<double>(items.weights[j]);
    }
  }
  double sums[3];
  kernels<T>().soft_sums(scores, weights, count, threshold.lambda, problem.tau1, sums);
  kernels<T>().soft_slopes(scores, count, threshold.lambda, problem.tau1,
                           1.0 / (problem.tau1 * list.weight), near.slopes);
  for (int64_t k = 0; weights != nullptr && k < count; ++k) near.slopes[k] *= weights[k];
  return {problem.derivative(threshold.lambda, (sums[0] + weight_above) / list.weight),
          problem.curvature(sums[1] / list.weight)};
}

// What is left out moves lambda by a share of its slope over s, which must vanish against 1 as
// well: where nothing is near, s is hardly more than tau2, and a slope of e^-20 counts.
template <class T>
SoftDerivatives look_near(const ItemList<T>& list, const SmoothTopK& problem, double gamma1,
                          QueryThreshold& threshold, const NearItems<T>& near, Scratch& scratch) {
  constexpr double kNear = soft_reach<T>(), kFar = 2 * kNear;
  constexpr double kShare = sizeof(T) == sizeof(float) ? 1e-8 : 1e-16;
  const SoftDerivatives here = look_within(kNear, list, problem, threshold, near, scratch);
  const double least = gamma1 * here.curvature + (1 - gamma1) * problem.tau2;  // of s
  if (std::exp(-kNear) <= kShare * problem.tau1 * list.weight * least) return here;
  return look_within(kFar, list, problem, threshold, near, scratch);
}

// `row`: of the query's state, checked; -1: the problem is solved instead.
template <class T, class State>
QueryThreshold observe_threshold(const TopKTerms<State>& top_k, int64_t row, double num_items,
                                 const ItemList<T>& list, const NearItems<T>& near,
                                 Scratch& scratch, const Executor& executor) {
  QueryThreshold result;
  if (!(num_items > static_cast<double>(top_k.k))) return result;
  const Items<T>& items = list.items;
  const SmoothTopK problem{(static_cast<double>(top_k.k) + top_k.epsilon) / num_items, top_k.tau1,
                           top_k.tau2};
  result.row = row;
  if (row < 0) {
    result.lambda =
        smooth_threshold(items.scores, items.weights, items.count, problem, nullptr, executor);
  } else {
    result.lambda = static_cast<double>(top_k.thresholds[row]);
    if (is_nan(result.lambda)) {
      result.lambda = first_threshold(items, list.weight, problem.kappa, scratch);
    }
  }
  const SoftDerivatives here = look_near(list, problem, top_k.gamma1, result, near, scratch);
  result.curvature = here.curvature;
  result.next = result.lambda - top_k.eta0 * here.derivative;
  return result;
}

// Collects the steps of the queries that have a row, then takes them all: queries that share a row
// each step from its old lambda, and the mean is stored.
template <class State>
class ThresholdUpdate {
 public:
  ThresholdUpdate(const TopKTerms<State>& top_k, int64_t most, Scratch& scratch)
      : top_k_(top_k),
        rows_(scratch.allocate<int64_t>(most)),
        next_(scratch.allocate<double>(most)),
        curvatures_(scratch.allocate<double>(most)),
        stored_(scratch.allocate<double>(most)),
        queries_(scratch.allocate<QueryThreshold*>(most)) {}

  void add(QueryThreshold& query) {
    if (query.row < 0) return;
    rows_[count_] = query.row;
    next_[count_] = query.next;
    curvatures_[count_] = query.curvature;
    queries_[count_++] = &query;
  }

  void run(bool write, Scratch& scratch, const Executor& executor) {
    const double one = 1.0;
    MovingAverage<State, double, double> update;
    update.state = top_k_.thresholds;
    update.rows = top_k_.rows;
    update.index = rows_;
    update.values = next_;
    update.entries = count_;
    update.gamma = &one;
    update.write = write;
    update.stored = stored_;
    if (write) moving_average_update(update, scratch, executor);  // lambda is used as it was
    update.state = top_k_.curvatures;
    update.values = curvatures_;
    update.gamma = &top_k_.gamma1;
    moving_average_update(update, scratch, executor);
    for (int64_t k = 0; k < count_; ++k) queries_[k]->curvature = stored_[k];
  }

 private:
  const TopKTerms<State>& top_k_;
  int64_t count_ = 0;
  int64_t* rows_;
  double *next_, *curvatures_, *stored_;
  QueryThreshold** queries_;
};

}  // namespace xrisk::cpu
