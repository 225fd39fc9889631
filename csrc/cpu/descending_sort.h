// Rows of scores in descending order, with the places that they came from.
//
// The order of torch.sort(descending=True, stable=True): NaN first, then from inf down; -0 equals
// +0; ties in input order. One radix sort of (key, place) records a row. Long rows run one after
// the other, each on all threads; short rows are dealt out to the threads in batches. Bytes at 1e6
// floats: 4 in, 12 out, and 8 a record for the sort's four reads and four writes.
#pragma once

#include <cstdint>

#include "cpu/executor.h"

namespace xrisk::cpu {

// Fewer than 2^32 columns.
template <class T>
struct DescendingSort {
  const T* scores = nullptr;   // [rows, columns]
  T* values = nullptr;         // [rows, columns]; what was -0 may read +0
  int64_t* indices = nullptr;  // [rows, columns], each in [0, columns)
  int64_t rows = 0, columns = 0;
};

template <class T>
void sort_descending(const DescendingSort<T>& call, const Executor& executor);

}  // namespace xrisk::cpu
