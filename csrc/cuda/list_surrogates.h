// Logistic and sigmoid of the pairs within lists: in float by the hardware's exponential and
// reciprocal, and a polynomial instead of the logarithm; in double those of core/surrogate.h.
#pragma once

#include <type_traits>

#include "core/surrogate.h"
#include "cuda/exponential.h"

namespace xrisk::cuda {

// log(1 + q) for q in [0, 1], to 2e-7 of it: the least relative error of a polynomial q p(q).
__device__ __forceinline__ float log_one_plus_polynomial(float q) {
  float p = 0.0052324217f;
  p = fmaf(p, q, -0.0295041464f);
  p = fmaf(p, q, 0.0782241747f);
  p = fmaf(p, q, -0.1366309524f);
  p = fmaf(p, q, 0.1910593510f);
  p = fmaf(p, q, -0.2484296411f);
  p = fmaf(p, q, 0.3331909478f);
  p = fmaf(p, q, -0.4999949336f);
  p = fmaf(p, q, 0.9999999404f);
  return p * q;
}

// As Logistic of core/surrogate.h.
struct HardwareLogistic {
  float scale;
  __device__ __forceinline__ void operator()(float d, float& value, float& slope) const {
    const float z = scale * d;
    const float q = exp2_flushed(-kLog2E * absolute(z));
    value = positive_part(z) + log_one_plus_polynomial(q);
    slope = scale * (z > 0.0f ? 1.0f : q) * reciprocal(1.0f + q);
  }
};

// As Sigmoid of core/surrogate.h.
struct HardwareSigmoid {
  float scale;
  __device__ __forceinline__ void operator()(float d, float& value, float& slope) const {
    const float z = scale * d;
    const float q = exp2_flushed(-kLog2E * absolute(z));
    const float r = reciprocal(1.0f + q);
    value = (z > 0.0f ? 1.0f : q) * r;
    slope = scale * q * r * r;
  }
};

template <class T>
using ListLogistic = std::conditional_t<std::is_same_v<T, float>, HardwareLogistic, Logistic<T>>;
template <class T>
using ListSigmoid = std::conditional_t<std::is_same_v<T, float>, HardwareSigmoid, Sigmoid<T>>;

}  // namespace xrisk::cuda
