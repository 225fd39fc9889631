// What an anchor's weights of its pairs need, in one piece of shared memory or four registers.
#pragma once

#include "cuda/exponential.h"
#include "cuda/similarity.h"

namespace xrisk::cuda {

// Exponents to base 2.
__device__ __forceinline__ float4 anchor_weights(const PairWeights<float>& of, int64_t anchor) {
  return make_float4(of.weights[anchor], of.peaks[anchor], of.inverse_temperatures[anchor] * kLog2E,
                     of.shifts[anchor] * kLog2E);
}

__device__ __forceinline__ float pair_weight(float s, const float4& of) {
  return of.x * exp2_flushed((s - of.y) * of.z + of.w);
}

}  // namespace xrisk::cuda
