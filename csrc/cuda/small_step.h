// The fused step in one launch, for batches up to kSmallBatch: see cuda/small_step_kernel.h.
#pragma once

#include "cuda/score_step.h"

namespace xrisk::cuda {

// A thread an entry, and what shared memory holds.
template <class T>
constexpr int kSmallBatch = sizeof(T) == sizeof(float) ? 1024 : 512;

template <class T, class State>
cudaError_t launch_small_step(const ScoreStep<T, State>& call, T share, cudaStream_t stream);

}  // namespace xrisk::cuda
