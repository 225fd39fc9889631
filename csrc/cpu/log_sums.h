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

// log_sums [P] (-inf without items of positive weight); masses [P]: sum_j w exp((phi - peak) /
// temperature), peak the anchor's largest phi; slopes [P]: the same with the slope, over the mass.
// A log sum of 1e5 has lost its last bits in float32; the mass is what the columns need.
template <class T>
void log_rows(const LogSums<T>& call, double* log_sums, double* slopes, double* masses,
              Scratch& scratch, const Executor& executor);

// out [M]: w_j sum_i a_i / masses_i exp((phi_ij - peak_i) / temperature) phi'_ij / temperature
template <class T>
void log_columns(const LogSums<T>& call, const double* anchor_weights, const double* masses, T* out,
                 Scratch& scratch, const Executor& executor);

}  // namespace xrisk::cpu
