// The fused step against the method's formulas in plain double loops: both rules, weights, labels
// without positives, bad scores, state, and every algorithm.
#include <map>

#include "core/rules.h"
#include "cuda/score_step.h"
#include "tests/cuda/device.h"
#include "tests/cuda/pairs_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

struct Case {
  Rule rule = Rule::kAveragePrecision;
  Surrogate surrogate = Surrogate::kSquaredHinge;
  Algorithm algorithm = Algorithm::kDirect;
  int64_t batch = 0;
  int labels = 1;
  int weights = 0;      // 0: none, 1: [B], 2: [B, L]
  int label_bytes = 0;  // 0: labels are bytes
  bool state = true, bad = false, mean = true;
  double gamma = 0.4;
};

struct Batch {
  std::vector<float> scores, weights;
  std::vector<uint8_t> positive;
  std::vector<int64_t> index;
  std::vector<float> state;
  int64_t rows = 0;
};

Batch random_batch(const Case& c, std::mt19937_64& random) {
  Batch batch;
  batch.rows = std::max<int64_t>(1, c.batch / 2);
  batch.scores = normal<float>(random, c.batch * c.labels, 0.0, 1.0);
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int l = 0; l < c.labels; ++l) {
      batch.positive.push_back(l != 1 && random() % 4 == 0);  // the second label has none
    }
    const bool used = random() % 20 != 0;
    batch.index.push_back(used ? static_cast<int64_t>(random() % batch.rows) : 0);
  }
  const int64_t count = c.weights == 2 ? c.batch * c.labels : c.weights == 1 ? c.batch : 0;
  for (int64_t k = 0; k < count; ++k) batch.weights.push_back(static_cast<float>(random() % 3));
  if (c.bad && c.batch > 2) batch.scores[2 * c.labels] = NAN;
  for (int64_t k = 0; k < c.labels * batch.rows * 2; ++k) {
    batch.state.push_back(k / 2 % 3 == 0 ? NAN : 0.25f + static_cast<float>(random() % 8) / 4);
  }
  return batch;
}

// The labels as bfloat16, float or double: 0.5, else 0, -1 or NaN.
std::vector<char> wide_labels(const std::vector<uint8_t>& positive, int bytes) {
  std::vector<char> wide;
  for (size_t k = 0; bytes > 0 && k < positive.size(); ++k) {
    const double others[3] = {0.0, -1.0, NAN};
    const double label = positive[k] != 0 ? 0.5 : others[k % 3];
    const float narrow = static_cast<float>(label);
    // little endian: the upper half of a float is a bfloat16
    const char* from = bytes == 8 ? reinterpret_cast<const char*>(&label)
                                  : reinterpret_cast<const char*>(&narrow) + (bytes == 2 ? 2 : 0);
    wide.insert(wide.end(), from, from + bytes);
  }
  return wide;
}

struct Truth {
  std::vector<double> values, gradient, scale;
  std::vector<double> state;
};

double weight_of(const Case& c, const Batch& batch, int64_t b, int l) {
  if (c.weights == 0) return 1.0;
  return batch.weights[c.weights == 2 ? b * c.labels + l : b];
}

Truth truth_of(const Case& c, const Batch& batch) {
  Truth truth;
  truth.values.assign(c.labels, 0.0);
  truth.gradient.assign(c.batch * c.labels, 0.0);
  truth.scale = truth.gradient;
  truth.state.assign(batch.state.begin(), batch.state.end());
  const bool two_classes = c.rule == Rule::kAveragePrecision;
  const double share_of_label = c.mean ? 1.0 / c.labels : 1.0;
  for (int l = 0; l < c.labels; ++l) {
    std::vector<int64_t> items, anchors;
    double item_weight = 0.0, anchor_weight = 0.0;
    bool bad = false;
    for (int64_t b = 0; b < c.batch; ++b) {
      const double weight = weight_of(c, batch, b, l);
      if (weight == 0.0) continue;
      const bool positive = batch.positive[b * c.labels + l] != 0;
      bad = bad || !std::isfinite(batch.scores[b * c.labels + l]);
      if (positive) anchors.push_back(b), anchor_weight += weight;
      if (two_classes || !positive) items.push_back(b), item_weight += weight;
    }
    if (anchors.empty() || items.empty()) continue;
    if (bad) {
      truth.values[l] = NAN;
      for (int64_t b = 0; b < c.batch; ++b) truth.gradient[b * c.labels + l] = NAN;
      continue;
    }
    const Pairs phi{c.surrogate, {1.0, 1.5}, {}, {}, {}};
    const auto score = [&](int64_t b) {
      return static_cast<double>(batch.scores[b * c.labels + l]);
    };
    std::vector<std::vector<double>> u;
    std::map<int64_t, std::vector<std::vector<double>>> groups;
    for (const int64_t i : anchors) {
      std::vector<double> g = {0.0, 0.0};
      for (const int64_t j : items) {
        double value, slope;
        phi_of(phi, score(j) - score(i), value, slope);
        const double term = weight_of(c, batch, j, l) * value / item_weight;
        g[0] += term;
        if (two_classes && batch.positive[j * c.labels + l]) g[1] += term;
      }
      for (int k = 0; c.state && k < 2; ++k) {
        const float old = batch.state[(l * batch.rows + batch.index[i]) * 2 + k];
        if (!std::isnan(old)) g[k] = (1 - c.gamma) * old + c.gamma * g[k];
      }
      u.push_back(g);
      groups[batch.index[i]].push_back(g);
    }
    for (size_t i = 0; c.state && i < anchors.size(); ++i) {
      const auto& group = groups[batch.index[anchors[i]]];
      for (int k = 0; k < 2; ++k) {
        double total = 0.0;
        for (const auto& g : group) total += g[k];
        u[i][k] = static_cast<float>(total / static_cast<double>(group.size()));
        truth.state[(l * batch.rows + batch.index[anchors[i]]) * 2 + k] = u[i][k];
      }
    }
    for (size_t i = 0; i < anchors.size(); ++i) {
      const double share = weight_of(c, batch, anchors[i], l) / anchor_weight;
      const AnchorTerms terms =
          two_classes ? average_precision_rule(u[i][0], u[i][1]) : pairwise_auc_rule(u[i][0]);
      truth.values[l] += share * terms.value;
      for (const int64_t j : items) {
        double value, slope;
        phi_of(phi, score(j) - score(anchors[i]), value, slope);
        const bool positive = two_classes && batch.positive[j * c.labels + l];
        const double weight = positive ? terms.positive_weight : terms.negative_weight;
        const double pull =
            share * weight * weight_of(c, batch, j, l) / item_weight * slope * share_of_label;
        truth.gradient[j * c.labels + l] += pull;
        truth.gradient[anchors[i] * c.labels + l] -= pull;
        truth.scale[j * c.labels + l] += std::fabs(pull);
        truth.scale[anchors[i] * c.labels + l] += std::fabs(pull);
      }
    }
  }
  return truth;
}

void run(const Case& c) {
  std::mt19937_64 random(c.batch + c.labels);
  const Batch batch = random_batch(c, random);
  const Truth truth = truth_of(c, batch);
  const DeviceArray<float> scores(batch.scores), weights(batch.weights);
  const DeviceArray<uint8_t> positive(batch.positive);
  const DeviceArray<char> wide(wide_labels(batch.positive, c.label_bytes));
  const DeviceArray<int64_t> index(batch.index);
  DeviceArray<float> state(batch.state), values(c.labels), mean(1), gradient(c.batch * c.labels);
  const DeviceArray<double> scale(std::vector<double>{1.5}), gamma(std::vector<double>{c.gamma});
  cuda::ScoreStep<float, float> call;
  call.rule = c.rule;
  call.surrogate = c.surrogate;
  call.algorithm = c.algorithm;
  call.scale = scale.data();
  call.gamma = gamma.data();
  call.batch = c.batch;
  call.labels = c.labels;
  call.scores = scores.data();
  if (c.label_bytes == 0) {
    call.positive.data = positive.data();
  } else {
    call.positive = {wide.data(), c.label_bytes, true,
                     c.label_bytes == 2   ? 0x7f80
                     : c.label_bytes == 4 ? 0x7f800000
                                          : 0x7ff0000000000000};
  }
  call.weights = c.weights == 0 ? nullptr : weights.data();
  call.weights_per_label = c.weights == 2;
  call.index = index.data();
  call.state = c.state ? state.data() : nullptr;
  call.rows = batch.rows;
  call.mean_reduction = c.mean;
  call.values = values.data();
  call.mean_value = mean.data();
  call.gradient = gradient.data();
  const size_t bytes = cuda::score_step_workspace_bytes(call);
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  CHECK(cuda::launch_score_step(call, workspace.data(), bytes, nullptr) == cudaSuccess);

  const auto same = [](double a, double b, double size) {
    return std::isnan(b) ? std::isnan(a) : std::fabs(a - b) <= 1e-5 * size + 1e-12;
  };
  const auto got_values = values.read(), got_gradient = gradient.read(), got_state = state.read();
  double total = 0.0;
  for (int l = 0; l < c.labels; ++l) {
    CHECK(same(got_values[l], truth.values[l], 1.0 + std::fabs(truth.values[l])));
    total += truth.values[l];
  }
  CHECK(same(mean.read()[0], total / c.labels, 1.0 + std::fabs(total)));
  for (size_t k = 0; k < truth.gradient.size(); ++k) {
    CHECK(same(got_gradient[k], truth.gradient[k], truth.scale[k]));
  }
  for (size_t k = 0; k < truth.state.size(); ++k) {
    CHECK(same(got_state[k], truth.state[k], std::fabs(truth.state[k])));
  }
}

}  // namespace

int main() {
  for_each_schedule([] {
    for (const Rule rule : {Rule::kAveragePrecision, Rule::kPairwiseAUC}) {
      Case c;
      c.rule = rule;
      c.state = rule == Rule::kAveragePrecision;
      for (const int64_t batch : {0, 1, 40, 700, 1024, 2500}) {  // direct; auto: small ones at once
        c.batch = batch;
        for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kAuto}) {
          if (algorithm == Algorithm::kDirect && batch > 700) continue;
          c.algorithm = algorithm;
          run(c);
        }
      }
      c.algorithm = Algorithm::kAuto;
      c.batch = 150;
      for (const int bytes : {2, 4, 8}) {
        c.label_bytes = bytes;
        run(c);
      }
      c.label_bytes = 0;
      for (const Surrogate surrogate : {Surrogate::kSquared, Surrogate::kHinge,
                                        Surrogate::kBarrierHinge, Surrogate::kSigmoid}) {
        c.surrogate = surrogate;
        run(c);
      }
      for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kDirect, Algorithm::kSort}) {
        c.surrogate = Surrogate::kSquaredHinge;
        c.algorithm = algorithm;
        for (const int weights : {0, 1, 2}) {
          c.weights = weights;
          c.labels = 3;
          run(c);
          c.mean = false;
          c.bad = true;
          run(c);
          c.mean = true;
          c.bad = false;
        }
        c.weights = 0;
        c.labels = 1;
      }
      c.state = false;
      run(c);
      c.algorithm = Algorithm::kSort;
      c.surrogate = Surrogate::kZeroOne;  // no slopes
      run(c);
      c.algorithm = Algorithm::kSmooth;
      for (const Surrogate surrogate : {Surrogate::kLogistic, Surrogate::kSigmoid}) {
        c.surrogate = surrogate;
        for (const int weights : {0, 2}) {
          c.weights = weights;
          c.labels = 1 + weights;
          c.bad = weights > 0;
          run(c);
        }
      }
    }
  });
  return report();
}
