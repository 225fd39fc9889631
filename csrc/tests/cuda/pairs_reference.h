// The pair sums in plain double loops: what the CUDA kernels are held to.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/surrogate.h"

namespace xrisk::test {

// One segment's problem, as doubles.
struct Pairs {
  Surrogate surrogate;
  SurrogateParams params;
  std::vector<double> anchors, items;
  std::vector<std::vector<double>> weights;  // [C][M]
};

inline void phi_of(const Pairs& pairs, double d, double& value, double& slope) {
  visit_surrogate<double>(pairs.surrogate, pairs.params,
                          [&](const auto& phi) { phi(d, value, slope); });
}

struct Sum {
  double value = 0.0;
  double scale = 0.0;  // sum of magnitudes: what an error is relative to

  void add(double x) {
    value += x;
    scale += std::fabs(x);
  }
};

// Row sums of channel c and anchor i.
inline void row_of(const Pairs& pairs, size_t c, size_t i, Sum& sum, Sum& slope) {
  for (size_t j = 0; j < pairs.items.size(); ++j) {
    const double weight = pairs.weights[c][j];
    if (weight == 0.0) continue;
    double v, s;
    phi_of(pairs, pairs.items[j] - pairs.anchors[i], v, s);
    sum.add(weight * v);
    slope.add(weight * s);
  }
}

// Column slope of item j; anchor_weights [C][P].
inline Sum column_of(const Pairs& pairs, const std::vector<std::vector<double>>& anchor_weights,
                     size_t j) {
  Sum sum;
  for (size_t c = 0; c < pairs.weights.size(); ++c) {
    for (size_t i = 0; i < pairs.anchors.size(); ++i) {
      double v, s;
      phi_of(pairs, pairs.items[j] - pairs.anchors[i], v, s);
      if (pairs.weights[c][j] != 0.0) sum.add(pairs.weights[c][j] * anchor_weights[c][i] * s);
    }
  }
  return sum;
}

}  // namespace xrisk::test
