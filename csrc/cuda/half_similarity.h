// Sums of exponentials of similarities of 16-bit embeddings and their gradients, by the caller's
// products of 16-bit matrices with results in float32. Semantics as cuda/similarity.h; torch-free.
//
//   s_ij = c_i d_j <x_i, y_j>             exact products, float32 sums; c and d the rows' scales
//   V_ij = c_i d_j (w_ij + w_ji) 2^k      weights of the pair by both sides, rounded to 16 bits
//   dx_i = 2^-k / c_i sum_j V_ij y_j      sums in float32, over all blocks
//
// So the rows are multiplied as they came, and no normalised embedding is ever rounded. A weight is
// off by at most 2^-9 of itself (bfloat16; float16 2^-12), to nearest; the gradient leaves in 16
// bits, which rounds it as much again.
// k is 0 for bfloat16; float16, which has few exponents, gets the largest weight near 2^15.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/products.h"
#include "cuda/similarity.h"

namespace xrisk::cuda {

struct HalfSimilarities {
  const uint16_t* x = nullptr;  // [N, D] bfloat16, or float16
  const uint16_t* y = nullptr;  // [M, D]
  bool bfloat16 = true;
  const float* x_scales = nullptr;  // [N], or null: 1
  const float* y_scales = nullptr;  // [M]
  float largest_scale = 1.0f;       // no scale is larger
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t width = 0;
  bool symmetric = false;            // y is x: blocks on and above the diagonal
  const int64_t* exclude = nullptr;  // [N, E] columns that row i leaves out, -1 for none
  int64_t exclusions = 0;

  // Rows and columns of similarities at a time; block_of chooses.
  int64_t block = 4096;
  // Whether launch_half_gradients finds in its workspace what launch_half_sums left there: all
  // similarities, if there are no more than `most_kept` (192 MiB: one modality of 2 x 4096 rows);
  // else they are multiplied again.
  bool keep = false;
  int64_t most_kept = 3 * 4096 * 4096;
  int64_t strip = 0;  // tiles that a thread block works through, 1 to 4; 0: chosen
};

// Blocks of 4096 x 4096 (64 MiB of floats and 32 MiB of weights) or, of more than 8192 rows by more
// than 8192 columns, of 8192 x 8192 (256 and 128 MiB). Measured on an H200, fused steps in a graph:
// 2048 takes 1.2 to 1.5 times as long as 4096 from 4096 rows on; 8192 takes 0.86 to 0.93 of the
// time of 4096 at 16384 and 32768 rows by as many columns, and 1.02 to 1.05 at 8192.
inline int64_t block_of(int64_t rows, int64_t columns) {
  return rows > 8192 && columns > 8192 ? 8192 : 4096;
}

// For either launcher, which both get the same memory if similarities are to be kept.
size_t half_similarity_workspace_bytes(const HalfSimilarities& problem);

// As launch_similarity_sums.
cudaError_t launch_half_sums(const HalfSimilarities& problem, const float* row_inverses,
                             const ExpSums<float>& rows, const float* column_inverses,
                             const ExpSums<float>& columns, const HalfProducts& products,
                             void* workspace, cudaStream_t stream);

// As launch_similarity_gradients, but that dx_i and dy_j are c_i and d_j times too large and, of
// float16, both `fit`[0] times: the caller divides, or launch_rescale. `fit`: that and its inverse.
cudaError_t launch_half_gradients(const HalfSimilarities& problem, const PairWeights<float>& rows,
                                  const PairWeights<float>& columns, float* dx, float* dy,
                                  float* fit, const HalfProducts& products, void* workspace,
                                  cudaStream_t stream);

// gradient [count, width] *= fit[1]: of float16 rows without scales.
cudaError_t launch_rescale(const float* fit, int64_t count, int64_t width, float* gradient,
                           cudaStream_t stream);

}  // namespace xrisk::cuda
