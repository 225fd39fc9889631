// Launches of the smooth algorithm as templates: cuda/smooth.cu instantiates them for the default
// shape, the tests for tiny ones.
#pragma once

#include <algorithm>

#include "cuda/moments.h"
#include "cuda/smooth_kernels.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

// Threads of a block; the most bins; chunks of sources at the most bins; how tiles of sources are
// sorted.
template <int kBlockThreads, int kMostBins, int kMostChunks, class SortTile>
struct SmoothShape {
  static constexpr int kBlock = kBlockThreads;
  static constexpr int64_t kBins = kMostBins;
  static constexpr int64_t kChunks = kMostChunks;
  using Tile = SortTile;
  static_assert(kBins <= 1 << 16, "bins of 16 bits");
};
// 4096 bins are 5000 temperatures. With so many, 128 chunks are 32 MB of partial sums and a block a
// multiprocessor; with few bins each tile is its own chunk.
using DefaultSmooth = SmoothShape<256, 4096, 128, SmoothTile<512, 4, 7>>;

constexpr int64_t kSmoothBlocks = 1024;  // of one launch, about: the rest is strides
constexpr int64_t kSmoothRangeBlocks = 256;
constexpr int64_t kUnjoinedChunks = 4;  // up to here whoever reads moments sums the chunks

template <class T>
struct SmoothMemory {
  int64_t max_bins, chunks, cells, problems;
  int range_blocks;
  SmoothBins* plans;
  ScoreRange* ranges;
  int32_t *smooth_live, *direct_live;
  double *tables, *partial, *moments, *local;
  void* direct;  // where partial begins: the direct sums are done by then

  // By sizes alone, so that a shape has one result.
  template <class Shape>
  SmoothMemory(const PairProblem<T>& problem, const Side<T>& sources, size_t direct_bytes,
               void* workspace, size_t& bytes, Shape) {
    constexpr int64_t kTerms = SmoothFit<T>::kTerms, kOffsets = 2 * SmoothFit<T>::kReach + 1;
    constexpr int64_t kBlock = Shape::kBlock;
    const auto divide_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t segments = problem.segments;
    problems = segments * problem.channels;
    const int64_t some_problems = std::max<int64_t>(1, problems);
    // Many problems share the memory of eight; and with more bins than scores direct is no slower.
    const int64_t share = 8 * Shape::kBins / std::max<int64_t>(8, problems);
    const int64_t scores = problem.anchors.capacity + problem.items.capacity;
    max_bins =
        std::max(kBlock, std::min(share, divide_up(scores, kBlock) * kBlock) / kBlock * kBlock);
    const int64_t tiles = std::max<int64_t>(1, divide_up(sources.capacity, Shape::Tile::kSources));
    chunks = std::clamp<int64_t>(kSmoothBlocks / some_problems, 1, tiles);
    const int64_t most_cells = Shape::kChunks * Shape::kBins / some_problems;
    cells = std::max(max_bins, std::min(chunks * max_bins, most_cells));
    const int64_t most = std::max(problem.anchors.capacity, problem.items.capacity);
    range_blocks =
        static_cast<int>(std::clamp<int64_t>(divide_up(most, 4 * kBlock), 1, kSmoothRangeBlocks));
    Carver carver(workspace);
    plans = carver.take<SmoothBins>(segments);
    ranges = carver.take<ScoreRange>(segments * range_blocks);
    smooth_live = carver.take<int32_t>(segments);
    direct_live = carver.take<int32_t>(segments);
    tables = carver.take<double>(2 * kOffsets * kTerms * kTerms);
    const size_t before = carver.used();
    direct = workspace == nullptr ? nullptr : static_cast<char*>(workspace) + before;
    partial = carver.take<double>(problems * cells * kTerms);
    moments = carver.take<double>(joins() ? problems * max_bins * kTerms : 0);
    local = carver.take<double>(problems * max_bins * 2 * kTerms);
    bytes = std::max(carver.used(), before + direct_bytes);
  }

  bool joins() const { return chunks > kUnjoinedChunks; }
};

template <class Shape, class T>
size_t smooth_rows_bytes(const PairProblem<T>& problem) {
  size_t bytes;
  SmoothMemory<T>(problem, problem.items, direct_rows_workspace_bytes(problem), nullptr, bytes,
                  Shape());
  return bytes;
}

template <class Shape, class T>
size_t smooth_columns_bytes(const PairProblem<T>& problem) {
  size_t bytes;
  SmoothMemory<T>(problem, problem.anchors, direct_columns_workspace_bytes(problem), nullptr, bytes,
                  Shape());
  return bytes;
}

inline bool smooth_fits(int64_t segments, int64_t problems) {
  return segments <= 65535 && problems <= 65535;
}

// Bins, and the tables for targets that are the anchors or the items.
template <class Shape, class T>
cudaError_t launch_smooth_plan(const PairProblem<T>& problem, const Side<T>& targets,
                               bool to_anchors, const SmoothMemory<T>& memory,
                               cudaStream_t stream) {
  constexpr int kTables = 2 * SmoothFit<T>::kReach + 1;
  constexpr int kThreads = SmoothFit<T>::kTerms * SmoothFit<T>::kTerms;
  const unsigned segments = static_cast<unsigned>(problem.segments);
  const dim3 ranges(static_cast<unsigned>(memory.range_blocks), segments);
  XRISK_LAUNCH((smooth_range_kernel<Shape::kBlock, T>), ranges, Shape::kBlock, 0, stream,
               problem.anchors, problem.items, memory.ranges);
  const SmoothPlanArgs<T> args{memory.ranges,     memory.range_blocks, int64_t{problem.segments},
                               memory.max_bins,   memory.cells,        problem.scale,
                               targets,           memory.plans,        memory.smooth_live,
                               memory.direct_live};
  const double sign = to_anchors ? 1.0 : -1.0;
  const unsigned blocks = kTables + blocks_for(segments, kThreads / 32);
  if (problem.surrogate == Surrogate::kLogistic) {
    XRISK_LAUNCH((smooth_plan_kernel<true, T>), blocks, kThreads, 0, stream, args, sign,
                 memory.tables);
  } else {
    XRISK_LAUNCH((smooth_plan_kernel<false, T>), blocks, kThreads, 0, stream, args, sign,
                 memory.tables);
  }
  return cudaGetLastError();
}

// Blocks that share `count` entries of each of some problems.
inline dim3 smooth_grid(int64_t count, int64_t entries_a_block, int64_t problems) {
  const int64_t blocks = (count + entries_a_block - 1) / entries_a_block;
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(kSmoothBlocks / problems, 1, blocks)),
              static_cast<unsigned>(problems));
}

// From the sources' moments to the polynomials of the targets.
template <class Shape, bool kLogistic, class T, class W>
cudaError_t launch_smooth_local(const PairProblem<T>& problem, const Side<T>& sources,
                                const W* weights, bool to_anchors, const SmoothMemory<T>& memory,
                                cudaStream_t stream) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kBlock = Shape::kBlock;
  using Tile = typename Shape::Tile;
  const SmoothBins* plans = memory.plans;
  const double* moments = memory.partial;
  int64_t cells = memory.cells, chunks = memory.chunks;
  const dim3 tiles(static_cast<unsigned>(chunks), static_cast<unsigned>(memory.problems));
  XRISK_LAUNCH((smooth_moments_kernel<Tile, T, W>), tiles, Tile::kBlock, 0, stream, plans, sources,
               weights, problem.channels, cells, memory.partial);
  if (memory.joins()) {
    const dim3 numbers = smooth_grid(memory.max_bins * kTerms, 32, memory.problems);
    XRISK_LAUNCH((smooth_join_kernel<kBlock, Tile, T>), numbers, kBlock, 0, stream, plans, sources,
                 moments, problem.channels, cells, chunks, memory.max_bins, memory.moments);
    moments = memory.moments;
    cells = memory.max_bins;
    chunks = 1;
  }
  const dim3 bins = smooth_grid(memory.max_bins, 1, memory.problems);
  XRISK_LAUNCH((smooth_translate_kernel<kBlock, Tile, kLogistic, T>), bins, kBlock, 0, stream,
               plans, sources, moments, cells, chunks, static_cast<const double*>(memory.tables),
               problem.channels, memory.max_bins, to_anchors, memory.local);
  return cudaGetLastError();
}

template <class Shape, class T, class W>
cudaError_t launch_smooth_local(const PairProblem<T>& problem, const Side<T>& sources,
                                const W* weights, bool to_anchors, const SmoothMemory<T>& memory,
                                cudaStream_t stream) {
  return problem.surrogate == Surrogate::kLogistic
             ? launch_smooth_local<Shape, true>(problem, sources, weights, to_anchors, memory,
                                                stream)
             : launch_smooth_local<Shape, false>(problem, sources, weights, to_anchors, memory,
                                                 stream);
}

// Polynomials at the targets.
template <class Shape, class T>
cudaError_t launch_smooth_rows(const PairProblem<T>& problem, const SmoothMemory<T>& memory,
                               double* sums, double* slopes, cudaStream_t stream) {
  const dim3 anchors = smooth_grid(problem.anchors.capacity, Shape::kBlock, problem.segments);
  XRISK_LAUNCH((smooth_rows_kernel<Shape::kBlock, T>), anchors, Shape::kBlock, 0, stream,
               static_cast<const SmoothBins*>(memory.plans),
               static_cast<const double*>(memory.local), problem.anchors,
               static_cast<const int32_t*>(memory.smooth_live), problem.scale, problem.channels,
               memory.max_bins, sums, slopes);
  return cudaGetLastError();
}

template <class Shape, class T>
cudaError_t launch_smooth_columns(const PairProblem<T>& problem, const SmoothMemory<T>& memory,
                                  T* out, cudaStream_t stream) {
  const dim3 items = smooth_grid(problem.items.capacity, Shape::kBlock, problem.segments);
  XRISK_LAUNCH((smooth_columns_kernel<Shape::kBlock, T>), items, Shape::kBlock, 0, stream,
               static_cast<const SmoothBins*>(memory.plans),
               static_cast<const double*>(memory.local), problem.items,
               static_cast<const int32_t*>(memory.smooth_live), problem.scale, problem.channels,
               memory.max_bins, out);
  return cudaGetLastError();
}

inline bool is_smooth(Surrogate surrogate) {
  return surrogate == Surrogate::kLogistic || surrogate == Surrogate::kSigmoid;
}

#define XRISK_RETURN_IF_WRONG(expression)     \
  do {                                        \
    const cudaError_t status = (expression);  \
    if (status != cudaSuccess) return status; \
  } while (false)

template <class Shape, class T>
cudaError_t smooth_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  if (problem.temperature != nullptr || !is_smooth(problem.surrogate)) return cudaErrorInvalidValue;
  if (problem.anchors.capacity == 0 || problem.segments == 0 || problem.channels == 0) {
    return cudaSuccess;
  }
  size_t bytes;
  const SmoothMemory<T> memory(problem, problem.items, direct_rows_workspace_bytes(problem),
                               workspace, bytes, Shape());
  if (!smooth_fits(problem.segments, memory.problems)) return cudaErrorInvalidValue;
  XRISK_RETURN_IF_WRONG(
      (launch_smooth_plan<Shape>(problem, problem.anchors, true, memory, stream)));
  PairRows<T> direct = call;
  direct.problem.anchors.live = memory.direct_live;
  XRISK_RETURN_IF_WRONG(launch_direct_rows(direct, memory.direct, stream));
  XRISK_RETURN_IF_WRONG((launch_smooth_local<Shape>(problem, problem.items, problem.items.weights,
                                                    true, memory, stream)));
  return launch_smooth_rows<Shape>(problem, memory, call.sums, call.slopes, stream);
}

template <class Shape, class T>
cudaError_t smooth_columns(const PairColumns<T>& call, void* workspace, cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  if (problem.temperature != nullptr || !is_smooth(problem.surrogate)) return cudaErrorInvalidValue;
  if (problem.items.capacity == 0 || problem.segments == 0) return cudaSuccess;
  size_t bytes;
  const SmoothMemory<T> memory(problem, problem.anchors, direct_columns_workspace_bytes(problem),
                               workspace, bytes, Shape());
  if (!smooth_fits(problem.segments, memory.problems)) return cudaErrorInvalidValue;
  XRISK_RETURN_IF_WRONG((launch_smooth_plan<Shape>(problem, problem.items, false, memory, stream)));
  PairColumns<T> direct = call;
  direct.problem.items.live = memory.direct_live;
  XRISK_RETURN_IF_WRONG(launch_direct_columns(direct, memory.direct, stream));
  if (problem.channels > 0) {
    XRISK_RETURN_IF_WRONG((launch_smooth_local<Shape>(problem, problem.anchors, call.anchor_weights,
                                                      false, memory, stream)));
  }
  return launch_smooth_columns<Shape>(problem, memory, call.out, stream);
}

}  // namespace xrisk::cuda
