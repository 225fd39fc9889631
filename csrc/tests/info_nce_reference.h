// The contrastive losses without state in plain loops: value, gradient pair by pair, and the slope
// by the temperature.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace xrisk::test {

struct InfoNceCase {
  bool bimodal = false, flat = false, normalize = true;
  int64_t batch = 0, width = 0;
  double temperature = 1.0;
  double alpha = 0.0;  // 0: the number of negatives
};

struct InfoNceTruth {
  double value = 0.0, slope = 0.0;
  std::vector<double> gradient;  // [2, B, D]
};

template <class T>
InfoNceTruth info_nce_truth(const InfoNceCase& c, const std::vector<T>& views) {
  const int64_t anchors = 2 * c.batch, width = c.width;
  InfoNceTruth out;
  out.gradient.assign(views.size(), 0.0);
  if (c.batch < 2) return out;
  const auto at = [&](int64_t row, int64_t k) { return static_cast<size_t>(row * width + k); };
  const auto dot = [&](const std::vector<double>& x, int64_t i, const std::vector<double>& y,
                       int64_t j) {
    double total = 0.0;
    for (int64_t k = 0; k < width; ++k) total += x[at(i, k)] * y[at(j, k)];
    return total;
  };
  std::vector<double> e(views.begin(), views.end()), norms(static_cast<size_t>(anchors), 1.0);
  for (int64_t a = 0; a < anchors && c.normalize; ++a) {
    const double norm = norms[static_cast<size_t>(a)] = std::sqrt(dot(e, a, e, a));
    for (int64_t k = 0; k < width; ++k) e[at(a, k)] /= norm;
  }
  const double count = static_cast<double>((c.bimodal ? 1 : 2) * (c.batch - 1));
  const double factor = (c.alpha > 0.0 ? c.alpha : count) / count;
  std::vector<double> g(views.size(), 0.0);
  const auto pull = [&](int64_t a, int64_t b, double weight) {  // of weight <e_a, e_b>
    for (int64_t k = 0; k < width; ++k) {
      g[at(a, k)] += weight * e[at(b, k)];
      g[at(b, k)] += weight * e[at(a, k)];
    }
  };
  for (int64_t a = 0; a < anchors; ++a) {
    const int64_t partner = (a + c.batch) % anchors;
    const double positive = dot(e, a, e, partner);
    const auto is_negative = [&](int64_t b) {
      return b != a && b != partner && (!c.bimodal || (a < c.batch) != (b < c.batch));
    };
    double odds = c.flat ? 0.0 : 1.0;
    for (int64_t b = 0; b < anchors; ++b) {
      if (is_negative(b)) odds += factor * std::exp((dot(e, a, e, b) - positive) / c.temperature);
    }
    out.value += std::log(odds) / static_cast<double>(anchors);
    for (int64_t b = 0; b < anchors; ++b) {
      if (!is_negative(b)) continue;
      const double h = dot(e, a, e, b) - positive;
      const double share = factor * std::exp(h / c.temperature) / odds;
      const double weight = share / c.temperature / static_cast<double>(anchors);
      pull(a, b, weight);
      pull(a, partner, -weight);
      out.slope -= weight * h / c.temperature;
    }
  }
  for (int64_t a = 0; a < anchors; ++a) {
    const double along = c.normalize ? dot(g, a, e, a) : 0.0;
    for (int64_t k = 0; k < width; ++k) {
      out.gradient[at(a, k)] = (g[at(a, k)] - along * e[at(a, k)]) / norms[static_cast<size_t>(a)];
    }
  }
  return out;
}

// Two modalities or one, InfoNCE, EqCo and FlatNCE, many blocks or one, and no negatives.
inline std::vector<InfoNceCase> info_nce_cases() {
  std::vector<InfoNceCase> cases;
  for (const bool bimodal : {false, true}) {
    for (const int64_t batch : {int64_t{11}, int64_t{3}, int64_t{1}}) {
      cases.push_back({bimodal, false, true, batch, 5, 0.3, 0.0});
      cases.push_back({bimodal, false, false, batch, 5, 1.5, 40.0});
      cases.push_back({bimodal, true, true, batch, 5, 0.1, 0.0});
    }
  }
  return cases;
}

}  // namespace xrisk::test
