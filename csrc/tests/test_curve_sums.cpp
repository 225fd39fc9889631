// The sums under the curves against counts by level and a fine midpoint rule: one and many chunks,
// ties inside and across them, weights, one class, bad indices.
#include "cpu/curve_sums.h"

#include <algorithm>
#include <numeric>

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

struct Expected {
  double precisions = 0, area = 0, positives = 0, negatives = 0;
};

// Scores are the levels 0 .. levels - 1; `weight[c][level]` is the weight of class c there.
Expected by_level(const std::vector<double>* weight, double max_fpr, double min_tpr) {
  Expected e;
  for (double w : weight[1]) e.positives += w;
  for (double w : weight[0]) e.negatives += w;
  const double limit = max_fpr * e.negatives, floor = min_tpr * e.positives;
  double t = 0, f = 0;
  for (size_t level = weight[0].size(); level-- > 0;) {
    const double dt = weight[1][level], df = weight[0][level];
    if (dt > 0) e.precisions += dt * (t + dt) / (t + dt + f + df);
    const int steps = 400;
    for (int s = 0; s < steps; ++s) {
      const double share = (s + 0.5) / steps;
      if (f + share * df < limit) e.area += df / steps * std::max(t + share * dt - floor, 0.0);
    }
    t += dt;
    f += df;
  }
  return e;
}

template <class T>
void compare(int64_t columns, int levels, bool weighted, double max_fpr, double min_tpr) {
  std::mt19937_64 random(5);
  std::vector<double> weight[2] = {std::vector<double>(static_cast<size_t>(levels)),
                                   std::vector<double>(static_cast<size_t>(levels))};
  const size_t n = static_cast<size_t>(columns);
  std::vector<T> scores(n), values(n);
  std::vector<uint8_t> positive(n);
  std::vector<double> weights(n);
  std::vector<int64_t> indices(n);
  for (size_t k = 0; k < n; ++k) {
    const int level = static_cast<int>(random() % static_cast<uint64_t>(levels));
    scores[k] = static_cast<T>(level) / 8 - 3;
    positive[k] = random() % 3 == 0 ? 1 : 0;
    weights[k] = weighted ? static_cast<double>(random() % 4) : 1.0;
    weight[positive[k]][static_cast<size_t>(level)] += weights[k];
  }
  std::iota(indices.begin(), indices.end(), 0);
  std::sort(indices.begin(), indices.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  for (size_t k = 0; k < n; ++k) values[k] = scores[static_cast<size_t>(indices[k])];
  double sums[4], serial[4];
  cpu::CurveSums<T> call;
  call.values = values.data();
  call.indices = indices.data();
  call.positive = positive.data();
  call.weights = weighted ? weights.data() : nullptr;
  call.rows = 1;
  call.columns = columns;
  call.max_fpr = max_fpr;
  call.min_tpr = min_tpr;
  call.sums = sums;
  CHECK(cpu::curve_sums(call, TwoThreads()));
  call.sums = serial;
  CHECK(cpu::curve_sums(call, cpu::SerialExecutor()));
  CHECK(std::equal(sums, sums + 4, serial));
  const Expected e = by_level(weight, max_fpr, min_tpr);
  const double scale = e.positives * e.negatives;
  CHECK(close(sums[0], e.precisions, 1e-11, e.positives));
  // The midpoint rule is exact but for the level that a corner of the region cuts.
  CHECK(close(sums[1], e.area, max_fpr == 1 && min_tpr == 0 ? 1e-11 : 3e-3, scale));
  CHECK(sums[2] == e.positives);
  CHECK(sums[3] == e.negatives);

  if (columns > 0) {
    indices[n / 2] = columns;
    CHECK(!cpu::curve_sums(call, TwoThreads()));
    indices[n / 2] = -1;
    CHECK(!cpu::curve_sums(call, TwoThreads()));
  }
}

int main() {
  for (int64_t columns : {0, 1, 2, 500, 65536, 65537, 200001}) {
    if (tiny_cases && columns > 500 && columns != 65537) continue;
    for (int levels : {1, 2, 1000}) {
      if (tiny_cases && columns > 500 && levels != 2) continue;
      for (bool weighted : {false, true}) {
        compare<float>(columns, levels, weighted, 1.0, 0.0);
        compare<double>(columns, levels, weighted, 0.3, 0.0);
        compare<float>(columns, levels, weighted, 0.45, 0.4);
      }
    }
  }
  return report();
}
