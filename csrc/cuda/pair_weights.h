// What an anchor's weights of its pairs need, in one piece of shared memory or four registers.
#pragma once

#include "cuda/platform.h"
#include "cuda/similarity.h"

namespace xrisk::cuda {

__device__ __forceinline__ float4 anchor_weights(const PairWeights<float>& of, int64_t anchor) {
  return make_float4(of.weights[anchor], of.peaks[anchor], of.inverse_temperatures[anchor],
                     of.shifts[anchor]);
}

__device__ __forceinline__ float pair_weight(float s, const float4& of) {
  return of.x * __expf((s - of.y) * of.z + of.w);
}

}  // namespace xrisk::cuda
