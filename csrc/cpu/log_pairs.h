// What the near-linear log sums start from: items and anchors in order, by their distance from the
// highest item. All in doubles: differences first, so that scores far from zero keep their digits.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/sort_key.h"
#include "cpu/log_sums.h"
#include "cpu/radix_sort.h"

namespace xrisk::cpu {

// With Y the highest score of positive weight: depth = Y - y >= 0, top = Y - x + margin. Then
// y - x + margin = top - depth.
struct LogPlaces {
  int64_t anchors = 0;
  double* tops = nullptr;             // [P] ascending
  uint32_t* anchor_places = nullptr;  // [P]
  int64_t items = 0;                  // of positive weight
  double* depths = nullptr;           // ascending
  double* weights = nullptr;
  uint32_t* item_places = nullptr;
};

// Scores by their places, descending.
template <class T>
auto* sorted_down(const T* scores, const T* weights, int64_t count, int64_t* kept, Scratch& scratch,
                  const Executor& executor) {
  using Key = decltype(sort_key(T{}));
  auto* records = scratch.allocate<SortRecord<Key>>(count);
  int64_t size = 0;
  for (int64_t k = 0; k < count; ++k) {
    if (weights != nullptr && weights[k] == 0) continue;
    records[size++] = {static_cast<Key>(~sort_key(scores[k])), static_cast<uint32_t>(k)};
  }
  *kept = size;
  return radix_sort(records, size, scratch, executor);
}

template <class T>
LogPlaces place_log_pairs(const LogSums<T>& call, Scratch& scratch, const Executor& executor) {
  constexpr int64_t kGrain = 16384;
  LogPlaces places;
  const T *x = call.anchors, *y = call.items.scores, *w = call.items.weights;
  auto* items = sorted_down(y, w, call.items.count, &places.items, scratch, executor);
  auto* anchors = sorted_down<T>(x, nullptr, call.anchor_count, &places.anchors, scratch, executor);
  const double highest = static_cast<double>(y[items[0].payload]);
  places.depths = scratch.allocate<double>(places.items);
  places.weights = scratch.allocate<double>(places.items);
  places.item_places = scratch.allocate<uint32_t>(places.items);
  executor.for_range(places.items, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const uint32_t at = items[k].payload;
      places.item_places[k] = at;
      places.depths[k] = highest - static_cast<double>(y[at]);
      places.weights[k] = w == nullptr ? 1.0 : static_cast<double>(w[at]);
    }
  });
  places.tops = scratch.allocate<double>(places.anchors);
  places.anchor_places = scratch.allocate<uint32_t>(places.anchors);
  executor.for_range(places.anchors, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const uint32_t at = anchors[k].payload;
      places.anchor_places[k] = at;
      places.tops[k] = (highest - static_cast<double>(x[at])) + call.term.params.margin;
    }
  });
  return places;
}

// The first of `count` ascending numbers that is not below `bound`.
inline int64_t first_from(const double* ascending, int64_t count, double bound) {
  return std::lower_bound(ascending, ascending + count, bound) - ascending;
}

}  // namespace xrisk::cpu
