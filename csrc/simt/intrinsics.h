// Device functions beside <cmath>'s. The fast ones are exact here: test with a tolerance.
#pragma once

#include <math.h>

#include <cmath>
#include <cstring>

namespace xrisk::simt {

template <class To, class From>
To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The result of one rounded operation, which no compiler contracts with the next.
template <class T>
T rounded(T value) {
  volatile T result = value;
  return result;
}

}  // namespace xrisk::simt

// glibc declares __expf and its like, hence macros.
#define __expf(x) expf(x)
#define __exp10f(x) powf(10.0f, x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __saturatef(float a) { return a > 0 ? (a < 1 ? a : 1.0f) : 0.0f; }
inline float __fadd_rn(float a, float b) { return xrisk::simt::rounded(a + b); }
inline float __fsub_rn(float a, float b) { return xrisk::simt::rounded(a - b); }
inline float __fmul_rn(float a, float b) { return xrisk::simt::rounded(a * b); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return xrisk::simt::rounded(a + b); }
inline double __dsub_rn(double a, double b) { return xrisk::simt::rounded(a - b); }
inline double __dmul_rn(double a, double b) { return xrisk::simt::rounded(a * b); }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline int __float_as_int(float x) { return xrisk::simt::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return xrisk::simt::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return xrisk::simt::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return xrisk::simt::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return xrisk::simt::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return xrisk::simt::bit_cast<double>(x); }

inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x != 0 ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) {
  return x != 0 ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1) << (31 - bit);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}

// Loads and stores with a hint for the caches, which there are none of here.
#define XRISK_SIMT_LOAD(name) \
  template <class T>          \
  inline T name(const T* p) { \
    return *p;                \
  }
#define XRISK_SIMT_STORE(name)      \
  template <class T>                \
  inline void name(T* p, T value) { \
    *p = value;                     \
  }
XRISK_SIMT_LOAD(__ldg)
XRISK_SIMT_LOAD(__ldca)
XRISK_SIMT_LOAD(__ldcg)
XRISK_SIMT_LOAD(__ldcs)
XRISK_SIMT_STORE(__stcg)
XRISK_SIMT_STORE(__stcs)
XRISK_SIMT_STORE(__stwb)
#undef XRISK_SIMT_LOAD
#undef XRISK_SIMT_STORE

#define XRISK_SIMT_MIN_MAX(T)                      \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
XRISK_SIMT_MIN_MAX(int)
XRISK_SIMT_MIN_MAX(unsigned)
XRISK_SIMT_MIN_MAX(long)
XRISK_SIMT_MIN_MAX(unsigned long)
XRISK_SIMT_MIN_MAX(long long)
XRISK_SIMT_MIN_MAX(unsigned long long)
#undef XRISK_SIMT_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
