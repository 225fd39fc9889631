// Kernels with one bug each, and which build is to find it. x holds 3 kBlock numbers (x[i] = i + 1)
// and the counter a zero; y has kBlock elements.
#pragma once

#include "cuda/block.h"

namespace xrisk::test {

constexpr int kBlock = 256;

using Kernel = void (*)(const float* x, float* y, unsigned* counter);

// ------------------------------------------------------------------------------- shared memory

inline void missing_barrier(const float* x, float* y, unsigned*) {
  XRISK_SHARED(float, s, [kBlock]);
  const unsigned t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[(t + 37) % kBlock];
}

inline void missing_barrier_of_loop(const float* x, float* y, unsigned*) {
  XRISK_SHARED(float, s, [kBlock]);
  const unsigned t = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    s[t] = x[round * kBlock + t];
    __syncthreads();
    sum += s[(t + 37) % kBlock];  // and the next round writes
  }
  y[t] = sum;
}

// A reduction that is right when it is called once.
inline float sum_without_leading_barrier(float value) {
  XRISK_SHARED(float, partial, [kBlock / 32]);
  value = cuda::warp_sum(value);
  if (cuda::lane_index() == 0) partial[cuda::warp_index()] = value;
  __syncthreads();
  return cuda::warp_sum(cuda::lane_index() < kBlock / 32 ? partial[cuda::lane_index()] : 0.0f);
}

inline void missing_leading_barrier(const float* x, float* y, unsigned*) {
  const float first = sum_without_leading_barrier(x[threadIdx.x]);
  y[threadIdx.x] = sum_without_leading_barrier(x[threadIdx.x] * 2) - first;
}

inline void missing_syncwarp(const float* x, float* y, unsigned*) {
  XRISK_SHARED(float, s, [kBlock]);
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}

inline void shuffle_as_fence(const float* x, float* y, unsigned*) {
  XRISK_SHARED(float, s, [kBlock]);
  s[threadIdx.x] = x[threadIdx.x];
  const float zero = 0 * __shfl_sync(cuda::kWholeWarp, x[threadIdx.x], 0);
  y[threadIdx.x] = s[threadIdx.x ^ 1] + zero;
}

inline void all_write_the_same(const float* x, float* y, unsigned*) {
  XRISK_SHARED(float, one, [1]);
  one[0] = 1;
  __syncthreads();
  y[threadIdx.x] = one[0] * x[threadIdx.x];
}

inline void counting_without_atomic(const float* x, float* y, unsigned*) {
  XRISK_SHARED(int, count, [1]);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  ++count[0];
  __syncthreads();
  y[threadIdx.x] = count[0] > 0 ? x[threadIdx.x] : 0;
}

inline void uninitialised(const float* x, float* y, unsigned*) {
  XRISK_SHARED(float, s, [kBlock]);
  if (threadIdx.x < 200) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

inline void uninitialised_unseen(const float* x, float* y, unsigned*) {
  XRISK_SHARED(int, s, [kBlock]);
  y[threadIdx.x] = s[threadIdx.x] == 12345 ? 0 : x[threadIdx.x];
}

// ------------------------------------------------------------------------- barriers and warps

inline void divergent_barrier(const float* x, float* y, unsigned*) {
  if (threadIdx.x < 128) {
    y[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
  } else {
    y[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
  }
}

inline void early_return(const float* x, float* y, unsigned*) {
  if (threadIdx.x >= 200) return;
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

inline void deadlock(const float* x, float* y, unsigned*) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(cuda::kWholeWarp, value, 1);
  __syncthreads();
  y[threadIdx.x] = value;
}

inline void livelock(const float* x, float* y, unsigned* counter) {
  while (atomicCAS(counter, 12345u, 1u) != 12345u) {
  }
  y[threadIdx.x] = x[threadIdx.x];
}

inline void mask_without_source(const float* x, float* y, unsigned*) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) value += __shfl_down_sync(0xffffu, value, 8);
  y[threadIdx.x] = value;
}

inline void mask_without_caller(const float* x, float* y, unsigned*) {
  y[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 0);
}

// --------------------------------------------------------------------------------------- bounds

inline void beyond_static_shared(const float* x, float* y, unsigned*) {
  XRISK_SHARED(float, s, [kBlock]);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const volatile float beyond = s[threadIdx.x + 1];
  static_cast<void>(beyond);
  y[threadIdx.x] = x[threadIdx.x];
}

inline void beyond_dynamic_shared(const float* x, float* y, unsigned*) {
  XRISK_DYN_SHARED(float, s);  // kBlock of them
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const volatile float beyond = s[threadIdx.x + 1];
  static_cast<void>(beyond);
  y[threadIdx.x] = x[threadIdx.x];
}

inline void beyond_global(const float* x, float* y, unsigned*) {
  const volatile float beyond = x[threadIdx.x + 2 * kBlock + 1];
  static_cast<void>(beyond);
  y[threadIdx.x] = x[threadIdx.x];
}

inline void beyond_local(const float* x, float* y, unsigned*) {
  int local[4] = {1, 2, 3, 4};
  const int zero = static_cast<int>(x[0]) - 1;
  for (int i = 0; i < 4; ++i) local[i + zero] += i;
  const volatile int beyond = local[4 + zero];
  static_cast<void>(beyond);
  y[threadIdx.x] = x[threadIdx.x];
}

inline void misaligned(const float* x, float* y, unsigned*) {
  const float2 pair = *reinterpret_cast<const float2*>(x + 1);
  y[threadIdx.x] = x[threadIdx.x] + 0 * pair.y;
}

inline void signed_overflow(const float* x, float* y, unsigned*) {
  int k = static_cast<int>(x[0]) + 2147483500;
  k += static_cast<int>(threadIdx.x);
  const volatile int overflown = k;
  static_cast<void>(overflown);
  y[threadIdx.x] = x[threadIdx.x];
}

// --------------------------------------------------------------------------------------- blocks

inline void both_blocks_write(const float* x, float* y, unsigned*) {
  if (threadIdx.x == 0) y[0] = x[0];
  if (blockIdx.x == 0) y[threadIdx.x] = x[threadIdx.x];
}

inline void reads_the_block_before(const float* x, float* y, unsigned*) {
  const unsigned t = threadIdx.x;
  if (blockIdx.x == 0 && t < 128) y[t] = x[t];
  if (blockIdx.x == 1 && t < 128) y[128 + t] = y[t] + 128;
}

// last_block_done without parts of it. The last block writes y from what both wrote: y itself,
// whose first half is block 0's and second half block 1's.
template <bool kBarrierBefore, bool kFenceBefore, bool kFenceAfter, bool kBarrierAfter>
void last_block(const float* x, float* y, unsigned* counter) {
  XRISK_SHARED(unsigned, is_last, [1]);
  const unsigned t = threadIdx.x, mine = blockIdx.x * 128 + (t + 1) % 128;
  if (t < 128) y[mine] = -x[mine];
  if (kBarrierBefore) __syncthreads();
  if (t == 0) {
    if (kFenceBefore) __threadfence();
    is_last[0] = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
    if (kFenceAfter) __threadfence();
  }
  if (kBarrierAfter) __syncthreads();
  if (is_last[0] == 1) y[t] = -y[t];
}

}  // namespace xrisk::test
