// LambdaRank of long lists, near-linear in the list.
#pragma once

#include "cpu/listwise_pairs.h"

namespace xrisk::cpu {

// Whether that is faster than every pair by itself, and possible.
template <class T>
bool splits_are_faster(const SortedList<T>& sorted);

// The sum of the pair terms; adds their slopes to columns[sorted.count], which is zero, and to the
// own slopes. Without a gradient the slopes are not complete.
template <class T>
double split_pairs(const SortedList<T>& sorted, bool needs_gradient, double* columns,
                   const Executor& executor);

}  // namespace xrisk::cpu
