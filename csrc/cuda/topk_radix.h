// Selection in long rows by a digit of kDigitBits a launch, over many blocks: among what
// topk_long.h has copied where that is too much for one block, and in whole rows that a sample has
// misled, whatever they hold.
//
// Each block counts the digits of the keys that share the prefix found so far; the last block of
// the row picks the digit. Of a whole row the second launch also copies these keys, as long as they
// are few, so that the scores are read twice (three times and more only where most of them are near
// ties). Without such rows every launch leaves at once, and its grid is small.
#pragma once

#include "cuda/topk_select.h"

namespace xrisk::cuda {

// What the device knows of such a row.
template <class Key>
struct RadixRow {
  int64_t row;
  int64_t rank;    // of the answer among those that share the prefix
  int64_t count;   // how many do
  int64_t stored;  // keys in the buffer, the only ones that count; 0: none yet
  Key prefix;
  unsigned long long written;  // keys on their way into the buffer
};

template <class Key>
struct RadixRows {
  unsigned* used = nullptr;       // how many there are
  RadixRow<Key>* rows = nullptr;  // [capacity]
  unsigned* histogram = nullptr;  // [capacity, kBins], zero between launches
  unsigned* counters = nullptr;   // [capacity], for last_block_done
  Key* buffer = nullptr;          // [total / kShare + 1]
  int blocks = 1;                 // for each
};

// Where the keys of a row are copied to.
struct KeyRoom {
  int64_t begin, count;
};
template <class Shape>
__device__ __forceinline__ KeyRoom key_room(RowSpan span) {
  const int64_t begin = span.begin / Shape::kShare;
  return {begin, (span.begin + span.count) / Shape::kShare - begin};
}

// Counts the digit of `bits` at `shift` in part `part` of a row and, in its last block, picks it.
template <class Shape, class T>
__device__ __forceinline__ void radix_part(const TopK<T>& call, const RadixRows<KeyOf<T>>& all,
                                           int64_t slot, int64_t part, int shift, int bits,
                                           const Thresholds<T>& out) {
  using Key = KeyOf<T>;
  constexpr int kBlock = Shape::kBlock, kBins = Shape::kBins, kKeyBits = 8 * sizeof(Key);
  XRISK_SHARED(unsigned, histogram, [kBins]);
  RadixRow<Key>& mine = all.rows[slot];
  const int64_t row = mine.row, rank = mine.rank, stored = mine.stored;
  const Key prefix = mine.prefix;
  const RowSpan span = span_of(call, row);
  const KeyRoom room = key_room<Shape>(span);
  const bool first = shift + bits == kKeyBits;
  const bool copies = !first && stored == 0 && mine.count <= room.count;
  Key* buffer = all.buffer + room.begin;
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kBlock) histogram[b] = 0;
  __syncthreads();

  const int64_t count = stored > 0 ? stored : span.count;
  unsigned digit = 0, run = 0;
  for (int64_t tile = part * Shape::kTile; tile < count; tile += all.blocks * Shape::kTile) {
    Key keys[Shape::kTileItems];
#pragma unroll
    for (int i = 0; i < Shape::kTileItems; ++i) {
      const int64_t at = tile + i * kBlock + static_cast<int>(threadIdx.x);
      keys[i] = 0;  // which no score has
      if (at < count)
        keys[i] = stored > 0 ? buffer[at] : selection_key(call.scores[span.begin + at]);
    }
    for (int i = 0; i < Shape::kTileItems; ++i) {
      const Key key = keys[i];
      const bool shares = key != 0 && (first || key >> (shift + bits) % kKeyBits ==
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
  unsigned* const counts = all.histogram + slot * kBins;
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kBlock) {
    if (histogram[b] > 0) atomicAdd(&counts[b], histogram[b]);
  }
  if (!last_block_done(&all.counters[slot], static_cast<unsigned>(all.blocks))) return;

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
      if (shift == 0) put_key(out, row, mine.prefix);
    }
    before += own[j];
  }
}

template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    radix_pass_kernel(TopK<T> call, RadixRows<KeyOf<T>> all, int shift, int bits,
                      Thresholds<T> out) {
  const int64_t items = static_cast<int64_t>(*all.used) * all.blocks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    radix_part<Shape>(call, all, item / all.blocks, item % all.blocks, shift, bits, out);
    __syncthreads();  // before the next one clears the histogram
  }
}

}  // namespace xrisk::cuda
