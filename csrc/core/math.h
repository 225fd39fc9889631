// Scalar versions of the few operations that surrogates and rules are written in.
//
// A surrogate is a template over a value type V: float or double here and on CUDA, a SIMD vector in
// cpu/simd.h, which overloads the same names.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace xrisk {

XRISK_HD bool greater(float a, float b) { return a > b; }
XRISK_HD bool greater(double a, double b) { return a > b; }
XRISK_HD float select(bool condition, float a, float b) { return condition ? a : b; }
XRISK_HD double select(bool condition, double a, double b) { return condition ? a : b; }

// max(x, 0) that keeps a NaN (x < 0 is false for it).
XRISK_HD float positive_part(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float part;  // one instruction instead of three
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(part) : "f"(x));
  return part;
#else
  return x < 0.0f ? 0.0f : x;
#endif
}
XRISK_HD double positive_part(double x) { return x < 0.0 ? 0.0 : x; }

// min(x, 0), as well.
XRISK_HD float negative_part(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float part;
  asm("min.NaN.f32 %0, %1, 0f00000000;" : "=f"(part) : "f"(x));
  return part;
#else
  return x > 0.0f ? 0.0f : x;
#endif
}
XRISK_HD double negative_part(double x) { return x > 0.0 ? 0.0 : x; }

XRISK_HD float absolute(float x) { return fabsf(x); }
XRISK_HD double absolute(double x) { return fabs(x); }
XRISK_HD float exponential(float x) { return expf(x); }
XRISK_HD double exponential(double x) { return exp(x); }

// 1 / x for x from 1 to 2^126; on CUDA to an ulp.
XRISK_HD float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
#else
  return 1.0f / x;
#endif
}
XRISK_HD double reciprocal(double x) { return 1.0 / x; }

// log(1 + q) for q in [0, 1].
XRISK_HD float log_one_plus(float q) { return log1pf(q); }
XRISK_HD double log_one_plus(double q) { return log1p(q); }

// x as it is rounded: keeps the compiler from fusing the product behind x into what follows.
XRISK_HD float rounded(float x) {
#if defined(__CUDA_ARCH__)
  asm("" : "+f"(x));
#endif
  return x;
}
XRISK_HD double rounded(double x) {
#if defined(__CUDA_ARCH__)
  asm("" : "+d"(x));
#endif
  return x;
}

XRISK_HD bool is_finite(double x) { return x - x == 0.0; }

}  // namespace xrisk
