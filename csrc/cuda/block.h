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

struct Min {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? a : b;
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

// The sum of whole numbers: one instruction from sm_80 on.
__device__ __forceinline__ unsigned warp_count(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return warp_sum(value);
#else
  return __reduce_add_sync(kWholeWarp, value);
#endif
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

// Of `size` ascending keys, a power of two, how many are below `key`, or with ties up to it.
template <class Key>
__device__ __forceinline__ int count_before(const Key* keys, int size, Key key, bool with_ties) {
  const auto before = [&](Key other) { return other < key || (with_ties && !(key < other)); };
  int found = 0;
  for (int step = size / 2; step > 0; step /= 2) {
    if (before(keys[found + step - 1])) found += step;
  }
  return found + (before(keys[found]) ? 1 : 0);
}

// Sorts keys[0 .. kTile) in shared memory with their payloads, ascending, stable. Each warp ranks
// runs of 32 by comparing all; then runs are merged in pairs, every entry searching its place in
// the other run: log2(kTile / 32) barriers. The spare arrays are scratch. Starts and ends with a
// barrier, so that tiles may be filled just before and read just after. Keys that do not order
// (NaN) are the caller's to avoid.
template <int kBlock, int kTile, class Key, class Payload>
__device__ __forceinline__ void block_sort(Key* keys, Payload* payloads, Key* spare_keys,
                                           Payload* spare_payloads) {
  static_assert(kBlock % 32 == 0 && kTile >= 32 && (kTile & (kTile - 1)) == 0);
  int rounds = 0;
  for (int run = 32; run < kTile; run *= 2) ++rounds;
  Key* from = rounds % 2 == 0 ? keys : spare_keys;  // the last round writes to `keys`
  Payload* payloads_from = rounds % 2 == 0 ? payloads : spare_payloads;
  Key* to = rounds % 2 == 0 ? spare_keys : keys;
  Payload* payloads_to = rounds % 2 == 0 ? spare_payloads : payloads;
  __syncthreads();
  const int lane = lane_index();
  for (int run = 32 * warp_index(); run < kTile; run += kBlock) {
    const Key key = keys[run + lane];
    const Payload payload = payloads[run + lane];
    int rank = 0;
#pragma unroll
    for (int k = 0; k < 32; ++k) {
      const Key other = __shfl_sync(kWholeWarp, key, k);
      rank += other < key || (k < lane && !(key < other)) ? 1 : 0;
    }
    __syncwarp();  // all have read, where the places are the same
    from[run + rank] = key;
    payloads_from[run + rank] = payload;
  }
  __syncthreads();
  for (int run = 32; run < kTile; run *= 2) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kBlock) {
      const Key key = from[i];
      const int pair = i & -(2 * run);  // where the two runs begin
      const bool later = (i & run) != 0;
      const int before = count_before(from + pair + (later ? 0 : run), run, key, later);
      const int place = pair + (i & (run - 1)) + before;
      to[place] = key;
      payloads_to[place] = payloads_from[i];
    }
    __syncthreads();
    Key* const written = to;
    Payload* const payloads_written = payloads_to;
    to = from;
    payloads_to = payloads_from;
    from = written;
    payloads_from = payloads_written;
  }
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
