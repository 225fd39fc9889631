#include "cuda/device_sort.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#if defined(__CUDACC__)
#include <cub/device/device_radix_sort.cuh>

#include "cuda/ranked_sort.h"
#endif

namespace xrisk::cuda {
namespace {

bool is_valid(int64_t count, int begin_bit, int end_bit, int key_bits) {
  return count >= 0 && count <= std::numeric_limits<int32_t>::max() && begin_bit >= 0 &&
         begin_bit < end_bit && end_bit <= key_bits;
}

#if defined(__CUDACC__)

constexpr int64_t kMostRanked = 65536;  // entries; above, cub's four passes are busy enough

// f(shape) with small tiles for few entries, or with few tiles to search for many.
template <class F>
auto with_shape(int64_t count, F&& f) {
  return count <= 16384 ? f(RankedShape<512, 1024, 8>()) : f(RankedShape<1024, 2048, 4>());
}

size_t ranked_bytes(int64_t count) {
  return with_shape(count, [&](auto shape) { return ranked_sort_bytes<decltype(shape)>(count); });
}

// cub's convention: without a workspace it only says how large that must be.
template <class Key>
cudaError_t cub_sort(void* workspace, size_t& bytes, const Key* keys_in, Key* keys_out,
                     const uint32_t* payload_in, uint32_t* payload_out, int64_t count,
                     int begin_bit, int end_bit, cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(workspace, bytes, keys_in, keys_out, payload_in,
                                         payload_out, static_cast<int32_t>(count), begin_bit,
                                         end_bit, stream);
}

template <class Key>
size_t cub_bytes(int64_t count, int begin_bit, int end_bit) {
  size_t bytes = 0;
  const Key* keys = nullptr;
  const uint32_t* payload = nullptr;
  const cudaError_t error = cub_sort<Key>(nullptr, bytes, keys, nullptr, payload, nullptr, count,
                                          begin_bit, end_bit, nullptr);
  // a size that no allocator grants: the caller's allocation fails, and not the sort
  return error == cudaSuccess ? bytes : std::numeric_limits<size_t>::max() / 2;
}

#endif

}  // namespace

size_t sort_pairs_workspace_bytes(int64_t count, int begin_bit, int end_bit) {
  if (!is_valid(count, begin_bit, end_bit, 64)) return 1;
#if defined(__CUDACC__)
  if (count <= kMostRanked) return std::max(size_t{1}, ranked_bytes(count));
  const size_t narrow = cub_bytes<uint32_t>(count, std::min(begin_bit, 31), std::min(end_bit, 32));
  return std::max({size_t{1}, narrow, cub_bytes<uint64_t>(count, begin_bit, end_bit)});
#else
  // so that tests see a workspace that is too small, or written beyond its end
  return static_cast<size_t>(count) * sizeof(uint32_t) + 1;
#endif
}

template <class Key>
cudaError_t sort_pairs(const Key* keys_in, Key* keys_out, const uint32_t* payload_in,
                       uint32_t* payload_out, int64_t count, int begin_bit, int end_bit,
                       void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (!is_valid(count, begin_bit, end_bit, 8 * sizeof(Key))) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  // cub sorts a single tile without a look at the size
  if (workspace == nullptr || workspace_bytes == 0) return cudaErrorInvalidValue;
#if defined(__CUDACC__)
  if (count <= kMostRanked) {
    if (workspace_bytes < ranked_bytes(count)) return cudaErrorInvalidValue;
    return with_shape(count, [&](auto shape) {
      return sort_by_ranks<decltype(shape)>(keys_in, keys_out, payload_in, payload_out, count,
                                            begin_bit, end_bit, workspace, stream);
    });
  }
  return cub_sort(workspace, workspace_bytes, keys_in, keys_out, payload_in, payload_out, count,
                  begin_bit, end_bit, stream);
#else
  static_cast<void>(stream);
  if (workspace_bytes < sort_pairs_workspace_bytes(count, begin_bit, end_bit)) {
    return cudaErrorInvalidValue;
  }
  auto* order = static_cast<uint32_t*>(workspace);
  std::iota(order, order + count, 0u);
  const Key mask = static_cast<Key>(~Key{0} >> (8 * sizeof(Key) - (end_bit - begin_bit)));
  const auto digits = [&](uint32_t i) { return static_cast<Key>(keys_in[i] >> begin_bit) & mask; };
  std::stable_sort(order, order + count,
                   [&](uint32_t a, uint32_t b) { return digits(a) < digits(b); });
  for (int64_t i = 0; i < count; ++i) {
    keys_out[i] = keys_in[order[i]];
    payload_out[i] = payload_in[order[i]];
  }
  // cub scribbles in its workspace: nobody may count on what is left there
  std::fill_n(static_cast<unsigned char*>(workspace), workspace_bytes, 0xFF);
  return cudaSuccess;
#endif
}

template cudaError_t sort_pairs(const uint32_t*, uint32_t*, const uint32_t*, uint32_t*, int64_t,
                                int, int, void*, size_t, cudaStream_t);
template cudaError_t sort_pairs(const uint64_t*, uint64_t*, const uint32_t*, uint32_t*, int64_t,
                                int, int, void*, size_t, cudaStream_t);

}  // namespace xrisk::cuda
