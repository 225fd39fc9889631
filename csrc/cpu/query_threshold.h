// K-SONG's threshold of one query: what its step needs of the query's items, and how lambda and s
// of all queries of a batch are then written.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/ranking_rules.h"
#include "core/topk.h"
#include "cpu/kernel_table.h"
#include "cpu/moving_average.h"
#include "cpu/query_items.h"
#include "cpu/topk.h"

namespace xrisk::cpu {

struct QueryThreshold {
  double lambda = -INFINITY;  // before the step; -inf: at most k items, all of them in the top k
  double curvature = 1.0;     // H, then s
  double next = 0.0;          // lambda after the step
  int64_t row = -1;           // of the state; -1: none

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

// `row`: of the query's state, checked; -1: the problem is solved instead.
template <class T, class State>
QueryThreshold observe_threshold(const TopKTerms<State>& top_k, int64_t row, double num_items,
                                 const ItemList<T>& list, Scratch& scratch,
                                 const Executor& executor) {
  QueryThreshold result;
  if (!(num_items > static_cast<double>(top_k.k))) return result;
  const Items<T>& items = list.items;
  const SmoothTopK problem{(static_cast<double>(top_k.k) + top_k.epsilon) / num_items, top_k.tau1,
                           top_k.tau2};
  if (row < 0) {
    result.lambda = smooth_threshold(items.scores, items.weights, items.count, problem,
                                     &result.curvature, executor);
    return result;
  }
  result.row = row;
  result.lambda = static_cast<double>(top_k.thresholds[row]);
  if (is_nan(result.lambda)) {
    result.lambda = first_threshold(items, list.weight, problem.kappa, scratch);
  }
  const SoftDerivatives here =
      soft_derivatives(items.scores, items.weights, items.count, problem, result.lambda);
  result.curvature = here.curvature;
  result.next = result.lambda - top_k.eta0 * here.derivative;
  return result;
}

// out [items]: d lambda / d h of every item. `capped`: at most 1, as in the solved problem, however
// small the average s is.
template <class T>
void threshold_slopes(const QueryThreshold& threshold, double tau1, const ItemList<T>& list,
                      bool capped, T* out) {
  const Items<T>& items = list.items;
  const double factor = 1.0 / (tau1 * list.weight * threshold.curvature);
  kernels<T>().soft_slopes(items.scores, items.count, threshold.lambda, tau1, factor, out);
  for (int64_t j = 0; items.weights != nullptr && j < items.count; ++j) out[j] *= items.weights[j];
  for (int64_t j = 0; capped && j < items.count; ++j) out[j] = out[j] < T(1) ? out[j] : T(1);
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
