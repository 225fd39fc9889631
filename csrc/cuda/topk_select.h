// Selection within a block: the (k+1)-th largest of keys that its threads hold or can read again.
//
// A digit a round, from the top, by a histogram in shared memory; a thread counts what has the
// digit of its first key in a register, so that ties do not queue for one counter. As soon as the
// digits found leave few keys, these compare themselves with each other. Short rows: a block per
// row holds all keys in registers (a warp: two bits of the answer a step, three candidates, how
// many keys reach each of them). Bytes: one read. Long rows: topk_long.h.
//
// Rows are long from the device's offsets alone: blocks of rows that another kernel serves leave at
// once.
#pragma once

#include "core/sort_key.h"
#include "cuda/block.h"
#include "cuda/topk.h"

namespace xrisk::cuda {

// Tile sizes; the tests take tiny ones. A row of more than kMost scores is long.
template <int kNarrowItems_, int kBlock_, int kItems_, int kTileItems_, int kDigitBits_,
          int kShare_, int kPartBlock_, int kStaged_, int kChunk_, int kDeviations_, int kSteps_>
struct TopKShape {
  static constexpr int kNarrowItems = kNarrowItems_;  // a lane of a warp that has a row to itself
  static constexpr int kBlock = kBlock_, kItems = kItems_;  // of a block that has one
  static constexpr int kTileItems = kTileItems_;            // a thread of a part of a long row
  static constexpr int kDigitBits = kDigitBits_;            // of a radix pass
  static constexpr int kShare = kShare_;                    // one in so many may be copied
  static constexpr int kPartBlock = kPartBlock_;    // threads of a block that reads part of a row
  static constexpr int kStaged = kStaged_;          // bytes of what such a block copies
  static constexpr int kChunk = kChunk_;            // neighbours that are sampled together
  static constexpr int kDeviations = kDeviations_;  // of luck that a bracket allows for
  static constexpr int kSteps = kSteps_;  // launches of Newton's method; what takes more is rare
  static constexpr int64_t kNarrow = 32 * kNarrowItems, kMost = kBlock * kItems;
  static constexpr int64_t kFinished = 4 * kMost;  // by a block alone, of keys copied from a row
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
template <class T>
using KeyOf = typename SelectionKey<T>::Key;

// -0 becomes 0, a NaN stands above all. No number has the key 0.
template <class T>
__device__ __forceinline__ KeyOf<T> selection_key(T x) {
  x = x + T(0);
  return x == x ? sort_key(x) : static_cast<KeyOf<T>>(~KeyOf<T>(0));
}

template <class T>
__device__ __forceinline__ void put(const Thresholds<T>& out, int64_t row, double root) {
  out.roots[row] = root;
  out.values[row] = static_cast<T>(root);
}

template <class T>
__device__ __forceinline__ void put_key(const Thresholds<T>& out, int64_t row, KeyOf<T> key) {
  const bool nan = key == static_cast<KeyOf<T>>(~KeyOf<T>(0));
  put(out, row, nan ? static_cast<double>(NAN) : static_cast<double>(score_of_key(key)));
}

// The largest distance from the lowest of a range of 2^width keys.
template <class Key>
__device__ __forceinline__ Key last_of_range(int width) {
  return width >= 8 * static_cast<int>(sizeof(Key)) ? ~Key(0) : (Key(1) << width) - 1;
}

// How many bits it takes to write `x`.
__device__ __forceinline__ int bit_width(uint32_t x) { return 32 - __clz(static_cast<int>(x)); }
__device__ __forceinline__ int bit_width(uint64_t x) {
  return 64 - __clzll(static_cast<long long>(x));
}

// The key of `rank` (0: the largest) among the keys of [base, base + 2^width), in every thread.
// visit(f) calls f(key) for each key that is this thread's, those outside included, the same each
// time; `usual` is one of them, or any. There are more than `rank`, fewer than 2^32, in the range.
template <int kBlock, class Key, class Visit>
__device__ __forceinline__ Key select_in_block(const Visit& visit, Key usual, unsigned rank,
                                               Key base, int width) {
  static_assert((kBlock & (kBlock - 1)) == 0);
  constexpr int kBins = 4 * kBlock, kFew = kBlock / 4, kGroup = 4;
  const int digit_bits = bit_width(static_cast<uint32_t>(kBins)) - 1;
  const int thread = static_cast<int>(threadIdx.x);
  XRISK_SHARED(unsigned, bins, [kBins]);
  XRISK_SHARED(Key, few, [kFew]);
  XRISK_SHARED(unsigned, found, [3]);  // bin, keys above it, keys in it
  XRISK_SHARED(unsigned, taken, [1]);
  XRISK_SHARED(Key, answer, [1]);
  for (;;) {
    const int shift = width > digit_bits ? width - digit_bits : 0;
    __syncthreads();  // an earlier round may still be reading
    *reinterpret_cast<uint4*>(&bins[4 * thread]) = uint4{0, 0, 0, 0};
    if (thread == 0) taken[0] = 0;
    __syncthreads();
    const Key last = last_of_range<Key>(width);
    const Key often = static_cast<Key>(usual - base) >> shift;  // no digit, if it is outside
    unsigned oftens = 0;
    visit([&](Key key) {
      const Key distance = key - base, digit = distance >> shift;
      const bool inside = distance <= last;
      oftens += inside && digit == often;
      if (inside && digit != often) atomicAdd(&bins[digit], 1u);
    });
    if (oftens > 0) atomicAdd(&bins[often], oftens);
    __syncthreads();
    // Bins from the top, four a thread.
    const int top = kBins - 1 - 4 * thread;
    const uint4 own = *reinterpret_cast<const uint4*>(&bins[top - 3]);
    const unsigned counts[4] = {own.w, own.z, own.y, own.x};
    unsigned before = block_exclusive_scan<kBlock>(own.x + own.y + own.z + own.w, 0u, Sum());
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (before <= rank && rank - before < counts[j]) {  // one thread, once
        found[0] = static_cast<unsigned>(top - j);
        found[1] = before;
        found[2] = counts[j];
      }
      before += counts[j];
    }
    __syncthreads();
    base += static_cast<Key>(found[0]) << shift;
    rank -= found[1];
    width = shift;
    if (width == 0) return base;
    if (found[2] <= kFew) break;
  }
  const int count = static_cast<int>(found[2]);
  const Key last = last_of_range<Key>(width);
  visit([&](Key key) {
    if (static_cast<Key>(key - base) > last) return;
    const unsigned at = atomicAdd(&taken[0], 1u);
    if (at < kFew) few[at] = key;  // more only of rows that overlap: offsets out of order
  });
  __syncthreads();
  // Four lanes a key count those that stand before it: larger ones, and equal ones earlier in line.
  const int mine = thread / kGroup;
  unsigned before = 0;
  if (mine < count) {
    const Key key = few[mine];
#pragma unroll 4
    for (int j = thread % kGroup; j < count; j += kGroup) {
      const Key other = few[j];
      before += other > key || (other == key && j < mine);
    }
  }
#pragma unroll
  for (int distance = kGroup / 2; distance > 0; distance /= 2) {
    before += __shfl_xor_sync(kWholeWarp, before, distance);
  }
  if (mine < count && thread % kGroup == 0 && before == rank) answer[0] = few[mine];
  __syncthreads();
  return answer[0];
}

// A warp's rows, of up to kNarrow scores, and those that have no threshold.
template <int kItems, class T>
__global__ void __launch_bounds__(32) select_narrow_rows_kernel(TopK<T> call, Thresholds<T> out) {
  using Key = KeyOf<T>;
  constexpr int kFieldBits = 10;
  static_assert(32 * kItems < 1 << kFieldBits);
  const int64_t row = blockIdx.x;
  const RowSpan span = span_of(call, row);
  if (span.count <= call.k) {
    if (threadIdx.x == 0) put(out, row, -INFINITY);
    return;
  }
  if (span.count > 32 * kItems) return;
  Key keys[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int64_t at = i * 32 + static_cast<int>(threadIdx.x);
    keys[i] = at < span.count ? selection_key(call.scores[span.begin + at]) : Key(0);
  }
  Key answer = 0;
  for (int shift = 8 * static_cast<int>(sizeof(Key)) - 2; shift >= 0; shift -= 2) {
    const Key one = answer | Key(1) << shift, two = answer | Key(2) << shift, three = one | two;
    unsigned packed = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      packed += keys[i] >= one;
      packed += keys[i] >= two ? 1u << kFieldBits : 0u;
      packed += keys[i] >= three ? 1u << 2 * kFieldBits : 0u;
    }
    packed = warp_count(packed);
    const auto reach = [&](int field) {
      return static_cast<int64_t>(packed >> field * kFieldBits & ((1u << kFieldBits) - 1)) > call.k;
    };
    answer = reach(2) ? three : reach(1) ? two : reach(0) ? one : answer;
  }
  if (threadIdx.x == 0) put_key(out, row, answer);
}

// Rows of `least` + 1 to kBlock * kItems scores.
template <int kBlock, int kItems, class T>
__global__ void __launch_bounds__(kBlock)
    select_short_rows_kernel(TopK<T> call, int64_t least, Thresholds<T> out) {
  using Key = KeyOf<T>;
  const int64_t row = blockIdx.x;
  const RowSpan span = span_of(call, row);
  if (span.count <= call.k || span.count <= least || span.count > kBlock * kItems) return;
  const T* const x = call.scores + span.begin;
  const int count = static_cast<int>(span.count), thread = static_cast<int>(threadIdx.x);
  T scores[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {  // all loads at once
    const int at = i * kBlock + thread;
    scores[i] = x[at < count ? at : count - 1];
  }
  Key keys[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    keys[i] = i * kBlock + thread < count ? selection_key(scores[i]) : Key(0);
  }
  const auto visit = [&](const auto& take) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (keys[i] != 0) take(keys[i]);
    }
  };
  const Key answer = select_in_block<kBlock>(visit, keys[0], static_cast<unsigned>(call.k), Key(0),
                                             8 * static_cast<int>(sizeof(Key)));
  if (threadIdx.x == 0) put_key(out, row, answer);
}

}  // namespace xrisk::cuda
