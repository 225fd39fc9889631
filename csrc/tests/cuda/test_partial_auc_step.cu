// The partial AUC step against the methods' formulas in plain double loops: every rule, weights,
// labels without pairs, bad scores, duplicate ids, one launch and composed.
#include "cuda/partial_auc_step.h"
#include "cuda/partial_pairs_launch.h"
#include "tests/cuda/device.h"
#include "tests/cuda/partial_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

void run(const Case& c) {
  std::mt19937_64 random(c.batch + c.labels);
  const Batch batch = random_batch(c, random);
  Truth truth;
  truth.values.assign(c.labels, 0.0);
  truth.gradient.assign(c.batch * c.labels, 0.0);
  truth.scale = truth.gradient;
  truth.state.assign(batch.state.begin(), batch.state.end());
  truth.dual.assign(batch.dual.begin(), batch.dual.end());
  truth.outer.assign(batch.outer.begin(), batch.outer.end());
  for (int l = 0; l < c.labels; ++l) label_truth(c, batch, l, truth);

  const DeviceArray<float> scores(batch.scores), weights(batch.weights);
  const DeviceArray<uint8_t> positive(batch.positive);
  const DeviceArray<int64_t> index(batch.index);
  DeviceArray<float> state(batch.state), dual(batch.dual), outer(batch.outer);
  DeviceArray<float> values(c.labels), mean(1), gradient(c.batch * c.labels);
  const DeviceArray<double> numbers(std::vector<double>{1.5, kKlWeight, kPositiveKlWeight, kGamma,
                                                        kOuterGamma, kEta, kDualEta, kOuterEta});
  const double* n = numbers.data();
  cuda::PartialAUCStep<float, float> call;
  call.rule = c.rule;
  const bool one_way = c.rule == PartialRule::kKL || c.rule == PartialRule::kCVaR ||
                       c.rule == PartialRule::kTopPush || c.rule == PartialRule::kPNormPush;
  call.params = {kMaxFpr, one_way ? 0.0 : kMinTpr, kPower};
  call.schedules = {n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7};
  call.batch.surrogate = c.surrogate;
  call.batch.rule = Rule::kPairwiseAUC;
  call.batch.algorithm = c.algorithm;
  call.batch.scale = n;
  call.batch.batch = c.batch;
  call.batch.labels = c.labels;
  call.batch.scores = scores.data();
  call.batch.positive.data = positive.data();
  call.batch.weights = c.weights == 0 ? nullptr : weights.data();
  call.batch.weights_per_label = c.weights == 2;
  call.batch.index = index.data();
  call.batch.state = c.state ? state.data() : nullptr;
  call.batch.rows = batch.rows;
  call.batch.write_state = c.write;
  call.batch.mean_reduction = c.mean;
  call.batch.values = values.data();
  call.batch.mean_value = mean.data();
  call.batch.gradient = gradient.data();
  call.dual = c.state ? dual.data() : nullptr;
  call.outer = c.state ? outer.data() : nullptr;
  const size_t bytes = cuda::partial_auc_step_workspace_bytes(call);
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  CHECK(cuda::launch_partial_auc_step(call, workspace.data(), bytes, nullptr) == cudaSuccess);

  const auto same = [](double a, double b, double size) {
    return std::isnan(b) ? std::isnan(a) : a == b || std::fabs(a - b) <= 2e-5 * size + 1e-12;
  };
  const auto got_values = values.read(), got_gradient = gradient.read();
  double total = 0.0;
  for (int l = 0; l < c.labels; ++l) {
    CHECK(same(got_values[l], truth.values[l], 1.0 + std::fabs(truth.values[l])));
    total += truth.values[l];
  }
  CHECK(same(mean.read()[0], total / c.labels, 1.0 + std::fabs(total)));
  for (size_t k = 0; k < truth.gradient.size(); ++k) {
    CHECK(same(got_gradient[k], truth.gradient[k], truth.scale[k]));
  }
  const auto same_rows = [&](const std::vector<float>& got, const std::vector<double>& expected) {
    for (size_t k = 0; k < expected.size(); ++k) {
      CHECK(same(got[k], expected[k], 1.0 + std::fabs(expected[k])));
    }
  };
  same_rows(state.read(), truth.state);
  same_rows(dual.read(), truth.dual);
  same_rows(outer.read(), truth.outer);
}

// Tiny tiles, so that rows and columns take several: against the default ones.
void tiles() {
  std::mt19937_64 random(3);
  const int64_t batch = 70;
  const DeviceArray<float> items(normal<float>(random, batch, 0.0, 1.0));
  const DeviceArray<float> anchors(normal<float>(random, batch, 0.0, 1.0));
  const DeviceArray<float> weights(std::vector<float>(batch, 1.5f));
  const DeviceArray<double> shifts(std::vector<double>(batch, 0.4)),
      scale(std::vector<double>{1.5});
  const DeviceArray<double> column_weights(normal<double>(random, batch, 0.0, 1.0));
  const DeviceArray<int32_t> live(std::vector<int32_t>{40});
  std::vector<std::vector<double>> rows;
  std::vector<std::vector<float>> columns;
  for (const bool tiny : {true, false}) {
    DeviceArray<double> sums(batch), slopes(batch), above(batch);
    DeviceArray<float> out(batch);
    cuda::PartialPairs<float> call;
    call.kind = cuda::PairKind::kThreshold;
    call.scale = scale.data();
    call.batch = batch;
    call.items = items.data();
    call.item_weights = weights.data();
    call.anchors = anchors.data();
    call.shifts = shifts.data();
    call.live = live.data();
    call.column_weights = column_weights.data();
    call.sums = sums.data();
    call.slopes = slopes.data();
    call.above = above.data();
    call.columns = out.data();
    if (tiny) {
      CHECK((cuda::partial_rows<64, 16>(call, nullptr)) == cudaSuccess);
      CHECK((cuda::partial_columns<32, 16>(call, nullptr)) == cudaSuccess);
    } else {
      CHECK(cuda::launch_partial_rows(call, nullptr) == cudaSuccess);
      CHECK(cuda::launch_partial_columns(call, nullptr) == cudaSuccess);
    }
    for (const auto& array : {sums.read(), slopes.read(), above.read()}) rows.push_back(array);
    columns.push_back(out.read());
  }
  for (int k = 0; k < 3; ++k) {
    for (int64_t i = 0; i < 40; ++i) CHECK(std::fabs(rows[k][i] - rows[k + 3][i]) < 1e-4);
  }
  for (int64_t j = 0; j < batch; ++j) CHECK(std::fabs(columns[0][j] - columns[1][j]) < 1e-4);
}

// KL by the near-linear log sums, which "sort" stands for.
void near_log_sums() {
  Case c;
  c.algorithm = Algorithm::kSort;
  c.batch = 50;
  c.labels = 3;
  c.weights = 2;
  c.rule = PartialRule::kTwoWayKL;
  run(c);
  for (const PartialRule rule : {PartialRule::kKL, PartialRule::kTwoWayKL}) {
    c.rule = rule;
    for (const Surrogate surrogate : {Surrogate::kHinge, Surrogate::kLogistic}) {
      c.surrogate = surrogate;
      c.bad = surrogate == Surrogate::kHinge;
      c.state = surrogate == Surrogate::kHinge;
      run(c);
    }
  }
}

}  // namespace

int main() {
  bool first = true;  // under the other schedules: labels, weights, both ways
  for_each_schedule([&] {
    tiles();
    for (int rule = 0; rule < kPartialRuleCount; ++rule) {
      Case c;
      c.rule = static_cast<PartialRule>(rule);
      const bool keeps = c.rule != PartialRule::kExact && c.rule != PartialRule::kTopPush;
      c.state = keeps;
      c.batch = 40;
      c.labels = 3;
      c.weights = 2;
      for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kDirect}) {
        c.algorithm = algorithm;
        run(c);
      }
      if (!first) continue;
      for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kDirect, Algorithm::kSort}) {
        c.algorithm = algorithm;
        const bool log_sums = c.rule == PartialRule::kKL || c.rule == PartialRule::kTwoWayKL;
        if (log_sums && algorithm == Algorithm::kSort) continue;  // near_log_sums
        c.weights = 1;
        c.bad = true;
        c.mean = false;
        c.write = false;
        run(c);
        c.weights = 0;
        c.bad = false;
        c.mean = true;
        c.write = true;
        c.state = false;
        run(c);
        c.state = keeps;
      }
      c.labels = 1;
      for (const int64_t batch : {0, 1, 300}) {
        c.batch = batch;
        for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kDirect}) {
          c.algorithm = algorithm;
          run(c);
        }
      }
      c.batch = 60;
      for (const Surrogate surrogate : {Surrogate::kHinge, Surrogate::kLogistic}) {
        c.surrogate = surrogate;
        run(c);
      }
    }
    first = false;
  });
  near_log_sums();
  return report();
}
