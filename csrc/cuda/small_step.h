// The fused step in one launch, for batches up to kSmallBatch: see cuda/small_step_kernel.h.
#pragma once

#include "cuda/score_step.h"
#include "cuda/score_step_kernels.h"

namespace xrisk::cuda {

constexpr int kSmallBatch = 1024;
constexpr int kSmallThreads = 256;

template <class T, class State>
cudaError_t launch_small_step(const ScoreStep<T, State>& call, const StepBuffers<T>& buffers,
                              T share, cudaStream_t stream);

}  // namespace xrisk::cuda
