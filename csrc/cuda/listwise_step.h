// The stateless losses of ranked lists on CUDA: value and gradient of every list, on one stream,
// without asking the device for anything. Torch-free; semantics as cpu/listwise_step.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/list_losses.h"

namespace xrisk::cuda {

template <class T>
struct ListwiseStep {
  ListOptions options;
  ListReduction reduction = ListReduction::kMean;
  const double* temperature = nullptr;  // on the device
  const double* rank_temperature = nullptr;
  int64_t lists = 0, length = 0;
  const T* scores = nullptr;      // [Q, S]
  const T* relevance = nullptr;   // [Q, S]
  const uint8_t* mask = nullptr;  // [Q, S] or null
  const T* weights = nullptr;     // [Q, S] or null
  T* values = nullptr;            // [Q]
  T* total = nullptr;             // one number; null without reduction
  T* gradient = nullptr;          // [Q, S]; null: not wanted
  int64_t max_blocks = 4096;      // at a time; a block may take several lists
  int64_t near_from = 1024;       // lists of this length take the near-linear sums
  int64_t band_to = 512;  // NeuralNDCG: lists up to this length keep to a band (128 in double)
};

template <class T>
size_t listwise_step_workspace_bytes(const ListwiseStep<T>& call);

template <class T>
cudaError_t launch_listwise_step(const ListwiseStep<T>& call, void* workspace,
                                 size_t workspace_bytes, cudaStream_t stream);

}  // namespace xrisk::cuda
