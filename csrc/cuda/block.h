// Warp and block primitives: reductions, scans, a sort in shared memory, "the last block finishes".
//
// Blocks are one-dimensional, of kBlock threads, a multiple of 32; every thread of the block calls.
// Results do not depend on timing: sums are added in one fixed order. Each primitive may be called
// again at once; none but block_sort promises to be a barrier for the caller's own shared memory.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/platform.h"

namespace xrisk::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x / 32); }

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

// As fmax: a NaN loses against a number.
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
  __device__ __forceinline__ double operator()(double a, double b) const { return fmax(a, b); }
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

// ---------------------------------------------------------------------------------- reductions

// The same value, bit for bit, in every lane; `combine` is commutative and may round.
template <class T, class F>
__device__ __forceinline__ T warp_reduce(T value, F combine) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce(value, Sum());
}

template <class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce(value, Max());
}

template <int kBlock, class T, class F>
__device__ __forceinline__ T block_reduce(T value, T identity, F combine) {
  static_assert(kBlock % 32 == 0 && kBlock <= 1024);
  constexpr int kWarps = kBlock / 32;
  value = warp_reduce(value, combine);
  if constexpr (kWarps > 1) {
    XRISK_SHARED(T, partial, [kWarps]);
    __syncthreads();  // an earlier call may still be reading
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    value = lane_index() < kWarps ? partial[lane_index()] : identity;
    value = warp_reduce(value, combine);
  }
  return value;
}

template <int kBlock, class T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce<kBlock>(value, T(0), Sum());
}

// `lowest`: what no value lies below, such as -INFINITY.
template <int kBlock, class T>
__device__ __forceinline__ T block_max(T value, T lowest) {
  return block_reduce<kBlock>(value, lowest, Max());
}

// --------------------------------------------------------------------------------------- scans

// __shfl_up_sync for a small struct, word by word.
template <class T>
__device__ __forceinline__ T shuffle_up(T value, int distance) {
  static_assert(sizeof(T) % 4 == 0, "made of 32-bit words");
  constexpr int kWords = sizeof(T) / 4;
  uint32_t words[kWords];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (int k = 0; k < kWords; ++k) words[k] = __shfl_up_sync(kWholeWarp, words[k], distance);
  memcpy(&value, words, sizeof(T));
  return value;
}

// combine(earlier, later): associative, need not commute.
template <class T, class F>
__device__ __forceinline__ T warp_inclusive_scan(T value, F combine) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const T earlier = shuffle_up(value, distance);
    if (lane_index() >= distance) value = combine(earlier, value);
  }
  return value;
}

// Scans the values of the block's threads. `before` is the combination of all earlier threads'
// values (`identity` in thread 0), `total` that of all.
template <int kBlock, class T, class F>
__device__ __forceinline__ void block_scan(T value, T identity, F combine, T& before, T& total) {
  static_assert(kBlock % 32 == 0 && kBlock <= 1024);
  constexpr int kWarps = kBlock / 32;
  XRISK_SHARED(T, upto_warp, [kWarps]);  // the inclusive scan of the warps' totals
  const int lane = lane_index(), warp = warp_index();
  const T within = warp_inclusive_scan(value, combine);
  before = shuffle_up(within, 1);
  if (lane == 0) before = identity;
  __syncthreads();  // an earlier call may still be reading
  if (lane == 31) upto_warp[warp] = within;
  __syncthreads();
  if (warp == 0) {
    const T scanned = warp_inclusive_scan(lane < kWarps ? upto_warp[lane] : identity, combine);
    if (lane < kWarps) upto_warp[lane] = scanned;
  }
  __syncthreads();
  if (warp > 0) before = combine(upto_warp[warp - 1], before);
  total = upto_warp[kWarps - 1];
}

template <int kBlock, class T, class F>
__device__ __forceinline__ T block_exclusive_scan(T value, T identity, F combine) {
  T before, total;
  block_scan<kBlock>(value, identity, combine, before, total);
  return before;
}

template <int kBlock, class T, class F>
__device__ __forceinline__ T block_inclusive_scan(T value, T identity, F combine) {
  return combine(block_exclusive_scan<kBlock>(value, identity, combine), value);
}

// ---------------------------------------------------------------------------------------- sort

// Sorts keys[0 .. kTile) in shared memory, ascending, ties by payload (with the index as payload:
// stable). Bitonic, in kTile / 2 pairs a step. Starts and ends with a barrier, so that tiles may be
// filled just before and read just after. Keys that do not order (NaN) are the caller's to avoid.
template <int kBlock, int kTile, class Key, class Payload>
__device__ __forceinline__ void block_sort(Key* keys, Payload* payloads) {
  static_assert(kBlock % 32 == 0 && kTile >= 2 && (kTile & (kTile - 1)) == 0);
  bool across_warps = true;  // whether the step before touched other warps' pairs
  for (int run = 2; run <= kTile; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      // 32 pairs of stride <= 32 lie in 64 neighbours, which stay with one warp
      if (across_warps || stride > 32) {
        __syncthreads();
      } else {
        __syncwarp();
      }
      across_warps = stride > 32;
      for (int pair = static_cast<int>(threadIdx.x); pair < kTile / 2; pair += kBlock) {
        const int low = 2 * pair - (pair & (stride - 1)), high = low + stride;
        const Key a = keys[low], b = keys[high];
        const Payload pa = payloads[low], pb = payloads[high];
        const bool descending = b < a || (!(a < b) && pb < pa);
        if (descending == ((low & run) == 0)) {
          keys[low] = b;
          keys[high] = a;
          payloads[low] = pb;
          payloads[high] = pa;
        }
      }
    }
  }
  __syncthreads();
}

// ------------------------------------------------------------------------------ the last block

// True in all threads of the block that is the last of `blocks` to call: it may read what the
// others wrote to global memory before they called (by plain loads: not __ldg, not const
// __restrict__). `counter` is zero before the first call, and zero again after the last, ready for
// the next launch.
__device__ __forceinline__ bool last_block_done(unsigned* counter, unsigned blocks) {
  XRISK_SHARED(unsigned, is_last, [1]);
  __syncthreads();  // the block's writes are done, and an earlier call's flag is read
  if (threadIdx.x == 0) {
    __threadfence();  // they are visible before the count
    is_last[0] = atomicInc(counter, blocks - 1) == blocks - 1;
    __threadfence();  // and the others' before what follows
  }
  __syncthreads();
  return is_last[0] != 0;
}

}  // namespace xrisk::cuda
