// Sums of exponentials of similarities of 16-bit embeddings and their gradients by the tensor
// cores, tile by tile: nothing of the size of the similarities is ever written. Semantics as
// cuda/half_similarity.h, but that a weight is the sum of two 16-bit numbers, off by at most 2^-17.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/half_similarity.h"

namespace xrisk::cuda {

// At most kWidest wide; symmetric: by the rows alone, whose sums and weights are the columns' too.
struct StreamedSimilarities : HalfSimilarities {
  int64_t most_splits = 64;  // parts of the keys that thread blocks share out among them

  static constexpr int64_t kWidest = 128;
};

// For either launcher.
size_t streamed_workspace_bytes(const StreamedSimilarities& problem);

// As launch_half_sums.
cudaError_t launch_streamed_sums(const StreamedSimilarities& problem, const float* row_inverses,
                                 const ExpSums<float>& rows, const float* column_inverses,
                                 const ExpSums<float>& columns, void* workspace,
                                 cudaStream_t stream);

// As launch_half_gradients, but that nothing is to be divided by a `fit`.
cudaError_t launch_streamed_gradients(const StreamedSimilarities& problem,
                                      const PairWeights<float>& rows,
                                      const PairWeights<float>& columns, float* dx, float* dy,
                                      void* workspace, cudaStream_t stream);

}  // namespace xrisk::cuda
