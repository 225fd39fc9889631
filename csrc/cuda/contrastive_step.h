// The fused step of a global contrastive loss on CUDA: semantics as cpu/contrastive_step.h.
// Torch-free; every number that changes from step to step is read on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/contrastive.h"
#include "core/info_nce.h"
#include "cuda/half_similarity.h"
#include "cuda/similarity.h"

namespace xrisk::cuda {

template <class T>
struct ContrastiveViews {
  bool bimodal = false;
  int64_t batch = 0;
  int64_t width = 0;
  const T* view1 = nullptr;  // [B, D]
  const T* view2 = nullptr;
  // Instead of these, of T float: 16-bit numbers, multiplied as such (cuda/half_similarity.h), or
  // streamed (cuda/streamed_similarity.h).
  const uint16_t* half_view1 = nullptr;
  const uint16_t* half_view2 = nullptr;
  bool bfloat16 = true;
  bool streamed = false;
  bool normalize = true;

  int64_t block = Similarities<T>::kBlock;  // rows and columns of similarities at a time
  int64_t half_block = 0;                   // of halves; 0: block_of
  int64_t small_anchors = 2048;  // up to that many: cuda/small_similarity_kernels.h, of narrow rows
  T* embeddings = nullptr;       // [2, B, D], scratch; not of halves
  T* gradient = nullptr;         // [2, B, D], or null: not wanted
};

// An id outside [0, rows) is never read or written: its entry counts as untouched.
template <class T, class State>
struct ContrastiveStep : ContrastiveViews<T> {
  const int64_t* index = nullptr;  // [B]
  State* state = nullptr;          // [sides, rows] log u, or null
  State* temperatures = nullptr;   // [sides, rows] individual temperatures, and their momenta
  State* momenta = nullptr;        // (Adam: [3 sides, rows]), or null
  int64_t rows = 0;
  bool write_state = true;

  const double* gamma = nullptr;
  const double* temperature = nullptr;
  const double* eta = nullptr;
  ContrastiveOptions options;
  bool stateless = false;         // info_nce_rule instead, and no state
  InfoNce info_nce;               // but its log_alpha, which is the logarithm of
  const double* alpha = nullptr;  // this number, or of that of the negatives
  bool per_view = false;
  bool relative = false;
  double beta = 0.0, lowest = 0.0, highest = 0.0;
  double second_beta = 0.0;  // > 0: Adam
  double slope_limit = INFINITY;

  int64_t few_entries = 512;  // up to that many, one thread block does what all need
  T* value = nullptr;
  T* temperature_slope = nullptr;
};

template <class T, class State>
size_t contrastive_step_workspace_bytes(const ContrastiveStep<T, State>& call);

template <class T, class State>
cudaError_t launch_contrastive_step(const ContrastiveStep<T, State>& call,
                                    const Products<T>& products, void* workspace,
                                    size_t workspace_bytes, cudaStream_t stream);

// Of 16-bit views.
template <class State>
cudaError_t launch_contrastive_step(const ContrastiveStep<float, State>& call,
                                    const HalfProducts& products, void* workspace,
                                    size_t workspace_bytes, cudaStream_t stream);

}  // namespace xrisk::cuda
