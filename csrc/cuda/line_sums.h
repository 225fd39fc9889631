// Sums along sorted entries: of all from one on, or of all before one, for several series at once.
//
// Tiles of kBlock entries are scanned by a block each, then their totals by one block a line: two
// launches, one order of additions.
#pragma once

#include "cuda/block.h"
#include "cuda/moments.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

struct LineSums {
  double* within;  // [lines, capacity]: of the entries of the tile up to and with this one
  double* beyond;  // [lines, tiles]: of the tiles before this one
  int64_t capacity, tiles;
  int block;

  LineSums(Carver& carver, int64_t lines, int64_t capacity_, int block_)
      : capacity(capacity_), tiles((capacity_ + block_ - 1) / block_), block(block_) {
    within = carver.take<double>(lines * capacity);
    beyond = carver.take<double>(lines * tiles);
  }

  // Of the first `count` entries in the direction of the line: from the front, or, for a line that
  // runs backwards, of all entries from number `capacity - count` on.
  __device__ __forceinline__ double first(int64_t line, int64_t count) const {
    if (count == 0) return 0.0;
    return within[line * capacity + count - 1] + beyond[line * tiles + (count - 1) / block];
  }
};

// `terms(line, entry)`, 0 where there is none; terms.backwards(line): the last entry comes first.
//   Mapping: a block a tile of a line, a thread an entry. Bytes: what a term reads, 8 out.
template <int kBlock, class Terms>
__global__ void __launch_bounds__(kBlock) line_sums_kernel(Terms terms, LineSums sums) {
  const int64_t line = blockIdx.x / sums.tiles, tile = blockIdx.x % sums.tiles;
  const int64_t place = tile * kBlock + threadIdx.x;
  double term = 0.0;
  if (place < sums.capacity) {
    term = terms(line, terms.backwards(line) ? sums.capacity - 1 - place : place);
  }
  double before, total;
  block_scan<kBlock>(term, 0.0, Sum(), before, total);
  if (place < sums.capacity) sums.within[line * sums.capacity + place] = before + term;
  if (threadIdx.x == 0) sums.beyond[line * sums.tiles + tile] = total;
}

// Replaces the totals of the tiles by those of the tiles before. A block a line.
template <int kBlock>
__global__ void __launch_bounds__(kBlock) line_tiles_kernel(LineSums sums) {
  double* totals = sums.beyond + blockIdx.x * sums.tiles;
  double carry = 0.0;
  for (int64_t begin = 0; begin < sums.tiles; begin += kBlock) {
    const int64_t tile = begin + threadIdx.x;
    double before, total;
    block_scan<kBlock>(tile < sums.tiles ? totals[tile] : 0.0, 0.0, Sum(), before, total);
    if (tile < sums.tiles) totals[tile] = carry + before;
    carry += total;
  }
}

template <int kBlock, class Terms>
cudaError_t launch_line_sums(const Terms& terms, const LineSums& sums, int64_t lines,
                             cudaStream_t stream) {
  if (lines == 0 || sums.tiles == 0) return cudaSuccess;
  XRISK_LAUNCH((line_sums_kernel<kBlock, Terms>), static_cast<unsigned>(lines * sums.tiles), kBlock,
               0, stream, terms, sums);
  XRISK_LAUNCH(line_tiles_kernel<kBlock>, static_cast<unsigned>(lines), kBlock, 0, stream, sums);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
