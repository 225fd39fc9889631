// Rows in descending order against std::stable_sort: on both sides of the length where a row gets
// all threads, many short rows, ties, both zeros, infinities, NaN.
#include "cpu/descending_sort.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

template <class T>
void compare(int64_t rows, int64_t columns, bool ties) {
  std::mt19937_64 random(11);
  std::vector<T> x = normal<T>(random, rows * columns, 0.0, 3.0);
  if (ties) {
    for (T& value : x) value = std::floor(value);
  }
  const T inf = std::numeric_limits<T>::infinity();
  const T special[] = {T(-0.0),
                       T(0.0),
                       inf,
                       -inf,
                       std::numeric_limits<T>::quiet_NaN(),
                       std::numeric_limits<T>::denorm_min(),
                       T(-0.0),
                       -std::nan("")};
  for (size_t k = 0; k < 8 && k + 3 < x.size(); ++k) x[k + 3] = special[k];
  std::vector<T> values(x.size());
  std::vector<int64_t> indices(x.size(), -1);
  cpu::DescendingSort<T> call;
  call.scores = x.data();
  call.values = values.data();
  call.indices = indices.data();
  call.rows = rows;
  call.columns = columns;
  cpu::sort_descending(call, TwoThreads());
  bool same_order = true, same_values = true;
  std::vector<int64_t> expected(static_cast<size_t>(columns));
  for (int64_t row = 0; row < rows; ++row) {
    const T* scores = x.data() + row * columns;
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_sort(expected.begin(), expected.end(), [&](int64_t a, int64_t b) {
      const bool a_nan = std::isnan(scores[a]), b_nan = std::isnan(scores[b]);
      return a_nan || b_nan ? a_nan && !b_nan : scores[a] > scores[b];
    });
    for (int64_t k = 0; k < columns; ++k) {
      const size_t at = static_cast<size_t>(row * columns + k);
      same_order &= indices[at] == expected[static_cast<size_t>(k)];
      const T score = scores[expected[static_cast<size_t>(k)]];
      same_values &= values[at] == score || (std::isnan(values[at]) && std::isnan(score));
    }
  }
  CHECK(same_order);
  CHECK(same_values);
}

int main() {
  for (int64_t columns : {0, 1, 2, 64, 65, 1000, 4097, 32768, 32769, 100001}) {
    if (tiny_cases && columns > 5000 && columns != 32769) continue;
    for (bool ties : {false, true}) {
      compare<float>(1, columns, ties);
      compare<double>(3, columns, ties);
    }
  }
  compare<float>(tiny_cases ? 2000 : 5000, 17, true);
  if (!tiny_cases) compare<double>(700, 100, false);
  compare<float>(0, 5, false);
  return report();
}
