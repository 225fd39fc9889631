// Sorts a whole array of (key, payload) pairs on the device: the one place that calls cub, which
// long arrays are left to (short ones: ranked_sort.h).
//
// Ascending by the key's bits [begin_bit, end_bit), stable. Nothing is allocated and the host does
// not wait: the caller brings the workspace, which may be freed or reused in the order of the
// stream. `count` and the bits alone decide its size, so that a launch can be captured in a CUDA
// graph.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/platform.h"

namespace xrisk::cuda {

// Enough for either type of key; never 0.
size_t sort_pairs_workspace_bytes(int64_t count, int begin_bit, int end_bit);

// In and out must not overlap. Key: uint32_t or uint64_t; the inputs are left as they are.
// cudaErrorInvalidValue if the workspace is too small, the bits are none of the key's, or
// `count` does not fit an int32.
template <class Key>
cudaError_t sort_pairs(const Key* keys_in, Key* keys_out, const uint32_t* payload_in,
                       uint32_t* payload_out, int64_t count, int begin_bit, int end_bit,
                       void* workspace, size_t workspace_bytes, cudaStream_t stream);

extern template cudaError_t sort_pairs(const uint32_t*, uint32_t*, const uint32_t*, uint32_t*,
                                       int64_t, int, int, void*, size_t, cudaStream_t);
extern template cudaError_t sort_pairs(const uint64_t*, uint64_t*, const uint32_t*, uint32_t*,
                                       int64_t, int, int, void*, size_t, cudaStream_t);

}  // namespace xrisk::cuda
