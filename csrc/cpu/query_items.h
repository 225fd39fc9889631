// The items of one query and the relevant ones among them, out of the arrays of a ranking step.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/ranking_step.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

// The items that take part. Positions are relative to the query's first entry.
template <class T>
struct ItemList {
  Items<T> items;
  const int32_t* positions = nullptr;  // null: all entries, in place
  double weight = 0.0;                 // their total
  int64_t present = 0;                 // entries that take part, as items or not
};

// `relevant`: ascending positions, left out where the rule asks for it.
template <class T, class State>
ItemList<T> list_items(const RankingStep<T, State>& call, int64_t begin, int64_t length,
                       const int32_t* relevant, int64_t relevant_count, Scratch& scratch) {
  ItemList<T> list;
  const bool irrelevant_only = call.has(kIrrelevantItems);
  const T* all = call.scores + begin;
  if (call.mask == nullptr && call.weights == nullptr && !irrelevant_only) {
    list.items.scores = all;
    list.items.count = list.present = length;
    list.weight = static_cast<double>(length);
    return list;
  }
  T* scores = scratch.allocate<T>(length);
  T* weights = call.weights == nullptr ? nullptr : scratch.allocate<T>(length);
  int32_t* positions = scratch.allocate<int32_t>(length);
  int64_t count = 0, next_relevant = 0;
  for (int64_t j = 0; j < length; ++j) {
    const bool is_relevant = next_relevant < relevant_count && relevant[next_relevant] == j;
    next_relevant += is_relevant;
    if (call.mask != nullptr && call.mask[begin + j] == 0) continue;
    const T weight = call.weights == nullptr ? T(1) : call.weights[begin + j];
    if (!(weight > T(0))) continue;
    ++list.present;
    if (irrelevant_only && is_relevant) continue;
    scores[count] = all[j];
    if (weights != nullptr) weights[count] = weight;
    positions[count++] = static_cast<int32_t>(j);
    list.weight += static_cast<double>(weight);
  }
  list.items.scores = scores;
  list.items.weights = weights;
  list.items.count = count;
  list.positions = positions;
  return list;
}

// 1 / log2(rank + 1), ranks from 1.
inline double rank_discount(int64_t rank) {
  constexpr int64_t kTable = 1024;
  struct Discounts {
    double at[kTable + 1];
    Discounts() : at{} {
      for (int64_t k = 1; k <= kTable; ++k) at[k] = 1.0 / std::log2(static_cast<double>(k + 1));
    }
  };
  static const Discounts discounts;
  return rank <= kTable ? discounts.at[rank] : 1.0 / std::log2(static_cast<double>(rank + 1));
}

}  // namespace xrisk::cpu
