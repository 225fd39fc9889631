// Pairwise log sums: log sum_j w_j exp(phi(y_j - x_i) / temperature), shifted so that nothing
// overflows. Direct, O(P M).
#pragma once

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T>
struct LogSums {
  PairTermParams term;         // inverse_temperature > 0
  const T* anchors = nullptr;  // [P]
  int64_t anchor_count = 0;
  Items<T> items;  // one channel; weights >= 0; null: ones
};

// log_sums [P] (-inf without items of positive weight), slopes [P]: sum_j w exp(.) phi' /
// temperature divided by the sum.
template <class T>
void log_rows(const LogSums<T>& call, double* log_sums, double* slopes, Scratch& scratch,
              const Executor& executor);

// out [M]: w_j sum_i a_i exp(phi_ij / temperature - log_sums_i) phi'_ij / temperature
template <class T>
void log_columns(const LogSums<T>& call, const double* anchor_weights, const double* log_sums,
                 T* out, Scratch& scratch, const Executor& executor);

}  // namespace xrisk::cpu
