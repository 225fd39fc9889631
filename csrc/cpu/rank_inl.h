// The rank of a score among sorted keys: #{keys < score}, in [0, count].
//
// A uniform bucket table gives a first key, one compare of 16 keys the rest: two cache lines a
// score. Where many keys share a bucket (ties, heavy tails) a 16-ary tree is descended instead,
// which does not depend on the distribution. NaN and inf fall into an end bucket: never out of
// bounds.
#pragma once

#include "cpu/simd.h"

namespace xrisk::cpu::XRISK_ISA {

constexpr int64_t kRankBlock = 64;

template <class T>
XRISK_HD void buckets_of(const RankIndex<T>& index, const T* scores, int64_t count,
                         int32_t* buckets) {
  const T low = index.low, inverse_width = index.inverse_width;
  const T last = static_cast<T>(index.buckets - 1);
  for (int64_t k = 0; k < count; ++k) {
    T position = (scores[k] - low) * inverse_width;
    position = position > T(0) ? position : T(0);  // a NaN becomes 0
    position = position < last ? position : last;
    buckets[k] = static_cast<int32_t>(position);
  }
}

template <class T>
XRISK_HD int32_t rank_by_tree(const RankIndex<T>& index, T score) {
  int64_t block = 0;
  for (int level = 0; level < index.levels; ++level) {
    const int64_t last = index.level_blocks[level] - 1;
    block = block < last ? block : last;
    block = block * 16 + count_below_16(index.tree + index.level_offset[level] + block * 16, score);
  }
  return static_cast<int32_t>(block < index.count ? block : index.count);
}

template <class T>
XRISK_HD int32_t rank_in_bucket(const RankIndex<T>& index, T score, int32_t bucket) {
  const T* keys = index.keys + 1;
  const int32_t start = index.bucket_start[bucket];
  int32_t below = count_below_16(keys + start, score);
  if (__builtin_expect(below == 16, 0)) {
    if (index.bucket_start[bucket + 1] - start > 32) return rank_by_tree(index, score);
    below += count_below_16(keys + start + 16, score);
  }
  const int32_t rank = start + below;
  return rank < index.count ? rank : static_cast<int32_t>(index.count);  // the padding is +inf
}

// At most kRankBlock scores.
template <class T>
XRISK_HD void ranks_of(const RankIndex<T>& index, const T* scores, int64_t count, int32_t* ranks) {
  if (index.crowded) {
    for (int64_t k = 0; k < count; ++k) ranks[k] = rank_by_tree(index, scores[k]);
    return;
  }
  int32_t buckets[kRankBlock];
  buckets_of(index, scores, count, buckets);
  for (int64_t k = 0; k < count; ++k) ranks[k] = rank_in_bucket(index, scores[k], buckets[k]);
}

template <class T>
void rank_items(const RankIndex<T>& index, const T* scores, int64_t begin, int64_t end,
                int32_t* ranks) {
  for (int64_t j = begin; j < end; j += kRankBlock) {
    const int64_t size = end - j < kRankBlock ? end - j : kRankBlock;
    ranks_of(index, scores + j, size, ranks + j);
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
