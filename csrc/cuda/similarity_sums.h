// How the kernels on 16-bit embeddings sum exponentials of similarities: relative to the largest,
// to base 2.
#pragma once

#include <cmath>

#include "cuda/exponential.h"

namespace xrisk::cuda {

// A similarity that does not count: below all others, and finite, so that 0 times it is 0.
constexpr float kLeftOut = -1e38f;

// What similarities are taken relative to, their largest being `high`: itself, but if none counts.
__device__ __forceinline__ float reference_of(float high) { return high == kLeftOut ? 0.0f : high; }

// Sums of e^z and e^z (s - high), z = (s - high) / t. The moment still lacks 1 / t.
struct RelativeSums {
  float mass = 0.0f, moment = 0.0f;

  // `inverse`: 1 / t, times log2 e
  __device__ __forceinline__ void add(float s, float reference, float inverse) {
    const float gap = s - reference, e = exp2_flushed(gap * inverse);
    mass += e;
    moment = fmaf(e, gap, moment);
  }
  // Relative to a larger one: `gap`, 0 or less, is this largest less that one.
  __device__ __forceinline__ RelativeSums seen_from(float gap, float inverse) const {
    const float factor = exp2_flushed(gap * inverse);
    return {factor * mass, factor * fmaf(mass, gap, moment)};
  }
};

}  // namespace xrisk::cuda
