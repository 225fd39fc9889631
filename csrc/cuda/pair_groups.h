// Logistic and sigmoid over groups of pairs that share their outer score: a reciprocal a group and
// no exponential a pair.
//
// exp(scale (y - x)) = E F, a factor of either score about a common centre. With q_k = E_k F,
//   D(F) = prod_k (1 + q_k) = 1 + e1 F + e2 F^2 + ...     e: symmetric polynomials of the E_k
//   sum_k log(1 + q_k) = log D,    sum_k q_k / (1 + q_k) = F D'(F) / D(F)
// and other sums over D in the same way. What does not depend on F is computed once an inner entry.
// Every coefficient is a sum of products of positive numbers (and weights), so that no sum loses
// more than a few ulp of its terms' magnitudes.
//
// Hazard: range. |log E| + |log F| <= kMostExponent keeps every product of a group in the range of
// a float, with weights from kLeastWeight to kMostWeight. Other tiles are for the surrogate itself.
#pragma once

#include "core/surrogate.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

constexpr float kMostExponent = 20.0f;
constexpr float kLeastWeight = 0x1p-53f, kMostWeight = 0x1p10f;
constexpr float kLog2 = 0.693147180559945309f;

// exp(scale (score - centre)) to a few ulp however large the exponent: what the difference and the
// product lose is put back.
__device__ __forceinline__ float score_factor(float scale, float score, float centre) {
  const float d = score - centre, back = d - score;
  const float d_lost = (score - (d - back)) - (centre + back);
  const float z = scale * d;
  const float z_lost = fmaf(scale, d, -z) + scale * d_lost;
  const float factor = expf(z);
  return fmaf(factor, z_lost, factor);
}

// The product of 1 + p of many groups as 2^exponent (1 + excess): exact to a few ulp where all p
// are tiny, and without a logarithm a group.
struct LogProduct {
  float excess = 0.0f;
  int exponent = 0;  // with the bias of every factor

  __device__ __forceinline__ void multiply(float p, float one_plus_p) {
    const int bits = __float_as_int(one_plus_p) & 0x7f800000;
    exponent += bits >> 23;
    const float down = __int_as_float(0x7f000000 - bits);  // 2^-e
    const float rest = fmaf(p, down, down - 1.0f);         // below 1
    excess = fmaf(rest, 1.0f + excess, excess);
  }
  __device__ __forceinline__ float log(int factors) const {
    return log1pf(excess) + static_cast<float>(exponent - 127 * factors) * kLog2;
  }
};

// What is kept of a group in shared memory, and its sums for an outer factor F. kSize pairs; rows
// have one weight for all, which is left out.
template <Surrogate kKind, bool kRows>
struct PairGroup {
  static constexpr int kSize = 0;  // none
};

template <>
struct __align__(16) PairGroup<Surrogate::kLogistic, true> {
  static constexpr int kSize = 4;
  float e1, e2, e3, e4;

  PairGroup() = default;
  __device__ __forceinline__ PairGroup(const float* e, const float* /*weights*/) {
    const float s = e[0] + e[1], m = e[0] * e[1], t = e[2] + e[3], o = e[2] * e[3];
    e1 = s + t;
    e2 = fmaf(s, t, m + o);
    e3 = fmaf(s, o, t * m);
    e4 = m * o;
  }
  struct Sums {
    LogProduct product;
    float slope = 0.0f;
    __device__ __forceinline__ float value(float /*f*/, int groups) const {
      return product.log(groups);
    }
  };
  __device__ __forceinline__ void add(float f, Sums& sums) const {
    const float b2 = fmaf(f, e4, e3), b1 = fmaf(f, b2, e2), b0 = fmaf(f, b1, e1);
    const float derivative = fmaf(f, fmaf(f, fmaf(f, e4, b2), b1), b0);
    const float p = f * b0, d = fmaf(f, b0, 1.0f);
    sums.slope = fmaf(derivative, reciprocal(d), sums.slope);
    sums.product.multiply(p, d);
  }
};

template <>
struct __align__(16) PairGroup<Surrogate::kLogistic, false> {
  static constexpr int kSize = 4;
  float e1, e2, e3, e4, n0, n1, n2, n3;

  PairGroup() = default;
  __device__ __forceinline__ PairGroup(const float* e, const float* weights) {
    const float s = e[0] + e[1], m = e[0] * e[1], t = e[2] + e[3], o = e[2] * e[3];
    const float u0 = fmaf(weights[0], e[0], weights[1] * e[1]), u1 = m * (weights[0] + weights[1]);
    const float v0 = fmaf(weights[2], e[2], weights[3] * e[3]), v1 = o * (weights[2] + weights[3]);
    e1 = s + t;
    e2 = fmaf(s, t, m + o);
    e3 = fmaf(s, o, t * m);
    e4 = m * o;
    n0 = u0 + v0;
    n1 = fmaf(u0, t, u1) + fmaf(v0, s, v1);
    n2 = fmaf(u0, o, u1 * t) + fmaf(v0, m, v1 * s);
    n3 = fmaf(u1, o, v1 * m);
  }
  struct Sums {
    float slope = 0.0f;
    __device__ __forceinline__ float value(float, int) const { return 0.0f; }
  };
  __device__ __forceinline__ void add(float f, Sums& sums) const {
    const float d = fmaf(f, fmaf(f, fmaf(f, fmaf(f, e4, e3), e2), e1), 1.0f);
    const float n = fmaf(f, fmaf(f, fmaf(f, n3, n2), n1), n0);
    sums.slope = fmaf(n, reciprocal(d), sums.slope);
  }
};

template <>
struct __align__(16) PairGroup<Surrogate::kSigmoid, true> {
  static constexpr int kSize = 2;
  float e1, e2, n1, n2;  // slope: e1 + n1 F + n2 F^2, over D^2

  PairGroup() = default;
  __device__ __forceinline__ PairGroup(const float* e, const float* /*weights*/) {
    e1 = e[0] + e[1];
    e2 = e[0] * e[1];
    n1 = 4.0f * e2;
    n2 = e1 * e2;
  }
  struct Sums {
    float sum = 0.0f, slope = 0.0f;
    __device__ __forceinline__ float value(float f, int) const { return f * sum; }
  };
  __device__ __forceinline__ void add(float f, Sums& sums) const {
    const float b = fmaf(f, e2, e1);
    const float r = reciprocal(fmaf(f, b, 1.0f));
    sums.sum = fmaf(fmaf(f, e2, b), r, sums.sum);
    sums.slope = fmaf(fmaf(f, fmaf(f, n2, n1), e1), r * r, sums.slope);
  }
};

template <>
struct __align__(8) PairGroup<Surrogate::kSigmoid, false> {
  static constexpr int kSize = 2;
  float e1, e2, n0, n1, n2, unused;

  PairGroup() = default;
  __device__ __forceinline__ PairGroup(const float* e, const float* weights) {
    const float u0 = weights[0] * e[0], u1 = weights[1] * e[1];
    e1 = e[0] + e[1];
    e2 = e[0] * e[1];
    n0 = u0 + u1;
    n1 = 2.0f * fmaf(u0, e[1], u1 * e[0]);
    n2 = e2 * fmaf(weights[0], e[1], weights[1] * e[0]);
    unused = 0.0f;
  }
  struct Sums {
    float slope = 0.0f;
    __device__ __forceinline__ float value(float, int) const { return 0.0f; }
  };
  __device__ __forceinline__ void add(float f, Sums& sums) const {
    const float r = reciprocal(fmaf(f, fmaf(f, e2, e1), 1.0f));
    sums.slope = fmaf(fmaf(f, fmaf(f, n2, n1), n0), r * r, sums.slope);
  }
};

}  // namespace xrisk::cuda
