// A strip of tiles of a block of products <x_i, y_j> of 16-bit rows: its products on their way to
// the threads that work on them, which pairs of it do not count, sums over its rows. Mapping and
// hazards: cuda/half_similarity_kernels.h.
#pragma once

#include "cuda/copy_async.h"
#include "cuda/half_similarity.h"
#include "cuda/similarity_kernels.h"
#include "cuda/similarity_sums.h"

namespace xrisk::cuda {

constexpr int kWarpRows = 8;
constexpr int kLaneColumns = 4;
constexpr int kPairRows = 64;  // of a tile
constexpr int kPairColumns = 128;
constexpr int kPairWarps = kPairRows / kWarpRows;
constexpr int kPairThreads = 32 * kPairWarps;
constexpr int kPairBlocks = 4;  // a processor
constexpr int kMostTiles = 4;   // of a strip
constexpr int kStripRows = kMostTiles * kPairRows;
static_assert(kStripRows == kPairThreads);

// A block of products and where it lies.
struct ProductBlock {
  const float* products;  // [rows, stride]
  int64_t stride;         // a multiple of 4
  int64_t row, rows, column, columns;
  const float* x_scales;  // of the whole problem
  const float* y_scales;
  const int64_t* exclude;
  int64_t exclusions;
  int tiles;  // of a strip
};

using ExcludedBits = uint32_t[kStripRows][kPairColumns / 32];

// Bits of the columns of the strip that each of its rows leaves out, a thread a row. Before a
// barrier.
__device__ __forceinline__ void mark_excluded(const ProductBlock& b, int64_t row, int64_t column,
                                              ExcludedBits& left_out) {
  const int member = static_cast<int>(threadIdx.x);
  uint32_t words[kPairColumns / 32] = {};
  if (member < b.tiles * kPairRows && row + member < b.rows) {
    const int64_t* exclude = b.exclude + (b.row + row + member) * b.exclusions;
    for (int64_t e = 0; e < b.exclusions; ++e) {
      const int64_t k = exclude[e] - b.column - column;
#pragma unroll
      for (int w = 0; w < kPairColumns / 32; ++w) {
        if (k >= 32 * w && k < 32 * w + 32) words[w] |= 1u << k % 32;
      }
    }
  }
#pragma unroll
  for (int w = 0; w < kPairColumns / 32; ++w) left_out[member][w] = words[w];
}

// Whether one of the warp's rows of the tile, which start with `member` of the strip, leaves any
// out.
__device__ __forceinline__ bool leaves_out(const ExcludedBits& left_out, int member) {
  static_assert(kWarpRows * kPairColumns / 32 == 32);
  const int lane = lane_index();
  return __any_sync(kWholeWarp, left_out[member + lane / 4][lane % 4] != 0) != 0;
}

// Whether the tile lies inside of the block.
__device__ __forceinline__ bool whole_tile(const ProductBlock& b, int64_t row, int64_t column) {
  return row + kPairRows <= b.rows && column + kPairColumns <= b.columns;
}

// Places of one tile, each thread's own.
using ComingProducts = float4[kWarpRows][kPairThreads];

// The lane's products of its warp's rows, from `row` on, and of its columns: where there are none,
// any.
__device__ __forceinline__ void begin_products(const ProductBlock& b, int64_t row, int64_t column,
                                               bool whole, ComingProducts& coming) {
  const int64_t mine = column + kLaneColumns * lane_index();
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    float4* const to = &coming[r][threadIdx.x];
    // the stride leaves room for the last four
    if (whole || (row + r < b.rows && mine < b.columns)) {
      begin_copy(to, reinterpret_cast<const float4*>(b.products + (row + r) * b.stride + mine));
    } else {
      *to = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }
}

// Similarities that lie outside of the block or are marked become kLeftOut: of the rows from `row`
// on, `member` and the following of the strip.
template <int kRows>
__device__ __forceinline__ void leave_out(const ProductBlock& b, int64_t row, int member,
                                          int64_t column, bool marked, const ExcludedBits& left_out,
                                          float (&s)[kRows][kLaneColumns]) {
  const int lane = lane_index();
  const int64_t mine = column + kLaneColumns * lane;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    uint32_t bits = 0;
    if (marked) bits = left_out[member + r][lane / 8] >> lane % 8 * kLaneColumns;
    const bool there = row + r < b.rows;
#pragma unroll
    for (int k = 0; k < kLaneColumns; ++k) {
      if (!there || mine + k >= b.columns || (bits >> k & 1) != 0) s[r][k] = kLeftOut;
    }
  }
}

// Those of the lane's columns.
__device__ __forceinline__ void load_column_scales(const ProductBlock& b, int64_t column,
                                                   float (&scales)[kLaneColumns]) {
  const int64_t mine = column + kLaneColumns * lane_index();
#pragma unroll
  for (int k = 0; k < kLaneColumns; ++k) {
    scales[k] =
        b.y_scales != nullptr && mine + k < b.columns ? b.y_scales[b.column + mine + k] : 1.0f;
  }
}

// Eight values a lane, each reduced over the warp: lane l gets that of row l / 4. A fifth of the
// shuffles of eight reductions, since half of the rows are handed over at each distance.
template <class F>
__device__ __forceinline__ float reduce_rows(const float (&values)[kWarpRows], F combine) {
  const int lane = lane_index();
  float four[4], two[2];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const bool upper = (lane & 16) != 0;
    const float sent = upper ? values[k] : values[k + 4];
    four[k] = combine(upper ? values[k + 4] : values[k], __shfl_xor_sync(kWholeWarp, sent, 16));
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const bool upper = (lane & 8) != 0;
    const float sent = upper ? four[k] : four[k + 2];
    two[k] = combine(upper ? four[k + 2] : four[k], __shfl_xor_sync(kWholeWarp, sent, 8));
  }
  const bool upper = (lane & 4) != 0;
  const float sent = upper ? two[0] : two[1];
  float one = combine(upper ? two[1] : two[0], __shfl_xor_sync(kWholeWarp, sent, 4));
  one = combine(one, __shfl_xor_sync(kWholeWarp, one, 2));
  return combine(one, __shfl_xor_sync(kWholeWarp, one, 1));
}

}  // namespace xrisk::cuda
