// The sums of the smoothed top-K problem (core/topk.h), and its gradient. The threshold is taken as
// a rounded part and the rest, so that h - lambda keeps the precision of h. Bytes: one read.
#pragma once

#include "core/topk.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"

namespace xrisk::cpu::XRISK_ISA {

template <class T>
struct SoftPoint {
  Vec<T> rounded, rest, inverse;
  XRISK_HD SoftPoint(double at, double tau1)
      : rounded(static_cast<T>(at)),
        rest(static_cast<T>(at - static_cast<double>(static_cast<T>(at)))),
        inverse(static_cast<T>(1.0 / tau1)) {}
  XRISK_HD void operator()(Vec<T> x, Vec<T>& above, Vec<T>& slope) const {
    soft_indicator(((x - rounded) - rest) * inverse, above, slope);
  }
};

// {sum w sigma, sum w sigma (1 - sigma), sum w}; weights may be null.
template <class T>
void soft_sums(const T* x, const T* weights, int64_t count, double at, double tau1,
               double sums[3]) {
  using V = Vec<T>;
  constexpr int64_t kBlock = 32 * V::kLanes;  // a register adds up so much before it is widened
  const SoftPoint<T> point(at, tau1);
  sums[0] = sums[1] = sums[2] = 0.0;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t end = start + kBlock < count ? start + kBlock : count;
    V aboves(T(0)), slopes(T(0)), masses(T(0));
    for (int64_t k = start; k < end; k += V::kLanes) {
      const int64_t left = end - k;
      V above, slope;
      if (left >= V::kLanes) {
        point(V::load(x + k), above, slope);
      } else {
        point(V::load_partial(x + k, left, static_cast<T>(-INFINITY)), above, slope);
      }
      if (weights != nullptr) {
        const V w =
            left >= V::kLanes ? V::load(weights + k) : V::load_partial(weights + k, left, T(0));
        above = above * w;
        slope = slope * w;
        masses = masses + w;
      }
      aboves = aboves + above;
      slopes = slopes + slope;
    }
    sums[0] += static_cast<double>(sum(aboves));
    sums[1] += static_cast<double>(sum(slopes));
    sums[2] += static_cast<double>(sum(masses));
  }
  if (weights == nullptr) sums[2] = static_cast<double>(count);
}

// out = factor sigma (1 - sigma)
template <class T>
void soft_slopes(const T* x, int64_t count, double at, double tau1, double factor, T* out) {
  using V = Vec<T>;
  const SoftPoint<T> point(at, tau1);
  const V scale(static_cast<T>(factor));
  for (int64_t k = 0; k < count; k += V::kLanes) {
    const int64_t left = count - k;
    V above, slope;
    if (left >= V::kLanes) {
      point(V::load(x + k), above, slope);
      (slope * scale).store(out + k);
    } else {
      point(V::load_partial(x + k, left, T(0)), above, slope);
      (slope * scale).store_partial(out + k, left);
    }
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
