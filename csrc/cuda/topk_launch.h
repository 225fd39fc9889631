// Launches of the top-K threshold as templates, so that the tests can take tiny tiles.
#pragma once

#include <algorithm>

#include "cuda/moments.h"
#include "cuda/topk_smooth.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

constexpr int64_t kTopKBlocks = 2048;  // in all, where rows are cut into parts

template <class Shape, class T>
int parts_of_a_row(const TopK<T>& call, int64_t rows) {
  const int64_t longest = call.rows.offsets == nullptr ? call.rows.length : call.total;
  const int64_t tiles = (longest + Shape::kTile - 1) / Shape::kTile;
  const int64_t share = std::max<int64_t>(1, kTopKBlocks / std::max<int64_t>(1, rows));
  return static_cast<int>(std::max<int64_t>(1, std::min(tiles, share)));
}

template <class Shape, class T>
struct TopKMemory {
  using Key = typename SelectionKey<T>::Key;
  LongRows<Key> longs;
  LongSearches searches;
  void* zeroed = nullptr;
  size_t zeroed_bytes = 0, bytes = 0;

  TopKMemory(const TopK<T>& call, void* workspace) {
    const bool ragged = call.rows.offsets != nullptr;
    const int64_t fit = call.total / (Shape::kMost + 1);
    longs.capacity = ragged ? std::min(fit, call.rows.count)
                            : (call.rows.length > Shape::kMost ? call.rows.count : 0);
    Carver carver(workspace);
    if (longs.capacity > 0) {
      longs.blocks = parts_of_a_row<Shape>(call, longs.capacity);
      longs.used = carver.take<unsigned>(1);
      zeroed = longs.used;
      longs.counters = carver.take<unsigned>(longs.capacity);
      longs.histogram = carver.take<unsigned>(longs.capacity * Shape::kBins);
      zeroed_bytes = carver.used();
      longs.rows = carver.take<LongRow<Key>>(longs.capacity);
      longs.buffer = carver.take<Key>(call.total / Shape::kShare + 1);
      if (call.smooth) {
        searches.searches = carver.take<NewtonSearch>(longs.capacity);
        searches.done = carver.take<int>(longs.capacity);
        searches.parts = carver.take<double>(longs.capacity * longs.blocks * 2);
      }
    }
    bytes = carver.used();
  }
};

template <class Shape, class T>
cudaError_t select_long_rows(const TopK<T>& call, const TopKMemory<Shape, T>& memory, double* roots,
                             cudaStream_t stream) {
  using Key = typename SelectionKey<T>::Key;
  const LongRows<Key>& longs = memory.longs;
  XRISK_RETURN_IF_ERROR(cudaMemsetAsync(memory.zeroed, 0, memory.zeroed_bytes, stream));
  XRISK_LAUNCH((gather_long_rows_kernel<Shape, T, Key>), blocks_for(call.rows.count, kPlainBlock),
               kPlainBlock, 0, stream, call, longs);
  const auto grid = static_cast<unsigned>(longs.capacity * longs.blocks);
  for (int top = 8 * static_cast<int>(sizeof(Key)); top > 0;) {
    const int bits = std::min(top, Shape::kDigitBits);
    top -= bits;
    XRISK_LAUNCH((radix_pass_kernel<Shape, T, Key>), grid, Shape::kBlock, 0, stream, call, longs,
                 top, bits, roots);
  }
  if (call.smooth) {
    XRISK_LAUNCH((start_searches_kernel<Key>), blocks_for(longs.capacity, kPlainBlock), kPlainBlock,
                 0, stream, longs, memory.searches, call.tau1, roots);
    for (int step = 0; step < kNewtonLaunches; ++step) {
      XRISK_LAUNCH((newton_step_kernel<Shape, T, Key>), grid, Shape::kBlock, 0, stream, call, longs,
                   memory.searches, roots);
    }
  }
  return cudaGetLastError();
}

template <class Shape, class T>
cudaError_t launch_topk_with(const TopK<T>& call, double* roots, void* workspace,
                             cudaStream_t stream) {
  if (call.rows.count == 0) return cudaSuccess;
  const auto rows = static_cast<unsigned>(call.rows.count);
  const bool ragged = call.rows.offsets != nullptr;
  const int64_t longest = ragged ? call.total : call.rows.length;
  const int64_t shortest = ragged ? 0 : call.rows.length;
  // The narrow kernel also knows the rows that have no threshold.
  if (shortest <= Shape::kNarrow || shortest <= call.k) {
    XRISK_LAUNCH((select_short_rows_kernel<32, Shape::kNarrowItems, T>), rows, 32, 0, stream, call,
                 int64_t{-1}, roots);
    if (call.smooth) {
      XRISK_LAUNCH((newton_short_rows_kernel<32, T>), rows, 32, 0, stream, call, int64_t{-1},
                   Shape::kNarrow, roots);
    }
  }
  if (longest > Shape::kNarrow && shortest <= Shape::kMost) {
    XRISK_LAUNCH((select_short_rows_kernel<Shape::kBlock, Shape::kItems, T>), rows, Shape::kBlock,
                 0, stream, call, Shape::kNarrow, roots);
    if (call.smooth) {
      XRISK_LAUNCH((newton_short_rows_kernel<Shape::kBlock, T>), rows, Shape::kBlock, 0, stream,
                   call, Shape::kNarrow, Shape::kMost, roots);
    }
  }
  XRISK_RETURN_IF_ERROR(cudaGetLastError());
  const TopKMemory<Shape, T> memory(call, workspace);
  if (memory.longs.capacity == 0) return cudaSuccess;
  return select_long_rows<Shape>(call, memory, roots, stream);
}

template <class Shape, class T>
size_t topk_gradient_memory(const TopK<T>& call, void* workspace, GradientParts& work) {
  work.blocks = parts_of_a_row<Shape>(call, call.rows.count);
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
