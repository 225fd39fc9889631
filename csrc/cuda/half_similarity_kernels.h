// Kernels on a block of products <x_i, y_j> of 16-bit rows, between the products around them.
//
//   sums:     per row and per column of a tile, peak = max s, mass = sum e^z, moment = sum e^z z
//   merge:    of the tiles of a block, into what earlier blocks left
//   weights:  V = the weights of the pair, times both scales, in 16 bits
//
// Mapping: a thread block has a strip of tiles of 64 rows by 128 columns, one below the other, a
// warp 8 rows of each, a lane 4 columns of these: the block of products is read once for the sums
// of both sides, and once for the weights. While a tile is worked on, each thread's numbers of the
// next are copied into its own places of shared memory. Every part has one thread block, and parts
// are added in one order. Bytes: 4 a pair for sums, 4 and 2 for weights: 16 and 24 us at 4096 x
// 4096. Instructions: two exponentials a pair each, which the special function units need 9 us for,
// and about 20 others. The sums begin with the tiles that the product wrote last, the weights with
// those that the sums read last: these are in L2. Exponents are taken to base 2. Hazards: as
// cuda/similarity_kernels.h; what lies outside of the block or is excluded becomes kLeftOut.
#pragma once

#include "cuda/chained_launch.h"
#include "cuda/half_tiles.h"
#include "cuda/pair_weights.h"
#include "cuda/tensor_core.h"

namespace xrisk::cuda {

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

__device__ __forceinline__ float float_of(const float4& four, int k) {
  return reinterpret_cast<const float*>(&four)[k];
}

__global__ void __launch_bounds__(kPairThreads, kPairBlocks)
    tile_sums_kernel(ProductBlock b, const float* row_inverses, TileSums rows,
                     const float* column_inverses, TileSums columns) {
  follow_previous();
  XRISK_SHARED(ExcludedBits, left_outs, [1]);
  XRISK_SHARED(ComingProducts, comings, [1]);
  XRISK_SHARED(float4, highs, [kPairThreads]);  // of the lane's columns and the warp's rows
  XRISK_SHARED(float4, masses, [kPairThreads]);
  XRISK_SHARED(float4, moments, [kPairThreads]);
  ExcludedBits& left_out = left_outs[0];
  ComingProducts& coming = comings[0];
  const int lane = lane_index(), warp = warp_index();
  // within the block, and so within 32 bits
  const int tile_column = static_cast<int>(blockIdx.x) * kPairColumns;
  const int strip = static_cast<int>(gridDim.y - 1 - blockIdx.y);
  const int strip_row = strip * b.tiles * kPairRows;
  const bool both = columns.peaks != nullptr;
  float row_scale = 1.0f, row_inverse = 1.0f;  // lane l: of the warp's row l / 4
  const auto begin_tile = [&](int tile_row) {
    const int row = tile_row + kWarpRows * warp, mine = row + lane / 4;
    begin_products(b, row, tile_column, whole_tile(b, tile_row, tile_column), coming);
    const bool there = mine < b.rows;
    row_scale = there && b.x_scales != nullptr ? b.x_scales[b.row + mine] : 1.0f;
    row_inverse = there ? row_inverses[b.row + mine] * kLog2E : 1.0f;
  };
  begin_tile(strip_row);
  if (b.exclusions > 0) {
    mark_excluded(b, strip_row, tile_column, left_out);
    __syncthreads();
  }

#pragma unroll 1
  for (int tile = 0; tile < b.tiles; ++tile) {
    const int tile_row = strip_row + tile * kPairRows, row = tile_row + kWarpRows * warp;
    if (tile_row >= b.rows) break;
    const int member = tile * kPairRows + kWarpRows * warp;
    const bool whole = whole_tile(b, tile_row, tile_column);
    const bool marked = b.exclusions > 0 && leaves_out(left_out, member);
    const float inverse_of_row = row_inverse;
    float scales[kLaneColumns];
    load_column_scales(b, tile_column, scales);
    end_copies();
    float s[kWarpRows][kLaneColumns];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float4 found = coming[r][threadIdx.x];
      const float scale = __shfl_sync(kWholeWarp, row_scale, 4 * r);
      s[r][0] = found.x * scale * scales[0];
      s[r][1] = found.y * scale * scales[1];
      s[r][2] = found.z * scale * scales[2];
      s[r][3] = found.w * scale * scales[3];
    }
    if (tile + 1 < b.tiles && tile_row + kPairRows < b.rows) begin_tile(tile_row + kPairRows);
    if (!whole || marked) leave_out(b, row, member, tile_column, marked, left_out, s);

    float high[kWarpRows], mass[kWarpRows], moment[kWarpRows];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      high[r] = fmaxf(fmaxf(s[r][0], s[r][1]), fmaxf(s[r][2], s[r][3]));
    }
    const float peak = reduce_rows(high, Max()), reference_of_row = reference_of(peak);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float reference = __shfl_sync(kWholeWarp, reference_of_row, 4 * r);
      const float inverse = __shfl_sync(kWholeWarp, inverse_of_row, 4 * r);
      RelativeSums sums;
#pragma unroll
      for (int k = 0; k < kLaneColumns; ++k) sums.add(s[r][k], reference, inverse);
      mass[r] = sums.mass;
      moment[r] = sums.moment;
    }
    const float row_mass = reduce_rows(mass, Sum()), row_moment = reduce_rows(moment, Sum());
    if (row + lane / 4 < b.rows && lane % 4 == 0) {
      store_part(rows, row + lane / 4, blockIdx.x, peak, row_mass, row_moment);
    }
    if (!both) continue;
    float most[kLaneColumns];
    RelativeSums total[kLaneColumns];
#pragma unroll
    for (int k = 0; k < kLaneColumns; ++k) {
      const int at = tile_column + kLaneColumns * lane + k;
      const float inverse = at < b.columns ? column_inverses[b.column + at] * kLog2E : 1.0f;
      const float before = tile == 0 ? kLeftOut : float_of(highs[threadIdx.x], k);
      most[k] = before;
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) most[k] = fmaxf(most[k], s[r][k]);
      if (tile > 0) {
        total[k] =
            RelativeSums{float_of(masses[threadIdx.x], k), float_of(moments[threadIdx.x], k)};
        total[k] = total[k].seen_from(before - most[k], inverse);
      }
      const float reference = reference_of(most[k]);
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) total[k].add(s[r][k], reference, inverse);
    }
    highs[threadIdx.x] = make_float4(most[0], most[1], most[2], most[3]);
    masses[threadIdx.x] = make_float4(total[0].mass, total[1].mass, total[2].mass, total[3].mass);
    moments[threadIdx.x] =
        make_float4(total[0].moment, total[1].moment, total[2].moment, total[3].moment);
  }
  if (!both) return;
  __syncthreads();
  const int at = static_cast<int>(threadIdx.x);
  if (at >= kPairColumns || tile_column + at >= b.columns) return;
  const float inverse = column_inverses[b.column + tile_column + at] * kLog2E;
  const auto part = [&](const auto& of, int w) {
    return float_of(of[32 * w + at / kLaneColumns], at % kLaneColumns);
  };
  float highest = kLeftOut;
  RelativeSums all;
#pragma unroll
  for (int w = 0; w < kPairWarps; ++w) highest = fmaxf(highest, part(highs, w));
#pragma unroll
  for (int w = 0; w < kPairWarps; ++w) {
    const RelativeSums seen = RelativeSums{part(masses, w), part(moments, w)}.seen_from(
        part(highs, w) - highest, inverse);
    all.mass += seen.mass;
    all.moment += seen.moment;
  }
  store_part(columns, tile_column + at, strip, highest, all.mass, all.moment);
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
constexpr int kMergeParts = 8;   // of a thread at once

// A thread block 32 anchors: first those of the rows, then those of the columns.
__global__ void __launch_bounds__(32 * kMergeGroups)
    merge_tiles_kernel(MergedSide rows, MergedSide columns) {
  follow_previous();
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
  double mass = 0.0, moment = 0.0;
  for (int64_t first = group; first < tiles; first += kMergeGroups * kMergeParts) {
    float peaks[kMergeParts], part_masses[kMergeParts], part_moments[kMergeParts];
#pragma unroll
    for (int k = 0; k < kMergeParts; ++k) {  // all on their way at once
      const int64_t t = first + k * kMergeGroups, from = t * parts.anchors + at;
      const bool counts = there && t < tiles;
      peaks[k] = counts ? parts.peaks[from] : kLeftOut;
      part_masses[k] = counts ? parts.masses[from] : 0.0f;
      part_moments[k] = counts ? parts.moments[from] : 0.0f;
    }
    float most = high;
#pragma unroll
    for (int k = 0; k < kMergeParts; ++k) most = fmaxf(most, peaks[k]);
    RelativeSums total;
#pragma unroll
    for (int k = 0; k < kMergeParts; ++k) {
      const RelativeSums seen = RelativeSums{part_masses[k], part_moments[k]}.seen_from(
          peaks[k] - most, inverse * kLog2E);
      total.mass += seen.mass;
      total.moment += seen.moment;
    }
    const float gap = high - most;
    const double factor = static_cast<double>(exp2_flushed(gap * (inverse * kLog2E)));
    moment =
        static_cast<double>(total.moment) + factor * (moment + mass * static_cast<double>(gap));
    mass = static_cast<double>(total.mass) + factor * mass;
    high = most;
  }
  highs[group][lane] = high;
  masses[group][lane] = mass;
  moments[group][lane] = moment;
  __syncthreads();
  if (group != 0 || !there) return;
#pragma unroll
  for (int g = 1; g < kMergeGroups; ++g) high = fmaxf(high, highs[g][lane]);
  mass = moment = 0.0;
#pragma unroll
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
__global__ void __launch_bounds__(kPairThreads, kPairBlocks)
    half_weights_kernel(ProductBlock b, PairWeights<float> rows, PairWeights<float> columns,
                        const float* fit, uint16_t* out, int64_t stride) {
  follow_previous();
  XRISK_SHARED(ExcludedBits, left_outs, [1]);
  XRISK_SHARED(ComingProducts, comings, [1]);
  XRISK_SHARED(float4, of_rows, [kStripRows]);
  XRISK_SHARED(float, row_scales, [kStripRows]);
  XRISK_SHARED(float4, of_columns, [kPairColumns]);
  constexpr int kRows = kWarpRows / 2;  // at a time, for want of registers
  ExcludedBits& left_out = left_outs[0];
  ComingProducts& coming = comings[0];
  const int lane = lane_index(), warp = warp_index();
  const int64_t tile_column = static_cast<int64_t>(blockIdx.x) * kPairColumns;
  const int64_t strip_row = static_cast<int64_t>(blockIdx.y) * b.tiles * kPairRows;
  const bool both = columns.weights != nullptr;
  const auto begin_tile = [&](int64_t tile_row) {
    begin_products(b, tile_row + kWarpRows * warp, tile_column,
                   whole_tile(b, tile_row, tile_column), coming);
  };
  begin_tile(strip_row);
  const float scale = fit == nullptr ? 1.0f : fit[0];
  const float4 none = make_float4(0.0f, 0.0f, 1.0f, 0.0f);
  const int member = static_cast<int>(threadIdx.x);
  const bool row_there = member < b.tiles * kPairRows && strip_row + member < b.rows;
  const int64_t of_row = b.row + strip_row + member;
  of_rows[member] = row_there ? anchor_weights(rows, of_row) : none;
  of_rows[member].x *= scale;
  row_scales[member] = row_there && b.x_scales != nullptr ? b.x_scales[of_row] : 1.0f;
  if (member < kPairColumns) {
    const int64_t at = tile_column + member;
    of_columns[member] = both && at < b.columns ? anchor_weights(columns, b.column + at) : none;
    of_columns[member].x *= scale;
  }
  if (b.exclusions > 0) mark_excluded(b, strip_row, tile_column, left_out);
  float scales[kLaneColumns];
  load_column_scales(b, tile_column, scales);
  __syncthreads();
  const int64_t mine = tile_column + kLaneColumns * lane;
  float4 across[kLaneColumns];
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) across[c] = of_columns[kLaneColumns * lane + c];

#pragma unroll 1
  for (int tile = 0; tile < b.tiles; ++tile) {
    const int64_t tile_row = strip_row + tile * kPairRows, row = tile_row + kWarpRows * warp;
    if (tile_row >= b.rows) break;
    const int first = tile * kPairRows + kWarpRows * warp;  // the warp's first row of the strip
    const bool whole = whole_tile(b, tile_row, tile_column);
    const bool marked = b.exclusions > 0 && leaves_out(left_out, first);
    end_copies();
    float4 found[kRows];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      if (r % kRows == 0) {
#pragma unroll
        for (int k = 0; k < kRows; ++k) found[k] = coming[r + k][threadIdx.x];
      }
      if (r == kWarpRows - kRows && tile + 1 < b.tiles && tile_row + kPairRows < b.rows) {
        begin_tile(tile_row + kPairRows);
      }
      const float row_scale = row_scales[first + r];
      const float products[kLaneColumns] = {found[r % kRows].x, found[r % kRows].y,
                                            found[r % kRows].z, found[r % kRows].w};
      float s[1][kLaneColumns], both_scales[kLaneColumns], weights[kLaneColumns];
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c) {
        both_scales[c] = row_scale * scales[c];
        s[0][c] = products[c] * both_scales[c];
      }
      if (!whole || marked) leave_out(b, row + r, first + r, tile_column, marked, left_out, s);
      const float4 own = of_rows[first + r];
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c) {
        weights[c] = pair_weight(s[0][c], own);
        if (both) weights[c] += pair_weight(s[0][c], across[c]);
        weights[c] *= both_scales[c];
      }
      if (!whole && !(row + r < b.rows && mine < b.columns)) continue;
      *reinterpret_cast<uint2*>(out + (row + r) * stride + mine) =
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
