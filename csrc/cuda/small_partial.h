// The partial AUC step in one launch, for batches up to kSmallPartialBatch: see
// cuda/small_partial_kernel.h.
#pragma once

#include "cuda/partial_phases.h"

namespace xrisk::cuda {

constexpr int kSmallPartialBatch = 1024;
constexpr int kSmallPartialThreads = 512;

template <class T, class State>
cudaError_t launch_small_partial(const PartialAUCStep<T, State>& call,
                                 const PartialBuffers<T>& buffers, T share, cudaStream_t stream);

}  // namespace xrisk::cuda
