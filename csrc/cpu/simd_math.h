// exp and log1p for Vec<float> and Vec<double>, without libm: the same accuracy on every platform.
//
// exp: reduction to |r| <= ln(2)/2, a polynomial, and 2^n, where there is no instruction for it in
// two steps, so that the result underflows gradually and overflows to inf. Errors: float 1.5 ulp,
// double 1 ulp (csrc/tests). log1p on [0, 1]: 2 atanh(q / (2 + q)), a series in t^2 <= 1/9.
#pragma once

#include "cpu/simd.h"

namespace xrisk::cpu::XRISK_ISA {

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kLow = -110.0f, kHigh = 90.0f;
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kBias = 127, kMantissaBits = 23, kDegree = 6;
  // exp(r) = 1 + r + r^2 P(r), minimax on |r| <= ln(2)/2 (Cephes)
  static constexpr float kP[kDegree] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                        4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLow = -760.0, kHigh = 720.0;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kBias = 1023, kMantissaBits = 52, kDegree = 12;
  // Taylor: the first term left out, r^14 / 14!, is below 5e-18
  static constexpr double kP[kDegree] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0,
                                         1.0 / 3628800.0,    1.0 / 362880.0,    1.0 / 40320.0,
                                         1.0 / 5040.0,       1.0 / 720.0,       1.0 / 120.0,
                                         1.0 / 24.0,         1.0 / 6.0,         0.5};
};

#if XRISK_VECTOR_BYTES == 64
// p 2^n for whole n, rounded once; a NaN stays.
XRISK_HD Vec<float>::Native times_power_of_two(Vec<float>::Native p, Vec<float>::Native n) {
  return Vec<float>::Native(_mm512_maskz_scalef_ps(0xffff, __m512(p), __m512(n)));
}
XRISK_HD Vec<double>::Native times_power_of_two(Vec<double>::Native p, Vec<double>::Native n) {
  return Vec<double>::Native(_mm512_maskz_scalef_pd(0xff, __m512d(p), __m512d(n)));
}
#endif

template <class T>
XRISK_HD Vec<T> exponential(Vec<T> x) {
  using C = ExpConstants<T>;
  using Native = typename Vec<T>::Native;
  const Native magic = Vec<T>(C::kMagic).v;
  const Native z = at_most(Vec<T>(C::kHigh), at_least(Vec<T>(C::kLow), x)).v;  // keeps a NaN
  const Native shifted = z * T(1.44269504088896340736) + magic;
  const Native n = shifted - magic;
  Native r = z - n * C::kLn2High;
  r = r - n * C::kLn2Low;
  Native p = Vec<T>(C::kP[0]).v;
  for (int k = 1; k < C::kDegree; ++k) p = p * r + C::kP[k];
  p = p * (r * r) + r + T(1);
#if XRISK_VECTOR_BYTES == 64
  return Vec<T>(times_power_of_two(p, n));
#else
  // The integer n stands in the low bits of `shifted`.
  using Integer = typename Vec<T>::Integer;
  Integer bits, magic_bits;
  memcpy(&bits, &shifted, sizeof(bits));
  memcpy(&magic_bits, &magic, sizeof(magic_bits));
  const Integer exponent = bits - magic_bits;
  const Integer half = exponent >> 1;
  const Integer first = (half + C::kBias) << C::kMantissaBits;
  const Integer second = (exponent - half + C::kBias) << C::kMantissaBits;
  Native scale_first, scale_second;
  memcpy(&scale_first, &first, sizeof(first));
  memcpy(&scale_second, &second, sizeof(second));
  // A NaN lane has a nonsense exponent and must not be multiplied into an infinity or a zero.
  return Vec<T>(x.v == x.v ? p * scale_first * scale_second : x.v);
#endif
}

// 1 / x for x in [1, 3], to 1 ulp. A division of 16 floats takes as long as 30 products.
XRISK_HD Vec<float> reciprocal(Vec<float> x) {
#if XRISK_VECTOR_BYTES == 64
  const Vec<float>::Native guess(_mm512_maskz_rcp14_ps(0xffff, __m512(x.v)));
  return Vec<float>(guess + guess * (1.0f - x.v * guess));
#else
  return Vec<float>(1.0f / x.v);
#endif
}
XRISK_HD Vec<double> reciprocal(Vec<double> x) { return Vec<double>(1.0 / x.v); }

template <class T>
XRISK_HD Vec<T> log_one_plus(Vec<T> q) {
  constexpr int kTerms = sizeof(T) == 4 ? 8 : 17;
  const auto t = q.v * reciprocal(Vec<T>(q.v + T(2))).v;
  const auto square = t * t;
  auto p = Vec<T>(T(1) / T(2 * kTerms + 1)).v;
  for (int k = kTerms - 1; k >= 0; --k) p = p * square + T(1) / T(2 * k + 1);
  return Vec<T>(T(2) * t * p);
}

}  // namespace xrisk::cpu::XRISK_ISA
