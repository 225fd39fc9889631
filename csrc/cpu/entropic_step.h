// The step of SOX and SCENT on logits that are there (core/entropic.h): averages, and gradient.
//
//   value = mean_i exp(log g_i - nu_i),   gradient_ik = exp(s_ik - nu_i) / ((K - 1) B)
//
// nu after the update. The value is the dynamic surrogate that LibAUC returns.
//
// Mapping: chunks of rows that stay in the cache between the exponentials, the averages of the
// chunk and its scaling; where an id occurs twice, the averages come between two sweeps over all
// rows. Bytes: logits read once and gradient written once, or written, read and written.
#pragma once

#include "cpu/entropic_average.h"
#include "cpu/executor.h"

namespace xrisk::cpu {

template <class T, class State>
struct EntropicStep {
  const T* logits = nullptr;  // [B, K], less that of the true class
  int64_t batch = 0;
  int64_t classes = 0;  // K > 0
  EntropicState<State> state;
  T* gradient = nullptr;  // [B, K], or null: not wanted
};

// The value; 0 of an empty batch. Where a row's sum is not finite, value and its gradient are NaN,
// and its state is left alone.
template <class T, class State>
double entropic_step(const EntropicStep<T, State>& call, const Executor& executor);

}  // namespace xrisk::cpu
