// Products of small matrices of 16-bit numbers by the tensor cores (sm_80 and later), by PTX; on
// the host the same fragments, from the same lanes' registers.
//
// A fragment is a matrix spread over the lanes of one warp: lane 4 g + t holds the elements below,
// the first of a pair in the low half of its register. All lanes of the warp call. Source: PTX ISA,
// "Matrix fragments for mma.m16n8k16 with floating point type", and "ldmatrix".
//
//   left  [16, 16]  (g, 2t) (g, 2t+1) | (g+8, 2t) .. | (g, 2t+8) .. | (g+8, 2t+8) ..
//   right [16, 8]   (2t, g) (2t+1, g) | (2t+8, g) (2t+9, g)
//   sums  [16, 8]   (g, 2t) (g, 2t+1)   (g+8, 2t) (g+8, 2t+1)
//
// So a pair of fragments of sums, columns 0-7 and 8-15, rounded to 16 bits, is a left factor.
//
// A product of two 16-bit numbers is exact in float32. Hazards: sums may be cut off instead of
// rounded, in an order of the hardware's own, and PTX leaves open what becomes of factors below the
// normal range (6e-5 of float16, 1e-38 of bfloat16).
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/block.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

struct LeftFragment {
  uint32_t pairs[4];
};
struct RightFragment {
  uint32_t pairs[2];
};
struct SumFragment {
  float at[4];
};

// Two floats rounded to nearest-even in one register, and what they then are.
struct Bfloat16 {
  __device__ static __forceinline__ uint32_t pack(float low, float high);
  __device__ static __forceinline__ float low(uint32_t pair);
  __device__ static __forceinline__ float high(uint32_t pair);
};
struct Float16 {
  __device__ static __forceinline__ uint32_t pack(float low, float high);
  __device__ static __forceinline__ float low(uint32_t pair);
  __device__ static __forceinline__ float high(uint32_t pair);
};

// The power of two that brings a number >= 0, such as the largest of many, below 2^15, the range of
// float16.
__device__ __forceinline__ float scale_below_half_range(float largest) {
  const uint32_t biased = __float_as_uint(largest) >> 23;  // 255: not finite
  return __uint_as_float((127 + 14 + 127 - (biased < 40 ? 40 : biased)) << 23);
}

// Sums of columns 0-7 (n = 0) or 8-15 (n = 1), times `scale`, in those columns of a left factor:
// the nearest 16-bit numbers, and of what they lack the nearest again, which leaves 2^-17
// (bfloat16).
template <class Half>
__device__ __forceinline__ void split_sums(const SumFragment& sums, float scale, int n,
                                           LeftFragment& high, LeftFragment& low) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float a = sums.at[2 * h] * scale, b = sums.at[2 * h + 1] * scale;
    const uint32_t pair = Half::pack(a, b);
    high.pairs[2 * n + h] = pair;
    low.pairs[2 * n + h] = Half::pack(a - Half::low(pair), b - Half::high(pair));
  }
}

// sums += left right
template <class Half>
__device__ __forceinline__ void multiply_add(const LeftFragment& left, const RightFragment& right,
                                             SumFragment& sums);

// Four matrices [8, 8] from shared memory: lanes 8m .. 8m+7 bring the rows of matrix m, 16 bytes
// each and so aligned. Lane 4 g + t gets elements 2t, 2t+1 of row g, or, transposed, of column g.
__device__ __forceinline__ void load_matrices(const uint16_t* row, uint32_t (&pairs)[4]);
__device__ __forceinline__ void load_transposed(const uint16_t* row, uint32_t (&pairs)[4]);

#if defined(__CUDACC__)

// The instructions are there from sm_80 on; callers look at the device before they launch.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define XRISK_TENSOR_CORE(...) __trap()
#else
#define XRISK_TENSOR_CORE(...) asm volatile(__VA_ARGS__)
#endif

__device__ __forceinline__ uint32_t Bfloat16::pack(float low, float high) {
  uint32_t pair = 0;
  XRISK_TENSOR_CORE("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ float Bfloat16::low(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float Bfloat16::high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ uint32_t Float16::pack(float low, float high) {
  uint32_t pair = 0;
  XRISK_TENSOR_CORE("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ float Float16::low(uint32_t pair) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<uint16_t>(pair)));
  return x;
}
__device__ __forceinline__ float Float16::high(uint32_t pair) { return low(pair >> 16); }

#define XRISK_MULTIPLY_ADD(Half, type)                                                             \
  template <>                                                                                      \
  __device__ __forceinline__ void multiply_add<Half>(                                              \
      const LeftFragment& left, const RightFragment& right, SumFragment& sums) {                   \
    XRISK_TENSOR_CORE(                                                                             \
        "mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                     \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(sums.at[0]), \
        "+f"(sums.at[1]), "+f"(sums.at[2]), "+f"(sums.at[3]) : "r"(left.pairs[0]),                 \
        "r"(left.pairs[1]), "r"(left.pairs[2]), "r"(left.pairs[3]), "r"(right.pairs[0]),           \
        "r"(right.pairs[1]));                                                                      \
  }
XRISK_MULTIPLY_ADD(Bfloat16, "bf16")
XRISK_MULTIPLY_ADD(Float16, "f16")
#undef XRISK_MULTIPLY_ADD

__device__ __forceinline__ void load_matrices(const uint16_t* row, uint32_t (&pairs)[4]) {
  XRISK_TENSOR_CORE(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(pairs[0]),
      "=r"(pairs[1]), "=r"(pairs[2]),
      "=r"(pairs[3]) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))) : "memory");
}

__device__ __forceinline__ void load_transposed(const uint16_t* row, uint32_t (&pairs)[4]) {
  XRISK_TENSOR_CORE(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(pairs[0]),
      "=r"(pairs[1]), "=r"(pairs[2]),
      "=r"(pairs[3]) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))) : "memory");
}

#undef XRISK_TENSOR_CORE

#else

__device__ __forceinline__ uint32_t Bfloat16::pack(float low, float high) {
  const auto rounded = [](float x) {
    const uint32_t bits = __float_as_uint(x);
    if (x != x) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}
__device__ __forceinline__ float Bfloat16::low(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float Bfloat16::high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ uint32_t Float16::pack(float low, float high) {
  const auto rounded = [](float x) {
    const uint32_t bits = __float_as_uint(x) & 0x7fffffffu,
                   sign = __float_as_uint(x) >> 16 & 0x8000;
    if (x != x) return sign | 0x7fffu;
    if (bits >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and more
    // below the normal range: multiples of 2^-24, which a sum with 0.5 lines up
    if (bits < 0x38800000u) return sign | (__float_as_uint(__uint_as_float(bits) + 0.5f) & 0x7ffu);
    return sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1)) >> 13;
  };
  return rounded(low) | rounded(high) << 16;
}
__device__ __forceinline__ float Float16::low(uint32_t pair) {
  const uint32_t sign = (pair & 0x8000u) << 16, bits = pair & 0x7fffu;
  if (bits >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (bits & 0x3ffu) << 13);
  const float size = bits < 0x400u ? static_cast<float>(bits) * 0x1p-24f
                                   : __uint_as_float((bits << 13) + 0x38000000u);
  return __uint_as_float(sign | __float_as_uint(size));
}
__device__ __forceinline__ float Float16::high(uint32_t pair) { return low(pair >> 16); }

template <class Half>
__device__ __forceinline__ void multiply_add(const LeftFragment& left, const RightFragment& right,
                                             SumFragment& sums) {
  struct Factors {
    LeftFragment left;
    RightFragment right;
  };
  const auto warp = simt::gather_warp(Factors{left, right}, {__FILE__, __LINE__});
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int k = 0; k < 16; k += 2) {
    const int lane = k % 8 / 2, half = k / 8;
    for (int c = 0; c < 2; ++c) {
      const uint32_t b = warp[4 * (2 * t + c) + lane].right.pairs[half];
      for (int r = 0; r < 2; ++r) {
        const uint32_t a = warp[4 * g + lane].left.pairs[2 * half + r];
        float& sum = sums.at[2 * r + c];
        sum += Half::low(a) * Half::low(b);
        sum += Half::high(a) * Half::high(b);
      }
    }
  }
}

__device__ __forceinline__ void load_matrices(const uint16_t* row, uint32_t (&pairs)[4]) {
  const auto rows = simt::gather_warp(row, {__FILE__, __LINE__});
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int m = 0; m < 4; ++m) {
    const uint16_t* from = rows[8 * m + g] + 2 * t;
    pairs[m] = static_cast<uint32_t>(from[0]) | static_cast<uint32_t>(from[1]) << 16;
  }
}

__device__ __forceinline__ void load_transposed(const uint16_t* row, uint32_t (&pairs)[4]) {
  const auto rows = simt::gather_warp(row, {__FILE__, __LINE__});
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int m = 0; m < 4; ++m) {
    pairs[m] = static_cast<uint32_t>(rows[8 * m + 2 * t][g]) |
               static_cast<uint32_t>(rows[8 * m + 2 * t + 1][g]) << 16;
  }
}

#endif

}  // namespace xrisk::cuda
