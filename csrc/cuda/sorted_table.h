// One side of the pairs, sorted, with the moments of everything above and below each short chunk:
// what turns a sum over that side into a search and a handful of additions.
//
// A tile is kBlock chunks of kChunk entries; the table holds the moments of the rest of the tile
// (one record of 32 bytes a chunk) and of the rest of the line (one a tile): reduce, then scan, in
// a fixed order.
#pragma once

#include <algorithm>

#include "cuda/device_sort.h"
#include "cuda/moments.h"
#include "cuda/pairs.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

// Chosen for memory and latency, not measured: rows sort the many items, columns the few anchors.
template <int kBlockThreads, int kChunkEntries>
struct Tiles {
  static constexpr int kBlock = kBlockThreads;
  static constexpr int kChunk = kChunkEntries;
};

// W: the type of the weights, T for items and double for anchors.
template <class T, class W>
struct SortedTable {
  using Key = SortKey<T>;
  static constexpr Key kDead = static_cast<Key>(~Key{0});  // sorts last; decodes to a NaN

  Key* keys;            // [segments, capacity], ascending
  uint32_t* payloads;   // [segments, capacity], where an entry stood
  W* weights;           // [segments, channels, capacity], in the order of the keys; null: ones
  Moments* above;       // [segments, channels, chunks], of this and all later chunks of the tile
  Moments* below;       // the same: of all earlier chunks of the tile, and the chunk's first entry
  Moments* tile_above;  // [segments, channels, tiles], of all later tiles
  Moments* tile_below;  // of all earlier ones
  int64_t capacity, chunks, tiles;
  int segments, channels;

  __device__ __forceinline__ double weight(int64_t row, int64_t entry) const {
    return weights == nullptr ? 1.0 : static_cast<double>(weights[row * capacity + entry]);
  }
};

// Keys of the entries, and their numbers. Entries past `live`, and those without a weight, are
// dead.
//   Mapping: a thread an entry. Bytes: sizeof(T) (1 + channels) in, sizeof(T) + 4 out.
//   Hazard: -0 and 0 must tie, hence + 0. NaN goes to the end that takes part in every sum.
template <class T, class W>
__global__ void __launch_bounds__(kPlainBlock)
    sort_keys_kernel(Side<T> side, const W* __restrict__ weights, int segments, int channels,
                     bool nan_first, SortKey<T>* __restrict__ keys,
                     uint32_t* __restrict__ payloads) {
  using Key = SortKey<T>;
  const int64_t k = int64_t{blockIdx.x} * kPlainBlock + threadIdx.x;
  if (k >= segments * side.capacity) return;
  const int64_t segment = k / side.capacity, entry = k % side.capacity;
  bool alive = side.live == nullptr || entry < side.live[segment];
  if (alive && weights != nullptr) {
    alive = false;
    for (int c = 0; c < channels && !alive; ++c) {
      alive = weights[(segment * channels + c) * side.capacity + entry] != W(0);
    }
  }
  Key key = SortedTable<T, W>::kDead;
  if (alive) {
    const T x = side.scores[k];
    key = sort_key(x + T(0));
    if (x != x) key = nan_first ? Key{0} : static_cast<Key>(SortedTable<T, W>::kDead - 1);
  }
  keys[k] = key;
  payloads[k] = static_cast<uint32_t>(k);
}

// The segment of each payload. Mapping: a thread an entry. Bytes: 4 in, 4 out.
template <class Index>
__global__ void __launch_bounds__(kPlainBlock)
    segments_kernel(const Index* __restrict__ payloads, int64_t count, int64_t capacity,
                    Index* __restrict__ segments) {
  const int64_t k = int64_t{blockIdx.x} * kPlainBlock + threadIdx.x;
  if (k < count) segments[k] = static_cast<Index>(payloads[k] / capacity);
}

// out[k] = in[payloads[k]]. Mapping: a thread an entry. Bytes: 4 and a scattered key in, a key out.
template <class Key>
__global__ void __launch_bounds__(kPlainBlock)
    gather_keys_kernel(const Key* __restrict__ in, const uint32_t* __restrict__ payloads,
                       int64_t count, Key* __restrict__ out) {
  const int64_t k = int64_t{blockIdx.x} * kPlainBlock + threadIdx.x;
  if (k < count) out[k] = in[payloads[k]];
}

// Moments of the chunks, joined within the tile: above[c], below[c], and the whole tile's.
//   Mapping: a block a tile of one channel, a thread a chunk.
//   Bytes: a key, a payload and a scattered weight in, a weight out an entry; up to 64 out a chunk.
//   Hazard: raw moments cancel; these are about the chunk's lowest or highest entry, and joins only
//   move a reference away from the positions.
template <class T, class W, class Shape>
__global__ void __launch_bounds__(Shape::kBlock)
    chunk_moments_kernel(SortedTable<T, W> table, const W* __restrict__ weights) {
  constexpr int kBlock = Shape::kBlock, kChunk = Shape::kChunk;
  using Table = SortedTable<T, W>;
  const int64_t tile = blockIdx.x % table.tiles;
  const int64_t row = blockIdx.x / table.tiles;  // of [segments, channels]
  const int64_t segment = row / table.channels;
  const int64_t chunk = tile * kBlock + threadIdx.x;
  double positions[kChunk], entry_weights[kChunk];
  int count = 0;  // of entries alive, which come first
  for (int k = 0; k < kChunk; ++k) {
    const int64_t entry = chunk * kChunk + k;
    positions[k] = entry_weights[k] = 0.0;
    if (entry >= table.capacity) continue;
    const int64_t sorted = segment * table.capacity + entry;
    const auto key = table.keys[sorted];
    W weight = W(0);
    if (key != Table::kDead) {
      count = k + 1;
      positions[k] = static_cast<double>(score_of_key(key));
      const int64_t origin = table.payloads[sorted] - segment * table.capacity;
      weight = weights == nullptr ? W(1) : weights[row * table.capacity + origin];
      const bool nan = positions[k] != positions[k] && weight != W(0);
      entry_weights[k] = nan ? positions[k] : static_cast<double>(weight);
    }
    if (table.weights != nullptr) table.weights[row * table.capacity + entry] = weight;
  }
  const int64_t slot = row * table.chunks + chunk;
  if (table.above != nullptr) {
    Moments mine = no_moments();
    if (count > 0) mine.at = positions[0];
    for (int k = 0; k < kChunk; ++k) add_entry(mine, entry_weights[k], positions[k] - mine.at);
    mine = join(mine, join_beyond<kBlock, true>(mine));
    if (chunk < table.chunks) table.above[slot] = mine;
    if (threadIdx.x == 0) table.tile_above[row * table.tiles + tile] = mine;
  }
  if (table.below != nullptr) {
    Moments mine = no_moments(), first = no_moments();
    if (count > 0) {
      first.at = positions[0];
      add_entry(first, entry_weights[0], 0.0);
    }
    for (int k = 0; k < kChunk; ++k) {
      if (k + 1 == count) mine.at = positions[k];
    }
    for (int k = 0; k < kChunk; ++k) add_entry(mine, entry_weights[k], mine.at - positions[k]);
    const Moments earlier = join_beyond<kBlock, false>(mine);
    if (chunk < table.chunks) table.below[slot] = join(first, earlier);
    if (threadIdx.x == kBlock - 1) {
      table.tile_below[row * table.tiles + tile] = join(mine, earlier);
    }
  }
}

// Replaces each tile's moments by those of all tiles beyond it.
//   Mapping: a block a row of [segments, channels] and direction, a thread a tile, in rounds of
//   kBlock tiles from the far end. Bytes: 64 a tile. Hazard: as above; the order is fixed.
template <int kBlock, bool kAbove>
__device__ void join_tiles(Moments* of_tile, int64_t tiles) {
  XRISK_SHARED(Moments, carried, [1]);
  const int64_t rounds = (tiles + kBlock - 1) / kBlock;
  Moments carry = no_moments();
  for (int64_t k = 0; k < rounds; ++k) {
    const int64_t tile = (kAbove ? rounds - 1 - k : k) * kBlock + threadIdx.x;
    const Moments mine = tile < tiles ? of_tile[tile] : no_moments();
    const Moments beyond = join(join_beyond<kBlock, kAbove>(mine), carry);
    if (tile < tiles) of_tile[tile] = beyond;
    // The barriers in join_beyond stand between the last round's reading and this writing.
    if (threadIdx.x == (kAbove ? 0 : kBlock - 1)) carried[0] = join(mine, beyond);
    __syncthreads();
    carry = carried[0];
  }
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    join_tiles_kernel(Moments* tile_above, Moments* tile_below, int64_t tiles, int64_t rows) {
  const int64_t row = blockIdx.x % rows;
  const bool first = blockIdx.x < rows;
  if (first && tile_above != nullptr) {
    join_tiles<kBlock, true>(tile_above + row * tiles, tiles);
  } else {
    join_tiles<kBlock, false>(tile_below + row * tiles, tiles);
  }
}

struct TableSides {
  bool above, below;
};

// The table and the memory that building it takes.
template <class T, class W>
struct TableMemory {
  SortedTable<T, W> table{};
  SortKey<T>* raw_keys = nullptr;
  uint32_t* raw_payloads = nullptr;
  uint32_t* segment_keys[2] = {nullptr, nullptr};  // in and out, where there are several
  void* sort_workspace = nullptr;
  size_t sort_bytes = 0;
  int segment_bits = 0;

  template <class Shape>
  void lay_out(Carver& carver, int64_t capacity, int segments, int channels, bool weighted,
               TableSides sides, Shape) {
    table.capacity = capacity;
    table.segments = segments;
    table.channels = channels;
    table.chunks = (capacity + Shape::kChunk - 1) / Shape::kChunk;
    table.tiles = (table.chunks + Shape::kBlock - 1) / Shape::kBlock;
    const int64_t count = segments * capacity;
    const int64_t rows = int64_t{segments} * channels;
    table.keys = carver.take<SortKey<T>>(count);
    table.payloads = carver.take<uint32_t>(count);
    table.weights = weighted ? carver.take<W>(rows * capacity) : nullptr;
    if (sides.above) {
      table.above = carver.take<Moments>(rows * table.chunks);
      table.tile_above = carver.take<Moments>(rows * table.tiles);
    }
    if (sides.below) {
      table.below = carver.take<Moments>(rows * table.chunks);
      table.tile_below = carver.take<Moments>(rows * table.tiles);
    }
    raw_keys = carver.take<SortKey<T>>(count);
    raw_payloads = carver.take<uint32_t>(count);
    constexpr int kBits = static_cast<int>(8 * sizeof(SortKey<T>));
    sort_bytes = sort_pairs_workspace_bytes(count, 0, kBits);
    while ((int64_t{1} << segment_bits) < segments) ++segment_bits;
    if (segments > 1) {
      segment_keys[0] = carver.take<uint32_t>(count);
      segment_keys[1] = carver.take<uint32_t>(count);
      sort_bytes = std::max(sort_bytes, sort_pairs_workspace_bytes(count, 0, segment_bits));
    }
    sort_workspace = carver.take<char>(static_cast<int64_t>(sort_bytes));
  }
};

// Of a side that is only sorted: no moments, weights where they stood.
template <class T, class W, class Shape>
TableMemory<T, W> sorted_memory(Carver& carver, int64_t capacity, int segments) {
  TableMemory<T, W> memory;
  memory.lay_out(carver, capacity, segments, 1, false, {false, false}, Tiles<Shape::kBlock, 1>());
  return memory;
}

// Sorts by score, then, stably, by segment.
template <class T, class W>
cudaError_t sort_entries(TableMemory<T, W>& memory, const Side<T>& side, const W* weights,
                         bool nan_first, cudaStream_t stream) {
  SortedTable<T, W>& table = memory.table;
  const int64_t count = table.segments * table.capacity;
  const unsigned blocks = blocks_for(count, kPlainBlock);
  XRISK_LAUNCH((sort_keys_kernel<T, W>), blocks, kPlainBlock, 0, stream, side, weights,
               table.segments, table.channels, nan_first, memory.raw_keys, memory.raw_payloads);
  XRISK_RETURN_IF_ERROR(cudaGetLastError());
  constexpr int kBits = static_cast<int>(8 * sizeof(SortKey<T>));
  XRISK_RETURN_IF_ERROR(sort_pairs(memory.raw_keys, table.keys, memory.raw_payloads, table.payloads,
                                   count, 0, kBits, memory.sort_workspace, memory.sort_bytes,
                                   stream));
  if (table.segments == 1) return cudaSuccess;
  XRISK_LAUNCH(segments_kernel<uint32_t>, blocks, kPlainBlock, 0, stream, table.payloads, count,
               table.capacity, memory.segment_keys[0]);
  XRISK_RETURN_IF_ERROR(cudaGetLastError());
  XRISK_RETURN_IF_ERROR(sort_pairs(memory.segment_keys[0], memory.segment_keys[1], table.payloads,
                                   memory.raw_payloads, count, 0, memory.segment_bits,
                                   memory.sort_workspace, memory.sort_bytes, stream));
  std::swap(table.payloads, memory.raw_payloads);
  XRISK_LAUNCH(gather_keys_kernel<SortKey<T>>, blocks, kPlainBlock, 0, stream, memory.raw_keys,
               table.payloads, count, table.keys);
  return cudaGetLastError();
}

template <class T, class W, class Shape>
cudaError_t build_table(TableMemory<T, W>& memory, const Side<T>& side, const W* weights,
                        bool nan_first, Shape, cudaStream_t stream) {
  SortedTable<T, W>& table = memory.table;
  if (table.chunks == 0) return cudaSuccess;
  XRISK_RETURN_IF_ERROR(sort_entries(memory, side, weights, nan_first, stream));
  const int64_t rows = int64_t{table.segments} * table.channels;
  XRISK_LAUNCH((chunk_moments_kernel<T, W, Shape>), static_cast<unsigned>(rows * table.tiles),
               Shape::kBlock, 0, stream, table, weights);
  XRISK_RETURN_IF_ERROR(cudaGetLastError());
  const int64_t directions = (table.above != nullptr) + (table.below != nullptr);
  XRISK_LAUNCH(join_tiles_kernel<Shape::kBlock>, static_cast<unsigned>(rows * directions),
               Shape::kBlock, 0, stream, table.tile_above, table.tile_below, table.tiles, rows);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
