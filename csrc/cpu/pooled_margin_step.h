// The step of MIDAM (multi-instance AUC): the pooled scores of bags from moving averages, and the
// AUC margin of them (core/auc_margin.h, margin 0).
//
//   softmax:    h_i = tau log s_i,                s the average of mean exp(score / tau)
//   attention:  h_i = sigma(n_i / max(q_i, 1e-8)), (n, q) the averages of numerator and denominator
//
// As LibAUC states it, the pooled scores are constants and the observations carry the gradient: the
// value is the sum of both times the slope of the objective, plus the objective less its terms with
// alpha. Source: Zhu et al. (ICML 2023).
//
// O(B): a read of each argument, the state's rows at random, one logarithm or sigmoid a bag.
#pragma once

#include <cstdint>

#include "cpu/executor.h"

namespace xrisk::cpu {

template <class T, class State>
struct PooledMarginStep {
  const T* values = nullptr;          // [B]: mean exp(score / tau), or numerators
  const T* denominators = nullptr;    // [B]: attention; null: softmax
  const uint8_t* positive = nullptr;  // [B]
  int64_t batch = 0;
  const int64_t* index = nullptr;       // [B], each in [0, rows)
  State* state = nullptr;               // [rows], of the values; null: observations as they are
  State* state_denominators = nullptr;  // [rows]
  int64_t rows = 0;
  double gamma = 1.0;
  double tau = 1.0;
  double a = 0.0, b = 0.0, alpha = 0.0;
  T* by_values = nullptr;        // [B], or null: no gradient is wanted
  T* by_denominators = nullptr;  // [B]
};

struct PooledMarginResult {
  double value = 0.0, by_a = 0.0, by_b = 0.0;
};

template <class T, class State>
PooledMarginResult pooled_margin_step(const PooledMarginStep<T, State>& call,
                                      const Executor& executor);

}  // namespace xrisk::cpu
