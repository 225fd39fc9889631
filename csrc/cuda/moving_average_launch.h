// Launches of the state update as templates, so that the tests can move the limit between the two
// ways.
#pragma once

#include <algorithm>

#include "cuda/device_sort.h"
#include "cuda/moving_average_kernels.h"

namespace xrisk::cuda {

using UpdateShape = CompareShape<256, 4096>;
// 2.7e8 compares, 64 lanes a cycle on each of 132 SMs: 18 us, against about 40 of a sort's
// launches.
constexpr int64_t kCompareAllEntries = 16384;

inline int key_bits(uint64_t largest) {
  int bits = 1;
  while (bits < 64 && (largest >> bits) != 0) ++bits;
  return bits;
}

template <class State, class Value, class Out>
int moving_average_key_bits(const MovingAverage<State, Value, Out>& call) {
  return key_bits(static_cast<uint64_t>(call.segments) * call.rows);
}

// Of kCompareAll entries at most; compared are 32-bit keys.
template <int64_t kCompareAll, class State, class Value, class Out>
bool compares_all(const MovingAverage<State, Value, Out>& call) {
  return call.entries <= kCompareAll && call.rows < (int64_t{1} << 31);
}

template <int64_t kCompareAll, class State, class Value, class Out>
size_t moving_average_bytes(const MovingAverage<State, Value, Out>& call) {
  const int64_t count = call.segments * call.entries;
  if (compares_all<kCompareAll>(call)) return 0;
  return 2 * count * (sizeof(uint64_t) + sizeof(uint32_t)) + 256 +
         sort_pairs_workspace_bytes(count, 0, moving_average_key_bits(call));
}

template <int64_t kCompareAll, class Shape, class State, class Value, class Out>
cudaError_t update_moving_average(const MovingAverage<State, Value, Out>& call, void* workspace,
                                  size_t workspace_bytes, cudaStream_t stream) {
  const int64_t count = call.segments * call.entries;
  if (count == 0) return cudaSuccess;
  if (call.segments > 65535 || count >= (int64_t{1} << 32)) return cudaErrorInvalidValue;
  const StateAccess<State, Value, Out> access{call};
  if (compares_all<kCompareAll>(call)) {
    constexpr int kBlock = Shape::kWarps * Shape::kEntries;
    const dim3 grid(static_cast<unsigned>((call.entries + kBlock - 1) / kBlock),
                    static_cast<unsigned>(call.segments));
    XRISK_LAUNCH((compare_all_kernel<Shape, State, Value, Out>), grid, Shape::kThreads, 0, stream,
                 access);
    return cudaGetLastError();
  }
  constexpr int kThreads = Shape::kThreads;
  const dim3 grid(static_cast<unsigned>((call.entries + kThreads - 1) / kThreads),
                  static_cast<unsigned>(call.segments));
  uint64_t* keys = static_cast<uint64_t*>(workspace);
  uint64_t* sorted_keys = keys + count;
  uint32_t* positions = reinterpret_cast<uint32_t*>(sorted_keys + count);
  uint32_t* sorted_positions = positions + count;
  const size_t used = (2 * count * (sizeof(uint64_t) + sizeof(uint32_t)) + 255) / 256 * 256;
  XRISK_LAUNCH((make_keys_kernel<State, Value, Out>), grid, kThreads, 0, stream, access, keys,
               positions);
  const cudaError_t status = sort_pairs(
      static_cast<const uint64_t*>(keys), sorted_keys, static_cast<const uint32_t*>(positions),
      sorted_positions, count, 0, moving_average_key_bits(call),
      static_cast<char*>(workspace) + used, workspace_bytes - used, stream);
  if (status != cudaSuccess) return status;
  const unsigned blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  XRISK_LAUNCH((update_groups_kernel<kThreads, State, Value, Out>), blocks, kThreads, 0, stream,
               access, static_cast<const uint64_t*>(sorted_keys),
               static_cast<const uint32_t*>(sorted_positions), count);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
