// The fused step: its gradient against central differences of its own value (gamma = 1), several
// labels, weights, and that a bad id or a NaN writes nothing.
#include "cpu/score_step.h"

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

struct Batch {
  std::vector<double> scores, weights;
  std::vector<uint8_t> positive;
  int64_t labels;
};

std::vector<double> values_of(const Batch& batch, Rule rule, std::vector<double>* gradient) {
  cpu::ScoreStep<double, double> call;
  call.rule = rule;
  call.spec.surrogate = Surrogate::kSquaredHinge;
  call.batch = static_cast<int64_t>(batch.scores.size()) / batch.labels;
  call.labels = batch.labels;
  call.scores = batch.scores.data();
  call.positive = batch.positive.data();
  call.weights = batch.weights.empty() ? nullptr : batch.weights.data();
  call.weights_per_label = true;
  std::vector<double> values(static_cast<size_t>(batch.labels));
  call.values = values.data();
  if (gradient != nullptr) {
    gradient->resize(batch.scores.size());
    call.gradient = gradient->data();
  }
  CHECK(cpu::score_step(call, TwoThreads()) == -1);
  return values;
}

void check_gradient(Batch batch, Rule rule) {
  std::vector<double> gradient;
  values_of(batch, rule, &gradient);
  const double step = 1e-6;
  for (size_t k = 0; k < batch.scores.size(); ++k) {
    const double kept = batch.scores[k];
    const size_t label = k % static_cast<size_t>(batch.labels);
    batch.scores[k] = kept + step;
    const double above = values_of(batch, rule, nullptr)[label];
    batch.scores[k] = kept - step;
    const double below = values_of(batch, rule, nullptr)[label];
    batch.scores[k] = kept;
    CHECK(std::fabs((above - below) / (2 * step) - gradient[k]) < 1e-8);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random(2);
  for (Rule rule : {Rule::kAveragePrecision, Rule::kPairwiseAUC}) {
    for (int64_t labels : {1, 3}) {
      Batch batch;
      batch.labels = labels;
      batch.scores = normal<double>(random, 40 * labels, 0, 1);
      for (size_t k = 0; k < batch.scores.size(); ++k) batch.positive.push_back(random() % 3 == 0);
      check_gradient(batch, rule);
      for (size_t k = 0; k < batch.scores.size(); ++k) {
        batch.weights.push_back(static_cast<double>(random() % 3));
      }
      check_gradient(batch, rule);
    }
  }

  std::vector<float> scores = {0.1f, 0.7f, 0.3f, 0.9f}, state(2 * 4, NAN), gradient(4);
  std::vector<uint8_t> positive = {1, 0, 1, 0};
  std::vector<int64_t> index = {0, -1, 9, -1};
  double value;
  cpu::ScoreStep<float, float> call;
  call.batch = 4;
  call.scores = scores.data();
  call.positive = positive.data();
  call.index = index.data();
  call.state = state.data();
  call.rows = 4;
  call.values = &value;
  call.gradient = gradient.data();
  CHECK(cpu::score_step(call, cpu::SerialExecutor()) == 2);
  for (float u : state) CHECK(std::isnan(u));
  index[2] = 1;
  scores[3] = NAN;
  CHECK(cpu::score_step(call, cpu::SerialExecutor()) == -1);
  CHECK(std::isnan(value) && std::isnan(gradient[1]));
  for (float u : state) CHECK(std::isnan(u));
  scores[3] = 0.9f;
  CHECK(cpu::score_step(call, cpu::SerialExecutor()) == -1);
  CHECK(value < 0 && value > -1);
  CHECK(state[0] > 0 && state[2] > 0 && std::isnan(state[4]));
  return report();
}
