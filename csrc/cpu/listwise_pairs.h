// What the algorithms of RankNet and LambdaRank share: the list in the order of its relevance, and
// its pairs one by one.
#pragma once

#include <algorithm>

#include "cpu/flush_denormals.h"
#include "cpu/listwise_step.h"
#include "cpu/pairwise.h"

namespace xrisk::cpu {

// The items in descending order of relevance.
template <class T>
struct SortedList {
  int64_t count = 0;
  T *scores, *relevance, *weights = nullptr, *gains = nullptr, *discounts = nullptr;
  const int32_t* places;     // of the list's items
  const int64_t* level_end;  // [count]: where the level of an item ends
  // LambdaRank: which item has a rank, and what the gains and discounts were rounded from.
  int32_t* by_rank = nullptr;
  double *exact_gains = nullptr, *exact_discounts = nullptr;
  double pairs = 0.0;
  double scale = 1.0;  // 1 / temperature
  PairWeight weighting = PairWeight::kNone;
  double* own_slopes = nullptr;  // [count], of an item as the higher one of its pairs
};

// Weights of the items [end, sorted.count) behind a level that begins at `first`.
template <class T>
const T* weights_of_level(const SortedList<T>& sorted, int64_t first, int64_t end, T* weights) {
  if (weights == nullptr) return nullptr;
  const double y = static_cast<double>(sorted.relevance[first]);
  for (int64_t j = end; j < sorted.count; ++j) {
    weights[j] =
        static_cast<T>(pair_weight(sorted.weighting, y, static_cast<double>(sorted.relevance[j])));
  }
  return weights;
}

// Items [begin, end) against all before `stop` that stand behind their levels: the sum of the pair
// terms; adds to columns[begin .. stop) their slopes, and writes own_slopes[begin .. end).
// `weights` is scratch, null where pairs weigh by gains and discounts, or one each.
template <class T>
double direct_pairs(const SortedList<T>& sorted, int64_t begin, int64_t end, int64_t stop,
                    T* weights, double* columns) {
  constexpr int64_t kFlush = 128;  // items whose pulls stay in T
  Scratch scratch;
  const FlushDenormals flush_denormals;
  WeightedPairs<T> pairs;
  pairs.scale = static_cast<T>(sorted.scale);
  pairs.scores = sorted.scores;
  pairs.gains = sorted.gains;
  pairs.discounts = sorted.discounts;
  pairs.own_slopes = sorted.own_slopes;
  pairs.pulls = scratch.template allocate<T>(stop);
  std::fill(pairs.pulls + begin, pairs.pulls + stop, T(0));
  double value = 0.0;
  int64_t held = 0;  // items whose pulls are not flushed yet
  const auto flush = [&] {
    for (int64_t j = begin; j < stop; ++j) columns[j] += static_cast<double>(pairs.pulls[j]);
    std::fill(pairs.pulls + begin, pairs.pulls + stop, T(0));
    held = 0;
  };
  for (int64_t i = begin; i < end;) {
    const int64_t behind = sorted.level_end[i];
    const int64_t level_stop = std::min(end, behind);
    if (behind >= stop) break;
    pairs.weights = weights_of_level(sorted, i, behind, weights);
    while (i < level_stop) {
      const int64_t next = std::min(level_stop, i + kFlush - held);
      value += kernels<T>().lists.weighted_pairs(pairs, i, next, behind, stop);
      held += next - i;
      i = next;
      if (held == kFlush) flush();
    }
  }
  flush();
  return value;
}

}  // namespace xrisk::cpu
