// The partial AUC step in plain double loops: batches and their truth, what the kernel is held to.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "core/params.h"
#include "tests/check.h"
#include "tests/cuda/pairs_reference.h"

namespace xrisk::test {

struct Case {
  PartialRule rule = PartialRule::kKL;
  Surrogate surrogate = Surrogate::kSquaredHinge;
  Algorithm algorithm = Algorithm::kAuto;
  int64_t batch = 0;
  int labels = 1;
  int weights = 0;  // 0: none, 1: [B], 2: [B, L]
  bool state = true, bad = false, mean = true, write = true;
};

constexpr double kMaxFpr = 0.3, kMinTpr = 0.4, kPower = 3.0;
constexpr double kKlWeight = 0.5, kPositiveKlWeight = 0.8, kGamma = 0.4, kOuterGamma = 0.3;
constexpr double kEta = 0.37, kDualEta = 0.23, kOuterEta = 0.19;

struct Batch {
  std::vector<float> scores, weights;
  std::vector<uint8_t> positive;
  std::vector<int64_t> index;
  std::vector<float> state, dual, outer;
  int64_t rows = 0;
};

inline bool log_rule(PartialRule rule) {
  return rule == PartialRule::kKL || rule == PartialRule::kTwoWayKL ||
         rule == PartialRule::kPNormPush;
}

inline Batch random_batch(const Case& c, std::mt19937_64& random) {
  Batch batch;
  batch.rows = std::max<int64_t>(1, c.batch / 2);
  batch.scores = normal<float>(random, c.batch * c.labels, 0.0, 1.0);
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int l = 0; l < c.labels; ++l) {
      batch.positive.push_back(l != 1 && random() % 4 == 0);  // the second label has none
    }
    batch.index.push_back(static_cast<int64_t>(random() % batch.rows));
  }
  if (c.batch > 9) batch.scores[9 * c.labels] = batch.scores[4 * c.labels];  // a tie
  const int64_t count = c.weights == 2 ? c.batch * c.labels : c.weights == 1 ? c.batch : 0;
  for (int64_t k = 0; k < count; ++k) batch.weights.push_back(static_cast<float>(random() % 3));
  if (c.bad && c.batch > 2) batch.scores[2 * c.labels] = NAN;
  for (int64_t k = 0; k < c.labels * batch.rows; ++k) {
    const float drawn = static_cast<float>(random() % 8) / 4;
    batch.state.push_back(log_rule(c.rule) ? (k % 3 == 0 ? -INFINITY : drawn) : drawn - 0.31f);
    batch.dual.push_back(static_cast<float>(random() % 5) / 4);
  }
  for (int l = 0; l < c.labels; ++l) batch.outer.push_back(l == 0 ? -INFINITY : 0.4f);
  if (!log_rule(c.rule)) batch.outer[0] = 0.1f;
  return batch;
}

struct Truth {
  std::vector<double> values, gradient, scale, state, dual, outer;
};

// Shares of 1 of the first entries in order, the last by its fraction.
inline std::vector<double> first_of(const std::vector<double>& weights,
                                    const std::vector<double>& keys, double amount) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  amount = std::min(amount, total);
  std::vector<size_t> order(keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return keys[a] > keys[b]; });
  std::vector<double> shares(keys.size(), 0.0);
  double before = 0.0;
  for (const size_t k : order) {
    shares[k] = std::min(weights[k], std::max(0.0, amount - before)) / amount;
    before += weights[k];
  }
  return shares;
}

// What is stored in each anchor's row: the mean of its group.
inline std::vector<double> grouped(const std::vector<int64_t>& ids,
                                   const std::vector<double>& values, bool log) {
  std::map<int64_t, std::vector<double>> groups;
  for (size_t i = 0; i < ids.size(); ++i) groups[ids[i]].push_back(values[i]);
  std::vector<double> result;
  for (const int64_t id : ids) {
    double total = 0.0;
    for (const double v : groups[id]) total += log ? std::exp(v) : v;
    total /= static_cast<double>(groups[id].size());
    result.push_back(log ? std::log(total) : total);
  }
  return result;
}

inline double log_blend(double old, double value, double gamma) {
  return std::isinf(old) ? value : std::log((1 - gamma) * std::exp(old) + gamma * std::exp(value));
}

inline void label_truth(const Case& c, const Batch& batch, int l, Truth& truth) {
  const auto at = [&](int64_t b) { return b * c.labels + l; };
  std::vector<int64_t> anchors, items, ids;
  std::vector<double> wa, wi, x, y;
  bool bad = false;
  for (int64_t b = 0; b < c.batch; ++b) {
    const double w = c.weights == 0 ? 1.0 : batch.weights[c.weights == 2 ? at(b) : b];
    if (w == 0.0) continue;
    bad = bad || !std::isfinite(batch.scores[at(b)]);
    const bool anchor = batch.positive[at(b)] != 0;
    (anchor ? anchors : items).push_back(b);
    (anchor ? wa : wi).push_back(w);
    (anchor ? x : y).push_back(batch.scores[at(b)]);
    if (anchor) ids.push_back(batch.index[b]);
  }
  if (anchors.empty() || items.empty()) return;
  if (bad) {
    truth.values[l] = NAN;
    for (int64_t b = 0; b < c.batch; ++b) truth.gradient[at(b)] = NAN;
    return;
  }
  const double total_a = std::accumulate(wa.begin(), wa.end(), 0.0);
  const double total_i = std::accumulate(wi.begin(), wi.end(), 0.0);
  const size_t count_a = anchors.size(), count_i = items.size();
  std::vector<double> share_a, share_i;
  for (const double w : wa) share_a.push_back(w / total_a);
  for (const double w : wi) share_i.push_back(w / total_i);
  const Pairs phi{c.surrogate, {1.0, 1.5}, {}, {}, {}};
  std::vector<std::vector<double>> value(count_a), slope(count_a), pair(count_a);
  for (size_t i = 0; i < count_a; ++i) {
    value[i].resize(count_i), slope[i].resize(count_i), pair[i].assign(count_i, 0.0);
    for (size_t j = 0; j < count_i; ++j) phi_of(phi, y[j] - x[i], value[i][j], slope[i][j]);
  }
  const auto old = [&](const std::vector<float>& from, size_t i) {
    return static_cast<double>(from[l * batch.rows + ids[i]]);
  };
  const auto put = [&](std::vector<double>& to, const std::vector<double>& rows) {
    for (size_t i = 0; c.write && i < count_a; ++i) to[l * batch.rows + ids[i]] = rows[i];
  };
  const bool cvar = (c.rule == PartialRule::kCVaR || c.rule == PartialRule::kTwoWayCVaR);
  double result = 0.0;
  if (log_rule(c.rule)) {
    const bool push = c.rule == PartialRule::kPNormPush;
    std::vector<double> g, u;
    for (size_t i = 0; i < count_a; ++i) {
      double mean = 0.0;
      for (size_t j = 0; j < count_i; ++j) {
        mean += share_i[j] * (push ? value[i][j] : std::exp(value[i][j] / kKlWeight));
      }
      g.push_back(std::log(mean));
      u.push_back(c.state ? log_blend(old(batch.state, i), g[i], kGamma) : g[i]);
    }
    if (c.state) u = grouped(ids, u, true), put(truth.state, u);
    const double ratio = kKlWeight / kPositiveKlWeight;
    double v = 0.0, log_v = 0.0;
    if (c.rule == PartialRule::kTwoWayKL) {
      for (size_t i = 0; i < count_a; ++i) v += share_a[i] * std::exp(ratio * u[i]);
      log_v = c.state ? log_blend(batch.outer[l], std::log(v), kOuterGamma) : std::log(v);
      if (c.state && c.write) truth.outer[l] = log_v;
      result = kPositiveKlWeight * log_v;
    }
    for (size_t i = 0; i < count_a; ++i) {
      if (push) result += share_a[i] * std::exp(kPower * u[i]);
      if (c.rule == PartialRule::kKL) result += share_a[i] * kKlWeight * u[i];
      for (size_t j = 0; j < count_i; ++j) {
        const double z = value[i][j] / kKlWeight;
        pair[i][j] = push                         ? kPower * std::exp((kPower - 1) * u[i])
                     : c.rule == PartialRule::kKL ? std::exp(z - u[i])
                                                  : std::exp((ratio - 1) * u[i] + z - log_v);
        pair[i][j] *= share_a[i] * share_i[j];
      }
    }
  } else if (cvar && c.state) {
    const bool two_way = c.rule == PartialRule::kTwoWayCVaR;
    const double left = 1.0 - kMinTpr, outer = batch.outer[l];
    std::vector<double> g, above, next, dual(count_a, 1.0);
    for (size_t i = 0; i < count_a; ++i) {
      const double s = old(batch.state, i);
      g.push_back(s), above.push_back(0.0);
      for (size_t j = 0; j < count_i; ++j) {
        if (!(value[i][j] > s)) continue;
        above[i] += share_i[j];
        g[i] += share_i[j] * (value[i][j] - s) / kMaxFpr;
        pair[i][j] = share_a[i] * share_i[j] / kMaxFpr;
      }
    }
    if (two_way) {
      for (size_t i = 0; i < count_a; ++i) {
        const double moved = old(batch.dual, i) + kDualEta * (g[i] - outer) / left;
        dual[i] = std::min(1.0, std::max(0.0, moved));
      }
      dual = grouped(ids, dual, false);
      put(truth.dual, dual);
    }
    double mean_dual = 0.0;
    for (size_t i = 0; i < count_a; ++i) {
      mean_dual += share_a[i] * dual[i];
      result += two_way ? share_a[i] * dual[i] * (g[i] - outer) / left : share_a[i] * g[i];
      const double step = two_way ? kEta * dual[i] / left : kEta;
      next.push_back(old(batch.state, i) - step * (1.0 - above[i] / kMaxFpr));
      for (double& p : pair[i]) p *= two_way ? dual[i] / left : 1.0;
    }
    put(truth.state, grouped(ids, next, false));
    if (two_way) result += outer;
    if (two_way && c.write) truth.outer[l] = outer - kOuterEta * (1.0 - mean_dual / left);
  } else {
    const bool push = c.rule == PartialRule::kTopPush;
    const bool two_way = c.rule == PartialRule::kTwoWayCVaR || c.rule == PartialRule::kExact;
    share_i = first_of(wi, y, push ? 1.0 : kMaxFpr * total_i);
    std::vector<double> low;
    for (const double score : x) low.push_back(-score);
    if (two_way) share_a = first_of(wa, low, (1.0 - kMinTpr) * total_a);
    for (size_t i = 0; i < count_a; ++i) {
      for (size_t j = 0; j < count_i; ++j) {
        pair[i][j] = share_a[i] * share_i[j];
        result += pair[i][j] * value[i][j];
      }
    }
  }
  truth.values[l] = result;
  const double sign = c.rule == PartialRule::kPNormPush ? -1.0 : 1.0;  // scores come reversed
  const double share = sign * (c.mean ? 1.0 / c.labels : 1.0);
  for (size_t i = 0; i < count_a; ++i) {
    for (size_t j = 0; j < count_i; ++j) {
      const double pull = share * pair[i][j] * slope[i][j];
      truth.gradient[at(items[j])] += pull;
      truth.gradient[at(anchors[i])] -= pull;
      truth.scale[at(items[j])] += std::fabs(pull);
      truth.scale[at(anchors[i])] += std::fabs(pull);
    }
  }
}

}  // namespace xrisk::test
