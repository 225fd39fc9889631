// The direct kernels over all anchors or items: what the plain and the log sums share.
#pragma once

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

// tiny_is_zero: whether numbers below the normal range may be taken for zero, whatever the term.
template <class T>
void direct_rows(DirectRows<T> call, int64_t anchors, Scratch& scratch, const Executor& executor,
                 bool tiny_is_zero = false);

template <class T>
void direct_columns(const DirectColumns<T>& call, const Executor& executor,
                    bool tiny_is_zero = false);

}  // namespace xrisk::cpu
