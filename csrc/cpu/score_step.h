// The fused step of a score loss: rows -> rule -> columns for every label of a batch, one call.
#pragma once

#include "cpu/executor.h"
#include "cpu/pairwise.h"
#include "cpu/score_batch.h"

namespace xrisk::cpu {

template <class T, class State>
struct ScoreStep : ScoreBatch<T> {
  Rule rule = Rule::kAveragePrecision;
  PairwiseSpec spec;
  State* state = nullptr;  // [L, N, 2] = (u_all, u_pos), or null: no state
  double gamma = 1.0;
  bool write_state = true;
};

// Nothing is written unless every positive entry's index is in range; otherwise the first offender
// is returned (-1: none).
template <class T, class State>
int64_t score_step(const ScoreStep<T, State>& call, const Executor& executor);

}  // namespace xrisk::cpu
