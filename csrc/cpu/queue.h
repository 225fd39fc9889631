// A queue of earlier embeddings, as a ring of rows: the new ones take the place of the oldest.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T, class State>
struct Enqueue {
  State* queue = nullptr;  // [N, D], N > 0
  int64_t size = 0;
  int64_t width = 0;
  int64_t pointer = 0;      // the oldest row, in [0, N)
  const T* rows = nullptr;  // [M, D]
  int64_t count = 0;
  bool normalize = false;
};

// Returns the next pointer. Of more rows than the queue has, the last ones stay; where a row is not
// finite the old one does.
template <class T, class State>
int64_t enqueue(const Enqueue<T, State>& call, const Executor& executor) {
  constexpr int64_t kGrain = 128;  // rows
  const int64_t first = std::max<int64_t>(call.count - call.size, 0);
  executor.for_range(call.count - first, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    Scratch scratch;
    T* unit = scratch.allocate<T>(call.width);
    for (int64_t k = first + begin; k < first + end; ++k) {
      double norm = 0.0;  // NaN where the row is not finite
      tile_kernels<T>().normalize_rows(call.rows + k * call.width, 1, call.width, call.normalize,
                                       unit, &norm);
      if (!(norm == norm)) continue;
      State* out = call.queue + (call.pointer + k) % call.size * call.width;
      for (int64_t d = 0; d < call.width; ++d) out[d] = static_cast<State>(unit[d]);
    }
  });
  return (call.pointer + call.count) % call.size;
}

}  // namespace xrisk::cpu
