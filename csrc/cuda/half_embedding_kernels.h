// Kernels of the contrastive step on rows of 16-bit embeddings: made fit for products of 16-bit
// matrices, and read in pieces of kWide numbers, 8 (aligned) or 1.
//
// Mapping: a warp a pair of rows. Bytes: the rows once, and what is written. Hazard: the products
// must stay in the range of float32, and the rows in theirs: a row that is to be normalised is
// scaled by a power of two, which is exact but for numbers of float16 2^-20 times the row's length.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/chained_launch.h"
#include "cuda/platform.h"
#include "cuda/tensor_core.h"

namespace xrisk::cuda {

template <class Half, int kWide>
__device__ __forceinline__ void load_halves(const uint16_t* from, float (&out)[kWide]) {
  if constexpr (kWide == 8) {
    const uint4 found = *reinterpret_cast<const uint4*>(from);
    const uint32_t pairs[4] = {found.x, found.y, found.z, found.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      out[2 * k] = Half::low(pairs[k]);
      out[2 * k + 1] = Half::high(pairs[k]);
    }
  } else {
    out[0] = Half::low(*from);
  }
}

template <class Half, int kWide>
__device__ __forceinline__ void store_halves(const float (&values)[kWide], uint16_t* to) {
  if constexpr (kWide == 8) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(Half::pack(values[0], values[1]), Half::pack(values[2], values[3]),
                   Half::pack(values[4], values[5]), Half::pack(values[6], values[7]));
  } else {
    *to = static_cast<uint16_t>(Half::pack(values[0], 0.0f));
  }
}

// No scale of a normalised row is larger: lengths become [2^6, 2^7), or are 0.
constexpr double kLargestScale = 1.0 / 64;

// A warp an entry, rows i of both views: their norms; the rows, times powers of two if they are to
// be normalised; the scales that make these the embeddings, whose dot is written too;
// prepare(anchor) for both.
template <class Half, int kWide, class Prepare>
__global__ void pack_kernel(const uint16_t* view1, const uint16_t* view2, int64_t batch,
                            int64_t width, bool normalize, uint16_t* e, float* scales,
                            double* norms, double* dots, Prepare prepare) {
  follow_previous();
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= batch) return;
  if (lane_index() < 2) prepare(i + lane_index() * batch);
  const uint16_t* const rows[2] = {view1 + i * width, view2 + i * width};
  const int64_t first = kWide * lane_index();
  double squares[2] = {}, dot = 0.0;  // in range, whatever the numbers
  for (int64_t k = first; k < width; k += 32 * kWide) {
    float a[kWide], b[kWide];
    load_halves<Half, kWide>(rows[0] + k, a);
    load_halves<Half, kWide>(rows[1] + k, b);
#pragma unroll
    for (int c = 0; c < kWide; ++c) {
      const double x = static_cast<double>(a[c]), y = static_cast<double>(b[c]);
      squares[0] += x * x;
      squares[1] += y * y;
      dot += x * y;
    }
  }
  dot = warp_sum(dot);
#pragma unroll
  for (int view = 0; view < 2; ++view) {
    const double sum = warp_sum(squares[view]), gap = sum - sum, length = sqrt(sum) + gap;
    const bool keep = !normalize || !(sum > 0.0) || gap != 0.0;
    const double factor = keep ? 1.0 : ldexp(1.0, 6 - ilogb(length));
    const double kept = normalize ? gap + kLargestScale : 1.0;
    const float scale = static_cast<float>(keep ? kept : 1.0 / (factor * length));
    const int64_t anchor = view * batch + i;
    if (lane_index() == 0) {
      norms[anchor] = normalize ? length : gap + 1.0;
      scales[anchor] = scale;
    }
    dot *= factor * static_cast<double>(scale);
    for (int64_t k = first; k < width; k += 32 * kWide) {
      float x[kWide];
      load_halves<Half, kWide>(rows[view] + k, x);
#pragma unroll
      for (int c = 0; c < kWide; ++c) {
        x[c] = static_cast<float>(static_cast<double>(x[c]) * factor);
      }
      store_halves<Half, kWide>(x, e + anchor * width + k);
    }
  }
  if (lane_index() == 0) dots[i] = dot;
}

// Embeddings [2B, D] as pack_kernel leaves them; their gradient still lacks `gradient_factor`.
template <class Half, int kPiece>
struct HalfEmbeddings {
  using Piece = float;
  static constexpr int kWide = kPiece;
  const uint16_t* rows;
  int64_t width;
  const float* scales;
  const float* fit;  // null: 1

  __device__ __forceinline__ void load(int64_t i, int64_t k, float (&out)[kWide]) const {
    load_halves<Half, kWide>(rows + i * width + k, out);
#pragma unroll
    for (int c = 0; c < kWide; ++c) out[c] *= scales[i];
  }
  __device__ __forceinline__ float gradient_factor(int64_t i) const {
    return (fit == nullptr ? 1.0f : fit[1]) / scales[i];
  }
};

}  // namespace xrisk::cuda
