#include "cpu/anchor_order.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/sort_key.h"
#include "cpu/radix_sort.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kPadding = 64;  // +inf keys that a compare of 16 may read past the end
constexpr int kMaxBucket = 32;    // keys that two compares of 16 cover

// The bucket of a key, by the formula of buckets_of in cpu/rank_inl.h.
template <class T>
int32_t bucket_of(const RankIndex<T>& index, T key) {
  const T last = static_cast<T>(index.buckets - 1);
  T position = (key - index.low) * index.inverse_width;
  position = position > T(0) ? position : T(0);
  position = position < last ? position : last;
  return static_cast<int32_t>(position);
}

// The range that the buckets divide: all keys, or their bulk when the tails are long, so that one
// outlier does not send every key to one bucket.
template <class T>
void choose_range(const T* keys, int64_t count, RankIndex<T>& index) {
  double low = keys[1], high = keys[count];
  const int64_t tail = count / 256;
  const double inner_low = keys[1 + tail], inner_high = keys[count - tail];
  if (count >= 1024 && high - low > 8.0 * (inner_high - inner_low) && inner_high > inner_low) {
    low = inner_low;
    high = inner_high;
  }
  const double width = high - low;
  const double limit = std::numeric_limits<T>::max() / 4;
  index.low = static_cast<T>(low);
  index.inverse_width =
      width > 0 ? static_cast<T>(std::min((index.buckets - 1) / width, limit)) : T(0);
}

template <class T>
void build_tree(const T* keys, int64_t count, RankIndex<T>& index, Scratch& scratch) {
  int64_t sizes[RankIndex<T>::kMaxLevels];  // in keys, leaf level first
  int levels = 0;
  int64_t total = 0;
  for (int64_t size = (count + 15) / 16 * 16;; size = (size / 16 + 15) / 16 * 16) {
    sizes[levels++] = size;
    total += size;
    if (size <= 16) break;
  }
  T* tree = scratch.allocate<T>(total);
  std::fill(tree, tree + total, std::numeric_limits<T>::infinity());
  int64_t offset = total;
  for (int level = 0; level < levels; ++level) {  // the leaves stand last
    offset -= sizes[level];
    const int slot = levels - 1 - level;
    index.level_offset[slot] = offset;
    index.level_blocks[slot] = sizes[level] / 16;
    if (level == 0) {
      std::copy(keys + 1, keys + 1 + count, tree + offset);
    } else {
      const T* below = tree + index.level_offset[slot + 1];
      for (int64_t block = 0; block < sizes[level - 1] / 16; ++block) {
        tree[offset + block] = below[block * 16 + 15];
      }
    }
  }
  index.tree = tree;
  index.levels = levels;
}

}  // namespace

template <class T>
AnchorOrder<T> sort_anchors(const T* scores, int64_t count, Scratch& scratch,
                            const Executor& executor) {
  using Key = decltype(sort_key(T{}));
  auto* records = scratch.allocate<SortRecord<Key>>(count);
  for (int64_t i = 0; i < count; ++i) records[i] = {sort_key(scores[i]), static_cast<uint32_t>(i)};
  const auto* sorted = radix_sort(records, count, scratch, executor);
  uint32_t* permutation = scratch.allocate<uint32_t>(count);
  for (int64_t i = 0; i < count; ++i) permutation[i] = sorted[i].payload;
  return {scores, permutation, count};
}

template <class T>
AnchorKeys<T> make_keys(const AnchorOrder<T>& order, double margin, Scratch& scratch) {
  const int64_t count = order.count;
  T* keys = scratch.allocate<T>(count + 1 + kPadding);
  T* references = scratch.allocate<T>(count + 1);
  T* residuals = scratch.allocate<T>(count + 1);
  for (int64_t r = 1; r <= count; ++r) {
    const double x = static_cast<double>(order.scores[order.permutation[r - 1]]);
    const double exact = x - margin;
    // For T = double the subtraction itself has rounded: the second half of TwoSum recovers it.
    const double recovered = x - exact;
    const double lost = (x - (exact + recovered)) + (recovered - margin);
    // The key that scores are compared with is rounded down, so that y > key holds exactly where
    // y > x - margin does, for every y in T; the one that distances start from, to nearest.
    references[r] = keys[r] = static_cast<T>(exact);
    residuals[r] = static_cast<T>((exact - static_cast<double>(keys[r])) + lost);
    if (residuals[r] < 0) {
      keys[r] = std::nextafter(keys[r], -std::numeric_limits<T>::infinity());
    }
  }
  references[0] = references[1];
  keys[0] = keys[1];
  residuals[0] = T(0);
  std::fill(keys + count + 1, keys + count + 1 + kPadding, std::numeric_limits<T>::infinity());

  AnchorKeys<T> result;
  result.residuals = residuals;
  RankIndex<T>& index = result.index;
  index.keys = keys;
  index.references = references;
  index.count = count;
  index.buckets = 64;
  while (index.buckets < count && index.buckets < (1 << 24)) index.buckets *= 2;
  choose_range(keys, count, index);
  int32_t* start = scratch.allocate<int32_t>(index.buckets + 1);
  int64_t key = 0, crowded = 0;
  for (int32_t bucket = 0; bucket < index.buckets; ++bucket) {
    start[bucket] = static_cast<int32_t>(key);
    while (key < count && bucket_of(index, keys[key + 1]) == bucket) ++key;
    if (key - start[bucket] > kMaxBucket) crowded += key - start[bucket];
  }
  start[index.buckets] = static_cast<int32_t>(count);
  index.bucket_start = start;
  index.crowded = crowded * 8 > count;
  if (crowded > 0) build_tree(keys, count, index, scratch);
  return result;
}

template AnchorOrder<float> sort_anchors(const float*, int64_t, Scratch&, const Executor&);
template AnchorOrder<double> sort_anchors(const double*, int64_t, Scratch&, const Executor&);
template AnchorKeys<float> make_keys(const AnchorOrder<float>&, double, Scratch&);
template AnchorKeys<double> make_keys(const AnchorOrder<double>&, double, Scratch&);

}  // namespace xrisk::cpu
