// The first entries in the order of their scores, as many as a given weight is: by selection, O(n).
#pragma once

#include <algorithm>
#include <numeric>

#include "cpu/score_batch.h"

namespace xrisk::cpu {

// `amount` > 0 of the total weight: the last entry that is taken counts by its fraction, the first
// of a tie comes first. In the order of the entries.
template <class T>
Entries<T> first_entries(const Entries<T>& all, double amount, bool highest, Scratch& scratch) {
  if (!(amount < all.weight)) return all;
  const auto ahead = [&](int32_t a, int32_t b) {
    const T x = all.scores[a], y = all.scores[b];
    return x == y ? a < b : highest ? x > y : x < y;
  };
  const auto weight_of = [&](int64_t k) {
    return all.weights == nullptr ? 1.0 : static_cast<double>(all.weights[k]);
  };
  int32_t* order = scratch.allocate<int32_t>(all.count);
  std::iota(order, order + all.count, 0);
  // order[0 .. low) is taken and weighs `taken`; the entry that reaches `amount` is in [low, high)
  int64_t low = 0, high = all.count;
  double taken = 0.0;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    std::nth_element(order + low, order + middle, order + high, ahead);
    double left = 0.0;
    for (int64_t k = low; k < middle; ++k) left += weight_of(order[k]);
    if (taken + left >= amount) {
      high = middle;
    } else {
      taken += left;
      low = middle;
    }
  }
  const int32_t last = order[low];
  Entries<T> first;
  first.scores = scratch.allocate<T>(low + 1);
  first.weights = scratch.allocate<T>(low + 1);
  first.positions = scratch.allocate<int32_t>(low + 1);
  for (int32_t k = 0; k < all.count; ++k) {
    if (k != last && !ahead(k, last)) continue;
    first.scores[first.count] = all.scores[k];
    first.weights[first.count] = static_cast<T>(k == last ? amount - taken : weight_of(k));
    first.positions[first.count++] = all.positions[k];
  }
  first.weight = amount;
  return first;
}

}  // namespace xrisk::cpu
