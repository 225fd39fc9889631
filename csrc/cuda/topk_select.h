// Selection: the (k+1)-th largest of each row, by the bits of its key from the top.
//
// Short rows: a warp or a block per row holds all keys in registers. Two bits of the answer a step:
// three candidates, how many keys reach each of them, one sum of three packed counts. No atomics,
// and ties cost nothing. Long rows: a digit of kDigitBits a launch, over many blocks. Each block
// counts the digits of the keys that share the prefix found so far; the last block of the row picks
// the digit. The second launch also copies these keys, as long as they are few, so that the scores
// are read twice (three times and more only where most of them are near ties). A thread adds up a
// run of equal digits before it counts it: ties do not queue for one counter.
//
// Bytes: one read of a short row, two of a long one. Rows are long from the device's offsets alone:
// blocks of rows that another kernel serves leave at once.
#pragma once

#include "core/sort_key.h"
#include "cuda/block.h"
#include "cuda/topk.h"

namespace xrisk::cuda {

// Tile sizes; the tests take tiny ones. A row of more than kMost scores is long.
template <int kNarrowItems_, int kBlock_, int kItems_, int kTileItems_, int kDigitBits_,
          int kShare_>
struct TopKShape {
  static constexpr int kNarrowItems = kNarrowItems_;  // a lane of a warp that has a row to itself
  static constexpr int kBlock = kBlock_, kItems = kItems_;  // of a block that has one
  static constexpr int kTileItems = kTileItems_;            // a thread of a part of a long row
  static constexpr int kDigitBits = kDigitBits_;
  static constexpr int kShare = kShare_;  // one in so many may be copied
  static constexpr int64_t kNarrow = 32 * kNarrowItems, kMost = kBlock * kItems;
  static constexpr int64_t kTile = kBlock * kTileItems;
  static constexpr int kBins = 1 << kDigitBits;
};

struct RowSpan {
  int64_t begin, count;
};

template <class T>
__device__ __forceinline__ RowSpan span_of(const TopK<T>& call, int64_t row) {
  const int64_t first = call.rows.begin(row), last = call.rows.end(row);
  const int64_t begin = first < 0 ? 0 : (first > call.total ? call.total : first);
  const int64_t end = last < begin ? begin : (last > call.total ? call.total : last);
  return {begin, end - begin};
}

template <class T>
struct SelectionKey;
template <>
struct SelectionKey<float> {
  using Key = uint32_t;
};
template <>
struct SelectionKey<double> {
  using Key = uint64_t;
};

// -0 becomes 0, a NaN stands above all. No number has the key 0.
template <class T>
__device__ __forceinline__ typename SelectionKey<T>::Key selection_key(T x) {
  using Key = typename SelectionKey<T>::Key;
  x = x + T(0);
  return x == x ? sort_key(x) : static_cast<Key>(~Key(0));
}

template <class Key>
__device__ __forceinline__ double selected_score(Key key) {
  return key == static_cast<Key>(~Key(0)) ? static_cast<double>(NAN)
                                          : static_cast<double>(score_of_key(key));
}

// Rows of `least` + 1 to kBlock * kItems scores. With least = -1 also those that have no threshold.
template <int kBlock, int kItems, class T>
__global__ void __launch_bounds__(kBlock)
    select_short_rows_kernel(TopK<T> call, int64_t least, double* roots) {
  using Key = typename SelectionKey<T>::Key;
  constexpr int kFieldBits = 21;
  static_assert(kBlock * kItems < 1 << kFieldBits);
  const int64_t row = blockIdx.x;
  const RowSpan span = span_of(call, row);
  if (span.count <= call.k) {
    if (least < 0 && threadIdx.x == 0) roots[row] = -INFINITY;
    return;
  }
  if (span.count <= least || span.count > kBlock * kItems) return;
  Key keys[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int64_t at = i * kBlock + static_cast<int>(threadIdx.x);
    keys[i] = at < span.count ? selection_key(call.scores[span.begin + at]) : Key(0);
  }
  Key answer = 0;
  for (int shift = 8 * static_cast<int>(sizeof(Key)) - 2; shift >= 0; shift -= 2) {
    const Key one = answer | Key(1) << shift, two = answer | Key(2) << shift, three = one | two;
    unsigned ones = 0, twos = 0, threes = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      ones += keys[i] >= one;
      twos += keys[i] >= two;
      threes += keys[i] >= three;
    }
    unsigned long long packed = static_cast<unsigned long long>(threes) << 2 * kFieldBits |
                                static_cast<unsigned long long>(twos) << kFieldBits | ones;
    packed = block_sum<kBlock>(packed);
    constexpr unsigned long long kField = (1u << kFieldBits) - 1;
    const auto reach = [&](int field) {
      return static_cast<int64_t>(packed >> field * kFieldBits & kField) > call.k;
    };
    answer = reach(2) ? three : reach(1) ? two : reach(0) ? one : answer;
  }
  if (threadIdx.x == 0) roots[row] = selected_score(answer);
}

// What the device knows of a long row.
template <class Key>
struct LongRow {
  int64_t row;
  int64_t rank;    // of the answer among those that share the prefix
  int64_t count;   // how many do
  int64_t stored;  // keys in the buffer; 0: none yet
  Key prefix;
  unsigned long long written;  // keys on their way into the buffer
};

template <class Key>
struct LongRows {
  unsigned* used = nullptr;       // how many there are
  LongRow<Key>* rows = nullptr;   // [capacity]
  unsigned* histogram = nullptr;  // [capacity, kBins], zero between launches
  unsigned* counters = nullptr;   // [capacity], for last_block_done
  Key* buffer = nullptr;          // [total / kShare + 1]
  int64_t capacity = 0;
  int blocks = 1;  // for each
};

// In any order: where a row stands changes nothing.
template <class Shape, class T, class Key>
__global__ void gather_long_rows_kernel(TopK<T> call, LongRows<Key> longs) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= call.rows.count) return;
  const RowSpan span = span_of(call, row);
  if (span.count <= Shape::kMost || span.count <= call.k) return;
  const unsigned slot = atomicAdd(longs.used, 1u);
  if (slot >= longs.capacity) return;  // offsets that do not ascend
  longs.rows[slot] = {row, call.k, span.count, 0, Key(0), 0ull};
}

// Counts the digit of `bits` at `shift` and, in the last block of a row, picks it.
template <class Shape, class T, class Key>
__global__ void __launch_bounds__(Shape::kBlock)
    radix_pass_kernel(TopK<T> call, LongRows<Key> longs, int shift, int bits, double* roots) {
  constexpr int kBlock = Shape::kBlock, kBins = Shape::kBins, kKeyBits = 8 * sizeof(Key);
  XRISK_SHARED(unsigned, histogram, [kBins]);
  const int64_t slot = blockIdx.x / longs.blocks, part = blockIdx.x % longs.blocks;
  if (slot >= *longs.used || slot >= longs.capacity) return;
  LongRow<Key>& mine = longs.rows[slot];
  const int64_t row = mine.row, rank = mine.rank, stored = mine.stored;
  const Key prefix = mine.prefix;
  const RowSpan span = span_of(call, row);
  const bool first = shift + bits == kKeyBits;
  const int64_t buffer_begin = span.begin / Shape::kShare;
  const int64_t room = (span.begin + span.count) / Shape::kShare - buffer_begin;
  const bool copies = !first && stored == 0 && mine.count <= room;
  Key* buffer = longs.buffer + buffer_begin;
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kBlock) histogram[b] = 0;
  __syncthreads();

  const int64_t count = stored > 0 ? stored : span.count;
  unsigned digit = 0, run = 0;
  for (int64_t tile = part * Shape::kTile; tile < count; tile += longs.blocks * Shape::kTile) {
    for (int i = 0; i < Shape::kTileItems; ++i) {
      const int64_t at = tile + i * kBlock + static_cast<int>(threadIdx.x);
      Key key = 0;
      if (at < count) key = stored > 0 ? buffer[at] : selection_key(call.scores[span.begin + at]);
      const bool shares = at < count && (first || key >> (shift + bits) % kKeyBits ==
                                                      prefix >> (shift + bits) % kKeyBits);
      if (shares) {
        const unsigned next = static_cast<unsigned>(key >> shift) & ((1u << bits) - 1);
        if (next != digit) {
          if (run > 0) atomicAdd(&histogram[digit], run);
          digit = next;
          run = 0;
        }
        ++run;
      }
      if (copies) {
        const unsigned sharers = __ballot_sync(kWholeWarp, shares);
        unsigned long long base = 0;
        if (lane_index() == 0 && sharers != 0) {
          base = atomicAdd(&mine.written, static_cast<unsigned long long>(__popc(sharers)));
        }
        base = __shfl_sync(kWholeWarp, base, 0);
        if (shares) buffer[base + __popc(sharers & ((1u << lane_index()) - 1))] = key;
      }
    }
  }
  if (run > 0) atomicAdd(&histogram[digit], run);
  __syncthreads();
  unsigned* const counts = longs.histogram + slot * kBins;
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kBlock) {
    if (histogram[b] > 0) atomicAdd(&counts[b], histogram[b]);
  }
  if (!last_block_done(&longs.counters[slot], static_cast<unsigned>(longs.blocks))) return;

  // Bins from the top, a few a thread.
  constexpr int kOwn = (kBins + kBlock - 1) / kBlock;
  unsigned own[kOwn];
  int64_t total = 0;
  for (int j = 0; j < kOwn; ++j) {
    const int bin = kBins - 1 - (static_cast<int>(threadIdx.x) * kOwn + j);
    own[j] = bin >= 0 ? counts[bin] : 0;
    if (bin >= 0) counts[bin] = 0;
    total += own[j];
  }
  int64_t before = block_exclusive_scan<kBlock>(total, int64_t{0}, Sum());
  for (int j = 0; j < kOwn; ++j) {
    if (before <= rank && rank < before + own[j]) {  // one thread, once
      const int bin = kBins - 1 - (static_cast<int>(threadIdx.x) * kOwn + j);
      mine.prefix = prefix | static_cast<Key>(bin) << shift;
      mine.rank = rank - before;
      if (copies) mine.stored = mine.count;
      mine.count = own[j];
      if (shift == 0) roots[row] = selected_score(mine.prefix);
    }
    before += own[j];
  }
}

}  // namespace xrisk::cuda
