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

#include "core/smooth_fit.h"
#include "core/surrogate.h"
#include "cuda/block.h"
#include "cuda/pairs.h"

namespace xrisk::cuda {

// One segment's bins. bins = 0: direct.
struct __align__(8) SmoothBins {
  double inverse_width, width_high, width_low;  // k * high is exact for |k| < 2^27
  double first;
  int64_t bins;
};

struct __align__(8) ScoreRange {
  double low, high;
  int64_t bad;  // whether a score is not finite
};

struct JoinRanges {
  __device__ ScoreRange operator()(const ScoreRange& a, const ScoreRange& b) const {
    return {a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high, a.bad | b.bad};
  }
};

template <class T>
__device__ __forceinline__ int64_t live_of(const Side<T>& side, int64_t segment) {
  return side.live == nullptr ? side.capacity : side.live[segment];
}

// Bin and local coordinate of a score.
__device__ __forceinline__ int64_t locate(const SmoothBins& grid, double score, double& t) {
  const double bin = rint(score * grid.inverse_width);
  t = 2.0 * grid.inverse_width * ((score - bin * grid.width_high) - bin * grid.width_low);
  return static_cast<int64_t>(bin - grid.first);
}

// ranges [segments, blocks]: lowest and highest live score of both sides.
//   Mapping: blockIdx.y the segment, its blocks stride over the scores. Bytes: every score once.
template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    smooth_range_kernel(Side<T> anchors, Side<T> items, ScoreRange* __restrict__ ranges) {
  const int64_t segment = blockIdx.y, step = int64_t{gridDim.x} * kBlock;
  double low = INFINITY, high = -INFINITY, bad = 0.0;
  const auto read = [&](const Side<T>& side) {
    const int64_t live = live_of(side, segment);
    for (int64_t k = int64_t{blockIdx.x} * kBlock + threadIdx.x; k < live; k += step) {
      const double score = static_cast<double>(side.scores[segment * side.capacity + k]);
      if (!is_finite(score)) bad = 1.0;
      low = fmin(low, score);
      high = fmax(high, score);
    }
  };
  read(anchors);
  read(items);
  high = block_max<kBlock>(high, -double{INFINITY});
  low = -block_max<kBlock>(-low, -double{INFINITY});
  bad = block_max<kBlock>(bad, 0.0);
  if (threadIdx.x == 0) {
    ranges[segment * gridDim.x + blockIdx.x] = {low, high, static_cast<int64_t>(bad)};
  }
}

// Bins of each segment; smooth_live and direct_live [segments]: the targets that either algorithm
// is to serve. A thread a segment.
template <class T>
__global__ void smooth_plan_kernel(const ScoreRange* __restrict__ ranges, int blocks,
                                   int64_t segments, int64_t max_bins,
                                   const double* __restrict__ scale, Side<T> targets,
                                   SmoothBins* __restrict__ plans, int32_t* smooth_live,
                                   int32_t* direct_live) {
  const int64_t segment = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (segment >= segments) return;
  ScoreRange range = ranges[segment * blocks];
  for (int k = 1; k < blocks; ++k) range = JoinRanges()(range, ranges[segment * blocks + k]);
  const double width = SmoothFit<T>::kWidth / *scale;
  SmoothBins plan;
  plan.inverse_width = 1.0 / width;
  uint64_t bits;
  memcpy(&bits, &width, sizeof(bits));
  bits &= ~((uint64_t{1} << 27) - 1);
  memcpy(&plan.width_high, &bits, sizeof(bits));
  plan.width_low = width - plan.width_high;
  plan.first = rint(range.low * plan.inverse_width);
  const double last = rint(range.high * plan.inverse_width);
  constexpr double kMost = 1 << 27;
  const double bins = last - plan.first + 1.0;
  const bool good = range.bad == 0 && width > 1e-290 && width < 1e290 && plan.first > -kMost &&
                    last < kMost && bins >= 1.0 && bins <= static_cast<double>(max_bins);
  plan.bins = good ? static_cast<int64_t>(bins) : 0;
  plans[segment] = plan;
  const int32_t live = static_cast<int32_t>(live_of(targets, segment));
  smooth_live[segment] = good ? live : 0;
  direct_live[segment] = good ? 0 : live;
}

// tables [2 (value, slope), 2 reach + 1, terms of the source, terms of the target].
//   phi(sign width (apart + (s - t) / 2)) ~ sum_lk table[apart][l][k] s^l t^k
//   Mapping: a block a distance, a thread a pair of terms: values at the Chebyshev points, to
//   Chebyshev polynomials, to powers. Hazard: powers are ill-conditioned, Chebyshev polynomials are
//   not, and their coefficients fall faster than the change to powers grows.
template <bool kLogistic, class T>
__global__ void __launch_bounds__(SmoothFit<T>::kTerms* SmoothFit<T>::kTerms)
    smooth_table_kernel(double sign, double* __restrict__ tables) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  constexpr double kPi = 3.14159265358979323846;
  XRISK_SHARED(double, to_chebyshev, [kTerms][kTerms]);  // [node][coefficient]
  XRISK_SHARED(double, to_powers, [kTerms][kTerms]);     // [coefficient][power]
  XRISK_SHARED(double, a, [kTerms][kTerms]);
  XRISK_SHARED(double, b, [kTerms][kTerms]);
  const int i = static_cast<int>(threadIdx.x) / kTerms, j = static_cast<int>(threadIdx.x) % kTerms;
  const auto angle = [](int node) { return kPi * (2 * node + 1) / (2 * kTerms); };
  to_chebyshev[i][j] = (j == 0 ? 1.0 : 2.0) / kTerms * cos(j * angle(i));
  to_powers[i][j] = i == j && i < 2 ? 1.0 : 0.0;
  __syncthreads();
  for (int k = 2; k < kTerms; ++k) {  // T_k = 2 t T_(k-1) - T_(k-2)
    if (i == k) {
      to_powers[k][j] = (j > 0 ? 2.0 * to_powers[k - 1][j - 1] : 0.0) - to_powers[k - 2][j];
    }
    __syncthreads();
  }
  constexpr Surrogate kKind = kLogistic ? Surrogate::kLogistic : Surrogate::kSigmoid;
  const auto phi = make_surrogate<kKind, double>(SurrogateParams{0.0, 1.0});
  const double apart = static_cast<double>(blockIdx.x) - SmoothFit<T>::kReach;
  const double distance = apart + 0.5 * (cos(angle(i)) - cos(angle(j)));
  double values[2];
  phi(sign * SmoothFit<T>::kWidth * distance, values[0], values[1]);
  for (int which = 0; which < 2; ++which) {
    a[i][j] = values[which];
    __syncthreads();
    for (int step = 0; step < 2; ++step) {  // a = basis^T a basis
      const double (*basis)[kTerms] = step == 0 ? to_chebyshev : to_powers;
      double sum = 0.0;
      for (int k = 0; k < kTerms; ++k) sum += a[i][k] * basis[k][j];
      b[i][j] = sum;
      __syncthreads();
      sum = 0.0;
      for (int k = 0; k < kTerms; ++k) sum += basis[k][i] * b[k][j];
      a[i][j] = sum;
      __syncthreads();
    }
    tables[(which * int64_t{gridDim.x} + blockIdx.x) * kTerms * kTerms + threadIdx.x] = a[i][j];
    __syncthreads();
  }
}

// partial [problems, chunks, max_bins, terms]: moments of the sources of a chunk.
//   Mapping: a thread a bin: the block walks over its chunk in tiles of shared memory, and every
//   thread adds, in order, what belongs to its bin. blockIdx = (window of bins, chunk, problem).
//   Bytes: a score and a weight an entry and window. Hazard: a fixed order without atomics; sums of
//   doubles.
template <int kBlock, class T, class W>
__global__ void __launch_bounds__(kBlock)
    smooth_moments_kernel(const SmoothBins* __restrict__ plans, Side<T> sources,
                          const W* __restrict__ weights, int channels, int64_t chunk_length,
                          int64_t max_bins, double* __restrict__ partial) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  const int64_t problem = blockIdx.z, segment = problem / channels;
  const SmoothBins grid = plans[segment];
  const int64_t mine = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (int64_t{blockIdx.x} * kBlock >= grid.bins) return;  // the whole block
  XRISK_SHARED(int32_t, bins, [kBlock]);
  XRISK_SHARED(double, ts, [kBlock]);
  XRISK_SHARED(double, ws, [kBlock]);
  const int64_t live = live_of(sources, segment), begin = blockIdx.y * chunk_length;
  const int64_t end = begin + chunk_length < live ? begin + chunk_length : live;
  double moments[kTerms] = {};
  for (int64_t tile = begin; tile < end; tile += kBlock) {
    const int64_t entry = tile + threadIdx.x;
    const int count = static_cast<int>(tile + kBlock < end ? kBlock : end - tile);
    __syncthreads();  // the tile before may still be read
    if (entry < end) {
      const double score = static_cast<double>(sources.scores[segment * sources.capacity + entry]);
      double t;
      bins[threadIdx.x] = static_cast<int32_t>(locate(grid, score, t));
      ts[threadIdx.x] = t;
      ws[threadIdx.x] = weights == nullptr
                            ? 1.0
                            : static_cast<double>(weights[problem * sources.capacity + entry]);
    }
    __syncthreads();
    for (int k = 0; k < count; ++k) {
      if (bins[k] != mine) continue;
      double term = ws[k];
      const double t = ts[k];
#pragma unroll
      for (int l = 0; l < kTerms; ++l) {
        moments[l] += term;
        term *= t;
      }
    }
  }
  if (mine >= grid.bins) return;
  double* out = partial + ((problem * gridDim.y + blockIdx.y) * max_bins + mine) * kTerms;
#pragma unroll
  for (int l = 0; l < kTerms; ++l) out[l] = moments[l];
}

// moments [problems, max_bins, terms]: the chunks' in order. A thread a number, blockIdx.y the
// problem.
template <class T>
__global__ void smooth_join_kernel(const SmoothBins* __restrict__ plans,
                                   const double* __restrict__ partial, int channels, int chunks,
                                   int64_t max_bins, double* __restrict__ moments) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  const int64_t problem = blockIdx.y, size = max_bins * kTerms;
  const int64_t k = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (k >= plans[problem / channels].bins * kTerms) return;
  double total = 0.0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    total += partial[(problem * chunks + chunk) * size + k];
  }
  moments[problem * size + k] = total;
}

// local [problems, max_bins, 2, terms]: polynomials of value and slope at the targets.
//   Mapping: a warp a target bin, a lane a coefficient of one of the two; the bins beyond the reach
//   in strides of 32. blockIdx.y the problem. Bytes: the tables from L2, 47 bins of moments.
template <int kBlock, bool kLogistic, class T>
__global__ void __launch_bounds__(kBlock)
    smooth_translate_kernel(const SmoothBins* __restrict__ plans,
                            const double* __restrict__ moments, const double* __restrict__ tables,
                            int channels, int64_t max_bins, bool to_anchors,
                            double* __restrict__ local) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kReach = SmoothFit<T>::kReach;
  constexpr int64_t kTable = (2 * kReach + 1) * kTerms * kTerms;
  const int64_t problem = blockIdx.y, bins = plans[problem / channels].bins;
  const int64_t k = int64_t{blockIdx.x} * (kBlock / 32) + warp_index();
  if (k >= bins) return;  // the whole warp
  const double* mine = moments + problem * max_bins * kTerms;
  const int lane = lane_index();
  const int which = lane / kTerms % 2, coefficient = lane % kTerms;
  const int64_t low = k > kReach ? k - kReach : 0;
  const int64_t high = k + kReach + 1 < bins ? k + kReach + 1 : bins;
  double sum = 0.0;
  for (int64_t c = low; c < high; ++c) {
    const double* table = tables + which * kTable + (c - k + kReach) * kTerms * kTerms;
#pragma unroll
    for (int l = 0; l < kTerms; ++l) {
      sum += mine[c * kTerms + l] * table[l * kTerms + coefficient];
    }
  }
  // Beyond the reach, where pair terms do not vanish: above the anchors, below the items.
  double weight = 0.0, distance = 0.0;
  const int64_t first = to_anchors ? high : 0, last = to_anchors ? bins : low;
  for (int64_t c = first + lane; c < last; c += 32) {
    const double apart = static_cast<double>(to_anchors ? c - k : k - c);
    const double half = to_anchors ? 0.5 : -0.5;
    weight += mine[c * kTerms];
    distance += mine[c * kTerms] * apart + half * mine[c * kTerms + 1];
  }
  weight = warp_sum(weight);
  distance = warp_sum(distance);
  const double width = SmoothFit<T>::kWidth;
  if (which == 0 && kLogistic) {
    if (coefficient == 0) sum += width * distance;
    if (coefficient == 1) sum -= (to_anchors ? 0.5 : -0.5) * width * weight;
  } else if (coefficient == 0 && (which == 0 || kLogistic)) {
    sum += weight;
  }
  if (lane < 2 * kTerms) {
    local[((problem * max_bins + k) * 2 + which) * kTerms + coefficient] = sum;
  }
}

template <int kTerms>
__device__ __forceinline__ double polynomial(const double* __restrict__ coefficients, double t) {
  double value = coefficients[kTerms - 1];
#pragma unroll
  for (int l = kTerms - 2; l >= 0; --l) value = value * t + coefficients[l];
  return value;
}

// sums, slopes [segments, channels, P]. A thread an anchor, blockIdx.y the segment. Bytes: a score,
// 32 terms bytes of its bin from L2, 16 out a channel.
template <class T>
__global__ void smooth_rows_kernel(const SmoothBins* __restrict__ plans,
                                   const double* __restrict__ local, Side<T> anchors,
                                   const int32_t* __restrict__ live,
                                   const double* __restrict__ scale, int channels, int64_t max_bins,
                                   double* __restrict__ sums, double* __restrict__ slopes) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  const int64_t segment = blockIdx.y, i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= live[segment]) return;
  double t;
  const int64_t bin = locate(
      plans[segment], static_cast<double>(anchors.scores[segment * anchors.capacity + i]), t);
  for (int c = 0; c < channels; ++c) {
    const int64_t problem = segment * channels + c;
    const double* both = local + (problem * max_bins + bin) * 2 * kTerms;
    sums[problem * anchors.capacity + i] = polynomial<kTerms>(both, t);
    slopes[problem * anchors.capacity + i] = *scale * polynomial<kTerms>(both + kTerms, t);
  }
}

// out [segments, M]. A thread an item, blockIdx.y the segment. Bytes: as the rows.
template <class T>
__global__ void smooth_columns_kernel(const SmoothBins* __restrict__ plans,
                                      const double* __restrict__ local, Side<T> items,
                                      const int32_t* __restrict__ live,
                                      const double* __restrict__ scale, int channels,
                                      int64_t max_bins, T* __restrict__ out) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  const int64_t segment = blockIdx.y, j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= live[segment]) return;
  double t, total = 0.0;
  const int64_t bin =
      locate(plans[segment], static_cast<double>(items.scores[segment * items.capacity + j]), t);
  for (int c = 0; c < channels; ++c) {
    const int64_t problem = segment * channels + c;
    const double weight = items.weights == nullptr
                              ? 1.0
                              : static_cast<double>(items.weights[problem * items.capacity + j]);
    if (weight == 0.0) continue;
    const double* both = local + (problem * max_bins + bin) * 2 * kTerms;
    total += weight * polynomial<kTerms>(both + kTerms, t);
  }
  out[segment * items.capacity + j] = static_cast<T>(*scale * total);
}

}  // namespace xrisk::cuda
