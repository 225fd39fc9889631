// P3 on CUDA: the top-K threshold of rows of scores, exact or smoothed, and its gradient; semantics
// as cpu/topk.h. Torch-free; the host knows how many scores there are, not how long a ragged row
// is.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/lists.h"

namespace xrisk::cuda {

template <class T>
struct TopK {
  const T* scores = nullptr;
  int64_t total = 0;  // of all rows; what offsets say beyond is not read
  Lists rows;         // offsets on the device
  int64_t k = 0;
  bool smooth = false;
  double epsilon = 0.5, tau1 = 0.01, tau2 = 1e-4;
};

// What comes out, twice: in double, as the gradient wants it, and in the scores' own type.
template <class T>
struct Thresholds {
  double* roots = nullptr;  // [rows]
  T* values = nullptr;      // [rows]
};

template <class T>
size_t topk_workspace_bytes(const TopK<T>& call);

template <class T>
cudaError_t launch_topk(const TopK<T>& call, const Thresholds<T>& out, void* workspace,
                        cudaStream_t stream);

template <class T>
size_t topk_gradient_workspace_bytes(const TopK<T>& call);

// gradient [total]; upstream [rows]
template <class T>
cudaError_t launch_topk_gradient(const TopK<T>& call, const double* roots, const T* upstream,
                                 T* gradient, void* workspace, cudaStream_t stream);

}  // namespace xrisk::cuda
