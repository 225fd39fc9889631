// Launches of the direct algorithm as templates: cuda/direct_*.cu instantiates them for the default
// tile, the tests for tiny ones, so that multi-block paths run on a few hundred scores.
#pragma once

#include <algorithm>

#include "cuda/block.h"
#include "cuda/direct_kernels.h"
#include "cuda/pairs.h"

namespace xrisk::cuda {

constexpr int kReduceThreads = 256;
constexpr int kExtremeBlocks = 128;
constexpr int64_t kWantedBlocks = 2048;  // several waves, so that a ragged last one does not show

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the inner side is split; from the shapes alone, so that a shape has one result.
template <class Tile>
struct DirectPlan {
  int64_t outer_tiles, splits, split_length, problems;

  DirectPlan(int64_t outer, int64_t inner, int segments, int channels)
      : outer_tiles(divide_up(outer, Tile::kOuters)),
        problems(static_cast<int64_t>(segments) * channels) {
    const int64_t tiles = std::max<int64_t>(1, divide_up(inner, Tile::kInner));
    const int64_t blocks = std::max<int64_t>(1, outer_tiles * problems);
    const int64_t wanted =
        std::min<int64_t>({std::max<int64_t>(1, kWantedBlocks / blocks), tiles, 65535});
    split_length = divide_up(tiles, wanted) * Tile::kInner;
    splits = std::max<int64_t>(1, divide_up(inner, split_length));
  }

  dim3 grid() const {
    return dim3(static_cast<unsigned>(outer_tiles), static_cast<unsigned>(splits),
                static_cast<unsigned>(problems));
  }
  bool fits() const { return problems <= 65535 && outer_tiles < (int64_t{1} << 31); }
};

// ---- the small kernels around it

// out [problems, outer]: the splits' partial sums, added in order. A thread an outer entry.
// Template parameters only keep one copy per translation unit apart.
template <class T>
__global__ void reduce_rows_kernel(const double* partial, int splits, int channels,
                                   int64_t capacity, const int32_t* live, double* sums,
                                   double* slopes) {
  const int problem = static_cast<int>(blockIdx.y);
  const int64_t o = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (o >= (live == nullptr ? capacity : live[problem / channels])) return;
  double sum = 0.0, slope = 0.0;
  for (int s = 0; s < splits; ++s) {
    const double* part = partial + (static_cast<int64_t>(problem) * splits + s) * 2 * capacity;
    sum += part[o];
    slope += part[capacity + o];
  }
  sums[problem * capacity + o] = sum;
  slopes[problem * capacity + o] = slope;
}

// out [segments, M]: sum_c w_cj times the splits' partial sums of channel c, in order.
template <class T>
__global__ void reduce_columns_kernel(const double* partial, int splits, int channels,
                                      int64_t capacity, const int32_t* live, const T* weights,
                                      T* out) {
  const int segment = static_cast<int>(blockIdx.y);
  const int64_t o = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (o >= (live == nullptr ? capacity : live[segment])) return;
  double total = 0.0;
  for (int c = 0; c < channels; ++c) {
    const int64_t problem = static_cast<int64_t>(segment) * channels + c;
    const double weight =
        weights == nullptr ? 1.0 : static_cast<double>(weights[problem * capacity + o]);
    if (weight == 0.0) continue;
    double sum = 0.0;
    for (int s = 0; s < splits; ++s) sum += partial[(problem * splits + s) * capacity + o];
    total += weight * sum;
  }
  out[segment * capacity + o] = static_cast<T>(total);
}

// {lowest, highest} of a segment's items that weigh something; a NaN stays. Some blocks a segment,
// then one more.
template <class T>
__global__ void extremes_kernel(Side<T> items, T* low_out, T* high_out) {
  XRISK_SHARED(T, lows, [kReduceThreads]);
  XRISK_SHARED(T, highs, [kReduceThreads]);
  T low = static_cast<T>(INFINITY), high = static_cast<T>(-INFINITY);
  const int t = static_cast<int>(threadIdx.x);
  const auto lower = [](T a, T b) { return b < a || b != b ? b : a; };
  const auto higher = [](T a, T b) { return b > a || b != b ? b : a; };
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t segment = blockIdx.y, first = segment * items.capacity;
  const int64_t count = items.live == nullptr ? items.capacity : items.live[segment];
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + t; j < count; j += step) {
    if (items.weights != nullptr && items.weights[first + j] == T(0)) continue;
    low = lower(low, items.scores[first + j]);
    high = higher(high, items.scores[first + j]);
  }
  lows[t] = low;
  highs[t] = high;
  for (int width = kReduceThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (t < width) {
      lows[t] = lower(lows[t], lows[t + width]);
      highs[t] = higher(highs[t], highs[t + width]);
    }
  }
  if (t == 0) {
    low_out[segment * kExtremeBlocks + blockIdx.x] = lows[0];
    high_out[segment * kExtremeBlocks + blockIdx.x] = highs[0];
  }
}

// The two ends of the block results: lowest of `lows`, highest of `highs` (their own ends are
// ignored). A warp, and a block, a segment.
template <class T>
__global__ void merge_extremes_kernel(const T* lows, const T* highs, int count, T* extremes) {
  const auto lower = [](T a, T b) { return b < a || b != b ? b : a; };
  const auto higher = [](T a, T b) { return b > a || b != b ? b : a; };
  T low = static_cast<T>(INFINITY), high = static_cast<T>(-INFINITY);
  for (int k = lane_index(); k < count; k += 32) {
    low = lower(low, lows[int64_t{blockIdx.x} * kExtremeBlocks + k]);
    high = higher(high, highs[int64_t{blockIdx.x} * kExtremeBlocks + k]);
  }
  low = warp_reduce(low, lower);
  high = warp_reduce(high, higher);
  if (lane_index() != 0) return;
  extremes[2 * int64_t{blockIdx.x}] = low;
  extremes[2 * int64_t{blockIdx.x} + 1] = high;
}

// From masses and their slopes to log sums: log_sum = peak / temperature + log(mass).
template <Surrogate kKind, class T>
__global__ void finish_log_rows_kernel(Side<T> anchors, const T* extremes, double margin,
                                       const double* scale, const double* temperature, double* sums,
                                       double* slopes, double* masses) {
  const int64_t segment = blockIdx.y;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= (anchors.live == nullptr ? anchors.capacity : anchors.live[segment])) return;
  const int64_t i = segment * anchors.capacity + k;
  extremes += 2 * segment;
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{margin, *scale});
  const double peak =
      static_cast<double>(peak_of(phi, anchors.scores[i], extremes[0], extremes[1]));
  const double mass = masses[i];
  if (extremes[0] > extremes[1]) {  // no item
    sums[i] = -INFINITY;
    slopes[i] = 0.0;
    masses[i] = 1.0;
  } else if (peak == INFINITY) {  // phi itself is past the range of T
    sums[i] = slopes[i] = INFINITY;
    masses[i] = 1.0;
  } else {
    slopes[i] /= mass;
    sums[i] = peak / *temperature + log(mass);
  }
}

// ---- launches

template <class T>
size_t extremes_bytes(int segments) {
  return segments * (2 * size_t{kExtremeBlocks} + 2 + 14) / 16 * 16 * sizeof(T);
}

// Leaves {lowest, highest} of the segments at the start of `workspace`.
template <class T>
cudaError_t launch_extremes(const Side<T>& items, int segments, T* workspace, cudaStream_t stream) {
  const int blocks = static_cast<int>(std::min<int64_t>(
      kExtremeBlocks, std::max<int64_t>(1, divide_up(items.capacity, kReduceThreads))));
  T* lows = workspace + 2 * segments;
  T* highs = lows + segments * kExtremeBlocks;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(segments));
  XRISK_LAUNCH((extremes_kernel<T>), grid, kReduceThreads, 0, stream, items, lows, highs);
  XRISK_LAUNCH((merge_extremes_kernel<T>), static_cast<unsigned>(segments), 32, 0, stream,
               static_cast<const T*>(lows), static_cast<const T*>(highs), blocks, workspace);
  return cudaGetLastError();
}

template <class Tile, class T>
size_t direct_rows_bytes(const PairProblem<T>& problem) {
  const DirectPlan<Tile> plan(problem.anchors.capacity, problem.items.capacity, problem.segments,
                              problem.channels);
  return plan.problems * plan.splits * 2 * problem.anchors.capacity * sizeof(double) +
         extremes_bytes<T>(problem.segments);
}

template <class Tile, class T>
size_t direct_columns_bytes(const PairProblem<T>& problem) {
  const DirectPlan<Tile> plan(problem.items.capacity, problem.anchors.capacity, problem.segments,
                              problem.channels);
  return plan.problems * plan.splits * problem.items.capacity * sizeof(double) +
         extremes_bytes<T>(problem.segments);
}

template <class Tile, bool kExponential, class T>
cudaError_t direct_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  const int64_t anchors = problem.anchors.capacity;
  if (anchors == 0 || problem.segments == 0 || problem.channels == 0) return cudaSuccess;
  const DirectPlan<Tile> plan(anchors, problem.items.capacity, problem.segments, problem.channels);
  if (!plan.fits() || (kExponential && problem.channels > 1)) return cudaErrorInvalidValue;
  T* extremes = static_cast<T*>(workspace);
  if (kExponential) {
    const cudaError_t status = launch_extremes(problem.items, problem.segments, extremes, stream);
    if (status != cudaSuccess) return status;
  }
  DirectArgs<T> args;
  args.outer = problem.anchors.scores;
  args.outer_live = problem.anchors.live;
  args.outer_capacity = anchors;
  args.inner = problem.items.scores;
  args.inner_weights = problem.items.weights;
  args.inner_live = problem.items.live;
  args.inner_capacity = problem.items.capacity;
  args.split_length = plan.split_length;
  args.splits = static_cast<int>(plan.splits);
  args.channels = problem.channels;
  args.margin = problem.margin;
  args.scale = problem.scale;
  args.temperature = problem.temperature;
  args.extremes = extremes;
  args.partial = reinterpret_cast<double*>(static_cast<char*>(workspace) +
                                           extremes_bytes<T>(problem.segments));
  double* sums = kExponential ? call.masses : call.sums;
  visit_kind(problem.surrogate, [&](auto kind) {
    constexpr Surrogate kKind = decltype(kind)::value;
    XRISK_LAUNCH((direct_kernel<Tile, kKind, kExponential, true, T>), plan.grid(), Tile::kThreads,
                 0, stream, args);
    const dim3 grid(static_cast<unsigned>(divide_up(anchors, kReduceThreads)),
                    static_cast<unsigned>(plan.problems));
    XRISK_LAUNCH((reduce_rows_kernel<T>), grid, kReduceThreads, 0, stream,
                 static_cast<const double*>(args.partial), args.splits, args.channels, anchors,
                 args.outer_live, sums, call.slopes);
    if constexpr (kExponential) {
      XRISK_LAUNCH((finish_log_rows_kernel<kKind, T>), grid, kReduceThreads, 0, stream,
                   problem.anchors, args.extremes, args.margin, args.scale, args.temperature,
                   call.sums, call.slopes, call.masses);
    }
  });
  return cudaGetLastError();
}

template <class Tile, bool kExponential, class T>
cudaError_t direct_columns(const PairColumns<T>& call, void* workspace, cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  const int64_t items = problem.items.capacity;
  if (items == 0 || problem.segments == 0) return cudaSuccess;
  const DirectPlan<Tile> plan(items, problem.anchors.capacity, problem.segments, problem.channels);
  if (!plan.fits() || (kExponential && problem.channels > 1)) return cudaErrorInvalidValue;
  T* extremes = static_cast<T*>(workspace);
  if (kExponential) {
    const cudaError_t status = launch_extremes(problem.items, problem.segments, extremes, stream);
    if (status != cudaSuccess) return status;
  }
  DirectArgs<T> args;
  args.outer = problem.items.scores;
  args.outer_live = problem.items.live;
  args.outer_capacity = items;
  args.inner = problem.anchors.scores;
  args.inner_weights_wide = call.anchor_weights;
  args.inner_masses = kExponential ? call.masses : nullptr;
  args.inner_live = problem.anchors.live;
  args.inner_capacity = problem.anchors.capacity;
  args.split_length = plan.split_length;
  args.splits = static_cast<int>(plan.splits);
  args.channels = problem.channels;
  args.margin = problem.margin;
  args.scale = problem.scale;
  args.temperature = problem.temperature;
  args.extremes = extremes;
  args.partial = reinterpret_cast<double*>(static_cast<char*>(workspace) +
                                           extremes_bytes<T>(problem.segments));
  visit_kind(problem.surrogate, [&](auto kind) {
    XRISK_LAUNCH((direct_kernel<Tile, decltype(kind)::value, kExponential, false, T>), plan.grid(),
                 Tile::kThreads, 0, stream, args);
  });
  const dim3 grid(static_cast<unsigned>(divide_up(items, kReduceThreads)),
                  static_cast<unsigned>(problem.segments));
  XRISK_LAUNCH((reduce_columns_kernel<T>), grid, kReduceThreads, 0, stream,
               static_cast<const double*>(args.partial), args.splits, args.channels, items,
               args.outer_live, problem.items.weights, call.out);
  return cudaGetLastError();
}

// The default tiles, compiled in cuda/direct_*.cu and cuda/log_*.cu: 64 kernels in all.
#define XRISK_DIRECT_LAUNCHES(prefix, kExponential, T)                                             \
  prefix template cudaError_t direct_rows<DefaultTile, kExponential, T>(const PairRows<T>&, void*, \
                                                                        cudaStream_t);             \
  prefix template cudaError_t direct_columns<DefaultTile, kExponential, T>(const PairColumns<T>&,  \
                                                                           void*, cudaStream_t);

}  // namespace xrisk::cuda
