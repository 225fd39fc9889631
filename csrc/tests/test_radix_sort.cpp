// The radix sort against std::stable_sort: sizes on both sides of every threshold, ties, signs.
#include "cpu/radix_sort.h"

#include "core/sort_key.h"
#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

template <class T>
void compare(int64_t count, double spread, bool ties) {
  std::mt19937_64 random(7);
  std::vector<T> x = normal<T>(random, count, 0.0, spread);
  if (ties) {
    for (T& value : x) value = std::floor(value);
  }
  if (count > 1) x[1] = T(-0.0);
  using Key = decltype(sort_key(T{}));
  std::vector<cpu::SortRecord<Key>> records(x.size());
  for (size_t k = 0; k < x.size(); ++k) records[k] = {sort_key(x[k]), static_cast<uint32_t>(k)};
  auto expected = records;
  std::stable_sort(expected.begin(), expected.end(),
                   [](const auto& a, const auto& b) { return a.key < b.key; });
  cpu::Scratch scratch;
  const auto* sorted = cpu::radix_sort(records.data(), count, scratch, TwoThreads());
  bool same = true, ascending = true;
  for (int64_t k = 0; k < count; ++k) {
    same &= sorted[k].payload == expected[static_cast<size_t>(k)].payload;
    ascending &= k == 0 || x[sorted[k - 1].payload] <= x[sorted[k].payload];
  }
  CHECK(same);
  CHECK(ascending);
}

int main() {
  for (int64_t count : {0, 1, 2, 64, 65, 1000, 4096, 4097, 100001}) {
    if (tiny_cases && count > 5000) continue;
    for (bool ties : {false, true}) {
      compare<float>(count, 3.0, ties);
      compare<double>(count, 1e9, ties);
    }
  }
  return report();
}
