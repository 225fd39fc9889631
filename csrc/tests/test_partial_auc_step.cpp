// The partial AUC step: its gradient against central differences of its own value where it keeps no
// state, the thresholds of CVaR after a step, thresholds by keys against the direct terms, and that
// a bad id or a NaN writes nothing.
#include "cpu/partial_auc_step.h"

#include "cpu/direct.h"
#include "cpu/first_entries.h"
#include "cpu/threshold_sums.h"
#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

struct Batch {
  std::vector<double> scores, weights;
  std::vector<uint8_t> positive;
  int64_t labels;
};

cpu::PartialAUCStep<double, double> call_of(const Batch& batch, PartialRule rule,
                                            std::vector<double>& values) {
  cpu::PartialAUCStep<double, double> call;
  call.rule = rule;
  call.params = {0.3, rule == PartialRule::kExact ? 0.4 : 0.0, 3.0};
  call.schedules = {0.5, 0.8, 0.9, 0.9, 0.1, 0.1, 0.1};
  call.batch = static_cast<int64_t>(batch.scores.size()) / batch.labels;
  call.labels = batch.labels;
  call.scores = batch.scores.data();
  call.positive = batch.positive.data();
  call.weights = batch.weights.empty() ? nullptr : batch.weights.data();
  call.weights_per_label = true;
  values.assign(static_cast<size_t>(batch.labels), 0.0);
  call.values = values.data();
  return call;
}

void check_gradient(Batch batch, PartialRule rule) {
  std::vector<double> values, gradient(batch.scores.size());
  auto call = call_of(batch, rule, values);
  call.gradient = gradient.data();
  CHECK(cpu::partial_auc_step(call, TwoThreads()) == -1);
  const double step = 1e-6;
  for (size_t k = 0; k < batch.scores.size(); k += tiny_cases ? 7 : 1) {
    const size_t label = k % static_cast<size_t>(batch.labels);
    double sides[2];
    const double kept = batch.scores[k];
    for (const int side : {0, 1}) {
      batch.scores[k] = kept + (side == 0 ? step : -step);
      cpu::partial_auc_step(call_of(batch, rule, values), cpu::SerialExecutor());
      sides[side] = values[label];
    }
    batch.scores[k] = kept;
    const double expected = (sides[0] - sides[1]) / (2 * step);
    CHECK(std::fabs(expected - gradient[k]) < 1e-6 * (1 + std::fabs(expected)));
  }
}

// The thresholds of CVaR after a step: s - eta (1 - above / rate), one by one.
void check_cvar_state() {
  std::mt19937_64 random(9);
  Batch batch;
  batch.labels = 1;
  batch.scores = normal<double>(random, 50, 0, 1);
  for (size_t k = 0; k < batch.scores.size(); ++k) batch.positive.push_back(random() % 3 == 0);
  std::vector<double> values, state = normal<double>(random, 50, 1.0, 0.7), before = state;
  std::vector<int64_t> index(state.size());
  for (size_t k = 0; k < index.size(); ++k) index[k] = 49 - static_cast<int64_t>(k);
  auto call = call_of(batch, PartialRule::kCVaR, values);
  call.state = state.data();
  call.index = index.data();
  call.rows = 50;
  CHECK(cpu::partial_auc_step(call, TwoThreads()) == -1);
  for (size_t i = 0; i < state.size(); ++i) {
    const auto row = static_cast<size_t>(index[i]);
    double above = 0.0, negatives = 0.0;
    for (size_t j = 0; j < state.size(); ++j) {
      if (batch.positive[j]) continue;
      const double phi = std::fmax(1.0 + batch.scores[j] - batch.scores[i], 0.0);
      above += phi * phi > before[row];
      negatives += 1.0;
    }
    const double step = call.schedules.eta * (1.0 - above / negatives / call.params.max_fpr);
    CHECK(close(state[row], before[row] - (batch.positive[i] ? step : 0.0), 1e-12, 1.0));
  }
}

// The hinges go by keys; the direct terms on the same pairs.
void check_thresholds(Surrogate surrogate, Algorithm algorithm) {
  std::mt19937_64 random(5);
  const int64_t anchors = 37, items = 211;
  const auto x = normal<float>(random, anchors, 30.0, 0.5),
             y = normal<float>(random, items, 30.0, 0.5);
  const auto thresholds = normal<double>(random, anchors, 0.3, 0.5);
  const auto anchor_weights = normal<double>(random, anchors, 0.0, 1.0);
  const std::vector<float> ones(items, 1.0f);
  cpu::PairwiseSpec spec;
  spec.surrogate = surrogate;
  spec.algorithm = algorithm;
  cpu::Scratch scratch;
  const cpu::SerialExecutor serial;
  cpu::ThresholdSums<float> sums(spec, {x.data(), anchors}, thresholds.data(),
                                 {y.data(), nullptr, items, 1}, static_cast<double>(items), scratch,
                                 serial);
  std::vector<double> excess(anchors), slopes(anchors), counts(anchors), direct[3];
  std::vector<float> out(items), direct_out(items);
  sums.rows(excess.data(), slopes.data(), counts.data());
  sums.columns(anchor_weights.data(), out.data());
  for (auto& array : direct) array.resize(anchors);
  cpu::DirectRows<float> rows;
  rows.term = {surrogate, spec.params, 0.0, cpu::Above::kExcess};
  rows.anchors = x.data();
  rows.shifts = thresholds.data();
  rows.items = {y.data(), ones.data(), items, 1};
  rows.sums = direct[0].data();
  rows.slopes = direct[1].data();
  cpu::direct_rows(rows, anchors, scratch, serial);
  rows.term.above = cpu::Above::kCount;
  rows.sums = direct[2].data();
  std::vector<double> spare(anchors);
  rows.slopes = spare.data();
  cpu::direct_rows(rows, anchors, scratch, serial);
  cpu::DirectColumns<float> columns;
  columns.term = {surrogate, spec.params, 0.0, cpu::Above::kExcess};
  columns.anchors = x.data();
  columns.shifts = thresholds.data();
  columns.anchor_weights = anchor_weights.data();
  columns.anchor_count = anchors;
  columns.items = rows.items;
  columns.out = direct_out.data();
  cpu::direct_columns(columns, serial);
  for (int64_t i = 0; i < anchors; ++i) {
    CHECK(std::fabs(excess[i] - direct[0][i]) < 1e-4 * (1 + direct[0][i]));
    CHECK(std::fabs(slopes[i] - direct[1][i]) < 1e-4 * (1 + direct[1][i]));
    CHECK(counts[i] == direct[2][i]);
  }
  for (int64_t j = 0; j < items; ++j) CHECK(std::fabs(out[j] - direct_out[j]) < 2e-4);
}

void check_selection() {
  std::vector<double> scores = {1, 3, 2, 3, 0, 2}, weights = {1, 1, 2, 1, 1, 1};
  std::vector<int32_t> positions = {10, 11, 12, 13, 14, 15};
  cpu::Entries<double> all{scores.data(), weights.data(), positions.data(), 6, 7.0};
  cpu::Scratch scratch;
  const auto top = cpu::first_entries(all, 3.5, true, scratch);
  CHECK(top.count == 3 && top.weight == 3.5);
  CHECK(top.positions[0] == 11 && top.positions[1] == 12 && top.positions[2] == 13);
  CHECK(top.weights[0] == 1 && top.weights[1] == 1.5 && top.weights[2] == 1);
  all.weights = nullptr;
  all.weight = 6.0;
  const auto lowest = cpu::first_entries(all, 0.25, false, scratch);
  CHECK(lowest.count == 1 && lowest.positions[0] == 14 && lowest.weights[0] == 0.25);
  CHECK(cpu::first_entries(all, 6.0, true, scratch).count == 6);
}

}  // namespace

int main() {
  check_selection();
  check_cvar_state();
  std::mt19937_64 random(2);
  for (int rule = 0; rule < kPartialRuleCount; ++rule) {
    for (int64_t labels : {1, 3}) {
      Batch batch;
      batch.labels = labels;
      batch.scores = normal<double>(random, 40 * labels, 0, 1);
      for (size_t k = 0; k < batch.scores.size(); ++k) batch.positive.push_back(random() % 3 == 0);
      check_gradient(batch, static_cast<PartialRule>(rule));
      for (size_t k = 0; k < batch.scores.size(); ++k) {
        batch.weights.push_back(static_cast<double>(random() % 3));
      }
      check_gradient(batch, static_cast<PartialRule>(rule));
    }
  }
  for_each_simd([](const char*) {
    for (const Algorithm algorithm : {Algorithm::kDirect, Algorithm::kSort}) {
      check_thresholds(Surrogate::kSquaredHinge, algorithm);
      check_thresholds(Surrogate::kHinge, algorithm);
    }
  });

  std::vector<float> scores = {0.1f, 0.7f, 0.3f, 0.9f}, state(4, 0.0f), gradient(4);
  std::vector<uint8_t> positive = {1, 0, 1, 0};
  std::vector<int64_t> index = {0, -1, 9, -1};
  double value;
  cpu::PartialAUCStep<float, float> call;
  call.rule = PartialRule::kCVaR;
  call.params.max_fpr = 0.5;
  call.schedules.eta = 0.1;
  call.batch = 4;
  call.scores = scores.data();
  call.positive = positive.data();
  call.index = index.data();
  call.state = state.data();
  call.rows = 4;
  call.values = &value;
  call.gradient = gradient.data();
  CHECK(cpu::partial_auc_step(call, cpu::SerialExecutor()) == 2);
  for (float s : state) CHECK(s == 0.0f);
  index[2] = 1;
  scores[3] = NAN;
  CHECK(cpu::partial_auc_step(call, cpu::SerialExecutor()) == -1);
  CHECK(std::isnan(value) && std::isnan(gradient[1]));
  for (float s : state) CHECK(s == 0.0f);
  scores[3] = 0.9f;
  CHECK(cpu::partial_auc_step(call, cpu::SerialExecutor()) == -1);
  CHECK(value > 0 && state[0] != 0.0f && state[1] != 0.0f && state[2] == 0.0f);
  return report();
}
