// Copies from global into shared memory that pass no register and that nobody waits for until
// end_copies (cp.async, from sm_80 on). What a thread copied is there for itself afterwards, and
// for others after a barrier.
#pragma once

#include <cstdint>

#include "cuda/platform.h"

namespace xrisk::cuda {

// 16 aligned bytes. What the thread read from there before has been used.
__device__ __forceinline__ void begin_copy(float4* shared, const float4* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
#else
  *shared = *global;
#endif
}

// All of the thread's.
__device__ __forceinline__ void end_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace xrisk::cuda
