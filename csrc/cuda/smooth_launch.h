// Launches of the smooth algorithm as templates: cuda/smooth.cu instantiates them for the default
// shape, the tests for tiny ones.
#pragma once

#include <algorithm>

#include "cuda/smooth_kernels.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

// Threads of a block (and bins of a window), the most bins, the most chunks of sources.
template <int kBlockThreads, int kMostBins, int kMostChunks>
struct SmoothShape {
  static constexpr int kBlock = kBlockThreads;
  static constexpr int64_t kBins = kMostBins;
  static constexpr int64_t kChunks = kMostChunks;
};
// Chosen for memory, not measured: 4096 bins are 5000 temperatures, 64 chunks 16 MB of partial
// sums.
using DefaultSmooth = SmoothShape<256, 4096, 64>;

constexpr int kSmoothRangeBlocks = 64;

template <class T>
struct SmoothMemory {
  int64_t max_bins, chunks, chunk_length, problems;
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
    // Many problems share the memory of eight; and with more bins than scores direct is no slower.
    const int64_t share = 8 * Shape::kBins / std::max<int64_t>(8, problems);
    const int64_t scores = problem.anchors.capacity + problem.items.capacity;
    max_bins =
        std::max(kBlock, std::min(share, divide_up(scores, kBlock) * kBlock) / kBlock * kBlock);
    const int64_t wanted = std::min(divide_up(sources.capacity, 4 * kBlock),
                                    Shape::kChunks / std::max<int64_t>(1, problems));
    chunks = std::max<int64_t>(1, wanted);
    chunk_length = divide_up(sources.capacity, chunks);
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
    partial = carver.take<double>(problems * chunks * max_bins * kTerms);
    moments = carver.take<double>(problems * max_bins * kTerms);
    local = carver.take<double>(problems * max_bins * 2 * kTerms);
    bytes = std::max(carver.used(), before + direct_bytes);
  }
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

template <class Shape, class T>
cudaError_t launch_smooth_plan(const PairProblem<T>& problem, const Side<T>& targets,
                               const SmoothMemory<T>& memory, cudaStream_t stream) {
  const unsigned segments = static_cast<unsigned>(problem.segments);
  const dim3 ranges(static_cast<unsigned>(memory.range_blocks), segments);
  XRISK_LAUNCH((smooth_range_kernel<Shape::kBlock, T>), ranges, Shape::kBlock, 0, stream,
               problem.anchors, problem.items, memory.ranges);
  XRISK_LAUNCH((smooth_plan_kernel<T>), (segments + 31) / 32, 32, 0, stream,
               static_cast<const ScoreRange*>(memory.ranges), memory.range_blocks,
               int64_t{problem.segments}, memory.max_bins, problem.scale, targets, memory.plans,
               memory.smooth_live, memory.direct_live);
  return cudaGetLastError();
}

// From the sources' moments to the polynomials of the targets.
template <class Shape, bool kLogistic, class T, class W>
cudaError_t launch_smooth_local(const PairProblem<T>& problem, const Side<T>& sources,
                                const W* weights, bool to_anchors, const SmoothMemory<T>& memory,
                                cudaStream_t stream) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kBlock = Shape::kBlock;
  const SmoothBins* plans = memory.plans;
  const unsigned problems = static_cast<unsigned>(memory.problems);
  XRISK_LAUNCH((smooth_table_kernel<kLogistic, T>), 2 * SmoothFit<T>::kReach + 1, kTerms * kTerms,
               0, stream, to_anchors ? 1.0 : -1.0, memory.tables);
  const dim3 windows(static_cast<unsigned>(memory.max_bins / kBlock),
                     static_cast<unsigned>(memory.chunks), problems);
  XRISK_LAUNCH((smooth_moments_kernel<kBlock, T, W>), windows, kBlock, 0, stream, plans, sources,
               weights, problem.channels, memory.chunk_length, memory.max_bins, memory.partial);
  const dim3 numbers(static_cast<unsigned>(memory.max_bins * kTerms / kBlock), problems);
  XRISK_LAUNCH((smooth_join_kernel<T>), numbers, kBlock, 0, stream, plans,
               static_cast<const double*>(memory.partial), problem.channels,
               static_cast<int>(memory.chunks), memory.max_bins, memory.moments);
  const dim3 bins(static_cast<unsigned>(memory.max_bins / (kBlock / 32)), problems);
  XRISK_LAUNCH((smooth_translate_kernel<kBlock, kLogistic, T>), bins, kBlock, 0, stream, plans,
               static_cast<const double*>(memory.moments),
               static_cast<const double*>(memory.tables), problem.channels, memory.max_bins,
               to_anchors, memory.local);
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
  XRISK_RETURN_IF_WRONG((launch_smooth_plan<Shape>(problem, problem.anchors, memory, stream)));
  PairRows<T> direct = call;
  direct.problem.anchors.live = memory.direct_live;
  XRISK_RETURN_IF_WRONG(launch_direct_rows(direct, memory.direct, stream));
  XRISK_RETURN_IF_WRONG((launch_smooth_local<Shape>(problem, problem.items, problem.items.weights,
                                                    true, memory, stream)));
  const dim3 anchors(
      static_cast<unsigned>((problem.anchors.capacity + Shape::kBlock - 1) / Shape::kBlock),
      static_cast<unsigned>(problem.segments));
  XRISK_LAUNCH((smooth_rows_kernel<T>), anchors, Shape::kBlock, 0, stream,
               static_cast<const SmoothBins*>(memory.plans),
               static_cast<const double*>(memory.local), problem.anchors,
               static_cast<const int32_t*>(memory.smooth_live), problem.scale, problem.channels,
               memory.max_bins, call.sums, call.slopes);
  return cudaGetLastError();
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
  XRISK_RETURN_IF_WRONG((launch_smooth_plan<Shape>(problem, problem.items, memory, stream)));
  PairColumns<T> direct = call;
  direct.problem.items.live = memory.direct_live;
  XRISK_RETURN_IF_WRONG(launch_direct_columns(direct, memory.direct, stream));
  if (problem.channels > 0) {
    XRISK_RETURN_IF_WRONG((launch_smooth_local<Shape>(problem, problem.anchors, call.anchor_weights,
                                                      false, memory, stream)));
  }
  const dim3 items(
      static_cast<unsigned>((problem.items.capacity + Shape::kBlock - 1) / Shape::kBlock),
      static_cast<unsigned>(problem.segments));
  XRISK_LAUNCH((smooth_columns_kernel<T>), items, Shape::kBlock, 0, stream,
               static_cast<const SmoothBins*>(memory.plans),
               static_cast<const double*>(memory.local), problem.items,
               static_cast<const int32_t*>(memory.smooth_live), problem.scale, problem.channels,
               memory.max_bins, call.out);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
