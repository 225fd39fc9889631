// Sums of exponentials of similarities of 16-bit embeddings and their gradients by the tensor
// cores, tile by tile: nothing of the size of the similarities is ever written. Semantics as
// cuda/similarity.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/similarity.h"

namespace xrisk::cuda {

struct StreamedSimilarities {
  const uint16_t* x = nullptr;  // [N, D] bfloat16, or float16
  const uint16_t* y = nullptr;  // [M, D]
  bool bfloat16 = true;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t width = 0;                 // at most kWidest
  const int64_t* exclude = nullptr;  // [N, E] columns that row i leaves out, -1 for none
  int64_t exclusions = 0;
  int64_t most_splits = 64;  // parts of the keys that thread blocks share out among them

  static constexpr int64_t kWidest = 128;
};

// For either launcher.
size_t streamed_workspace_bytes(const StreamedSimilarities& problem);

// Of the rows.
cudaError_t launch_streamed_sums(const StreamedSimilarities& problem, const float* inverses,
                                 const ExpSums<float>& rows, void* workspace, cudaStream_t stream);

// Of the rows' sums by x and y; null: not wanted.
cudaError_t launch_streamed_gradients(const StreamedSimilarities& problem,
                                      const PairWeights<float>& rows, float* dx, float* dy,
                                      void* workspace, cudaStream_t stream);

}  // namespace xrisk::cuda
