// Vec<T>: one SIMD register of floats or doubles, on the compilers' vector extensions.
//
// No intrinsics for arithmetic: GCC and Clang lower the same source to SSE2, AVX2, AVX-512 or NEON.
// The few things that the extensions lack (mask to integer) have an intrinsic per target.
// Loads and stores may be unaligned. Included by cpu/kernels_inl.h only (see cpu/isa_begin.h).
#pragma once

#include "core/macros.h"

namespace xrisk::cpu::XRISK_ISA {

// The native types, spelled out per element type: GCC loses the attribute of a dependent type.
template <class T>
struct Registers;
template <>
struct Registers<float> {
  typedef float Native __attribute__((vector_size(XRISK_VECTOR_BYTES)));
  typedef int32_t Integer __attribute__((vector_size(XRISK_VECTOR_BYTES)));
};
template <>
struct Registers<double> {
  typedef double Native __attribute__((vector_size(XRISK_VECTOR_BYTES)));
  typedef int64_t Integer __attribute__((vector_size(XRISK_VECTOR_BYTES)));
};

template <class T>
struct Vec {
  using Native = typename Registers<T>::Native;
  using Integer = typename Registers<T>::Integer;
  static constexpr int kLanes = XRISK_VECTOR_BYTES / sizeof(T);
  // All ones in a lane where the condition holds.
  struct Mask {
    Integer bits;
  };

  Native v;

  Vec() = default;
  XRISK_HD explicit Vec(T x) : v(x - Native{}) {}
  XRISK_HD explicit Vec(Native x) : v(x) {}

  static XRISK_HD Vec load(const T* p) {
    Native x;
    memcpy(&x, p, sizeof(x));
    return Vec(x);
  }
  // The first `count` lanes; the others hold `fill`.
  static XRISK_HD Vec load_partial(const T* p, int64_t count, T fill) {
    Vec x(fill);
    memcpy(&x.v, p, count * sizeof(T));
    return x;
  }
  XRISK_HD void store(T* p) const { memcpy(p, &v, sizeof(v)); }
  XRISK_HD void store_partial(T* p, int64_t count) const { memcpy(p, &v, count * sizeof(T)); }
};

template <class T>
XRISK_HD Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v + b.v);
}
template <class T>
XRISK_HD Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v - b.v);
}
template <class T>
XRISK_HD Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v * b.v);
}
template <class T>
XRISK_HD Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v / b.v);
}
template <class T>
XRISK_HD Vec<T> operator-(Vec<T> a) {
  return Vec<T>(-a.v);
}
template <class T>
XRISK_HD typename Vec<T>::Mask greater(Vec<T> a, Vec<T> b) {
  return {a.v > b.v};
}
template <class T>
XRISK_HD Vec<T> select(typename Vec<T>::Mask condition, Vec<T> a, Vec<T> b) {
  return Vec<T>(condition.bits ? a.v : b.v);
}
template <class T>
XRISK_HD typename Vec<T>::Mask is_nan(Vec<T> x) {
  return {x.v != x.v};
}
// The larger and the smaller of x and a bound. Keep a NaN of x: so do the instructions, which
// return their second operand then.
#if XRISK_VECTOR_BYTES == 64
XRISK_HD Vec<float> at_least(Vec<float> bound, Vec<float> x) {
  return Vec<float>(Vec<float>::Native(_mm512_maskz_max_ps(0xffff, __m512(bound.v), __m512(x.v))));
}
XRISK_HD Vec<float> at_most(Vec<float> bound, Vec<float> x) {
  return Vec<float>(Vec<float>::Native(_mm512_maskz_min_ps(0xffff, __m512(bound.v), __m512(x.v))));
}
XRISK_HD Vec<double> at_least(Vec<double> bound, Vec<double> x) {
  return Vec<double>(
      Vec<double>::Native(_mm512_maskz_max_pd(0xff, __m512d(bound.v), __m512d(x.v))));
}
XRISK_HD Vec<double> at_most(Vec<double> bound, Vec<double> x) {
  return Vec<double>(
      Vec<double>::Native(_mm512_maskz_min_pd(0xff, __m512d(bound.v), __m512d(x.v))));
}
#elif XRISK_VECTOR_BYTES == 32
XRISK_HD Vec<float> at_least(Vec<float> bound, Vec<float> x) {
  return Vec<float>(Vec<float>::Native(_mm256_max_ps(__m256(bound.v), __m256(x.v))));
}
XRISK_HD Vec<float> at_most(Vec<float> bound, Vec<float> x) {
  return Vec<float>(Vec<float>::Native(_mm256_min_ps(__m256(bound.v), __m256(x.v))));
}
XRISK_HD Vec<double> at_least(Vec<double> bound, Vec<double> x) {
  return Vec<double>(Vec<double>::Native(_mm256_max_pd(__m256d(bound.v), __m256d(x.v))));
}
XRISK_HD Vec<double> at_most(Vec<double> bound, Vec<double> x) {
  return Vec<double>(Vec<double>::Native(_mm256_min_pd(__m256d(bound.v), __m256d(x.v))));
}
#else
template <class T>
XRISK_HD Vec<T> at_least(Vec<T> bound, Vec<T> x) {
  return Vec<T>(x.v < bound.v ? bound.v : x.v);
}
template <class T>
XRISK_HD Vec<T> at_most(Vec<T> bound, Vec<T> x) {
  return Vec<T>(x.v > bound.v ? bound.v : x.v);
}
#endif
template <class T>
XRISK_HD Vec<T> positive_part(Vec<T> x) {
  return at_least(Vec<T>(T(0)), x);
}
template <class T>
XRISK_HD Vec<T> negative_part(Vec<T> x) {
  return at_most(Vec<T>(T(0)), x);
}
// Without the bit of the sign.
template <class T>
XRISK_HD Vec<T> absolute(Vec<T> x) {
  typename Vec<T>::Integer bits;
  memcpy(&bits, &x.v, sizeof(bits));
  bits &= sizeof(T) == 4 ? 0x7fffffff : 0x7fffffffffffffff;
  memcpy(&x.v, &bits, sizeof(bits));
  return x;
}

// x as it is rounded: keeps the compiler from fusing the product behind x into the next addition.
template <class T>
XRISK_HD Vec<T> rounded(Vec<T> x) {
#if defined(__x86_64__)
  asm("" : "+v"(x.v));
#elif defined(__aarch64__)
  asm("" : "+w"(x.v));
#else
  asm("" : "+m"(x.v));
#endif
  return x;
}

// Half of x from lane `kFirst` on. By a shuffle where there is one: an address would keep x, and
// with it the accumulators of a loop, in memory.
template <int kFirst, class Half, class Native, size_t... kLane>
XRISK_HD Half half_of(Native x, std::index_sequence<kLane...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(x, x, (kFirst + static_cast<int>(kLane))...);
#else
  Half half;
  memcpy(&half, reinterpret_cast<const char*>(&x) + kFirst * sizeof(x[0]), sizeof(half));
  return half;
#endif
}

// Sum of the lanes, in a fixed order: halves onto halves.
template <class T, class Native>
XRISK_HD T sum_of_halves(Native x) {
  constexpr int kLanes = sizeof(Native) / sizeof(T);
  if constexpr (kLanes == 2) {
    return x[0] + x[1];
  } else {
    typedef T Half __attribute__((vector_size(sizeof(Native) / 2)));
    constexpr std::make_index_sequence<kLanes / 2> kLane;
    return sum_of_halves<T>(half_of<0, Half>(x, kLane) + half_of<kLanes / 2, Half>(x, kLane));
  }
}
template <class T>
XRISK_HD T sum(Vec<T> x) {
  return sum_of_halves<T>(x.v);
}

// Bit k: whether the value p[k] is below y, of 16 values.
XRISK_HD int mask_below_16(const float* p, float y) {
#if XRISK_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(p), _mm512_set1_ps(y), _CMP_LT_OQ);
#elif XRISK_VECTOR_BYTES == 32
  const __m256 value = _mm256_set1_ps(y);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), value, _CMP_LT_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p + 8), value, _CMP_LT_OQ));
  return low | high << 8;
#else
  int mask = 0;
  for (int k = 0; k < 16; ++k) mask |= (p[k] < y) << k;
  return mask;
#endif
}
XRISK_HD int mask_below_16(const double* p, double y) {
#if XRISK_VECTOR_BYTES == 64
  const __m512d value = _mm512_set1_pd(y);
  const int low = _mm512_cmp_pd_mask(_mm512_loadu_pd(p), value, _CMP_LT_OQ);
  return low | _mm512_cmp_pd_mask(_mm512_loadu_pd(p + 8), value, _CMP_LT_OQ) << 8;
#else
  int mask = 0;
  for (int k = 0; k < 16; ++k) mask |= (p[k] < y) << k;
  return mask;
#endif
}

// How many of the 16 values at p are below y. The workhorse of the rank search.
XRISK_HD int count_below_16(const float* p, float y) {
#if XRISK_VECTOR_BYTES > 16
  return __builtin_popcount(mask_below_16(p, y));
#else
  Vec<float>::Integer total{};
  for (int k = 0; k < 16; k += 4) total -= Vec<float>::load(p + k).v < Vec<float>(y).v;
  return total[0] + total[1] + total[2] + total[3];
#endif
}
XRISK_HD int count_below_16(const double* p, double y) {
  constexpr int kLanes = Vec<double>::kLanes;
  Vec<double>::Integer total{};
  for (int k = 0; k < 16; k += kLanes) total -= Vec<double>::load(p + k).v < Vec<double>(y).v;
  int64_t count = 0;
  for (int k = 0; k < kLanes; ++k) count += total[k];
  return static_cast<int>(count);
}

}  // namespace xrisk::cpu::XRISK_ISA
