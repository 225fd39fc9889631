// The sorted anchors of the one-sided algorithm, and the search structure over their keys.
#pragma once

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

// Anchors in ascending order: what does not depend on the margin.
template <class T>
struct AnchorOrder {
  const T* scores = nullptr;              // [P], as given
  const uint32_t* permutation = nullptr;  // sorted position (0-based) -> anchor
  int64_t count = 0;
};

template <class T>
AnchorOrder<T> sort_anchors(const T* scores, int64_t count, Scratch& scratch,
                            const Executor& executor);

// Keys x - margin in ascending order with their rank table, and what the rounding of each key to T
// took away: x - margin = reference + residual. Scores near 30 keep their last bits through it.
template <class T>
struct AnchorKeys {
  RankIndex<T> index;
  const T* residuals = nullptr;  // 1-based, like index.keys
};

template <class T>
AnchorKeys<T> make_keys(const AnchorOrder<T>& order, double margin, Scratch& scratch);

}  // namespace xrisk::cpu
