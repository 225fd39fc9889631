// Kernels of the contrastive step on rows of embeddings: normalised, their dots, and the gradient
// back through the normalisation.
//
// Mapping: a warp a row. Bytes: the embeddings three times. Hazard: squares that leave the range of
// a double.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/platform.h"
#include "cuda/tensor_core.h"

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

// No scale of a normalised row is larger: lengths are in [2^6, 2^7), or 0.
constexpr double kLargestScale = 1.0 / 64;

// A warp a row of 16-bit numbers: its norm; the row, times a power of two if it is to be
// normalised; and the scale that makes this the embedding.
template <class Half>
__global__ void pack_kernel(const uint16_t* x, int64_t rows, int64_t width, bool normalize,
                            uint16_t* e, float* scales, double* norms) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= rows) return;
  const uint16_t* row = x + i * width;
  double squares = 0.0;  // in range, whatever the numbers
  for (int64_t k = lane_index(); k < width; k += 32) {
    const double y = static_cast<double>(Half::low(row[k]));
    squares += y * y;
  }
  squares = warp_sum(squares);
  const double gap = squares - squares, length = sqrt(squares) + gap;
  const bool keep = !normalize || !(squares > 0.0) || gap != 0.0;
  const double factor = keep ? 1.0 : ldexp(1.0, 6 - ilogb(length));
  if (lane_index() == 0) {
    norms[i] = normalize ? length : gap + 1.0;
    const double kept = normalize ? gap + kLargestScale : 1.0;
    scales[i] = static_cast<float>(keep ? kept : 1.0 / (factor * length));
  }
  for (int64_t k = lane_index(); k < width; k += 32) {
    const float y = static_cast<float>(static_cast<double>(Half::low(row[k])) * factor);
    e[i * width + k] = keep ? row[k] : static_cast<uint16_t>(Half::pack(y, 0.0f));
  }
}

// Embeddings [2B, D] as they lie in memory; their gradient still lacks `gradient_factor`.
template <class T>
struct PlainEmbeddings {
  const T* rows;
  int64_t width;
  __device__ __forceinline__ T at(int64_t i, int64_t k) const { return rows[i * width + k]; }
  __device__ __forceinline__ T gradient_factor(int64_t) const { return T(1); }
};
template <class Half>
struct HalfEmbeddings {
  const uint16_t* rows;
  int64_t width;
  const float* scales;
  const float* fit;  // null: 1
  __device__ __forceinline__ float at(int64_t i, int64_t k) const {
    return Half::low(rows[i * width + k]) * scales[i];
  }
  __device__ __forceinline__ float gradient_factor(int64_t i) const {
    return (fit == nullptr ? 1.0f : fit[1]) / scales[i];
  }
};

// A warp a pair of rows, one of each view.
template <class Embeddings>
__global__ void dots_kernel(Embeddings e, int64_t batch, double* out) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= batch) return;
  double total = 0.0;
  for (int64_t k = lane_index(); k < e.width; k += 32) {
    total += static_cast<double>(e.at(i, k)) * static_cast<double>(e.at(batch + i, k));
  }
  total = warp_sum(total);
  if (lane_index() == 0) out[i] = total;
}

// A warp a row: the pull of the partner is added, then the gradient passes the normalisation.
template <class Embeddings, class T>
__global__ void finish_kernel(Embeddings e, const T* pulls, const double* norms, int64_t batch,
                              bool normalize, T* gradient) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= 2 * batch) return;
  const int64_t partner = i < batch ? i + batch : i - batch;
  const T factor = e.gradient_factor(i);
  T* g = gradient + i * e.width;
  double along = 0.0;
  for (int64_t k = lane_index(); k < e.width; k += 32) {
    g[k] = g[k] * factor + pulls[i] * e.at(partner, k);
    along += static_cast<double>(g[k]) * static_cast<double>(e.at(i, k));
  }
  if (!normalize) return;
  along = warp_sum(along);
  const T inverse = norms[i] == 0.0 ? T(0) : static_cast<T>(1.0 / norms[i]);
  for (int64_t k = lane_index(); k < e.width; k += 32) {
    g[k] = (g[k] - static_cast<T>(along) * e.at(i, k)) * inverse;
  }
}

}  // namespace xrisk::cuda
