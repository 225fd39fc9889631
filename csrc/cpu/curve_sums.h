// What average precision and the (partial) areas under the ROC curve are made of, a sorted row.
//
//   precisions = sum over tie groups of dT T / (T + F)        T, F: weight of the positives and of
//   area       = sum over tie groups of the curve's piece     the negatives that score at least t
//
// A piece runs straight from (F, T) before the group to (F, T) after it; of it counts what lies
// left of max_fpr and above min_tpr, in units of weight.
//
// Mapping: a row is cut into chunks that start at a tie group; one pass for the chunks' weights,
// one for the sums, which start from the weights of the chunks before. Bytes at 1e6 floats: two
// reads of 12 and a gather of 1 (9 with weights) from a table that fits the cache. Hazard: none,
// counts are exact in double up to 2^53.
#pragma once

#include <cstdint>

#include "cpu/executor.h"

namespace xrisk::cpu {

template <class T>
struct CurveSums {
  const T* values = nullptr;          // [rows, columns], descending
  const int64_t* indices = nullptr;   // [rows, columns]: sorted place -> column
  const uint8_t* positive = nullptr;  // [rows, columns], by column
  const double* weights = nullptr;    // [rows, columns], by column; nullptr: all 1
  int64_t rows = 0, columns = 0;
  double max_fpr = 1, min_tpr = 0;
  double* sums = nullptr;  // [rows, 4]: precisions, area, weight of the positives, of the negatives
};

// False where an index was outside [0, columns): then it was not followed and sums mean nothing.
template <class T>
bool curve_sums(const CurveSums<T>& call, const Executor& executor);

}  // namespace xrisk::cpu
