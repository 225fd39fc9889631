// Kernels of the contrastive step on rows of embeddings: normalised, their dots, and the gradient
// back through the normalisation.
//
// Mapping: a warp a row. Bytes: the embeddings three times. Hazard: squares that leave the range of
// a double.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/chained_launch.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

constexpr double kNotANumber = __builtin_nan("");

template <class T>
__device__ __forceinline__ double square_sum(const T* x, int64_t width, double divisor) {
  double total = 0.0;
  for (int64_t k = lane_index(); k < width; k += 32) {
    const double y = static_cast<double>(x[k]) / divisor;
    total += y * y;
  }
  return warp_sum(total);
}

// A warp a row: its norm, and the row divided by it.
template <class T>
__global__ void normalize_kernel(const T* x, int64_t rows, int64_t width, bool normalize, T* e,
                                 double* norms) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= rows) return;
  const T* row = x + i * width;
  double divisor = 1.0, squares = square_sum(row, width, divisor);
  if (!(squares > 1e-280 && squares < 1e280)) {
    double largest = 0.0, gap = 0.0;
    for (int64_t k = lane_index(); k < width; k += 32) {
      const double y = static_cast<double>(row[k]);
      largest = fmax(largest, fabs(y));
      gap += y - y;
    }
    largest = warp_max(largest);
    gap = warp_sum(gap);  // zero where every x is finite
    divisor = largest > 0.0 && gap == 0.0 ? largest : 1.0;
    squares = gap == 0.0 ? square_sum(row, width, divisor) : kNotANumber;
  }
  const double length = sqrt(squares);
  if (lane_index() == 0) norms[i] = normalize ? divisor * length : squares - squares + 1.0;
  for (int64_t k = lane_index(); k < width; k += 32) {
    const bool keep = !normalize || squares == 0.0;
    e[i * width + k] =
        keep ? row[k] : static_cast<T>(static_cast<double>(row[k]) / divisor / length);
  }
}

// Embeddings [2B, D] as they lie in memory.
template <class T>
struct PlainEmbeddings {
  using Piece = double;  // sums of kWide products
  static constexpr int kWide = 1;
  const T* rows;
  int64_t width;

  __device__ __forceinline__ void load(int64_t i, int64_t k, T (&out)[1]) const {
    out[0] = rows[i * width + k];
  }
  __device__ __forceinline__ T gradient_factor(int64_t) const { return T(1); }
};

// A warp a pair of rows, one of each view; prepare(anchor) for both.
template <class T, class Prepare>
__global__ void dots_kernel(const T* a, const T* b, int64_t rows, int64_t width, double* out,
                            Prepare prepare) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= rows) return;
  double total = 0.0;
  for (int64_t k = lane_index(); k < width; k += 32) {
    total += static_cast<double>(a[i * width + k]) * static_cast<double>(b[i * width + k]);
  }
  total = warp_sum(total);
  if (lane_index() == 0) out[i] = total;
  if (lane_index() < 2) prepare(i + lane_index() * rows);
}

// kWide numbers, aligned if they are eight.
template <int kWide, class T>
__device__ __forceinline__ void load_piece(const T* from, T (&out)[kWide]) {
  if constexpr (kWide == 8) {
    const float4* pieces = reinterpret_cast<const float4*>(from);
    const float4 a = pieces[0], b = pieces[1];
    const float values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int c = 0; c < 8; ++c) out[c] = values[c];
  } else {
    out[0] = *from;
  }
}
template <int kWide, class T>
__device__ __forceinline__ void store_piece(const T (&values)[kWide], T* to) {
  if constexpr (kWide == 8) {
    float4* pieces = reinterpret_cast<float4*>(to);
    pieces[0] = make_float4(values[0], values[1], values[2], values[3]);
    pieces[1] = make_float4(values[4], values[5], values[6], values[7]);
  } else {
    *to = values[0];
  }
}

// A warp a row: the pull of the partner is added, then the gradient passes the normalisation.
// kHeld: pieces of a row that a lane has at most, which stay in registers; 0: any number.
template <int kHeld, class Embeddings, class T>
__global__ void finish_kernel(Embeddings e, const T* pulls, const double* norms, int64_t batch,
                              bool normalize, T* gradient) {
  follow_previous();
  constexpr int kWide = Embeddings::kWide, kStep = 32 * kWide;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= 2 * batch) return;
  const int64_t partner = i < batch ? i + batch : i - batch, first = kWide * lane_index();
  const T factor = e.gradient_factor(i), pull = pulls[i];
  T* const row = gradient + i * e.width;
  double along = 0.0;
  const auto pulled = [&](int64_t k, T(&g)[kWide]) {
    T mine[kWide], other[kWide];
    load_piece<kWide>(row + k, g);
    e.load(i, k, mine);
    e.load(partner, k, other);
    using Piece = typename Embeddings::Piece;
    Piece part = 0;
#pragma unroll
    for (int c = 0; c < kWide; ++c) {
      g[c] = g[c] * factor + pull * other[c];
      part += static_cast<Piece>(g[c]) * static_cast<Piece>(mine[c]);
    }
    along += static_cast<double>(part);
  };
  const auto projected = [&](int64_t k, T inverse, T(&g)[kWide]) {
    T mine[kWide];
    e.load(i, k, mine);
#pragma unroll
    for (int c = 0; c < kWide; ++c) g[c] = (g[c] - static_cast<T>(along) * mine[c]) * inverse;
    store_piece<kWide>(g, row + k);
  };
  const T inverse = norms[i] == 0.0 ? T(0) : static_cast<T>(1.0 / norms[i]);
  if constexpr (kHeld > 0) {
    T g[kHeld][kWide];
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      if (first + h * kStep < e.width) pulled(first + h * kStep, g[h]);
    }
    along = warp_sum(along);
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int64_t k = first + h * kStep;
      if (k >= e.width) continue;
      if (normalize) {
        projected(k, inverse, g[h]);
      } else {
        store_piece<kWide>(g[h], row + k);
      }
    }
  } else {
    for (int64_t k = first; k < e.width; k += kStep) {
      T g[kWide];
      pulled(k, g);
      store_piece<kWide>(g, row + k);
    }
    if (!normalize) return;
    along = warp_sum(along);
    for (int64_t k = first; k < e.width; k += kStep) {
      T g[kWide];
      load_piece<kWide>(row + k, g);
      projected(k, inverse, g);
    }
  }
}

}  // namespace xrisk::cuda
