// Kernels on a block of products <x_i, y_j> of 16-bit rows, between the products around them.
//
//   sums:     per row and per column of a tile, peak = max s, mass = sum e^z, moment = sum e^z z
//   merge:    of the tiles of a block, into what earlier blocks left
//   weights:  V = the weights of the pair, times both scales, in 16 bits
//
// Mapping: a thread block has a tile of 64 rows by 128 columns, a warp 8 of its rows, a lane 4
// columns of each, in registers: the block of products is read once for the sums of both sides, and
// once for the weights. Every part has one thread block, and parts are added in one order. Bytes: 4
// a pair for sums, 4 and 2 for weights. Instructions: two exponentials a pair each, which the
// special function units need 9 us for at 4096 x 4096, and about 20 others; bytes need 16 and 24.
// So what a pair needs is kept small where the tile is whole and no pair of it is left out. The
// sums begin with the tiles that the product wrote last, the weights with those that the sums read
// last: these are in L2. Exponents are taken to base 2. Hazards: as cuda/similarity_kernels.h; what
// lies outside of the block or is excluded becomes kLeftOut, which is finite, so that 0 times it is
// 0.
#pragma once

#include "cuda/half_similarity.h"
#include "cuda/pair_weights.h"
#include "cuda/similarity_kernels.h"
#include "cuda/similarity_sums.h"
#include "cuda/tensor_core.h"

namespace xrisk::cuda {

constexpr int kWarpRows = 8;
constexpr int kLaneColumns = 4;
constexpr int kPairRows = 64;  // of a tile
constexpr int kPairColumns = 128;
constexpr int kPairWarps = kPairRows / kWarpRows;
constexpr int kPairThreads = 32 * kPairWarps;
constexpr int kPairBlocks = 4;  // a processor; of weights one less, for their registers

// A block of products and where it lies.
struct ProductBlock {
  const float* products;  // [rows, stride]
  int64_t stride;         // a multiple of 4
  int64_t row, rows, column, columns;
  const float* x_scales;  // of the whole problem
  const float* y_scales;
  const int64_t* exclude;
  int64_t exclusions;
};

// Bits of the columns of the tile that the warp's rows leave out; false if there are none.
__device__ __forceinline__ bool mark_excluded(const ProductBlock& b, int64_t row, int64_t column,
                                              uint32_t (*left_out)[kPairColumns / 32]) {
  if (b.exclusions == 0) return false;
  const int lane = lane_index();
  bool any = false;
  if (lane < kWarpRows) {
    uint32_t* words = left_out[kWarpRows * warp_index() + lane];
    for (int w = 0; w < kPairColumns / 32; ++w) words[w] = 0;
    if (row + lane < b.rows) {
      const int64_t* exclude = b.exclude + (b.row + row + lane) * b.exclusions;
      for (int64_t e = 0; e < b.exclusions; ++e) {
        const int64_t k = exclude[e] - b.column - column;
        if (k < 0 || k >= kPairColumns) continue;
        words[k / 32] |= 1u << k % 32;
        any = true;
      }
    }
  }
  __syncwarp();
  return __any_sync(kWholeWarp, any) != 0;
}

// Whether the tile lies inside of the block.
__device__ __forceinline__ bool whole_tile(const ProductBlock& b, int64_t row, int64_t column) {
  return row + kPairRows <= b.rows && column + kPairColumns <= b.columns;
}

// The lane's products, of kRows rows from `row` on and of its columns: where there are none, any.
// kLast: nobody reads them again.
template <int kRows, bool kLast>
__device__ __forceinline__ void load_products(const ProductBlock& b, int64_t row, int64_t column,
                                              bool whole, float4 (&found)[kRows]) {
  const int64_t mine = column + kLaneColumns * lane_index();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    found[r] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    // the stride leaves room for the last four
    if (!whole && !(row + r < b.rows && mine < b.columns)) continue;
    const float4* from = reinterpret_cast<const float4*>(b.products + (row + r) * b.stride + mine);
    found[r] = kLast ? __ldcs(from) : *from;
  }
}

// Similarities that lie outside of the block or are marked become kLeftOut; `first`: of the warp's
// rows, which start with `row`.
template <int kRows>
__device__ __forceinline__ void leave_out(const ProductBlock& b, int64_t row, int first,
                                          int64_t column, bool marked,
                                          const uint32_t (*left_out)[kPairColumns / 32],
                                          float (&s)[kRows][kLaneColumns]) {
  const int lane = lane_index();
  const int64_t mine = column + kLaneColumns * lane;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    uint32_t bits = 0;
    if (marked) {
      bits = left_out[kWarpRows * warp_index() + first + r][lane / 8] >> lane % 8 * kLaneColumns;
    }
    const bool there = row + first + r < b.rows;
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

__device__ __forceinline__ void scale_products(const float4& found, float row_scale,
                                               const float (&scales)[kLaneColumns],
                                               float (&s)[kLaneColumns]) {
  s[0] = found.x * row_scale * scales[0];
  s[1] = found.y * row_scale * scales[1];
  s[2] = found.z * row_scale * scales[2];
  s[3] = found.w * row_scale * scales[3];
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

// Sums of the tiles of a block: [tiles, anchors of the block]. Moments are of s less the peak, a
// peak is kLeftOut if there is none.
struct TileSums {
  float* peaks;  // null: not wanted
  float* masses;
  float* moments;
  int64_t anchors;
};

__device__ __forceinline__ void store_part(const TileSums& parts, int64_t anchor, int64_t tile,
                                           float peak, float mass, float moment) {
  const int64_t to = tile * parts.anchors + anchor;
  parts.peaks[to] = peak;
  parts.masses[to] = mass;
  parts.moments[to] = moment;
}

__global__ void __launch_bounds__(kPairThreads, kPairBlocks)
    tile_sums_kernel(ProductBlock b, const float* row_inverses, TileSums rows,
                     const float* column_inverses, TileSums columns) {
  XRISK_SHARED(uint32_t, left_out, [kPairRows][kPairColumns / 32]);
  XRISK_SHARED(float4, highs, [kPairWarps][kPairColumns / kLaneColumns]);
  XRISK_SHARED(float4, masses, [kPairWarps][kPairColumns / kLaneColumns]);
  XRISK_SHARED(float4, moments, [kPairWarps][kPairColumns / kLaneColumns]);
  const int lane = lane_index(), warp = warp_index();
  const int64_t tile_column = static_cast<int64_t>(blockIdx.x) * kPairColumns;
  const int64_t down = gridDim.y - 1 - blockIdx.y, tile_row = down * kPairRows;
  const int64_t row = tile_row + kWarpRows * warp;
  const bool whole = whole_tile(b, tile_row, tile_column);
  float4 found[kWarpRows];
  load_products<kWarpRows, false>(b, row, tile_column, whole, found);
  float scales[kLaneColumns];
  load_column_scales(b, tile_column, scales);
  const bool scaled = lane < kWarpRows && b.x_scales != nullptr && row + lane < b.rows;
  const float scale_of_row = scaled ? b.x_scales[b.row + row + lane] : 1.0f;
  const bool marked = mark_excluded(b, row, tile_column, left_out);
  float s[kWarpRows][kLaneColumns];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    scale_products(found[r], __shfl_sync(kWholeWarp, scale_of_row, r), scales, s[r]);
  }
  if (!whole || marked) leave_out(b, row, 0, tile_column, marked, left_out, s);

  float high[kWarpRows], mass[kWarpRows], moment[kWarpRows];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    high[r] = fmaxf(fmaxf(s[r][0], s[r][1]), fmaxf(s[r][2], s[r][3]));
  }
  const float peak = reduce_rows(high, Max()), reference_of_row = reference_of(peak);
  const bool mine = row + lane / 4 < b.rows;
  const float inverse_of_row = mine ? row_inverses[b.row + row + lane / 4] * kLog2E : 1.0f;
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float reference = __shfl_sync(kWholeWarp, reference_of_row, 4 * r);
    const float inverse = __shfl_sync(kWholeWarp, inverse_of_row, 4 * r);
    PartSums sums;
#pragma unroll
    for (int k = 0; k < kLaneColumns; ++k) sums.add(s[r][k], reference, inverse);
    mass[r] = sums.mass;
    moment[r] = sums.moment;
  }
  const float row_mass = reduce_rows(mass, Sum()), row_moment = reduce_rows(moment, Sum());
  if (mine && lane % 4 == 0) {
    store_part(rows, row + lane / 4, blockIdx.x, peak, row_mass, row_moment);
  }
  if (columns.peaks == nullptr) return;

  // of the warp's rows, then of all
  float most[kLaneColumns];
  PartSums total[kLaneColumns];
#pragma unroll
  for (int k = 0; k < kLaneColumns; ++k) {
    const int64_t at = tile_column + kLaneColumns * lane + k;
    const float inverse = at < b.columns ? column_inverses[b.column + at] * kLog2E : 1.0f;
    most[k] = s[0][k];
#pragma unroll
    for (int r = 1; r < kWarpRows; ++r) most[k] = fmaxf(most[k], s[r][k]);
    const float reference = reference_of(most[k]);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) total[k].add(s[r][k], reference, inverse);
  }
  highs[warp][lane] = make_float4(most[0], most[1], most[2], most[3]);
  masses[warp][lane] = make_float4(total[0].mass, total[1].mass, total[2].mass, total[3].mass);
  moments[warp][lane] =
      make_float4(total[0].moment, total[1].moment, total[2].moment, total[3].moment);
  __syncthreads();
  const int at = static_cast<int>(threadIdx.x);
  if (at >= kPairColumns || tile_column + at >= b.columns) return;
  const float inverse = column_inverses[b.column + tile_column + at] * kLog2E;
  const auto part = [&](const auto& of, int w) {
    return reinterpret_cast<const float*>(of[w])[at];
  };
  float highest = kLeftOut;
  PartSums all;
#pragma unroll
  for (int w = 0; w < kPairWarps; ++w) highest = fmaxf(highest, part(highs, w));
#pragma unroll
  for (int w = 0; w < kPairWarps; ++w) {
    const PartSums seen =
        PartSums{part(masses, w), part(moments, w)}.seen_from(part(highs, w) - highest, inverse);
    all.mass += seen.mass;
    all.moment += seen.moment;
  }
  store_part(columns, tile_column + at, down, highest, all.mass, all.moment);
}

// One side of a block, whose anchors have parts of `tiles` tiles. `fresh`: it is the first block of
// these anchors.
struct MergedSide {
  TileSums parts;
  int64_t tiles, first, count;
  const float* inverses;
  ExpSums<float> sums;
  bool fresh;
};

constexpr int kMergeGroups = 8;  // warps, that share out the tiles of 32 anchors

// A thread block 32 anchors: first those of the rows, then those of the columns.
__global__ void __launch_bounds__(32 * kMergeGroups)
    merge_tiles_kernel(MergedSide rows, MergedSide columns) {
  XRISK_SHARED(float, highs, [kMergeGroups][32]);
  XRISK_SHARED(double, masses, [kMergeGroups][32]);
  XRISK_SHARED(double, moments, [kMergeGroups][32]);
  const int lane = lane_index(), group = warp_index();
  const int64_t of_rows = (rows.count + 31) / 32;
  const bool by_rows = blockIdx.x < of_rows;
  // member by member, so that neither side is copied
  const auto of_side = [&](auto member) { return by_rows ? rows.*member : columns.*member; };
  const int64_t at = (blockIdx.x - (by_rows ? 0 : of_rows)) * 32 + lane;
  const int64_t tiles = of_side(&MergedSide::tiles), anchor = of_side(&MergedSide::first) + at;
  const bool there = at < of_side(&MergedSide::count);
  const float inverse = there ? of_side(&MergedSide::inverses)[anchor] : 1.0f;
  const TileSums parts = of_side(&MergedSide::parts);
  float high = kLeftOut;
#pragma unroll 8
  for (int64_t t = group; there && t < tiles; t += kMergeGroups) {
    high = fmaxf(high, parts.peaks[t * parts.anchors + at]);
  }
  double mass = 0.0, moment = 0.0;
#pragma unroll 8
  for (int64_t t = group; there && t < tiles; t += kMergeGroups) {
    const int64_t from = t * parts.anchors + at;
    const PartSums seen = PartSums{parts.masses[from], parts.moments[from]}.seen_from(
        parts.peaks[from] - high, inverse * kLog2E);
    mass += static_cast<double>(seen.mass);
    moment += static_cast<double>(seen.moment);
  }
  highs[group][lane] = high;
  masses[group][lane] = mass;
  moments[group][lane] = moment;
  __syncthreads();
  if (group != 0 || !there) return;
  for (int g = 1; g < kMergeGroups; ++g) high = fmaxf(high, highs[g][lane]);
  mass = moment = 0.0;
  for (int g = 0; g < kMergeGroups; ++g) {
    const float gap = highs[g][lane] - high;
    const double factor = static_cast<double>(exp2_flushed(gap * (inverse * kLog2E)));
    mass += factor * masses[g][lane];
    moment += factor * (moments[g][lane] + masses[g][lane] * static_cast<double>(gap));
  }
  moment *= static_cast<double>(inverse);
  if (high == kLeftOut) high = -INFINITY;
  const ExpSums<float> sums = of_side(&MergedSide::sums);
  if (of_side(&MergedSide::fresh)) {
    sums.peaks[anchor] = high;
    sums.masses[anchor] = mass;
    sums.moments[anchor] = moment;
  } else {
    merge_sums(sums, anchor, static_cast<double>(inverse), high, mass, moment);
  }
}

// One thread block: the power of two, and its inverse, that brings the largest weight of a pair
// below 2^15.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    fit_kernel(PairWeights<float> rows, int64_t row_count, PairWeights<float> columns,
               int64_t column_count, float both_scales, float* fit) {
  float largest[2] = {0.0f, 0.0f};
  for (int side = 0; side < 2; ++side) {
    const PairWeights<float>& of = side == 0 ? rows : columns;
    const int64_t count = of.weights == nullptr ? 0 : side == 0 ? row_count : column_count;
    for (int64_t i = threadIdx.x; i < count; i += kBlock) {
      largest[side] = fmaxf(largest[side], fabsf(of.weights[i]) * expf(of.shifts[i]));
    }
    largest[side] = block_max<kBlock>(largest[side], 0.0f);
  }
  if (threadIdx.x != 0) return;
  const float scale = scale_below_half_range((largest[0] + largest[1]) * both_scales);
  fit[0] = scale;
  fit[1] = 1.0f / scale;
}

// out: the block's weights, rows of `stride`, a multiple of 8.
template <class Half>
__global__ void __launch_bounds__(kPairThreads, kPairBlocks - 1)
    half_weights_kernel(ProductBlock b, PairWeights<float> rows, PairWeights<float> columns,
                        const float* fit, uint16_t* out, int64_t stride) {
  XRISK_SHARED(uint32_t, left_out, [kPairRows][kPairColumns / 32]);
  XRISK_SHARED(float4, of_rows, [kPairRows]);
  XRISK_SHARED(float, row_scales, [kPairRows]);
  XRISK_SHARED(float4, of_columns, [kPairColumns]);
  constexpr int kRows = kWarpRows / 2;  // at a time, for want of registers
  const int lane = lane_index(), warp = warp_index();
  const int64_t tile_column = static_cast<int64_t>(blockIdx.x) * kPairColumns;
  const int64_t tile_row = static_cast<int64_t>(blockIdx.y) * kPairRows;
  const int64_t row = tile_row + kWarpRows * warp;
  const bool both = columns.weights != nullptr, whole = whole_tile(b, tile_row, tile_column);
  float4 found[kRows];
  load_products<kRows, true>(b, row, tile_column, whole, found);
  const float4 none = make_float4(0.0f, 0.0f, 1.0f, 0.0f);
  const int k = static_cast<int>(threadIdx.x);
  if (k < kPairRows) {
    const bool there = tile_row + k < b.rows;
    of_rows[k] = there ? anchor_weights(rows, b.row + tile_row + k) : none;
    row_scales[k] = there && b.x_scales != nullptr ? b.x_scales[b.row + tile_row + k] : 1.0f;
  } else if (k - kPairRows < kPairColumns) {
    const int64_t at = tile_column + k - kPairRows;
    of_columns[k - kPairRows] =
        both && at < b.columns ? anchor_weights(columns, b.column + at) : none;
  }
  float scales[kLaneColumns];
  load_column_scales(b, tile_column, scales);
  __syncthreads();
  const bool marked = mark_excluded(b, row, tile_column, left_out);
  const int64_t mine = tile_column + kLaneColumns * lane;
  if (mine >= b.columns) return;
  float4 across[kLaneColumns];
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) across[c] = of_columns[kLaneColumns * lane + c];
  const float scale = fit == nullptr ? 1.0f : fit[0];
#pragma unroll
  for (int first = 0; first < kWarpRows; first += kRows) {
    float s[kRows][kLaneColumns];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      scale_products(found[r], row_scales[kWarpRows * warp + first + r], scales, s[r]);
    }
    if (first == 0) load_products<kRows, true>(b, row + kRows, tile_column, whole, found);
    if (!whole || marked) leave_out(b, row, first, tile_column, marked, left_out, s);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = row + first + r;
      if (at >= b.rows) break;
      const float4 own = of_rows[kWarpRows * warp + first + r];
      const float row_scale = scale * row_scales[kWarpRows * warp + first + r];
      float weights[kLaneColumns];
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c) {
        weights[c] = pair_weight(s[r][c], own);
        if (both) weights[c] += pair_weight(s[r][c], across[c]);
        weights[c] *= row_scale * scales[c];
      }
      *reinterpret_cast<uint2*>(out + at * stride + mine) =
          make_uint2(Half::pack(weights[0], weights[1]), Half::pack(weights[2], weights[3]));
    }
  }
}

// A thread an element.
__global__ void rescale_kernel(const float* fit, int64_t count, float* gradient) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k < count) gradient[k] *= fit[1];
}

}  // namespace xrisk::cuda
