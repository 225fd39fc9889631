// The fused step of the losses that look at the top of the list, on CUDA: semantics as
// cpu/partial_auc_step.h, on one stream, without asking the device for anything. Torch-free.
#pragma once

#include "cuda/score_step.h"

namespace xrisk::cuda {

template <class T, class State>
struct PartialAUCStep {
  // Anchors are the entries of `positive`, items the others. For the p-norm push, whose anchors are
  // the negatives, the caller reverses both the mask and the signs of the scores.
  ScoreStep<T, State> batch;  // its rule and gamma are not used; state [L, N]
  PartialRule rule = PartialRule::kKL;
  PartialParams params;
  PartialSchedules<const double*> schedules;  // on the device
  State* dual = nullptr;                      // [L, N]
  State* outer = nullptr;                     // [L]
};

template <class T, class State>
size_t partial_auc_step_workspace_bytes(const PartialAUCStep<T, State>& call);

template <class T, class State>
cudaError_t launch_partial_auc_step(const PartialAUCStep<T, State>& call, void* workspace,
                                    size_t workspace_bytes, cudaStream_t stream);

}  // namespace xrisk::cuda
