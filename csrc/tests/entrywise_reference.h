// The losses without pairs, written down plainly in double: for the tests on the CPU and on CUDA.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/auc_margin.h"

namespace xrisk::test {

struct PlainEntries {
  std::vector<double> scores, weights;  // weights: [B, L]
  std::vector<uint8_t> positive;
  int64_t batch = 0, labels = 1;

  double weight(int64_t row, int64_t label) const {
    return weights.empty() ? 1.0 : weights[static_cast<size_t>(row * labels + label)];
  }
};

// The objective of a label, as in the papers.
inline double plain_auc_margin(const PlainEntries& in, int64_t label, AucMargin kind, double a,
                               double b, double alpha, double margin, double prior) {
  double up = 0, down = 0;
  for (int64_t row = 0; row < in.batch; ++row) {
    const size_t k = static_cast<size_t>(row * in.labels + label);
    (in.positive[k] ? up : down) += in.weight(row, label);
  }
  if (kind != AucMargin::kMinMax) alpha = std::fmax(alpha, 0.0);
  const double p = prior > 0 ? prior : up / (up + down);
  double value = 0;
  for (int64_t row = 0; row < in.batch; ++row) {
    const size_t k = static_cast<size_t>(row * in.labels + label);
    const double h = in.scores[k], w = in.weight(row, label);
    const double d = in.positive[k] ? h - a : h - b, sign = in.positive[k] ? -1.0 : 1.0;
    double share = in.positive[k] ? (1 - p) / (up + down) : p / (up + down);
    const bool over_all = kind == AucMargin::kV2OverAll;
    if (kind == AucMargin::kV2 || over_all) share = in.positive[k] ? 1 / up : 1 / down;
    const double t = kind == AucMargin::kMinMax ? margin + alpha : alpha;
    const double of_gap = over_all && !in.positive[k] ? 1 / (up + down) : share;
    value += w * (share * d * d + of_gap * sign * 2 * t * h);
  }
  if (kind == AucMargin::kV2 || kind == AucMargin::kV2OverAll)
    return value + 2 * alpha * margin - alpha * alpha;
  if (kind == AucMargin::kV1) value += 2 * alpha * p * (1 - p) * margin;
  return value - p * (1 - p) * alpha * alpha;
}

inline double plain_cross_entropy(const PlainEntries& in, int64_t label, const double weight[2],
                                  const double margin[2], double scale, double focus) {
  double sum = 0, total = 0;
  for (int64_t row = 0; row < in.batch; ++row) {
    const size_t k = static_cast<size_t>(row * in.labels + label);
    const int side = in.positive[k] ? 1 : 0;
    const double t = scale * ((side ? in.scores[k] : -in.scores[k]) - margin[side]);
    const double p = 1 / (1 + std::exp(-t)), w = in.weight(row, label);
    if (w > 0) sum += w * weight[side] * std::pow(1 - p, focus) * -std::log(p);
    total += w;
  }
  return total > 0 ? sum / total : 0;
}

}  // namespace xrisk::test
