// The items of one query and the relevant ones among them, out of the arrays of a ranking step.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/ranking_step.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class F>
auto visit_relevance(RelevanceType type, const void* data, F&& f) {
  switch (type) {
    case RelevanceType::kFloat:
      return f(static_cast<const float*>(data));
    case RelevanceType::kDouble:
      return f(static_cast<const double*>(data));
    case RelevanceType::kInt32:
      return f(static_cast<const int32_t*>(data));
    case RelevanceType::kInt64:
      return f(static_cast<const int64_t*>(data));
    case RelevanceType::kByte:
      break;
  }
  return f(static_cast<const uint8_t*>(data));
}

// Whether one of 64 numbers is > 0, without a branch: what is OR-ed together is > 0, or has its
// sign set, where one is.
template <class R>
bool any_positive_of_64(const R* y) {
  typedef R Vector __attribute__((vector_size(64)));
  constexpr int kLanes = 64 / sizeof(R);
  using Bits = decltype(Vector{} > Vector{});
  Bits any{};
  for (int k = 0; k < 64; k += kLanes) {
    Vector x;
    std::memcpy(&x, y + k, sizeof(x));
    if constexpr (std::is_floating_point_v<R>) {
      any |= x > Vector{};
    } else if constexpr (std::is_signed_v<R>) {
      any |= reinterpret_cast<Bits>(-x & ~x);  // the sign of -x, but not of the lowest number
    } else {
      any |= reinterpret_cast<Bits>(x);
    }
  }
  uint64_t words[8], all = 0;
  std::memcpy(words, &any, sizeof(words));
  for (const uint64_t word : words) all |= word;
  constexpr uint64_t kSigns = sizeof(R) == 4 ? 0x8000000080000000ull : 0x8000000000000000ull;
  return std::is_unsigned_v<R> ? all != 0 : (all & kSigns) != 0;
}

// Calls f(position) where y > 0, in order. Most items of a long list are not relevant.
template <class R, class F>
void for_each_relevant(const R* y, int64_t count, F&& f) {
  int64_t j = 0;
  for (; j + 64 <= count; j += 64) {
    if (!any_positive_of_64(y + j)) continue;
    for (int64_t k = j; k < j + 64; ++k) {
      if (y[k] > R(0)) f(k);
    }
  }
  for (; j < count; ++j) {
    if (y[j] > R(0)) f(j);
  }
}

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
