#include "cpu/descending_sort.h"

#include <algorithm>

#include "core/sort_key.h"
#include "cpu/radix_sort.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // scores a task

template <class T>
void sort_row(const T* scores, T* values, int64_t* indices, int64_t count,
              const Executor& executor) {
  using Key = decltype(sort_key(T{}));
  Scratch scratch;
  auto* records = scratch.allocate<SortRecord<Key>>(count);
  executor.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      // Adding 0 turns -0 into +0, which are ties. Key 0 is free: no number has it.
      const T score = scores[k] + T(0);
      records[k] = {score == score ? static_cast<Key>(~sort_key(score)) : Key(0),
                    static_cast<uint32_t>(k)};
    }
  });
  const auto* sorted = radix_sort(records, count, scratch, executor);
  executor.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      values[k] = score_of_key(static_cast<Key>(~sorted[k].key));  // key 0 reads back as NaN
      indices[k] = static_cast<int64_t>(sorted[k].payload);
    }
  });
}

}  // namespace

template <class T>
void sort_descending(const DescendingSort<T>& call, const Executor& executor) {
  const int64_t columns = call.columns;
  if (call.rows == 0 || columns == 0) return;
  const auto sort = [&](int64_t row, const Executor& on) {
    const int64_t start = row * columns;
    sort_row(call.scores + start, call.values + start, call.indices + start, columns, on);
  };
  if (columns > kGrain) {
    for (int64_t row = 0; row < call.rows; ++row) sort(row, executor);
    return;
  }
  executor.for_range(call.rows, std::max<int64_t>(1, kGrain / columns),
                     [&](int64_t, int64_t begin, int64_t end) {
                       for (int64_t row = begin; row < end; ++row) sort(row, SerialExecutor());
                     });
}

template void sort_descending(const DescendingSort<float>&, const Executor&);
template void sort_descending(const DescendingSort<double>&, const Executor&);

}  // namespace xrisk::cpu
