// Kernels of the contrastive step of a small batch of 16-bit embeddings by the tensor cores: one
// launch for the sums, one for the finished gradients, without a matrix in memory.
//
//   sums:      per anchor, peak = max s, mass = sum e^z, moment = sum e^z z, z = (s - peak) / t
//   gradient:  g_i = sum_j (w_ij + w_ji) y_j + pull_i y_partner, back through the normalisation
//
// Mapping: a thread block has 16 anchors, the rows of one fragment; its warps share out the others,
// 16 at a time, which each loads for itself, and their results are added in one order. Bytes: all
// rows once per thread block, from L2: a launch of 2B / 16 blocks reads (2B)^2 D / 8 of them. So it
// is latency that counts: pieces of the next 16 rows are on their way while these are multiplied.
// Hazards: as cuda/tensor_core.h. A weight is the sum of two 16-bit numbers, off by at most 2^-17;
// of float16 a power of two makes the warp's largest fit. What is left out: cuda/similarity_sums.h.
#pragma once

#include <type_traits>

#include "cuda/chained_launch.h"
#include "cuda/pair_weights.h"
#include "cuda/similarity_sums.h"
#include "cuda/tensor_core.h"

namespace xrisk::cuda {

// Embeddings [2B, D] as pack_kernel leaves them, rows of whole pieces of 16 bytes.
struct SmallBatch {
  const uint16_t* rows;
  const float* scales;
  int batch, width;
  bool bimodal;  // others: the other view; else both views
};

constexpr int kSmallRows = 16;  // owners of a thread block, others of a warp at a time
constexpr int kSmallWarps = 8;
constexpr int kSmallThreads = 32 * kSmallWarps;

// kDepth: pieces of 16 numbers in a row. Rows start 16 bytes apart modulo 128.
template <int kDepth>
constexpr int kSmallStride = 16 * kDepth + 8;
template <int kDepth>
constexpr int kSmallTile = kSmallRows * kSmallStride<kDepth>;

// The side of a thread block: its own anchors and the others.
struct SmallSide {
  int owner, other;  // the first anchors of either side
  int first;         // owner of the block
  int count;         // of either

  __device__ explicit SmallSide(const SmallBatch& b) {
    const int side = static_cast<int>(blockIdx.y);
    owner = side * b.batch;
    other = b.bimodal ? (1 - side) * b.batch : 0;
    first = static_cast<int>(blockIdx.x) * kSmallRows;
    count = b.bimodal ? b.batch : 2 * b.batch;
  }
};

// 16 rows from memory, a lane's kDepth pieces: zeros beyond the last row and its end.
template <int kDepth>
__device__ __forceinline__ void read_rows(const SmallBatch& b, int anchor, int first, int count,
                                          uint4 (&pieces)[kDepth]) {
#pragma unroll
  for (int p = 0; p < kDepth; ++p) {
    const int k = 32 * p + lane_index(), row = k / (2 * kDepth), piece = k % (2 * kDepth) * 8;
    pieces[p] = make_uint4(0, 0, 0, 0);
    if (first + row < count && piece < b.width) {
      const int64_t at = static_cast<int64_t>(anchor + first + row) * b.width + piece;
      pieces[p] = *reinterpret_cast<const uint4*>(b.rows + at);
    }
  }
}
template <int kDepth>
__device__ __forceinline__ void stage_rows(const uint4 (&pieces)[kDepth], uint16_t* tile) {
#pragma unroll
  for (int p = 0; p < kDepth; ++p) {
    const int k = 32 * p + lane_index(), row = k / (2 * kDepth), piece = k % (2 * kDepth) * 8;
    *reinterpret_cast<uint4*>(tile + row * kSmallStride<kDepth> + piece) = pieces[p];
  }
}

// The warp's 16 owners, through its part of shared memory, and the pieces of its first others.
template <int kDepth>
__device__ __forceinline__ void load_owners(const SmallBatch& b, const SmallSide& side,
                                            uint16_t* tile, LeftFragment (&owners)[kDepth],
                                            uint4 (&pieces)[kDepth]) {
  uint4 own[kDepth];
  read_rows<kDepth>(b, side.owner, side.first, side.count, own);
  read_rows<kDepth>(b, side.other, kSmallRows * warp_index(), side.count, pieces);
  stage_rows<kDepth>(own, tile);
  __syncwarp();
  const int lane = lane_index();
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    load_matrices(tile + lane % 16 * kSmallStride<kDepth> + 16 * k + lane / 16 * 8,
                  owners[k].pairs);
  }
  __syncwarp();
}

// Similarities of the owners and the 16 rows of the tile, from other `first` on. Lane 4 g + t has
// owners g and g + 8, others 8 n + 2 t and one more; `scales`: of these others; `own`: their
// numbers in the batch.
template <int kDepth, class Half>
__device__ __forceinline__ void small_similarities(const SmallBatch& b, const SmallSide& side,
                                                   int first, const uint16_t* tile,
                                                   const LeftFragment (&owners)[kDepth],
                                                   const float (&own_scales)[2],
                                                   const int (&own)[2], const float (&scales)[4],
                                                   SumFragment (&found)[2]) {
  const int lane = lane_index();
  const uint16_t* row = tile + (lane / 16 * 8 + lane % 8) * kSmallStride<kDepth> + lane / 8 % 2 * 8;
  uint32_t pairs[kDepth][4];
#pragma unroll
  for (int k = 0; k < kDepth; ++k) load_matrices(row + 16 * k, pairs[k]);
  SumFragment parts[2][2] = {};  // four sums that need not wait for each other
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const RightFragment right{{pairs[k][2 * n], pairs[k][2 * n + 1]}};
      multiply_add<Half>(owners[k], right, parts[k % 2][n]);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int other = first + 8 * n + lane % 4 * 2 + i % 2;
      const bool same = (other < b.batch ? other : other - b.batch) == own[i / 2];
      const float product = parts[0][n].at[i] + parts[1][n].at[i];
      const float s = product * own_scales[i / 2] * scales[2 * n + i % 2];
      found[n].at[i] = same || other >= side.count ? kLeftOut : s;
    }
  }
}

// f(first other) for each 16 others of the warp, which are in `tile`; `pieces`: of the first.
template <int kDepth, class F>
__device__ __forceinline__ void for_each_small_tile(const SmallBatch& b, const SmallSide& side,
                                                    uint16_t* tile, uint4 (&pieces)[kDepth],
                                                    F&& f) {
  constexpr int kStep = kSmallRows * kSmallWarps;
  for (int first = kSmallRows * warp_index(); first < side.count; first += kStep) {
    __syncwarp();  // the tile before is read
    stage_rows<kDepth>(pieces, tile);
    __syncwarp();
    read_rows<kDepth>(b, side.other, first + kStep, side.count, pieces);
    f(first);
  }
}

// Of the lane's two owners: their scales (1 where there is none) and their numbers in the batch.
__device__ __forceinline__ void describe_owners(const SmallBatch& b, const SmallSide& side,
                                                int (&at)[2], int (&own)[2], float (&scales)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    at[h] = side.first + lane_index() / 4 + 8 * h;
    own[h] = at[h] < b.batch ? at[h] : at[h] - b.batch;
    scales[h] = at[h] < side.count ? b.scales[side.owner + at[h]] : 1.0f;
  }
}

template <int kDepth, class Half>
__global__ void __launch_bounds__(kSmallThreads)
    small_sums_kernel(SmallBatch b, const float* inverses, ExpSums<float> sums) {
  XRISK_SHARED(uint16_t, tiles, [kSmallWarps][kSmallTile<kDepth>]);
  XRISK_SHARED(float, highs, [kSmallWarps][kSmallRows]);
  XRISK_SHARED(float, masses, [kSmallWarps][kSmallRows]);
  XRISK_SHARED(float, moments, [kSmallWarps][kSmallRows]);
  follow_previous();
  const SmallSide side(b);
  const int lane = lane_index(), warp = warp_index();
  uint16_t* const tile = tiles[warp];
  LeftFragment owners[kDepth];
  uint4 pieces[kDepth];
  load_owners<kDepth>(b, side, tile, owners, pieces);
  int at[2], own[2];
  float own_scales[2], inverse[2], high[2] = {kLeftOut, kLeftOut};
  describe_owners(b, side, at, own, own_scales);
  RelativeSums total[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    inverse[h] = (at[h] < side.count ? inverses[side.owner + at[h]] : 1.0f) * kLog2E;
  }
  for_each_small_tile<kDepth>(b, side, tile, pieces, [&](int first) {
    float scales[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int other = first + c / 2 * 8 + lane % 4 * 2 + c % 2;
      scales[c] = other < side.count ? b.scales[side.other + other] : 1.0f;
    }
    SumFragment found[2];
    small_similarities<kDepth, Half>(b, side, first, tile, owners, own_scales, own, scales, found);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float most = high[h];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        most = fmaxf(most, fmaxf(found[n].at[2 * h], found[n].at[2 * h + 1]));
      }
      total[h] = total[h].seen_from(high[h] - most, inverse[h]);
      high[h] = most;
      const float reference = reference_of(most);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        total[h].add(found[n].at[2 * h], reference, inverse[h]);
        total[h].add(found[n].at[2 * h + 1], reference, inverse[h]);
      }
    }
  });
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = fmaxf(high[h], __shfl_xor_sync(kWholeWarp, high[h], 1));
    most = fmaxf(most, __shfl_xor_sync(kWholeWarp, most, 2));
    RelativeSums mine = total[h].seen_from(high[h] - most, inverse[h]);
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      mine.mass += __shfl_xor_sync(kWholeWarp, mine.mass, distance);
      mine.moment += __shfl_xor_sync(kWholeWarp, mine.moment, distance);
    }
    if (lane % 4 != 0) continue;
    highs[warp][lane / 4 + 8 * h] = most;
    masses[warp][lane / 4 + 8 * h] = mine.mass;
    moments[warp][lane / 4 + 8 * h] = mine.moment;
  }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x);
  if (row >= kSmallRows || side.first + row >= side.count) return;
  const int anchor = side.owner + side.first + row;
  float most = kLeftOut;
  for (int w = 0; w < kSmallWarps; ++w) most = fmaxf(most, highs[w][row]);
  const float per_gap = inverses[anchor];
  double mass = 0.0, moment = 0.0;
  for (int w = 0; w < kSmallWarps; ++w) {
    const RelativeSums seen = RelativeSums{masses[w][row], moments[w][row]}.seen_from(
        highs[w][row] - most, per_gap * kLog2E);
    mass += static_cast<double>(seen.mass);
    moment += static_cast<double>(seen.moment);
  }
  sums.peaks[anchor] = most == kLeftOut ? -INFINITY : most;
  sums.masses[anchor] = mass;
  sums.moments[anchor] = moment * static_cast<double>(per_gap);
}

template <int kDepth, class Half>
__global__ void __launch_bounds__(kSmallThreads)
    small_gradient_kernel(SmallBatch b, PairWeights<float> weights, const float* pulls,
                          const double* norms, bool normalize, float* gradient) {
  constexpr int kParts = kSmallWarps / 2, kWidth = 16 * kDepth, kFloats = kSmallStride<kDepth>;
  constexpr bool kNarrow = std::is_same_v<Half, Float16>;
  XRISK_SHARED(uint16_t, tiles, [kSmallWarps][kSmallTile<kDepth>]);
  XRISK_SHARED(float4, passing, [kSmallWarps][kSmallRows]);  // weights of the others
  XRISK_SHARED(float, passing_scales, [kSmallWarps][kSmallRows]);
  follow_previous();
  const SmallSide side(b);
  const int lane = lane_index(), warp = warp_index();
  uint16_t* const tile = tiles[warp];
  const float4 none = make_float4(0.0f, 0.0f, 1.0f, 0.0f);
  LeftFragment owners[kDepth];
  uint4 pieces[kDepth];
  load_owners<kDepth>(b, side, tile, owners, pieces);
  int at[2], own[2];
  float own_scales[2];
  float4 own_weights[2];
  describe_owners(b, side, at, own, own_scales);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    own_weights[h] = at[h] < side.count ? anchor_weights(weights, side.owner + at[h]) : none;
  }
  SumFragment sums[2 * kDepth] = {};
  for_each_small_tile<kDepth>(b, side, tile, pieces, [&](int first) {
    if (lane < kSmallRows) {
      const bool there = first + lane < side.count;
      const int other = side.other + first + lane;
      passing[warp][lane] = there ? anchor_weights(weights, other) : none;
      passing_scales[warp][lane] = there ? b.scales[other] : 1.0f;
    }
    __syncwarp();
    float scales[4];
    float4 across[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      scales[c] = passing_scales[warp][c / 2 * 8 + lane % 4 * 2 + c % 2];
      across[c] = passing[warp][c / 2 * 8 + lane % 4 * 2 + c % 2];
    }
    SumFragment found[2];
    small_similarities<kDepth, Half>(b, side, first, tile, owners, own_scales, own, scales, found);
    float largest = 0.0f;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float s = found[n].at[i];
        const int c = 2 * n + i % 2;
        const float both = pair_weight(s, own_weights[i / 2]) + pair_weight(s, across[c]);
        found[n].at[i] = both * scales[c];
        largest = fmaxf(largest, fabsf(found[n].at[i]));
      }
    }
    const float scale = kNarrow ? scale_below_half_range(warp_max(largest)) : 1.0f;
    LeftFragment high, low;
#pragma unroll
    for (int n = 0; n < 2; ++n) split_sums<Half>(found[n], scale, n, high, low);
    const uint16_t* row = tile + lane % 16 * kSmallStride<kDepth> + lane / 16 * 8;
    uint32_t pairs[kDepth][4];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) load_transposed(row + 16 * d, pairs[d]);
    const auto add = [&](const LeftFragment& left, int n, SumFragment& to) {
      const uint32_t* mine = pairs[n / 2] + n % 2 * 2;
      multiply_add<Half>(left, RightFragment{{mine[0], mine[1]}}, to);
    };
    if constexpr (kNarrow) {
      const float back = 1.0f / scale;
#pragma unroll
      for (int n = 0; n < 2 * kDepth; ++n) {
        SumFragment part = {};
        add(high, n, part);
        add(low, n, part);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n].at[i] += part.at[i] * back;
      }
    } else {  // neighbours need not wait for each other
#pragma unroll
      for (int n = 0; n < 2 * kDepth; ++n) add(high, n, sums[n]);
#pragma unroll
      for (int n = 0; n < 2 * kDepth; ++n) add(low, n, sums[n]);
    }
  });

  // half of the warps hand their sums to the other half, which leave theirs for all
  float* const parts = reinterpret_cast<float*>(&tiles[0][0]) + warp % kParts * 16 * kFloats;
  static_assert(kParts * 16 * kFloats * sizeof(float) <= sizeof(tiles));
  const auto each_sum = [&](auto f) {
#pragma unroll
    for (int n = 0; n < 2 * kDepth; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        f(parts[(lane / 4 + i / 2 * 8) * kFloats + 8 * n + lane % 4 * 2 + i % 2], sums[n].at[i]);
      }
    }
  };
  __syncthreads();
  if (warp >= kParts) each_sum([](float& part, float& sum) { part = sum; });
  __syncthreads();
  if (warp < kParts) each_sum([](float& part, float& sum) { sum += part; });
  __syncthreads();
  if (warp < kParts) each_sum([](float& part, float& sum) { part = sum; });
  __syncthreads();
  const float* const all = reinterpret_cast<const float*>(&tiles[0][0]);
  for (int row = warp; row < kSmallRows; row += kSmallWarps) {
    if (side.first + row >= side.count) break;  // the whole warp
    const int anchor = side.owner + side.first + row;
    const int partner = anchor < b.batch ? anchor + b.batch : anchor - b.batch;
    const float pull = pulls[anchor], scale = b.scales[anchor], other_scale = b.scales[partner];
    float g[kWidth / 32] = {}, mine[kWidth / 32] = {}, along = 0.0f;
#pragma unroll
    for (int m = 0; m < kWidth / 32; ++m) {
      const int k = lane + 32 * m;
      if (k >= b.width) continue;
#pragma unroll
      for (int p = 0; p < kParts; ++p) g[m] += all[(16 * p + row) * kFloats + k];
      const auto embedding = [&](int of, float times) {
        return Half::low(b.rows[static_cast<int64_t>(of) * b.width + k]) * times;
      };
      mine[m] = embedding(anchor, scale);
      g[m] += pull * embedding(partner, other_scale);
      along += g[m] * mine[m];
    }
    along = warp_sum(along);
    const float inverse = norms[anchor] == 0.0 ? 0.0f : static_cast<float>(1.0 / norms[anchor]);
#pragma unroll
    for (int m = 0; m < kWidth / 32; ++m) {
      const int k = lane + 32 * m;
      if (k >= b.width) continue;
      gradient[static_cast<int64_t>(anchor) * b.width + k] =
          normalize ? (g[m] - along * mine[m]) * inverse : g[m];
    }
  }
}

}  // namespace xrisk::cuda
