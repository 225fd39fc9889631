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

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks a problem, and the memory of their sums: by the capacities alone, so that the size of a
// workspace is known before the live counts have an address.
template <class Tile, class T>
struct DirectGrid {
  int blocks = 0, problems = 0;
  bool fits;

  DirectGrid(const Side<T>& outer, const Side<T>& inner, int segments, int channels) {
    const int64_t all = int64_t{segments} * channels;
    fits = all <= 65535 && std::max(outer.capacity, inner.capacity) < (int64_t{1} << 30);
    if (!fits || all == 0) return;
    problems = static_cast<int>(all);
    blocks = DirectSplits<Tile>::most_blocks(static_cast<int>(outer.capacity),
                                             static_cast<int>(inner.capacity), problems);
  }
  size_t bytes(int outputs) const {
    return size_t{1} * problems * blocks * outputs * Tile::kOuters * sizeof(double);
  }
};

// ---- the small kernels around it

constexpr int kReduceOuters = 32, kReduceParts = 8;
// The live outer entries may be far fewer than there is room for: the rest is strides.
constexpr int64_t kReduceBlocks = 2112;  // two waves of 8 blocks on each of 132 SMs

// The sum of an outer entry's splits, of kOutputs quantities: a warp of entries, and kReduceParts
// threads an entry, whose sums are added in order. True in the thread that has the totals.
template <class Tile, int kOutputs>
__device__ __forceinline__ bool add_splits(const double* partial, const DirectSplits<Tile>& plan,
                                           int o, bool live, double (&totals)[kOutputs]) {
  XRISK_SHARED(double, parts, [kReduceParts * kOutputs * kReduceOuters]);
  const int lane = lane_index(), part = warp_index();
  const int64_t tile = o / Tile::kOuters, within = o % Tile::kOuters;
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) totals[k] = 0.0;
  if (live) {
    for (int s = part; s < plan.splits; s += kReduceParts) {
      const double* sums = partial + (s * plan.tiles + tile) * kOutputs * Tile::kOuters + within;
#pragma unroll
      for (int k = 0; k < kOutputs; ++k) totals[k] += sums[k * Tile::kOuters];
    }
  }
  __syncthreads();  // an earlier call may still be reading
#pragma unroll
  for (int k = 0; k < kOutputs; ++k)
    parts[(part * kOutputs + k) * kReduceOuters + lane] = totals[k];
  __syncthreads();
  if (part != 0 || !live) return false;
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) {
    for (int p = 1; p < kReduceParts; ++p) {
      totals[k] += parts[(p * kOutputs + k) * kReduceOuters + lane];
    }
  }
  return true;
}

// Where the sums of the parts go.
template <class Out>
struct PartSums {
  Out *sums[2], *slopes[2];

  // The kernel's part: by a choice, since an index would copy the parameters to local memory.
  __device__ __forceinline__ Out* my_sums() const { return blockIdx.z == 0 ? sums[0] : sums[1]; }
  __device__ __forceinline__ Out* my_slopes() const {
    return blockIdx.z == 0 ? slopes[0] : slopes[1];
  }
};

// sums, slopes [problems, capacity]: the splits' partial sums, added in order. Grid: (blocks,
// problems, parts).
template <class Tile, class T>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_rows_kernel(DirectParts<T> parts, PartSums<double> out) {
  const DirectArgs<T>& args = parts.part[blockIdx.z == 0 ? 0 : 1];
  const int problem = static_cast<int>(blockIdx.y), segment = problem / args.channels;
  const int outers = args.outers(segment), step = static_cast<int>(gridDim.x) * kReduceOuters;
  const DirectSplits<Tile> plan(outers, args.inners(segment), args.problems);
  const double* partial = args.partial + int64_t{problem} * args.blocks * 2 * Tile::kOuters;
  for (int first = static_cast<int>(blockIdx.x) * kReduceOuters; first < outers; first += step) {
    const int o = first + lane_index();
    double totals[2];
    if (!add_splits<Tile>(partial, plan, o, o < outers, totals)) continue;
    out.my_sums()[problem * args.outer_capacity + o] = totals[0];
    out.my_slopes()[problem * args.outer_capacity + o] = totals[1];
  }
}

// slopes [segments, M]: sum_c w_cj times the splits' partial sums of channel c, in order.
template <class Tile, class T>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_columns_kernel(DirectParts<T> parts, PartSums<T> out) {
  const DirectArgs<T>& args = parts.part[blockIdx.z == 0 ? 0 : 1];
  const int segment = static_cast<int>(blockIdx.y);
  const int outers = args.outers(segment), step = static_cast<int>(gridDim.x) * kReduceOuters;
  const DirectSplits<Tile> plan(outers, args.inners(segment), args.problems);
  for (int first = static_cast<int>(blockIdx.x) * kReduceOuters; first < outers; first += step) {
    const int o = first + lane_index();
    double total = 0.0;
    bool mine = false;
    for (int c = 0; c < args.channels; ++c) {
      const int64_t problem = int64_t{segment} * args.channels + c;
      double weight = 0.0;
      if (o < outers) {
        weight = args.outer_weights == nullptr
                     ? 1.0
                     : static_cast<double>(args.outer_weights[problem * args.outer_capacity + o]);
      }
      const double* partial = args.partial + problem * args.blocks * Tile::kOuters;
      double sum[1];
      mine = add_splits<Tile>(partial, plan, o, o < outers, sum);
      if (mine && weight != 0.0) total += weight * sum[0];
    }
    if (mine) out.my_slopes()[segment * args.outer_capacity + o] = static_cast<T>(total);
  }
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
  return DirectGrid<Tile, T>(problem.anchors, problem.items, problem.segments, problem.channels)
             .bytes(2) +
         extremes_bytes<T>(problem.segments);
}

template <class Tile, class T>
size_t direct_columns_bytes(const PairProblem<T>& problem) {
  return DirectGrid<Tile, T>(problem.items, problem.anchors, problem.segments, problem.channels)
             .bytes(1) +
         extremes_bytes<T>(problem.segments);
}

// What rows and columns have in common: whether the problem fits, and, first in the workspace, the
// extremes.
template <class Tile, bool kExponential, class T>
cudaError_t prepare_direct(const PairProblem<T>& problem, const Side<T>& outer,
                           const Side<T>& inner, void* workspace, cudaStream_t stream,
                           DirectArgs<T>& args) {
  const DirectGrid<Tile, T> grid(outer, inner, problem.segments, problem.channels);
  if (!grid.fits || (kExponential && problem.channels > 1)) return cudaErrorInvalidValue;
  args.outer = outer.scores;
  args.outer_live = outer.live;
  args.outer_capacity = outer.capacity;
  args.inner = inner.scores;
  args.inner_live = inner.live;
  args.inner_capacity = inner.capacity;
  args.channels = problem.channels;
  args.problems = problem.segments * problem.channels;
  args.blocks = grid.blocks;
  args.margin = problem.margin;
  args.scale = problem.scale;
  args.temperature = problem.temperature;
  args.extremes = static_cast<const T*>(workspace);
  args.partial = reinterpret_cast<double*>(static_cast<char*>(workspace) +
                                           extremes_bytes<T>(problem.segments));
  if (!kExponential) return cudaSuccess;
  return launch_extremes(problem.items, problem.segments, static_cast<T*>(workspace), stream);
}

template <class T>
dim3 reduce_grid(const DirectParts<T>& parts, int count, int lines) {
  const int64_t outers =
      std::max(parts.part[0].outer_capacity, count > 1 ? parts.part[1].outer_capacity : 0);
  return dim3(static_cast<unsigned>(std::min(kReduceBlocks, divide_up(outers, kReduceOuters))),
              static_cast<unsigned>(lines), static_cast<unsigned>(count));
}

template <class T>
dim3 direct_grid(const DirectParts<T>& parts, int count) {
  return dim3(static_cast<unsigned>(std::max(parts.part[0].blocks, parts.part[1].blocks)), 1,
              static_cast<unsigned>(parts.part[0].problems * count));
}

// Of `count` calls, one or two, alike in surrogate, segments, channels and temperature, and neither
// without outer entries; a workspace each.
template <class Tile, bool kExponential, class T>
cudaError_t direct_rows(const PairRows<T>* calls, int count, void* const* workspaces,
                        cudaStream_t stream) {
  const PairProblem<T>& shape = calls[0].problem;
  if (shape.anchors.capacity == 0 || shape.segments == 0 || shape.channels == 0) return cudaSuccess;
  DirectParts<T> parts;
  PartSums<double> out = {};
  for (int k = 0; k < count; ++k) {
    const PairProblem<T>& problem = calls[k].problem;
    const cudaError_t status = prepare_direct<Tile, kExponential>(
        problem, problem.anchors, problem.items, workspaces[k], stream, parts.part[k]);
    if (status != cudaSuccess) return status;
    parts.part[k].inner_weights = problem.items.weights;
    out.sums[k] = kExponential ? calls[k].masses : calls[k].sums;
    out.slopes[k] = calls[k].slopes;
  }
  visit_kind(shape.surrogate, [&](auto kind) {
    XRISK_LAUNCH((direct_kernel<Tile, decltype(kind)::value, kExponential, true, T>),
                 direct_grid(parts, count), Tile::kThreads, 0, stream, parts);
  });
  XRISK_LAUNCH((reduce_rows_kernel<Tile, T>), reduce_grid(parts, count, parts.part[0].problems),
               kReduceThreads, 0, stream, parts, out);
  if constexpr (kExponential) {
    for (int k = 0; k < count; ++k) {
      const DirectArgs<T>& args = parts.part[k];
      const dim3 finish(static_cast<unsigned>(divide_up(args.outer_capacity, kReduceThreads)),
                        static_cast<unsigned>(args.problems));
      visit_kind(shape.surrogate, [&](auto kind) {
        XRISK_LAUNCH((finish_log_rows_kernel<decltype(kind)::value, T>), finish, kReduceThreads, 0,
                     stream, calls[k].problem.anchors, args.extremes, args.margin, args.scale,
                     args.temperature, calls[k].sums, calls[k].slopes, calls[k].masses);
      });
    }
  }
  return cudaGetLastError();
}

template <class Tile, bool kExponential, class T>
cudaError_t direct_columns(const PairColumns<T>* calls, int count, void* const* workspaces,
                           cudaStream_t stream) {
  const PairProblem<T>& shape = calls[0].problem;
  if (shape.items.capacity == 0 || shape.segments == 0) return cudaSuccess;
  DirectParts<T> parts;
  PartSums<T> out = {};
  for (int k = 0; k < count; ++k) {
    const PairProblem<T>& problem = calls[k].problem;
    const cudaError_t status = prepare_direct<Tile, kExponential>(
        problem, problem.items, problem.anchors, workspaces[k], stream, parts.part[k]);
    if (status != cudaSuccess) return status;
    parts.part[k].outer_weights = problem.items.weights;
    parts.part[k].anchor_weights = calls[k].anchor_weights;
    parts.part[k].masses = calls[k].masses;
    out.slopes[k] = calls[k].out;
  }
  if (parts.part[0].problems > 0) {
    visit_kind(shape.surrogate, [&](auto kind) {
      XRISK_LAUNCH((direct_kernel<Tile, decltype(kind)::value, kExponential, false, T>),
                   direct_grid(parts, count), Tile::kThreads, 0, stream, parts);
    });
  }
  XRISK_LAUNCH((reduce_columns_kernel<Tile, T>), reduce_grid(parts, count, shape.segments),
               kReduceThreads, 0, stream, parts, out);
  return cudaGetLastError();
}

// The default tiles, compiled in cuda/direct_*.cu and cuda/log_*.cu: 64 kernels in all.
#define XRISK_DIRECT_LAUNCHES(prefix, kExponential, T)                      \
  prefix template cudaError_t direct_rows<DefaultTile, kExponential, T>(    \
      const PairRows<T>*, int, void* const*, cudaStream_t);                 \
  prefix template cudaError_t direct_columns<DefaultTile, kExponential, T>( \
      const PairColumns<T>*, int, void* const*, cudaStream_t);

}  // namespace xrisk::cuda
