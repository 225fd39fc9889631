// The losses of ranked lists: gradients against central differences of their own values under every
// SIMD variant, LambdaRank against its pairs, and the same bits on every number of threads.
#include "cpu/listwise_step.h"

#include <algorithm>
#include <functional>

#include "tests/check.h"
#include "tests/list_options.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

template <class T>
struct Batch {
  int64_t lists, length;
  std::vector<T> scores, relevance;
  std::vector<uint8_t> mask;

  Batch(int64_t q, int64_t s, uint64_t levels = 4) : lists(q), length(s) {
    std::mt19937_64 random(static_cast<uint64_t>(s));
    scores = normal<T>(random, q * s, 0.0, 1.0);
    for (int64_t k = 0; k < q * s; ++k) {
      relevance.push_back(static_cast<T>(random() % levels) * (T(4) / levels));
      mask.push_back(random() % 5 != 0);
    }
  }
};

template <class T>
std::vector<T> step(const Batch<T>& batch, const ListOptions& options, const cpu::Executor& on,
                    std::vector<double>& values) {
  cpu::ListwiseStep<T> call;
  call.options = options;
  call.reduction = ListReduction::kNone;
  call.temperature = 0.5;
  call.lists = batch.lists;
  call.length = batch.length;
  call.scores = batch.scores.data();
  call.relevance = batch.relevance.data();
  call.mask = batch.mask.data();
  values.assign(static_cast<size_t>(batch.lists), NAN);
  std::vector<T> gradient(batch.scores.size(), NAN);
  call.values = values.data();
  call.gradient = gradient.data();
  cpu::listwise_step(call, on);
  return gradient;
}

void check_gradient(const ListOptions& options) {
  Batch<double> batch(2, 37);
  std::vector<double> values, above, below;
  const std::vector<double> gradient = step(batch, options, TwoThreads(), values);
  for (size_t k = 0; k < gradient.size(); k += tiny_cases ? 11 : 3) {
    const double kept = batch.scores[k], h = 1e-5;
    const size_t q = k / static_cast<size_t>(batch.length);
    batch.scores[k] = kept + h;
    step(batch, options, cpu::SerialExecutor(), above);
    batch.scores[k] = kept - h;
    step(batch, options, cpu::SerialExecutor(), below);
    batch.scores[k] = kept;
    const double expected = (above[q] - below[q]) / (2 * h);
    CHECK(std::fabs(gradient[k] - expected) < 1e-6 * (1.0 + std::fabs(values[q])));
    if (!batch.mask[k]) CHECK(gradient[k] == 0.0);
  }
}

// LambdaRank by its pairs: the weights are constants, so that differences do not tell its gradient.
void check_lambda_rank(int64_t length, uint64_t levels) {
  const Batch<double> batch(1, length, levels);
  std::vector<double> values;
  const std::vector<double> gradient =
      step(batch, options_of(ListLoss::kLambdaRank), TwoThreads(), values);
  std::vector<size_t> items;
  for (size_t k = 0; k < batch.mask.size(); ++k) {
    if (batch.mask[k]) items.push_back(k);
  }
  std::vector<double> gains(batch.mask.size()), discounts(gains.size()), expected(gains.size());
  std::vector<double> ordered;
  for (const size_t i : items) {
    double rank = 1.0;
    for (const size_t j : items) rank += batch.scores[j] > batch.scores[i];
    discounts[i] = 1.0 / std::log2(1.0 + rank);
    gains[i] = std::exp2(batch.relevance[i]) - 1.0;
    ordered.push_back(gains[i]);
  }
  std::sort(ordered.begin(), ordered.end(), std::greater<double>());
  double ideal = 0.0, value = 0.0, size = 0.0;
  for (size_t r = 0; r < ordered.size(); ++r) {
    ideal += ordered[r] / std::log2(static_cast<double>(r + 2));
  }
  for (const size_t i : items) {
    for (const size_t j : items) {
      if (!(batch.relevance[i] > batch.relevance[j])) continue;
      const double z = (batch.scores[j] - batch.scores[i]) / 0.5;  // the temperature
      const double weight = std::fabs((gains[i] - gains[j]) * (discounts[i] - discounts[j])) /
                            (ideal * std::log(2.0));
      const double slope = weight / (1.0 + std::exp(-z)) / 0.5;
      value += weight * std::log1p(std::exp(z));
      expected[j] += slope;
      expected[i] -= slope;
    }
  }
  for (const double g : expected) size = std::fmax(size, std::fabs(g));
  CHECK(close(values[0], value, 1e-10, value));
  for (size_t k = 0; k < gradient.size(); ++k) CHECK(close(gradient[k], expected[k], 1e-9, size));
}

void check_threads(const ListOptions& options, int64_t lists, int64_t length, uint64_t levels = 4) {
  const Batch<float> batch(lists, length, levels);
  std::vector<double> values, others;
  const std::vector<float> gradient = step(batch, options, cpu::SerialExecutor(), values);
  const auto same = [](const auto& a, const auto& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
  };
  for (int64_t threads : {2, 4}) {
    CHECK(same(step(batch, options, Threads(threads), others), gradient));
    CHECK(same(others, values));
  }
  for (double value : values) CHECK(std::isfinite(value));
}

}  // namespace

int main() {
  for_each_simd([](const char*) {
    for (int loss = 0; loss < kListLossCount; ++loss) {
      const ListOptions options = options_of(static_cast<ListLoss>(loss));
      // LambdaRank's weights are constants: its gradient is no derivative of its value
      if (options.loss != ListLoss::kLambdaRank) check_gradient(options);
    }
    check_lambda_rank(37, 4);
    check_lambda_rank(300, 100);  // by splits
  });
  const int64_t wide = small_cases ? 300 : 5000;  // chunks of anchors of one list
  for (int loss = 0; loss < kListLossCount; ++loss) {
    const ListOptions options = options_of(static_cast<ListLoss>(loss));
    check_threads(options, tiny_cases ? 20 : 70, 30);
    check_threads(options, 1, options.loss == ListLoss::kNeuralNDCG ? 60 : wide);
    // parts of the list by splits, others pair by pair
    if (options.loss == ListLoss::kLambdaRank) check_threads(options, 1, wide, 1000);
  }
  return report();
}
