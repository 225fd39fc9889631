// Long rows: one read.
//
// A block samples the row: between which two scores the answer must lie but for kDeviations of luck
// (smoothed: where the sigmoid is neither 0 nor 1). Many blocks then read the row, count what is
// above the two edges and copy the keys between them, usually a percent. A block finishes with
// these: the exact threshold here, the smoothed one in topk_smooth.h; more than kFinished of them
// go to topk_radix.h. Counts of ties at the edges are kept apart, so that a row of zeros costs no
// more. What the sample has missed, or what is more than fits the buffer, is seen by the counts and
// goes there too, with the whole row (smoothed: to steps over the whole row).
#pragma once

#include "core/sampling.h"
#include "cuda/topk_radix.h"

namespace xrisk::cuda {

// What the device knows of a long row.
template <class T>
struct LongRow {
  int64_t row;
  T low, high;                   // the edges
  unsigned long long counts[3];  // of scores > high, NaN too, == high, and == low
  unsigned long long written;    // keys between, on their way into the buffer

  __device__ __forceinline__ unsigned long long reach_high() const { return counts[0] + counts[1]; }
};

template <class T>
struct LongRows {
  unsigned* used = nullptr;    // how many there are, if rows are ragged; else all: null
  int64_t* listed = nullptr;   // [capacity] which ones, if so
  LongRow<T>* rows = nullptr;  // [capacity]
  KeyOf<T>* buffer = nullptr;  // [total / kShare + 1]
  int64_t capacity = 0;
  int blocks = 1;  // that read each

  __device__ __forceinline__ bool has(int64_t slot) const {
    return slot < capacity && (used == nullptr || slot < *used);
  }
};

// In any order: where a row stands changes nothing.
template <class Shape, class T>
__global__ void gather_long_rows_kernel(TopK<T> call, LongRows<T> longs) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= call.rows.count) return;
  const RowSpan span = span_of(call, row);
  if (span.count <= Shape::kMost || span.count <= call.k) return;
  const unsigned slot = atomicAdd(longs.used, 1u);
  if (slot < longs.capacity) longs.listed[slot] = row;  // or offsets that do not ascend
}

// kChunk neighbours at each of the block's kPlaces places a thread.
template <class Shape, int kPlaces, class T>
struct RowSample {
  static constexpr int kItems = kPlaces * Shape::kChunk;
  static constexpr int kSize = kItems * Shape::kBlock;
  KeyOf<T> keys[kItems];

  __device__ __forceinline__ RowSample(const TopK<T>& call, RowSpan span) {
    constexpr int kChunk = Shape::kChunk;
#pragma unroll
    for (int p = 0; p < kPlaces; ++p) {
      const int64_t place = p * Shape::kBlock + static_cast<int>(threadIdx.x);
      int64_t at = sample_place(place, kPlaces * Shape::kBlock, span.count, 0);
      at -= (span.begin + at) % kChunk;  // in one sector
      at = at < 0 ? 0 : (at > span.count - kChunk ? span.count - kChunk : at);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        keys[p * kChunk + j] = selection_key(call.scores[span.begin + at + j]);
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void operator()(const F& take) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) take(keys[i]);
  }
  // The one of `rank`.
  __device__ __forceinline__ KeyOf<T> select(int64_t rank) const {
    return select_in_block<Shape::kBlock>(*this, keys[0], static_cast<unsigned>(rank), KeyOf<T>(0),
                                          8 * static_cast<int>(sizeof(T)));
  }
};

// The row of this block, told to the others, and its fallback made ready.
template <class Shape, class T>
__device__ __forceinline__ bool begin_long_row(const LongRows<T>& longs,
                                               const RadixRows<KeyOf<T>>& missed, int64_t& row) {
  const int64_t slot = blockIdx.x;
  if (slot == 0 && threadIdx.x == 0) *missed.used = 0;
  if (!longs.has(slot)) return false;
  row = longs.used == nullptr ? slot : longs.listed[slot];
  if (threadIdx.x == 0) missed.counters[slot] = 0;
  if (missed.histogram != nullptr) {
    for (int b = static_cast<int>(threadIdx.x); b < Shape::kBins; b += Shape::kBlock) {
      missed.histogram[slot * Shape::kBins + b] = 0;
    }
  }
  return true;
}

template <class Shape, int kPlaces, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    sample_long_rows_kernel(TopK<T> call, LongRows<T> longs, RadixRows<KeyOf<T>> missed) {
  using Sample = RowSample<Shape, kPlaces, T>;
  using Key = KeyOf<T>;
  int64_t row;
  if (!begin_long_row<Shape>(longs, missed, row)) return;
  const RowSpan span = span_of(call, row);
  const Sample sample(call, span);
  const SampleRanks ranks = sample_ranks(span.count, call.k, Sample::kSize, Shape::kDeviations);
  const Key infinity = sort_key(static_cast<T>(INFINITY));
  Key edges[2] = {sort_key(static_cast<T>(-INFINITY)), infinity};
  for (int side = 0; side < 2; ++side) {
    const int64_t rank = side == 0 ? ranks.low : ranks.high;
    if (rank < 0 || rank >= Sample::kSize) continue;
    const Key key = sample.select(rank);
    edges[side] = key < infinity ? key : infinity;
  }
  if (threadIdx.x == 0) {
    longs.rows[blockIdx.x] = {row, score_of_key(edges[0]), score_of_key(edges[1]), {}, 0};
  }
}

template <class T>
struct alignas(16) Sixteen {
  static constexpr int kCount = 16 / sizeof(T);
  T of[kCount];
};

// What a thread counts, and where it leaves the keys between the edges.
template <class Shape, class T>
struct RowSplit {
  static constexpr unsigned kStage = Shape::kStaged / sizeof(KeyOf<T>);
  T low, high;
  KeyOf<T>* stage;
  unsigned* staged;
  LongRow<T>* row;
  KeyOf<T>* buffer;
  int64_t room;
  unsigned above = 0, equal_high = 0, equal_low = 0;

  // Whether take(x) is to follow: the rest, above or below, is most of the row.
  __device__ __forceinline__ bool count(T x) {
    above += !(x <= high);
    return x >= low && x <= high;
  }
  __device__ __forceinline__ void take(T x) {
    if (x == high) {
      ++equal_high;
      return;
    }
    if (x == low) {
      ++equal_low;
      return;
    }
    const unsigned at = atomicAdd(staged, 1u);
    if (at < kStage) {
      stage[at] = selection_key(x);
      return;
    }
    const unsigned long long far = atomicAdd(&row->written, 1ull);
    if (far < static_cast<unsigned long long>(room)) buffer[far] = selection_key(x);
  }
  // kPacks times 16 bytes, `stride` scores apart. What is to be taken, rarely anything, is read
  // once more: one place in the code for all.
  template <int kPacks>
  __device__ __forceinline__ void read(const T* x, int64_t stride) {
    constexpr int kCount = Sixteen<T>::kCount;
    Sixteen<T> packs[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      packs[p] = *reinterpret_cast<const Sixteen<T>*>(x + p * stride);
    }
    unsigned wanted = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        if (count(packs[p].of[j])) wanted |= 1u << (p * kCount + j);
      }
    }
    for (; wanted != 0; wanted &= wanted - 1) {
      const int bit = __ffs(static_cast<int>(wanted)) - 1;
      take(x[bit / kCount * stride + bit % kCount]);
    }
  }
};

// Into a block's total.
__device__ __forceinline__ void add_count(unsigned count, unsigned* total) {
  count = warp_count(count);
  if (lane_index() == 0 && count > 0) atomicAdd(total, count);
}

template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kPartBlock, 6)
    split_long_rows_kernel(TopK<T> call, LongRows<T> longs) {
  using Key = KeyOf<T>;
  using Split = RowSplit<Shape, T>;
  constexpr int kBlock = Shape::kPartBlock, kPacks = 4;
  XRISK_SHARED(Key, stage, [Split::kStage]);
  XRISK_SHARED(unsigned, staged, [1]);
  XRISK_SHARED(unsigned long long, base, [1]);
  XRISK_SHARED(unsigned, counts, [3]);  // in the order of LongRow
  const int64_t slot = blockIdx.x / longs.blocks, part = blockIdx.x % longs.blocks;
  if (!longs.has(slot)) return;
  LongRow<T>& mine = longs.rows[slot];
  const RowSpan span = span_of(call, mine.row);
  const KeyRoom room = key_room<Shape>(span);
  Key* const buffer = longs.buffer + room.begin;
  if (threadIdx.x == 0) staged[0] = 0;
  if (threadIdx.x < 3) counts[threadIdx.x] = 0;
  __syncthreads();
  Split split{mine.low, mine.high, stage, staged, &mine, buffer, room.count};

  const T* const x = call.scores + span.begin;
  constexpr int kCount = Sixteen<T>::kCount;
  const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(x) / sizeof(T)) % kCount;
  const int64_t ahead = past > 0 ? kCount - past : 0;
  const int64_t head = ahead < span.count ? ahead : span.count;  // before the first whole 16 bytes
  const int64_t packs = (span.count - head) / kCount, tail = head + packs * kCount;
  const int64_t stride = static_cast<int64_t>(longs.blocks) * kBlock;
  const int thread = static_cast<int>(threadIdx.x);
  int64_t at = part * kBlock + thread;
  for (; at + (kPacks - 1) * stride < packs; at += kPacks * stride) {
    split.template read<kPacks>(x + head + at * kCount, stride * kCount);
  }
  for (; at < packs; at += stride) split.template read<1>(x + head + at * kCount, 0);
  if (part == 0) {
    const int64_t rest = tail + thread;
    if (thread < head && split.count(x[thread])) split.take(x[thread]);
    if (rest < span.count && split.count(x[rest])) split.take(x[rest]);
  }

  add_count(split.above, &counts[0]);
  add_count(split.equal_high, &counts[1]);
  add_count(split.equal_low, &counts[2]);
  __syncthreads();
  if (thread < 3 && counts[thread] > 0) {
    atomicAdd(&mine.counts[thread], static_cast<unsigned long long>(counts[thread]));
  }
  const unsigned count = staged[0] < Split::kStage ? staged[0] : Split::kStage;
  if (thread == 0 && count > 0) {
    base[0] = atomicAdd(&mine.written, static_cast<unsigned long long>(count));
  }
  __syncthreads();
  for (unsigned k = static_cast<unsigned>(thread); k < count; k += kBlock) {
    const unsigned long long to = base[0] + k;
    if (to < static_cast<unsigned long long>(room.count)) buffer[to] = stage[k];
  }
}

// Calls take(key) for this thread's share of the keys in the buffer, several loads at a time.
template <int kBlock, class Key, class F>
__device__ __forceinline__ void visit_stored(const Key* buffer, int64_t count, const F& take) {
  constexpr int kBatch = 6;
  for (int64_t at = threadIdx.x; at < count; at += kBatch * kBlock) {
    Key keys[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      keys[j] = at + j * kBlock < count ? buffer[at + j * kBlock] : Key(0);  // no score's key
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (keys[j] != 0) take(keys[j]);
    }
  }
}

template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    finish_long_rows_kernel(TopK<T> call, LongRows<T> longs, RadixRows<KeyOf<T>> missed,
                            Thresholds<T> out) {
  using Key = KeyOf<T>;
  constexpr int kBlock = Shape::kBlock;
  if (!longs.has(blockIdx.x)) return;
  const LongRow<T> mine = longs.rows[blockIdx.x];
  const RowSpan span = span_of(call, mine.row);
  const KeyRoom room = key_room<Shape>(span);
  const auto rank = static_cast<unsigned long long>(call.k);
  const unsigned long long above = mine.counts[0], reach_high = mine.reach_high(),
                           beyond_low = reach_high + mine.written,
                           reach_low = beyond_low + mine.counts[2];
  const bool one = threadIdx.x == 0;
  const bool nan = rank < above && mine.high == static_cast<T>(INFINITY);
  const bool inside = rank >= reach_high && rank < beyond_low;
  if (nan || (rank >= above && !inside && rank < reach_low)) {
    const Key edge = selection_key(rank < reach_high ? mine.high : mine.low);
    if (one) put_key(out, mine.row, nan ? static_cast<Key>(~Key(0)) : edge);
    return;
  }
  const auto stored = static_cast<int64_t>(mine.written);
  const bool copied = inside && stored <= room.count;
  if (!copied || stored > Shape::kFinished) {
    RadixRow<Key> left = {mine.row, call.k, span.count, 0, Key(0), 0};
    if (copied) {
      left.rank -= static_cast<int64_t>(reach_high);
      left.count = left.stored = stored;
    }
    if (one) missed.rows[atomicAdd(missed.used, 1u)] = left;
    return;
  }
  const Key* const buffer = longs.buffer + room.begin;
  Key low = selection_key(mine.low), high = selection_key(mine.high);
  if (!is_finite(mine.low) || !is_finite(mine.high)) {  // what there is spans much less
    Key least = high, most = low;
    visit_stored<kBlock>(buffer, stored, [&](Key key) {
      least = key < least ? key : least;
      most = key > most ? key : most;
    });
    low = block_reduce<kBlock>(least, high, Min());
    high = block_reduce<kBlock>(most, low, Max());
  }
  const auto visit = [&](const auto& take) { visit_stored<kBlock>(buffer, stored, take); };
  const auto thread = static_cast<int>(threadIdx.x);
  const Key usual = thread < stored ? buffer[thread] : Key(0);
  const Key answer = select_in_block<kBlock>(visit, usual, static_cast<unsigned>(rank - reach_high),
                                             low, bit_width(high - low));
  if (one) put_key(out, mine.row, answer);
}

}  // namespace xrisk::cuda
