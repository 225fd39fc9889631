// Launches of the top-K threshold as templates, so that the tests can take tiny tiles.
#pragma once

#include <algorithm>

#include "cuda/moments.h"
#include "cuda/topk_gradient.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

// In all, where rows are cut into parts: of a pass of the gradient, of the one read of long rows (a
// multiple of the 132 * 6 blocks that run at once) and of a step of Newton's method over them.
constexpr int64_t kGradientBlocks = 2048, kSplitBlocks = 2376, kStepBlocks = 1056;
constexpr int64_t kIdleBlocks = 264;  // at most, of launches that most often have nothing to do
constexpr int64_t kWideSample = 64;   // times kMost: longer rows are sampled at more places

inline int parts_of_a_row(int64_t longest, int64_t tile, int64_t rows, int64_t blocks) {
  const int64_t tiles = (longest + tile - 1) / tile;
  const int64_t share = std::max<int64_t>(1, blocks / std::max<int64_t>(1, rows));
  return static_cast<int>(std::max<int64_t>(1, std::min(tiles, share)));
}

template <class T>
int64_t longest_row(const TopK<T>& call) {
  return call.rows.offsets == nullptr ? call.rows.length : call.total;
}

template <class Shape, class T>
struct TopKMemory {
  using Key = KeyOf<T>;
  LongRows<T> longs;
  RadixRows<Key> missed;
  LongSearches searches;
  size_t bytes = 0;

  TopKMemory(const TopK<T>& call, void* workspace) {
    const bool ragged = call.rows.offsets != nullptr;
    const int64_t longest = longest_row(call);
    if (longest <= Shape::kMost || longest <= call.k) return;
    longs.capacity = call.rows.count;
    if (ragged) longs.capacity = std::min(longs.capacity, call.total / (Shape::kMost + 1));
    Carver carver(workspace);
    const int64_t capacity = longs.capacity;
    longs.blocks = parts_of_a_row(longest, 16 * Shape::kPartBlock, capacity, kSplitBlocks);
    if (ragged) {
      longs.used = carver.take<unsigned>(1);
      longs.listed = carver.take<int64_t>(capacity);
    }
    longs.rows = carver.take<LongRow<T>>(capacity);
    longs.buffer = carver.take<Key>(call.total / Shape::kShare + 1);
    missed.used = carver.take<unsigned>(1);
    missed.counters = carver.take<unsigned>(capacity);
    if (call.smooth) {
      searches.blocks = parts_of_a_row(longest, 4 * Shape::kPartBlock, capacity, kStepBlocks);
      searches.searches = carver.take<LongSearch>(capacity);
      searches.parts = carver.take<unsigned long long>(capacity * searches.blocks * 2);
      searches.counters = missed.counters;
      searches.open = missed.used;
    } else {
      const int parts = parts_of_a_row(longest, Shape::kTile, capacity, kGradientBlocks);
      missed.blocks = std::min(parts, static_cast<int>(kIdleBlocks));
      missed.histogram = carver.take<unsigned>(capacity * Shape::kBins);
      missed.rows = carver.take<RadixRow<Key>>(capacity);
      missed.buffer = longs.buffer;
    }
    bytes = carver.used();
  }
};

template <class Shape, int kPlaces, class T>
cudaError_t exact_long_rows(const TopK<T>& call, const TopKMemory<Shape, T>& memory,
                            const Thresholds<T>& out, cudaStream_t stream) {
  const LongRows<T>& longs = memory.longs;
  const auto rows = static_cast<unsigned>(longs.capacity);
  const auto parts = static_cast<unsigned>(longs.capacity * longs.blocks);
  const int64_t items = longs.capacity * memory.missed.blocks;
  const auto idle = static_cast<unsigned>(std::min(items, kIdleBlocks));
  XRISK_LAUNCH((sample_long_rows_kernel<Shape, kPlaces, T>), rows, Shape::kBlock, 0, stream, call,
               longs, memory.missed);
  XRISK_LAUNCH((split_long_rows_kernel<Shape, T>), parts, Shape::kPartBlock, 0, stream, call,
               longs);
  XRISK_LAUNCH((finish_long_rows_kernel<Shape, T>), rows, Shape::kBlock, 0, stream, call, longs,
               memory.missed, out);
  for (int top = 8 * static_cast<int>(sizeof(T)); top > 0;) {
    const int bits = std::min(top, Shape::kDigitBits);
    top -= bits;
    XRISK_LAUNCH((radix_pass_kernel<Shape, T>), idle, Shape::kBlock, 0, stream, call, memory.missed,
                 top, bits, out);
  }
  return cudaGetLastError();
}

template <class Shape, int kPlaces, class T>
cudaError_t smooth_long_rows(const TopK<T>& call, const TopKMemory<Shape, T>& memory,
                             const Thresholds<T>& out, cudaStream_t stream) {
  const LongRows<T>& longs = memory.longs;
  const auto rows = static_cast<unsigned>(longs.capacity);
  const auto parts = static_cast<unsigned>(longs.capacity * longs.blocks);
  const auto steps = static_cast<unsigned>(longs.capacity * memory.searches.blocks);
  XRISK_LAUNCH((sample_smooth_rows_kernel<Shape, kPlaces, T>), rows, Shape::kBlock, 0, stream, call,
               longs, memory.missed, memory.searches);
  XRISK_LAUNCH((split_long_rows_kernel<Shape, T>), parts, Shape::kPartBlock, 0, stream, call,
               longs);
  XRISK_LAUNCH((finish_smooth_rows_kernel<Shape, false, T>), rows, Shape::kBlock, 0, stream, call,
               longs, memory.searches, out);
  for (int step = 0; step < Shape::kSteps; ++step) {
    XRISK_LAUNCH((newton_step_kernel<Shape, T>), steps, Shape::kPartBlock, 0, stream, call, longs,
                 memory.searches, out);
  }
  XRISK_LAUNCH((finish_smooth_rows_kernel<Shape, true, T>), rows, Shape::kBlock, 0, stream, call,
               longs, memory.searches, out);
  return cudaGetLastError();
}

template <class Shape, class T>
cudaError_t select_long_rows(const TopK<T>& call, const TopKMemory<Shape, T>& memory,
                             const Thresholds<T>& out, cudaStream_t stream) {
  if (memory.longs.used != nullptr) {
    XRISK_RETURN_IF_ERROR(cudaMemsetAsync(memory.longs.used, 0, sizeof(unsigned), stream));
    XRISK_LAUNCH((gather_long_rows_kernel<Shape, T>), blocks_for(call.rows.count, kPlainBlock),
                 kPlainBlock, 0, stream, call, memory.longs);
  }
  if (longest_row(call) >= kWideSample * Shape::kMost) {
    return call.smooth ? smooth_long_rows<Shape, 4>(call, memory, out, stream)
                       : exact_long_rows<Shape, 4>(call, memory, out, stream);
  }
  return call.smooth ? smooth_long_rows<Shape, 1>(call, memory, out, stream)
                     : exact_long_rows<Shape, 1>(call, memory, out, stream);
}

// Rows that a block holds in its registers, with no more of them a thread than it takes.
template <class Shape, class T>
void select_block_rows(const TopK<T>& call, const Thresholds<T>& out, cudaStream_t stream) {
  const auto rows = static_cast<unsigned>(call.rows.count);
  constexpr int kBlock = Shape::kBlock, kHalf = (Shape::kItems + 1) / 2, kLess = (kHalf + 1) / 2;
  const int64_t longest = longest_row(call);
  if (longest <= kBlock * kLess) {
    XRISK_LAUNCH((select_short_rows_kernel<kBlock, kLess, T>), rows, kBlock, 0, stream, call,
                 Shape::kNarrow, out);
  } else if (longest <= kBlock * kHalf) {
    XRISK_LAUNCH((select_short_rows_kernel<kBlock, kHalf, T>), rows, kBlock, 0, stream, call,
                 Shape::kNarrow, out);
  } else {
    XRISK_LAUNCH((select_short_rows_kernel<kBlock, Shape::kItems, T>), rows, kBlock, 0, stream,
                 call, Shape::kNarrow, out);
  }
}

template <class Shape, class T>
cudaError_t launch_topk_with(const TopK<T>& call, const Thresholds<T>& out, void* workspace,
                             cudaStream_t stream) {
  if (call.rows.count == 0) return cudaSuccess;
  const auto rows = static_cast<unsigned>(call.rows.count);
  const int64_t longest = longest_row(call);
  const int64_t shortest = call.rows.offsets != nullptr ? 0 : call.rows.length;
  // The narrow kernel also knows the rows that have no threshold.
  if (shortest <= Shape::kNarrow || shortest <= call.k) {
    XRISK_LAUNCH((select_narrow_rows_kernel<Shape::kNarrowItems, T>), rows, 32, 0, stream, call,
                 out);
    if (call.smooth) {
      XRISK_LAUNCH((newton_short_rows_kernel<32, T>), rows, 32, 0, stream, call, int64_t{-1},
                   Shape::kNarrow, out);
    }
  }
  if (longest > Shape::kNarrow && shortest <= Shape::kMost) {
    select_block_rows<Shape>(call, out, stream);
    if (call.smooth) {
      XRISK_LAUNCH((newton_short_rows_kernel<Shape::kBlock, T>), rows, Shape::kBlock, 0, stream,
                   call, Shape::kNarrow, Shape::kMost, out);
    }
  }
  XRISK_RETURN_IF_ERROR(cudaGetLastError());
  const TopKMemory<Shape, T> memory(call, workspace);
  if (memory.longs.capacity == 0) return cudaSuccess;
  return select_long_rows<Shape>(call, memory, out, stream);
}

template <class Shape, class T>
size_t topk_gradient_memory(const TopK<T>& call, void* workspace, GradientParts& work) {
  work.blocks = parts_of_a_row(longest_row(call), Shape::kTile, call.rows.count, kGradientBlocks);
  Carver carver(workspace);
  if (call.smooth) {
    work.counters = carver.take<unsigned>(call.rows.count);
    work.factors = carver.take<double>(call.rows.count);
    work.parts = carver.take<double>(call.rows.count * work.blocks * 2);
  } else {
    work.first = carver.take<unsigned long long>(call.rows.count);
  }
  return carver.used();
}

template <class Shape, class T>
cudaError_t launch_topk_gradient_with(const TopK<T>& call, const double* roots, const T* upstream,
                                      T* gradient, void* workspace, cudaStream_t stream) {
  if (call.rows.count == 0 || call.total == 0) return cudaSuccess;
  GradientParts work;
  topk_gradient_memory<Shape>(call, workspace, work);
  const auto count = static_cast<size_t>(call.rows.count);
  const auto grid = static_cast<unsigned>(call.rows.count * work.blocks);
  if (call.smooth) {
    XRISK_RETURN_IF_ERROR(cudaMemsetAsync(work.counters, 0, count * sizeof(unsigned), stream));
    XRISK_LAUNCH((curvature_kernel<Shape, T>), grid, Shape::kBlock, 0, stream, call, work, roots,
                 upstream);
    XRISK_LAUNCH((slopes_kernel<Shape, T>), grid, Shape::kBlock, 0, stream, call, work, roots,
                 gradient);
  } else {
    XRISK_RETURN_IF_ERROR(
        cudaMemsetAsync(work.first, 0xFF, count * sizeof(unsigned long long), stream));
    XRISK_LAUNCH((find_threshold_kernel<Shape, T>), grid, Shape::kBlock, 0, stream, call, work,
                 roots, gradient);
    XRISK_LAUNCH((place_gradient_kernel<T>), blocks_for(call.rows.count, kPlainBlock), kPlainBlock,
                 0, stream, call, work, upstream, gradient);
  }
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
