// The exponential of the hardware, where millions of them are summed.
#pragma once

#include <cmath>

#include "cuda/platform.h"

namespace xrisk::cuda {

constexpr float kLog2E = 1.44269504f;  // e^x = 2^(x log2 e)
constexpr float kLn2 = 0.693147181f;

// 2^x to 2^-22 of it; 0 below the normal range.
__device__ __forceinline__ float exp2_flushed(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;  // keeps a NaN
#endif
}

}  // namespace xrisk::cuda
