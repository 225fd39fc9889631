// The gradient of average precision in which an item counts by how high it stands: LibAUC's mAP
// with top_k. Per label, over its P positives i,
//
//   selector_j = sigma(k - sum_i phi(h_j - h_i))
//   F = 1 / (P B) sum_i sum_j selector_j phi(h_j - h_i) (u_pos_i - u_all_i y_j) / u_all_i^2
//
// with selectors and averages u constant; u from the state as it is, or of the batch without one.
//
// Mapping: labels in parallel, each on one thread; in a label the pair sums of cpu/pairwise.h: all
// items against the positives for the ranks, then rows and columns of both classes of items.
#pragma once

#include "cpu/pairwise.h"
#include "cpu/score_batch.h"

namespace xrisk::cpu {

template <class T, class State>
struct RankedPrecision {
  ScoreBatch<T> batch;           // no weights; the gradient of the sum over the labels
  const bool* chosen = nullptr;  // [L], or null: all. The others get zeros
  PairwiseSpec spec;             // the algorithm is resolved here
  double top_k = 0.0;            // k
  double factor = 1.0;           // on the gradient
  const State* state = nullptr;  // [L, N, 2]: u_all, u_pos
};

// The positives' ids must be in range. A label with a score that is not finite has NaN.
template <class T, class State>
void ranked_precision_gradient(const RankedPrecision<T, State>& call, const Executor& executor);

}  // namespace xrisk::cpu
