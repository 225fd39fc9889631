// The fused step of the losses over (positive, negative) pairs that look at the top of the list:
// partial AUC in all its modes, top push and the p-norm push. One call for every label of a batch.
//
// By default the anchors are the positives and the items the negatives; those of the p-norm push
// the other way round. A label without one of them: 0, and the state stays as it was.
#pragma once

#include "cpu/executor.h"
#include "cpu/pairwise.h"
#include "cpu/score_batch.h"

namespace xrisk::cpu {

template <class T, class State>
struct PartialAUCStep : ScoreBatch<T> {
  PartialRule rule = PartialRule::kKL;
  PairwiseSpec spec;
  PartialParams params;
  PartialSchedules<double> schedules;
  // By rule: log u (KL, push) or the thresholds s (CVaR); the duals y; log v or the threshold t.
  // Without state KL and push take the batch's own sums, and CVaR the best thresholds for them.
  State* state = nullptr;  // [L, N]
  State* dual = nullptr;   // [L, N], kTwoWayCVaR
  State* outer = nullptr;  // [L], kTwoWayKL and kTwoWayCVaR
  bool write_state = true;
};

// Nothing is written unless every anchor's index is in range; otherwise the first offender is
// returned (-1: none).
template <class T, class State>
int64_t partial_auc_step(const PartialAUCStep<T, State>& call, const Executor& executor);

}  // namespace xrisk::cpu
