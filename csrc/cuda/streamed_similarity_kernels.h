// Kernels that stream similarities s = <a_i, b_j> of 16-bit rows through the tensor cores.
//
//   sums:      per owner i,  peak = max s, mass = sum e^z, moment = sum e^z z, z = (s - peak) / t
//   gradient:  out_i = sum_j w_ij b_j,  w_ij the weights of the pair by either side or both
//
// Mapping: a thread block has kTile owners, 16 a warp, whose rows stay in registers; tiles of kTile
// others pass through shared memory, and part blockIdx.y of them is the block's own. The gradient
// by the keys is the same kernel with the keys as owners, so that every sum has one owner and one
// order. Rows may have scales, which similarities and weights are multiplied by. Bytes: the others
// once per block of owners, from L2; nothing of size N M. Flops: 2 N M D for the sums, 6 N M D for
// each gradient (the similarities again, weights in two parts).
//
// Hazards: as cuda/tensor_core.h. A weight rounded to 16 bits would be off by up to 2^-9
// (bfloat16), so that it is the sum of two: 2^-17. float16 has few exponents: weights are scaled by
// a power of two that makes the warp's largest fit. Exponents are taken as in
// cuda/similarity_kernels.h.
#pragma once

#include "cuda/pair_weights.h"
#include "cuda/similarity_kernels.h"
#include "cuda/streamed_similarity.h"
#include "cuda/tensor_core.h"

namespace xrisk::cuda {

constexpr int kTile = 64;  // owners of a thread block, others of a tile
constexpr int kStreamThreads = 2 * kTile;
constexpr int kColumns = kTile / 8;  // fragments of similarities side by side

// Rows that own sums, and others that pass by.
struct Stream {
  const uint16_t* owners;
  const uint16_t* others;
  const float* owner_scales;  // null: 1
  const float* other_scales;
  int64_t owner_count, other_count, width;
  const int64_t* exclude;
  int64_t exclusions;
  bool owners_exclude;     // else the others do
  bool vectors;            // rows are whole and aligned pieces of 16 bytes
  int64_t tiles_of_split;  // tiles of others that one thread block takes
};

// kDepth: pieces of 16 numbers in a row. Rows of a tile start 16 bytes apart modulo 128, so that
// eight of them lie in different banks.
template <int kDepth>
constexpr int kTileStride = 16 * kDepth + 8;

// Rows [start, start + kTile) with zeros around.
template <int kDepth>
__device__ __forceinline__ void load_tile(const Stream& s, const uint16_t* rows, int64_t start,
                                          int64_t count, uint16_t* tile) {
  constexpr int kPieces = 2 * kDepth;
  for (int k = static_cast<int>(threadIdx.x); k < kTile * kPieces; k += kStreamThreads) {
    const int row = k / kPieces, piece = k % kPieces * 8;
    uint4 values = make_uint4(0, 0, 0, 0);
    if (start + row < count && piece < s.width) {
      const uint16_t* from = rows + (start + row) * s.width + piece;
      if (s.vectors) {
        values = *reinterpret_cast<const uint4*>(from);
      } else {
        uint32_t pairs[4] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (piece + i < s.width) pairs[i / 2] |= static_cast<uint32_t>(from[i]) << 16 * (i % 2);
        }
        values = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
    *reinterpret_cast<uint4*>(tile + row * kTileStride<kDepth> + piece) = values;
  }
}

// Which pairs of the tile do not count: bit k of word m is the pair of member m of the side that
// excludes and member k of the other side. True if there is one. A barrier for the tile too.
__device__ __forceinline__ bool mark_left_out(const Stream& s, int64_t owner, int64_t other,
                                              unsigned long long* left_out) {
  const int member = static_cast<int>(threadIdx.x);
  unsigned long long word = 0;
  if (member < kTile) {
    const int64_t first = s.owners_exclude ? owner : other;
    const int64_t count = s.owners_exclude ? s.owner_count : s.other_count;
    const int64_t across = s.owners_exclude ? other : owner;
    const int64_t rest = (s.owners_exclude ? s.other_count : s.owner_count) - across;
    if (first + member >= count) {
      word = ~0ull;
    } else {
      if (rest < kTile) word = ~0ull << rest;
      for (int64_t e = 0; e < s.exclusions; ++e) {
        const int64_t k = s.exclude[(first + member) * s.exclusions + e] - across;
        if (k >= 0 && k < kTile) word |= 1ull << k;
      }
    }
    left_out[member] = word;
  }
  return __syncthreads_or(word != 0) != 0;
}

__device__ __forceinline__ float scale_of(const float* scales, int64_t at, int64_t count) {
  return scales != nullptr && at < count ? scales[at] : 1.0f;
}

// Of the tile's others, before a barrier.
__device__ __forceinline__ void load_scales(const Stream& s, int64_t other, float* scales) {
  const int64_t at = other + threadIdx.x;
  if (threadIdx.x < kTile) scales[threadIdx.x] = scale_of(s.other_scales, at, s.other_count);
}

// Similarities of a warp's 16 owners and the tile's others; -inf where the pair does not count.
// Lane 4 g + t has owners g and g + 8 of the warp, others 8 n + 2 t and one more.
template <int kDepth, class Half>
__device__ __forceinline__ void multiply_tile(const Stream& s, const LeftFragment (&owners)[kDepth],
                                              const float (&owner_scales)[2], const uint16_t* tile,
                                              const float* scales, bool marked,
                                              const unsigned long long* left_out,
                                              SumFragment (&found)[kColumns]) {
  const int lane = lane_index();
  const uint16_t* row = tile + (lane / 16 * 8 + lane % 8) * kTileStride<kDepth> + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < kColumns; n += 2) {
    found[n] = found[n + 1] = SumFragment{};
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      if (16 * k >= s.width) break;
      uint32_t pairs[4];
      load_matrices(row + 8 * n * kTileStride<kDepth> + 16 * k, pairs);
      multiply_add<Half>(owners[k], RightFragment{{pairs[0], pairs[1]}}, found[n]);
      multiply_add<Half>(owners[k], RightFragment{{pairs[2], pairs[3]}}, found[n + 1]);
    }
  }
  if (s.other_scales != nullptr) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        found[n].at[i] *= owner_scales[i / 2] * scales[8 * n + lane % 4 * 2 + i % 2];
      }
    }
  }
  if (!marked) return;
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int owner = 16 * warp_index() + lane / 4 + (i < 2 ? 0 : 8);
      const int other = 8 * n + lane % 4 * 2 + i % 2;
      const int member = s.owners_exclude ? owner : other, bit = s.owners_exclude ? other : owner;
      if (left_out[member] >> bit & 1) found[n].at[i] = -INFINITY;
    }
  }
}

template <int kDepth>
__device__ __forceinline__ void load_owners(const Stream& s, int64_t owner, uint16_t* tile,
                                            LeftFragment (&owners)[kDepth]) {
  load_tile<kDepth>(s, s.owners, owner, s.owner_count, tile);
  __syncthreads();
  const int lane = lane_index();
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    load_matrices(
        tile + (16 * warp_index() + lane % 16) * kTileStride<kDepth> + 16 * k + lane / 16 * 8,
        owners[k].pairs);
  }
}

// Sums of each owner over its part of the others: [parts, owners].
template <int kDepth, class Half>
__global__ void __launch_bounds__(kStreamThreads)
    streamed_sums_kernel(Stream s, const float* inverses, ExpSums<float> parts) {
  XRISK_SHARED(uint16_t, tile, [kTile * kTileStride<kDepth>]);
  XRISK_SHARED(unsigned long long, left_out, [kTile]);
  XRISK_SHARED(float, scales, [kTile]);
  const int64_t owner = static_cast<int64_t>(blockIdx.x) * kTile;
  LeftFragment owners[kDepth];
  load_owners<kDepth>(s, owner, tile, owners);
  int64_t mine[2];
  float own_scales[2], inverse[2], peak[2] = {-INFINITY, -INFINITY};
  double mass[2] = {}, moment[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    mine[h] = owner + 16 * warp_index() + lane_index() / 4 + 8 * h;
    inverse[h] = mine[h] < s.owner_count ? inverses[mine[h]] : 1.0f;
    own_scales[h] = scale_of(s.owner_scales, mine[h], s.owner_count);
  }
  const int64_t first = blockIdx.y * s.tiles_of_split * kTile;
  for (int64_t t = 0; t < s.tiles_of_split && first + t * kTile < s.other_count; ++t) {
    const int64_t other = first + t * kTile;
    __syncthreads();
    load_tile<kDepth>(s, s.others, other, s.other_count, tile);
    load_scales(s, other, scales);
    const bool marked = mark_left_out(s, owner, other, left_out);
    SumFragment found[kColumns];
    multiply_tile<kDepth, Half>(s, owners, own_scales, tile, scales, marked, left_out, found);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float high = -INFINITY;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        high = fmaxf(high, fmaxf(found[n].at[2 * h], found[n].at[2 * h + 1]));
      }
      high = fmaxf(high, __shfl_xor_sync(kWholeWarp, high, 1));
      high = fmaxf(high, __shfl_xor_sync(kWholeWarp, high, 2));
      if (high > peak[h]) {  // what came before is relative to the old peak
        const float z = exponent(peak[h], high, inverse[h]), factor = expf(z);
        moment[h] = factor * (moment[h] + mass[h] * z);
        mass[h] *= factor;
        peak[h] = high;
      }
      const float shift = finite_peak(peak[h]);
      float tile_mass = 0.0f, tile_moment = 0.0f;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float z = exponent(found[n].at[2 * h + i], shift, inverse[h]), e = __expf(z);
          tile_mass += e;
          tile_moment += e * z;
        }
      }
      mass[h] += tile_mass;
      moment[h] += tile_moment;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      mass[h] += __shfl_xor_sync(kWholeWarp, mass[h], distance);
      moment[h] += __shfl_xor_sync(kWholeWarp, moment[h], distance);
    }
    if (lane_index() % 4 != 0 || mine[h] >= s.owner_count) continue;
    const int64_t to = blockIdx.y * s.owner_count + mine[h];
    parts.peaks[to] = peak[h];
    parts.masses[to] = mass[h];
    parts.moments[to] = moment[h];
  }
}

// A thread an owner: its parts, in their order.
__global__ void merge_parts_kernel(ExpSums<float> parts, int64_t count, int64_t splits,
                                   const float* inverses, ExpSums<float> sums) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  sums.peaks[i] = -INFINITY;
  sums.masses[i] = sums.moments[i] = 0.0;
  for (int64_t k = i; k < splits * count; k += count) {
    merge_sums(sums, i, static_cast<double>(inverses[i]), parts.peaks[k], parts.masses[k],
               parts.moments[k]);
  }
}

// out [parts, owners, D] = sum of weight * other, the weights being those of the owners, of the
// others, or both; an owner's is as many times too large as its scale.
template <int kDepth, class Half>
__global__ void __launch_bounds__(kStreamThreads)
    streamed_gradient_kernel(Stream s, PairWeights<float> of_owners, PairWeights<float> of_others,
                             float* out) {
  XRISK_SHARED(uint16_t, tile, [kTile * kTileStride<kDepth>]);
  XRISK_SHARED(unsigned long long, left_out, [kTile]);
  XRISK_SHARED(float, scales, [kTile]);
  XRISK_SHARED(float4, passing, [kTile]);  // weights of the others
  constexpr bool kNarrow = std::is_same_v<Half, Float16>;
  const int64_t owner = static_cast<int64_t>(blockIdx.x) * kTile;
  const int lane = lane_index();
  const bool by_owners = of_owners.weights != nullptr, by_others = of_others.weights != nullptr;
  LeftFragment owners[kDepth];
  load_owners<kDepth>(s, owner, tile, owners);
  // of an anchor out of range no pair counts
  const auto weights_of = [](const PairWeights<float>& of, int64_t anchor, int64_t count) {
    return anchor < count ? anchor_weights(of, anchor) : make_float4(0.0f, 0.0f, 1.0f, 0.0f);
  };
  int64_t mine[2];
  float own_scales[2];
  float4 own[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    mine[h] = owner + 16 * warp_index() + lane / 4 + 8 * h;
    own[h] = weights_of(of_owners, mine[h], by_owners ? s.owner_count : 0);
    own_scales[h] = scale_of(s.owner_scales, mine[h], s.owner_count);
  }
  SumFragment sums[2 * kDepth] = {};
  const int64_t first = blockIdx.y * s.tiles_of_split * kTile;
  for (int64_t t = 0; t < s.tiles_of_split && first + t * kTile < s.other_count; ++t) {
    const int64_t other = first + t * kTile;
    __syncthreads();
    load_tile<kDepth>(s, s.others, other, s.other_count, tile);
    load_scales(s, other, scales);
    if (by_others && threadIdx.x < kTile) {
      passing[threadIdx.x] = weights_of(of_others, other + threadIdx.x, s.other_count);
    }
    const bool marked = mark_left_out(s, owner, other, left_out);
    SumFragment found[kColumns];
    multiply_tile<kDepth, Half>(s, owners, own_scales, tile, scales, marked, left_out, found);
    float largest = 0.0f;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int c = 8 * n + lane % 4 * 2 + i % 2;
        float weight = by_owners ? pair_weight(found[n].at[i], own[i / 2]) : 0.0f;
        if (by_others) weight += pair_weight(found[n].at[i], passing[c]);
        if (s.other_scales != nullptr) weight *= own_scales[i / 2] * scales[c];
        found[n].at[i] = weight;
        largest = fmaxf(largest, fabsf(weight));
      }
    }
    const float scale = kNarrow ? scale_below_half_range(warp_max(largest)) : 1.0f,
                back = 1.0f / scale;
    LeftFragment high[kColumns / 2], low[kColumns / 2];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      split_sums<Half>(found[n], scale, n % 2, high[n / 2], low[n / 2]);
    }
    const uint16_t* row = tile + lane % 16 * kTileStride<kDepth> + lane / 16 * 8;
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (16 * d >= s.width) break;
      SumFragment left = {}, right = {};
#pragma unroll
      for (int k = 0; k < kTile / 16; ++k) {
        uint32_t pairs[4];
        load_transposed(row + 16 * k * kTileStride<kDepth> + 16 * d, pairs);
        multiply_add<Half>(high[k], RightFragment{{pairs[0], pairs[1]}}, left);
        multiply_add<Half>(low[k], RightFragment{{pairs[0], pairs[1]}}, left);
        multiply_add<Half>(high[k], RightFragment{{pairs[2], pairs[3]}}, right);
        multiply_add<Half>(low[k], RightFragment{{pairs[2], pairs[3]}}, right);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[2 * d].at[i] += left.at[i] * back;
        sums[2 * d + 1].at[i] += right.at[i] * back;
      }
    }
  }
#pragma unroll
  for (int n = 0; n < 2 * kDepth; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t column = 8 * n + lane % 4 * 2 + i % 2, at = mine[i / 2];
      if (at >= s.owner_count || column >= s.width) continue;
      out[(blockIdx.y * s.owner_count + at) * s.width + column] = sums[n].at[i];
    }
  }
}

// A thread an element.
__global__ void add_parts_kernel(const float* parts, int64_t count, int64_t splits, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float total = 0.0f;
  for (int64_t k = 0; k < splits; ++k) total += parts[k * count + i];
  out[i] = total;
}

}  // namespace xrisk::cuda
