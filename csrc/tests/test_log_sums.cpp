// Log sums against long double, including exponents that overflow any float.
#include "cpu/log_sums.h"

#include <algorithm>

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

template <class T>
void compare(Algorithm algorithm, double temperature, double tolerance) {
  std::mt19937_64 random(3);
  const auto anchors = normal<T>(random, 37, 0, 1), items = normal<T>(random, 91, 0, 1);
  std::vector<T> weights(91, T(2));
  for (size_t j = 0; j < 91; j += 3) weights[j] = T(0);
  cpu::LogSums<T> call;
  call.term = {Surrogate::kSquaredHinge, {1.0, 1.0}, 1.0 / temperature};
  call.anchors = anchors.data();
  call.anchor_count = 37;
  call.items = {items.data(), weights.data(), 91, 1};
  std::vector<double> sums(37), slopes(37), masses(37), alpha(37, 1.0);
  std::vector<T> out(91);
  cpu::Scratch scratch;
  const TwoThreads executor;
  const auto pairs = cpu::make_log_sums(call, algorithm, scratch, executor);
  pairs->rows(sums.data(), slopes.data(), masses.data());
  pairs->columns(alpha.data(), masses.data(), out.data());
  double column_total = 0, row_total = 0;
  for (size_t i = 0; i < 37; ++i) {
    long double top = -INFINITY, total = 0, slope = 0;
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t j = 0; j < 91; ++j) {
        if (weights[j] == 0) continue;
        const long double z =
            std::max(1.0L + static_cast<long double>(items[j]) - anchors[i], 0.0L);
        if (pass == 0) {
          top = std::max(top, z * z / temperature);
        } else {
          const long double e = 2.0L * expl(z * z / temperature - top);
          total += e;
          slope += e * 2 * z / temperature;
        }
      }
    }
    const double expected = static_cast<double>(top + logl(total));
    CHECK(close(sums[i], expected, tolerance, std::max(1.0, std::fabs(expected))));
    CHECK(close(slopes[i], static_cast<double>(slope / total), 20 * tolerance / temperature,
                static_cast<double>(slope / total)));
    row_total += slopes[i];
  }
  for (size_t j = 0; j < 91; ++j) {
    CHECK(weights[j] != 0 || out[j] == 0);
    column_total += static_cast<double>(out[j]);
  }
  CHECK(close(column_total, row_total, 40 * tolerance / temperature, row_total));
}

int main() {
  for_each_simd([](const char*) {
    for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kSmooth}) {
      compare<float>(algorithm, 1.0, 1e-6);
      compare<float>(algorithm, 0.01, 1e-6);
      compare<double>(algorithm, 0.001, 1e-14);
    }
  });
  return report();
}
