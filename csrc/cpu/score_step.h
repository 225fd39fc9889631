// The fused step of a score loss: rows -> rule -> columns for every label of a batch, one call.
#pragma once

#include "cpu/executor.h"
#include "cpu/pairwise.h"

namespace xrisk::cpu {

template <class T, class State>
struct ScoreStep {
  Rule rule = Rule::kAveragePrecision;
  PairwiseSpec spec;
  int64_t batch = 0;
  int64_t labels = 1;
  const T* scores = nullptr;          // [B, L]
  const uint8_t* positive = nullptr;  // [B, L]
  // An entry of weight w counts as w entries, as an item and as an anchor; 0 removes it.
  const T* weights = nullptr;  // [B, L], [B] or null
  bool weights_per_label = false;
  const int64_t* index = nullptr;  // [B]; read where an entry is positive
  State* state = nullptr;          // [L, N, 2] = (u_all, u_pos), or null: no state
  int64_t rows = 0;
  double gamma = 1.0;
  bool write_state = true;
  double* values = nullptr;  // [L]
  T* gradient = nullptr;     // [B, L]: column l is d value_l / d scores; null: not wanted

  T weight(int64_t entry, int64_t label) const {
    if (weights == nullptr) return T(1);
    return weights[weights_per_label ? entry * labels + label : entry];
  }
};

// Nothing is written unless every positive entry's index is in range; otherwise the first offender
// is returned (-1: none).
template <class T, class State>
int64_t score_step(const ScoreStep<T, State>& call, const Executor& executor);

}  // namespace xrisk::cpu
