// The fused step of a score loss on CUDA: rows -> rule -> columns for all labels of a batch, on one
// stream, without asking the device for anything. Torch-free; semantics as cpu/score_step.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/label_array.h"
#include "core/params.h"

namespace xrisk::cuda {

template <class T, class State>
struct ScoreStep {
  Rule rule = Rule::kAveragePrecision;
  Surrogate surrogate = Surrogate::kSquaredHinge;
  Algorithm algorithm = Algorithm::kAuto;
  double margin = 1.0;
  const double* scale = nullptr;  // on the device, like gamma
  const double* gamma = nullptr;
  int64_t batch = 0;
  int labels = 1;
  const T* scores = nullptr;   // [B, L]
  LabelArray positive;         // [B, L]
  const T* weights = nullptr;  // [B, L], [B] or null
  bool weights_per_label = false;
  const int64_t* index = nullptr;  // [B]
  State* state = nullptr;          // [L, N, 2], or null: no state
  int64_t rows = 0;
  bool write_state = true;
  bool mean_reduction = true;  // the gradient of the mean over the labels
  T* values = nullptr;         // [L]
  T* mean_value = nullptr;     // one number, or null
  T* gradient = nullptr;       // [B, L]; null: not wanted
};

template <class T, class State>
size_t score_step_workspace_bytes(const ScoreStep<T, State>& call);

template <class T, class State>
cudaError_t launch_score_step(const ScoreStep<T, State>& call, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream);

}  // namespace xrisk::cuda
