// Kernels on a block of products <x_i, y_j> of 16-bit rows, between the products around them.
//
//   sums:     per row and per column of a tile, peak = max s, mass = sum e^z, moment = sum e^z z
//   merge:    of the tiles of a group, into what earlier groups left
//   weights:  V = the weights of the pair, times both scales, in 16 bits
//
// Mapping: a thread block has a tile of 64 rows by 128 columns, a warp 8 of its rows, a lane 4
// columns of each, in registers: the block of products is read once for the sums of both sides, and
// once for the weights, from L2. Every part has one thread block, and parts are added in one order.
// Bytes: 4 a pair for sums, 4 and 2 for weights; two exponentials a pair each. Exponents z are
// taken to base 2. Hazards: as cuda/similarity_kernels.h; what lies outside of the block or is
// excluded becomes -inf.
#pragma once

#include "cuda/half_similarity.h"
#include "cuda/pair_weights.h"
#include "cuda/similarity_kernels.h"
#include "cuda/tensor_core.h"

namespace xrisk::cuda {

constexpr int kWarpRows = 8;
constexpr int kLaneColumns = 4;
constexpr int kPairRows = 64;  // of a tile
constexpr int kPairColumns = 128;
constexpr int kPairWarps = kPairRows / kWarpRows;
constexpr int kPairThreads = 32 * kPairWarps;
constexpr int kPairBlocks = 4;  // a processor: the 512 tiles of a block at once on 132

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

// The lane's similarities: of its warp's rows, which start with `row`, kRows from the `first` on;
// of the columns from its own on.
template <int kRows>
__device__ __forceinline__ void load_similarities(const ProductBlock& b, int64_t row, int first,
                                                  int64_t column, bool marked,
                                                  uint32_t (*left_out)[kPairColumns / 32],
                                                  float (&s)[kRows][kLaneColumns]) {
  const int lane = lane_index();
  const int64_t mine = column + kLaneColumns * lane;
  float scales[kLaneColumns];
#pragma unroll
  for (int k = 0; k < kLaneColumns; ++k) {
    scales[k] =
        b.y_scales != nullptr && mine + k < b.columns ? b.y_scales[b.column + mine + k] : 1.0f;
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t at = row + first + r;
    const bool there = at < b.rows && mine < b.columns;
    float4 found = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    // the stride leaves room for the last four
    if (there) found = *reinterpret_cast<const float4*>(b.products + at * b.stride + mine);
    const float scale = b.x_scales != nullptr && there ? b.x_scales[b.row + at] : 1.0f;
    const float products[kLaneColumns] = {found.x, found.y, found.z, found.w};
    uint32_t bits = 0;
    if (marked) {
      bits = left_out[kWarpRows * warp_index() + first + r][lane / 8] >> lane % 8 * kLaneColumns;
    }
#pragma unroll
    for (int k = 0; k < kLaneColumns; ++k) {
      const bool counts = there && mine + k < b.columns && (bits >> k & 1) == 0;
      s[r][k] = counts ? products[k] * scale * scales[k] : -INFINITY;
    }
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

// Sums of the tiles of a group of blocks: [anchors of the group, tiles across it].
struct TileSums {
  float* peaks;  // null: not wanted
  float* masses;
  float* moments;
  int64_t tiles;
};
static_assert(HalfSimilarities::kStep % kPairColumns == 0 &&
              HalfSimilarities::kStep % kPairRows == 0);

__device__ __forceinline__ void store_part(const TileSums& parts, int64_t anchor, int64_t tile,
                                           float peak, float mass, float moment) {
  const int64_t to = anchor * parts.tiles + tile;
  parts.peaks[to] = peak;
  parts.masses[to] = mass;
  parts.moments[to] = moment;
}

// `row`, `column`: of the block in its group.
__global__ void __launch_bounds__(kPairThreads, kPairBlocks)
    tile_sums_kernel(ProductBlock b, int64_t group_row, int64_t group_column,
                     const float* row_inverses, TileSums rows, const float* column_inverses,
                     TileSums columns) {
  XRISK_SHARED(uint32_t, left_out, [kPairRows][kPairColumns / 32]);
  XRISK_SHARED(float, highs, [kPairWarps][kPairColumns]);
  XRISK_SHARED(float, masses, [kPairWarps][kPairColumns]);
  XRISK_SHARED(float, moments, [kPairWarps][kPairColumns]);
  const int lane = lane_index(), warp = warp_index();
  const int64_t tile_column = static_cast<int64_t>(blockIdx.x) * kPairColumns;
  const int64_t tile_row = static_cast<int64_t>(blockIdx.y) * kPairRows;
  const int64_t row = tile_row + kWarpRows * warp;
  float s[kWarpRows][kLaneColumns];
  const bool marked = mark_excluded(b, row, tile_column, left_out);
  load_similarities(b, row, 0, tile_column, marked, left_out, s);

  float high[kWarpRows], mass[kWarpRows], moment[kWarpRows];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    high[r] = fmaxf(fmaxf(s[r][0], s[r][1]), fmaxf(s[r][2], s[r][3]));
  }
  const float peak = reduce_rows(high, Max());
  const bool mine = row + lane / 4 < b.rows;
  const float inverse_of_row = mine ? row_inverses[b.row + row + lane / 4] * kLog2E : 1.0f;
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float shift = finite_peak(__shfl_sync(kWholeWarp, peak, 4 * r));
    const float inverse = __shfl_sync(kWholeWarp, inverse_of_row, 4 * r);
    mass[r] = moment[r] = 0.0f;
#pragma unroll
    for (int k = 0; k < kLaneColumns; ++k) {
      const float z = exponent(s[r][k], shift, inverse), e = exp2_flushed(z);
      mass[r] += e;
      moment[r] += e * z;
    }
  }
  const float row_mass = reduce_rows(mass, Sum()), row_moment = reduce_rows(moment, Sum());
  if (mine && lane % 4 == 0) {
    store_part(rows, group_row + row + lane / 4, group_column / kPairColumns + blockIdx.x, peak,
               row_mass, row_moment * kLn2);
  }
  if (columns.peaks == nullptr) return;

#pragma unroll
  for (int k = 0; k < kLaneColumns; ++k) {
    float most = s[0][k];
#pragma unroll
    for (int r = 1; r < kWarpRows; ++r) most = fmaxf(most, s[r][k]);
    highs[warp][kLaneColumns * lane + k] = most;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kLaneColumns; ++k) {
    const int at = kLaneColumns * lane + k;
    float most = highs[0][at];
#pragma unroll
    for (int w = 1; w < kPairWarps; ++w) most = fmaxf(most, highs[w][at]);
    const bool inside = tile_column + at < b.columns;
    const float inverse = inside ? column_inverses[b.column + tile_column + at] * kLog2E : 1.0f;
    const float shift = finite_peak(most);
    float total = 0.0f, total_moment = 0.0f;
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float z = exponent(s[r][k], shift, inverse), e = exp2_flushed(z);
      total += e;
      total_moment += e * z;
    }
    masses[warp][at] = total;
    moments[warp][at] = total_moment;
  }
  __syncthreads();
  const int at = static_cast<int>(threadIdx.x);
  if (at >= kPairColumns || tile_column + at >= b.columns) return;
  float most = -INFINITY, total = 0.0f, total_moment = 0.0f;
  for (int w = 0; w < kPairWarps; ++w) {
    most = fmaxf(most, highs[w][at]);
    total += masses[w][at];
    total_moment += moments[w][at];
  }
  store_part(columns, group_column + tile_column + at, group_row / kPairRows + blockIdx.y, most,
             total, total_moment * kLn2);
}

// A warp an anchor: first those of the rows, then those of the columns. `fresh`: the first group of
// such an anchor.
__global__ void merge_tiles_kernel(TileSums rows, int64_t row, int64_t row_count,
                                   const float* row_inverses, ExpSums<float> row_sums,
                                   bool fresh_rows, TileSums columns, int64_t column,
                                   int64_t column_count, const float* column_inverses,
                                   ExpSums<float> column_sums, bool fresh_columns) {
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const bool of_rows = k < row_count;
  const int64_t at = of_rows ? k : k - row_count;
  if (!of_rows && at >= column_count) return;
  const TileSums& parts = of_rows ? rows : columns;
  const int64_t anchor = (of_rows ? row : column) + at;
  const float inverse = (of_rows ? row_inverses : column_inverses)[anchor];
  const int64_t first = at * parts.tiles;
  float high = -INFINITY;
  for (int64_t t = lane_index(); t < parts.tiles; t += 32) {
    high = fmaxf(high, parts.peaks[first + t]);
  }
  high = warp_max(high);
  double mass = 0.0, moment = 0.0;
  for (int64_t t = lane_index(); t < parts.tiles; t += 32) {
    const float part = parts.masses[first + t];
    if (part == 0.0f) continue;
    const float z = exponent(parts.peaks[first + t], high, inverse), factor = __expf(z);
    mass += static_cast<double>(factor * part);
    moment += static_cast<double>(factor * (parts.moments[first + t] + part * z));
  }
  mass = warp_sum(mass);
  moment = warp_sum(moment);
  if (lane_index() != 0) return;
  const ExpSums<float>& sums = of_rows ? row_sums : column_sums;
  if (of_rows ? fresh_rows : fresh_columns) {
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

// out: weights of the block's group from the block on; rows of `stride`, a multiple of 8.
template <class Half>
__global__ void __launch_bounds__(kPairThreads, kPairBlocks)
    half_weights_kernel(ProductBlock b, PairWeights<float> rows, PairWeights<float> columns,
                        const float* fit, uint16_t* out, int64_t stride) {
  XRISK_SHARED(uint32_t, left_out, [kPairRows][kPairColumns / 32]);
  XRISK_SHARED(float4, of_rows, [kPairRows]);
  XRISK_SHARED(float4, of_columns, [kPairColumns]);
  const int lane = lane_index(), warp = warp_index();
  const int64_t tile_column = static_cast<int64_t>(blockIdx.x) * kPairColumns;
  const int64_t tile_row = static_cast<int64_t>(blockIdx.y) * kPairRows;
  const int64_t row = tile_row + kWarpRows * warp;
  const bool both = columns.weights != nullptr;
  const float4 none = make_float4(0.0f, 0.0f, 1.0f, 0.0f);
  const int k = static_cast<int>(threadIdx.x);
  if (k < kPairRows) {
    of_rows[k] = tile_row + k < b.rows ? anchor_weights(rows, b.row + tile_row + k) : none;
  } else if (k - kPairRows < kPairColumns) {
    const int64_t at = tile_column + k - kPairRows;
    of_columns[k - kPairRows] =
        both && at < b.columns ? anchor_weights(columns, b.column + at) : none;
  }
  __syncthreads();
  const bool marked = mark_excluded(b, row, tile_column, left_out);
  const int64_t mine = tile_column + kLaneColumns * lane;
  if (mine >= b.columns) return;
  float4 across[kLaneColumns];
  float scales[kLaneColumns];
  const float scale = fit == nullptr ? 1.0f : fit[0];
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) {
    across[c] = of_columns[kLaneColumns * lane + c];
    const bool scaled = b.y_scales != nullptr && mine + c < b.columns;
    scales[c] = scaled ? scale * b.y_scales[b.column + mine + c] : scale;
  }
  constexpr int kRows = kWarpRows / 2;  // at a time, for want of registers
#pragma unroll
  for (int first = 0; first < kWarpRows; first += kRows) {
    float s[kRows][kLaneColumns];
    load_similarities(b, row, first, tile_column, marked, left_out, s);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = row + first + r;
      if (at >= b.rows) break;
      const float4 own = of_rows[kWarpRows * warp + first + r];
      const float row_scale = b.x_scales == nullptr ? 1.0f : b.x_scales[b.row + at];
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
