// Sums of exponentials of similarities <x_i, y_j> on CUDA, and their gradients; what they are:
// cpu/similarity.h. Torch-free: products come from the caller (core/products.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/products.h"

namespace xrisk::cuda {

template <class T>
struct Similarities {
  const T* x = nullptr;  // [N, D]
  const T* y = nullptr;  // [M, D]
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t width = 0;
  bool symmetric = false;            // y is x: blocks on and above the diagonal
  const int64_t* exclude = nullptr;  // [N, E] columns that row i leaves out, -1 for none
  int64_t exclusions = 0;
  // Similarities of one block at a time, as many as stay in L2 between a product and what reads it.
  T* block = nullptr;  // [block_rows, block_columns]
  int64_t block_rows = kBlock;
  int64_t block_columns = kBlock;

  static constexpr int64_t kBlock = 2048;  // 16 MB of floats
};

// Of each anchor: the largest similarity, and relative to it the sums of e^z and e^z z,
// z = (s - peak) / temperature.
template <class T>
struct ExpSums {
  T* peaks = nullptr;
  double* masses = nullptr;
  double* moments = nullptr;
};

// weight * exp((s - peak) / temperature + shift) of each anchor.
template <class T>
struct PairWeights {
  const T* inverse_temperatures = nullptr;
  const T* peaks = nullptr;  // finite
  const T* shifts = nullptr;
  const T* weights = nullptr;
};

// As cpu::SimilarityBlocks::sums; `columns` without peaks: no sums of the columns.
template <class T>
cudaError_t launch_similarity_sums(const Similarities<T>& problem, const T* row_inverses,
                                   const ExpSums<T>& rows, const T* column_inverses,
                                   const ExpSums<T>& columns, const Products<T>& products,
                                   cudaStream_t stream);

// As cpu::SimilarityBlocks::gradients; `columns` without weights: of the rows alone. `kept`: the
// block still holds the similarities of launch_similarity_sums, being the only one.
template <class T>
cudaError_t launch_similarity_gradients(const Similarities<T>& problem, const PairWeights<T>& rows,
                                        const PairWeights<T>& columns, bool kept, T* dx, T* dy,
                                        const Products<T>& products, cudaStream_t stream);

// out[i] = 1 / temperatures[i], or of the one temperature there is.
template <class T>
cudaError_t launch_inverse_temperatures(const double* temperatures, bool per_anchor, int64_t count,
                                        T* out, cudaStream_t stream);

// Of contrastive_log_sums: log means, mean exponents and masses of [N] anchors. An anchor without
// keys (the ids in its row of `exclude` may repeat) gets -inf, 0, 0 and the peak 0.
template <class T>
cudaError_t launch_log_means(const Similarities<T>& problem, const T* inverses,
                             const ExpSums<T>& sums, T* log_means, T* exponents, T* masses,
                             cudaStream_t stream);

// The weights of its gradient: upstream / (temperature mass); shifts are 0.
template <class T>
cudaError_t launch_log_mean_weights(const T* upstream, const T* inverses, const T* masses,
                                    int64_t count, T* weights, T* shifts, cudaStream_t stream);

}  // namespace xrisk::cuda
