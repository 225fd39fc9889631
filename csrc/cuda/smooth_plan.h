// The smooth algorithm's bins: where they lie, and what two of them are to each other.
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
  int64_t most_chunks;  // of sources whose moments there is memory for
};

struct __align__(8) ScoreRange {
  double low, high;
  int64_t bad;  // whether a score is not finite
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
  constexpr T kInfinity = static_cast<T>(INFINITY);
  const int64_t segment = blockIdx.y, step = int64_t{gridDim.x} * kBlock;
  T low = kInfinity, high = -kInfinity;
  bool bad = false;
  const auto read = [&](const Side<T>& side) {
    const int64_t live = live_of(side, segment);
    const T* __restrict__ scores = side.scores + segment * side.capacity;
#pragma unroll 8
    for (int64_t k = int64_t{blockIdx.x} * kBlock + threadIdx.x; k < live; k += step) {
      const T score = scores[k];
      bad |= !(score - score == T(0));  // infinite or NaN
      low = score < low ? score : low;
      high = score > high ? score : high;
    }
  };
  read(anchors);
  read(items);
  high = block_max<kBlock>(high, -kInfinity);
  low = -block_max<kBlock>(-low, -kInfinity);
  const bool any_bad = block_max<kBlock>(bad ? 1 : 0, 0) != 0;
  if (threadIdx.x == 0) {
    ranges[segment * gridDim.x + blockIdx.x] = {static_cast<double>(low), static_cast<double>(high),
                                                any_bad ? 1 : 0};
  }
}

// What smooth_plan_kernel fills in, besides the tables.
template <class T>
struct SmoothPlanArgs {
  const ScoreRange* ranges;  // [segments, blocks]
  int blocks;
  int64_t segments, max_bins;
  int64_t cells;  // (chunk, bin) pairs of a problem that there is memory for
  const double* scale;
  Side<T> targets;
  SmoothBins* plans;                   // [segments]
  int32_t *smooth_live, *direct_live;  // [segments]: the targets that either algorithm is to serve
};

template <class T>
__device__ __forceinline__ void plan_segment(const SmoothPlanArgs<T>& args, int64_t segment) {
  double low = INFINITY, high = -INFINITY;
  int bad = 0;
  for (int k = lane_index(); k < args.blocks; k += 32) {
    const ScoreRange range = args.ranges[segment * args.blocks + k];
    low = fmin(low, range.low);
    high = fmax(high, range.high);
    bad |= static_cast<int>(range.bad);
  }
  high = warp_max(high);
  low = -warp_max(-low);
  bad = warp_max(bad);
  if (lane_index() != 0) return;
  const double width = SmoothFit<T>::kWidth / *args.scale;
  SmoothBins plan;
  plan.inverse_width = 1.0 / width;
  uint64_t bits;
  memcpy(&bits, &width, sizeof(bits));
  bits &= ~((uint64_t{1} << 27) - 1);
  memcpy(&plan.width_high, &bits, sizeof(bits));
  plan.width_low = width - plan.width_high;
  plan.first = rint(low * plan.inverse_width);
  const double last = rint(high * plan.inverse_width);
  constexpr double kMost = 1 << 27;
  const double bins = last - plan.first + 1.0;
  const bool good = bad == 0 && width > 1e-290 && width < 1e290 && plan.first > -kMost &&
                    last < kMost && bins >= 1.0 && bins <= static_cast<double>(args.max_bins);
  plan.bins = good ? static_cast<int64_t>(bins) : 0;
  plan.most_chunks = good ? args.cells / plan.bins : 0;
  args.plans[segment] = plan;
  const int32_t live = static_cast<int32_t>(live_of(args.targets, segment));
  args.smooth_live[segment] = good ? live : 0;
  args.direct_live[segment] = good ? 0 : live;
}

// tables [2 (value, slope), 2 reach + 1, terms of the source, terms of the target].
//   phi(sign width (apart + (s - t) / 2)) ~ sum_lk table[apart][l][k] s^l t^k
//   Mapping: a block a distance, a thread a pair of terms: values at the Chebyshev points, to
//   Chebyshev polynomials, to powers. Blocks beyond plan the bins of the segments, a warp each.
//   Hazard: powers are ill-conditioned, Chebyshev polynomials are not, and their coefficients fall
//   faster than the change to powers grows.
template <bool kLogistic, class T>
__global__ void __launch_bounds__(SmoothFit<T>::kTerms* SmoothFit<T>::kTerms)
    smooth_plan_kernel(SmoothPlanArgs<T> args, double sign, double* __restrict__ tables) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kTables = 2 * SmoothFit<T>::kReach + 1;
  if (blockIdx.x >= kTables) {  // the whole block
    const int64_t segment = int64_t{blockIdx.x - kTables} * (blockDim.x / 32) + warp_index();
    if (segment < args.segments) plan_segment(args, segment);
    return;
  }
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
    tables[(which * int64_t{kTables} + blockIdx.x) * kTerms * kTerms + threadIdx.x] = a[i][j];
    __syncthreads();
  }
}

}  // namespace xrisk::cuda
