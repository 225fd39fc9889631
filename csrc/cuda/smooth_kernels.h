// The smooth algorithm on CUDA: Chebyshev bins for logistic and sigmoid, no sort, no atomics.
//
//   sum_j w_j phi(z_ij), z_ij = scale (y_j - x_i)
//
// As in cpu/smooth.cpp: bins of about a temperature (core/smooth_fit.h), moments of the sources of
// a bin, a matrix from a source bin to the polynomial of a target bin, polynomials at the targets.
// How many bins there are only the device knows: grids are sized by the most that may be, blocks
// beyond leave at once, and segments whose scores span more bins, or are not finite, are left to
// the direct algorithm, whose `live` counts are 0 for the others.
#pragma once

#include "cuda/smooth_moments.h"

namespace xrisk::cuda {

// local [problems, max_bins, 2, terms]: polynomials of value and slope at the targets.
//   Mapping: a block a target bin, in strides; a thread a coefficient of one of the two and a share
//   of the source bins. blockIdx.y the problem. Bytes: the tables from L2, 47 bins of moments.
//   moments [problems, cells, terms], of a problem at most `most` chunks [bins, terms].
template <int kBlock, class Tile, bool kLogistic, class T>
__global__ void __launch_bounds__(kBlock)
    smooth_translate_kernel(const SmoothBins* __restrict__ plans, Side<T> sources,
                            const double* __restrict__ moments, int64_t cells, int64_t most,
                            const double* __restrict__ tables, int channels, int64_t max_bins,
                            bool to_anchors, double* __restrict__ local) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kReach = SmoothFit<T>::kReach;
  constexpr int kBoth = 2 * kTerms, kShares = kBlock / kBoth;
  constexpr int64_t kTable = (2 * kReach + 1) * kTerms * kTerms;
  XRISK_SHARED(double, shares, [kBlock]);
  const int64_t problem = blockIdx.y, segment = blockIdx.y / static_cast<unsigned>(channels);
  const SmoothBins grid = plans[segment];
  const int64_t bins = grid.bins;
  const int64_t chunks = chunks_of<Tile>(grid, live_of(sources, segment), most);
  const double* mine = moments + problem * cells * kTerms;
  const int share = static_cast<int>(threadIdx.x) / kBoth;
  const int which = static_cast<int>(threadIdx.x) / kTerms % 2;
  const int coefficient = static_cast<int>(threadIdx.x) % kTerms;
  for (int64_t k = blockIdx.x; k < bins; k += gridDim.x) {
    const int64_t low = k > kReach ? k - kReach : 0;
    const int64_t high = k + kReach + 1 < bins ? k + kReach + 1 : bins;
    double sum = 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int64_t c = low + share; c < high; c += kShares) {
        const double* table = tables + which * kTable + (c - k + kReach) * kTerms * kTerms;
        const double* source = mine + (chunk * bins + c) * kTerms;
#pragma unroll
        for (int l = 0; l < kTerms; ++l) sum += source[l] * table[l * kTerms + coefficient];
      }
    }
    // Beyond the reach, where pair terms do not vanish: above the anchors, below the items.
    double weight = 0.0, distance = 0.0;
    const int64_t first = to_anchors ? high : 0, last = to_anchors ? bins : low;
    if (first < last) {  // the whole block
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        for (int64_t c = first + threadIdx.x; c < last; c += kBlock) {
          const double apart = static_cast<double>(to_anchors ? c - k : k - c);
          const double half = to_anchors ? 0.5 : -0.5;
          const double* source = mine + (chunk * bins + c) * kTerms;
          weight += source[0];
          distance += source[0] * apart + half * source[1];
        }
      }
      weight = block_sum<kBlock>(weight);
      distance = block_sum<kBlock>(distance);
    }
    __syncthreads();  // the shares before may still be read
    shares[threadIdx.x] = sum;
    __syncthreads();
    if (share != 0) continue;
    for (int other = 1; other < kShares; ++other) sum += shares[other * kBoth + threadIdx.x];
    const double width = SmoothFit<T>::kWidth;
    if (which == 0 && kLogistic) {
      if (coefficient == 0) sum += width * distance;
      if (coefficient == 1) sum -= (to_anchors ? 0.5 : -0.5) * width * weight;
    } else if (coefficient == 0 && (which == 0 || kLogistic)) {
      sum += weight;
    }
    local[(problem * max_bins + k) * kBoth + threadIdx.x] = sum;
  }
}

template <int kTerms, int kStride = 1>
__device__ __forceinline__ double polynomial(const double* __restrict__ coefficients, double t) {
  double value = coefficients[(kTerms - 1) * kStride];
#pragma unroll
  for (int l = kTerms - 2; l >= 0; --l) value = value * t + coefficients[l * kStride];
  return value;
}

// Polynomials of a segment's problems in shared memory, [coefficient, problem, bin], where they are
// few: lanes of different bins then read different banks.
constexpr int kStagedBins = 64, kStagedStride = kStagedBins + 1;

template <int kBlock, int kFirst, int kCount, int kBoth>
__device__ __forceinline__ void stage_polynomials(const double* __restrict__ local, int64_t bins,
                                                  int channels, int64_t max_bins, double* staged) {
  for (int k = static_cast<int>(threadIdx.x); k < channels * bins * kCount; k += kBlock) {
    const int cell = k / kCount, coefficient = k % kCount;
    const int channel = cell / static_cast<int>(bins), bin = cell % static_cast<int>(bins);
    staged[coefficient * kStagedStride + cell] =
        local[(channel * max_bins + bin) * kBoth + kFirst + coefficient];
  }
  __syncthreads();
}

// sums, slopes [segments, channels, P].
//   Mapping: a thread an anchor, in strides; blockIdx.y the segment. Bytes: a score, 16 out a
//   channel; 32 terms bytes of its bin from shared memory, or L2.
template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    smooth_rows_kernel(const SmoothBins* __restrict__ plans, const double* __restrict__ local,
                       Side<T> anchors, const int32_t* __restrict__ live,
                       const double* __restrict__ scale, int channels, int64_t max_bins,
                       double* __restrict__ sums, double* __restrict__ slopes) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kBoth = 2 * kTerms;
  XRISK_SHARED(double, staged, [kBoth * kStagedStride]);
  const int64_t segment = blockIdx.y, end = live[segment];
  const SmoothBins grid = plans[segment];
  if (int64_t{blockIdx.x} * kBlock >= end) return;  // the whole block
  const double* mine = local + segment * channels * max_bins * kBoth;
  const bool few = channels * grid.bins <= kStagedBins;
  if (few) {
    stage_polynomials<kBlock, 0, kBoth, kBoth>(mine, grid.bins, channels, max_bins, staged);
  }
  const double factor = *scale;
  for (int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x; i < end;
       i += int64_t{gridDim.x} * kBlock) {
    double t;
    const int64_t bin =
        locate(grid, static_cast<double>(anchors.scores[segment * anchors.capacity + i]), t);
    for (int c = 0; c < channels; ++c) {
      const int64_t at = (segment * channels + c) * anchors.capacity + i;
      double sum, slope;
      if (few) {
        const double* both = staged + c * grid.bins + bin;
        sum = polynomial<kTerms, kStagedStride>(both, t);
        slope = polynomial<kTerms, kStagedStride>(both + kTerms * kStagedStride, t);
      } else {
        const double* both = mine + (c * max_bins + bin) * kBoth;
        sum = polynomial<kTerms>(both, t);
        slope = polynomial<kTerms>(both + kTerms, t);
      }
      sums[at] = sum;
      slopes[at] = factor * slope;
    }
  }
}

// out [segments, M]. Mapping and bytes: as the rows, with the slopes alone.
template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    smooth_columns_kernel(const SmoothBins* __restrict__ plans, const double* __restrict__ local,
                          Side<T> items, const int32_t* __restrict__ live,
                          const double* __restrict__ scale, int channels, int64_t max_bins,
                          T* __restrict__ out) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kBoth = 2 * kTerms;
  XRISK_SHARED(double, staged, [kTerms * kStagedStride]);
  const int64_t segment = blockIdx.y, end = live[segment];
  const SmoothBins grid = plans[segment];
  if (int64_t{blockIdx.x} * kBlock >= end) return;  // the whole block
  const double* mine = local + segment * channels * max_bins * kBoth;
  const bool few = channels * grid.bins <= kStagedBins;
  if (few) {
    stage_polynomials<kBlock, kTerms, kTerms, kBoth>(mine, grid.bins, channels, max_bins, staged);
  }
  const double factor = *scale;
  for (int64_t j = int64_t{blockIdx.x} * kBlock + threadIdx.x; j < end;
       j += int64_t{gridDim.x} * kBlock) {
    double t, total = 0.0;
    const int64_t bin =
        locate(grid, static_cast<double>(items.scores[segment * items.capacity + j]), t);
    for (int c = 0; c < channels; ++c) {
      const int64_t at = (segment * channels + c) * items.capacity + j;
      const double weight = items.weights == nullptr ? 1.0 : static_cast<double>(items.weights[at]);
      if (weight == 0.0) continue;
      const double slope =
          few ? polynomial<kTerms, kStagedStride>(staged + c * grid.bins + bin, t)
              : polynomial<kTerms>(mine + (c * max_bins + bin) * kBoth + kTerms, t);
      total += weight * slope;
    }
    out[segment * items.capacity + j] = static_cast<T>(factor * total);
  }
}

}  // namespace xrisk::cuda
