// A stable sort for arrays of which cub's passes over all multiprocessors would be mostly waiting:
// tiles are sorted in shared memory, then every entry counts, by a search in each other tile, how
// many entries stand before it, which is where it goes. Two launches, one where a tile holds all.
#pragma once

#include "cuda/block.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

template <int kBlockThreads, int kTileEntries, int kLanesOfEntry>
struct RankedShape {
  static constexpr int kBlock = kBlockThreads;
  static constexpr int kTile = kTileEntries;
  static constexpr int kLanes = kLanesOfEntry;  // that share the searches of an entry
};

template <class Key>
struct RankedSort {
  const Key* keys_in;
  Key* keys_out;
  const uint32_t* payload_in;
  uint32_t* payload_out;
  int64_t count;
  int begin_bit;
  Key mask;          // of the bits that are compared, after the shift
  Key* digits;       // [tiles, kTile], ascending within a tile
  uint32_t* origin;  // [tiles, kTile], where in its tile an entry stood
};

// Mapping: a block a tile. Bytes: a key in, a key and 4 out; of a single tile all of it.
// Hazard: what fills the last tile must sort behind real entries of the largest key: the ties go by
// place, and its place is behind theirs.
template <class Shape, class Key>
__global__ void __launch_bounds__(Shape::kBlock) sort_tiles_kernel(RankedSort<Key> sort) {
  constexpr int kBlock = Shape::kBlock, kTile = Shape::kTile;
  XRISK_SHARED(Key, digits, [kTile]);
  XRISK_SHARED(Key, spare_digits, [kTile]);
  XRISK_SHARED(uint32_t, origin, [kTile]);
  XRISK_SHARED(uint32_t, spare_origin, [kTile]);
  const int64_t start = int64_t{blockIdx.x} * kTile;
  for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kBlock) {
    const bool real = start + i < sort.count;
    digits[i] =
        real ? (sort.keys_in[start + i] >> sort.begin_bit) & sort.mask : static_cast<Key>(~Key{0});
    origin[i] = static_cast<uint32_t>(i);
  }
  block_sort<kBlock, kTile>(digits, origin, spare_digits, spare_origin);
  for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kBlock) {
    if (gridDim.x > 1) {
      sort.digits[start + i] = digits[i];
      sort.origin[start + i] = origin[i];
    } else if (i < sort.count) {
      sort.keys_out[i] = sort.keys_in[origin[i]];
      sort.payload_out[i] = sort.payload_in[origin[i]];
    }
  }
}

// Mapping: kLanes neighbours an entry, in the order of its tile, so that a warp searches near one
// place. Bytes: log2(kTile) keys a tile, mostly from L1; a key and a payload in and out, scattered.
// Hazard: what fills the last tile is above or equal to every key and stands last: `with_ties` is
// for earlier tiles alone, which are full.
template <class Shape, class Key>
__global__ void __launch_bounds__(Shape::kBlock)
    scatter_by_rank_kernel(RankedSort<Key> sort, int64_t tiles) {
  constexpr int kTile = Shape::kTile, kLanes = Shape::kLanes;
  const int64_t thread = int64_t{blockIdx.x} * Shape::kBlock + threadIdx.x;
  const int64_t slot = thread / kLanes;  // of [tiles, kTile]
  const int lane = static_cast<int>(thread % kLanes);
  const int64_t tile = slot / kTile;
  const Key digit = sort.digits[slot];
  const int64_t origin = tile * kTile + sort.origin[slot];
  int rank = 0;
  for (int64_t other = lane; other < tiles; other += kLanes) {
    if (other != tile)
      rank += count_before(sort.digits + other * kTile, kTile, digit, other < tile);
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    rank += __shfl_xor_sync(kWholeWarp, rank, distance);
  }
  if (lane != 0 || origin >= sort.count) return;
  rank += static_cast<int>(slot % kTile);
  sort.keys_out[rank] = sort.keys_in[origin];
  sort.payload_out[rank] = sort.payload_in[origin];
}

template <class Shape>
int64_t ranked_tiles(int64_t count) {
  return (count + Shape::kTile - 1) / Shape::kTile;
}

template <class Shape>
size_t ranked_sort_bytes(int64_t count) {
  Carver carver(nullptr);
  carver.take<uint64_t>(ranked_tiles<Shape>(count) * Shape::kTile);
  carver.take<uint32_t>(ranked_tiles<Shape>(count) * Shape::kTile);
  return carver.used();
}

// `workspace` has ranked_sort_bytes.
template <class Shape, class Key>
cudaError_t sort_by_ranks(const Key* keys_in, Key* keys_out, const uint32_t* payload_in,
                          uint32_t* payload_out, int64_t count, int begin_bit, int end_bit,
                          void* workspace, cudaStream_t stream) {
  static_assert(Shape::kBlock % 32 == 0 && 32 % Shape::kLanes == 0);
  static_assert(Shape::kTile * Shape::kLanes % Shape::kBlock == 0);
  const int64_t tiles = ranked_tiles<Shape>(count);
  Carver carver(workspace);
  Key* digits = carver.take<Key>(tiles * Shape::kTile);
  uint32_t* origin = carver.take<uint32_t>(tiles * Shape::kTile);
  const Key mask =
      static_cast<Key>(~Key{0} >> (8 * static_cast<int>(sizeof(Key)) - (end_bit - begin_bit)));
  const RankedSort<Key> sort{keys_in,   keys_out, payload_in, payload_out, count,
                             begin_bit, mask,     digits,     origin};
  XRISK_LAUNCH((sort_tiles_kernel<Shape, Key>), static_cast<unsigned>(tiles), Shape::kBlock, 0,
               stream, sort);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess || tiles == 1) return error;
  XRISK_LAUNCH((scatter_by_rank_kernel<Shape, Key>),
               static_cast<unsigned>(tiles * Shape::kTile * Shape::kLanes / Shape::kBlock),
               Shape::kBlock, 0, stream, sort, tiles);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
