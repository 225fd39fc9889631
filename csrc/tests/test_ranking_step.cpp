// The ranking step: NDCG against plain loops, the gradient against central differences of its own
// value (gamma = 1, the threshold solved), queries of all sizes on one and two threads under every
// SIMD variant, and that a bad id or a NaN writes nothing.
#include "cpu/ranking_step.h"

#include <algorithm>
#include <functional>

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

struct Batch {
  std::vector<double> scores, weights;
  std::vector<float> relevance;
  std::vector<int64_t> offsets = {0};
};

Batch random_batch(std::mt19937_64& random, std::initializer_list<int64_t> lengths) {
  Batch batch;
  for (const int64_t length : lengths) batch.offsets.push_back(batch.offsets.back() + length);
  const int64_t entries = batch.offsets.back();
  batch.scores = normal<double>(random, entries, 0, 1);
  for (int64_t k = 0; k < entries; ++k) {
    batch.relevance.push_back(random() % 4 == 0 ? static_cast<float>(1 + random() % 3) : 0.0f);
    batch.weights.push_back(static_cast<double>(random() % 3));
  }
  return batch;
}

cpu::RankingStep<double, double> call_of(const Batch& batch, RankingRule rule, int64_t top_k) {
  cpu::RankingStep<double, double> call;
  call.rule = rule;
  call.lists = {batch.offsets.data(), static_cast<int64_t>(batch.offsets.size()) - 1, 0};
  call.scores = batch.scores.data();
  call.relevance = batch.relevance.data();
  call.weights = batch.weights.data();
  call.top_k.k = top_k;
  call.top_k.tau1 = 0.3;
  return call;
}

double value_of(const Batch& batch, RankingRule rule, int64_t top_k) {
  cpu::RankingStep<double, double> call = call_of(batch, rule, top_k);
  std::vector<double> values(static_cast<size_t>(call.lists.count));
  call.values = values.data();
  CHECK(cpu::ranking_step(call, TwoThreads()).kind == cpu::RankingError::kNone);
  double total = 0.0;
  for (const double value : values) total += value;
  return total;
}

void check_gradient(Batch batch, RankingRule rule, int64_t top_k) {
  cpu::RankingStep<double, double> call = call_of(batch, rule, top_k);
  std::vector<double> values(static_cast<size_t>(call.lists.count)), gradient(batch.scores.size());
  call.values = values.data();
  call.gradient = gradient.data();
  CHECK(cpu::ranking_step(call, TwoThreads()).kind == cpu::RankingError::kNone);
  const double step = 1e-6;
  for (size_t k = 0; k < batch.scores.size(); ++k) {
    const double kept = batch.scores[k];
    batch.scores[k] = kept + step;
    const double above = value_of(batch, rule, top_k);
    batch.scores[k] = kept - step;
    const double below = value_of(batch, rule, top_k);
    batch.scores[k] = kept;
    CHECK(std::fabs((above - below) / (2 * step) - gradient[k]) < 1e-7);
  }
}

// NDCG without weights in plain loops: -sum_i G_i / log2(1 + sum_j phi(h_j - h_i)) over the best.
void check_value(Batch batch) {
  cpu::RankingStep<double, double> call = call_of(batch, RankingRule::kNDCG, 0);
  call.weights = nullptr;
  std::vector<double> values(static_cast<size_t>(call.lists.count));
  call.values = values.data();
  CHECK(cpu::ranking_step(call, TwoThreads()).kind == cpu::RankingError::kNone);
  for (size_t q = 0; q < values.size(); ++q) {
    const auto begin = static_cast<size_t>(batch.offsets[q]);
    const auto end = static_cast<size_t>(batch.offsets[q + 1]);
    std::vector<double> gains;
    double total = 0.0, ideal = 0.0;
    for (size_t i = begin; i < end; ++i) {
      if (!(batch.relevance[i] > 0)) continue;
      double rank = 1.0;
      for (size_t j = begin; j < end; ++j) {
        const double phi = std::fmax(1.0 + batch.scores[j] - batch.scores[i], 0.0);
        rank += phi * phi;
      }
      gains.push_back(std::exp2(static_cast<double>(batch.relevance[i])) - 1.0);
      total -= gains.back() / std::log2(rank);
    }
    std::sort(gains.begin(), gains.end(), std::greater<double>());
    for (size_t r = 0; r < gains.size(); ++r) {
      ideal += gains[r] / std::log2(static_cast<double>(r + 2));
    }
    CHECK(close(values[q], gains.empty() ? 0.0 : total / ideal, 1e-12, 1));
  }
}

// Everything that a step writes.
std::vector<double> outcome(const Batch& batch, int64_t top_k, const cpu::Executor& executor) {
  const int64_t entries = batch.offsets.back();
  std::vector<float> scores(batch.scores.begin(), batch.scores.end());
  std::vector<float> state(static_cast<size_t>(entries), NAN), gradient(state.size());
  std::vector<int64_t> ids(state.size());
  for (size_t k = 0; k < ids.size(); ++k) ids[k] = static_cast<int64_t>(k / 2);  // all twice
  cpu::RankingStep<float, float> call;
  const int64_t queries = call.lists.count = static_cast<int64_t>(batch.offsets.size()) - 1;
  call.lists.offsets = batch.offsets.data();
  call.scores = scores.data();
  call.relevance = batch.relevance.data();
  call.pair_index = ids.data();
  call.state = state.data();
  call.rows = entries;
  call.gamma = 0.3;
  std::vector<float> thresholds(static_cast<size_t>(queries), NAN), curvatures = thresholds;
  call.top_k.k = top_k;
  call.top_k.thresholds = thresholds.data();
  call.top_k.curvatures = curvatures.data();
  call.top_k.rows = queries;
  std::vector<double> result(static_cast<size_t>(queries));
  call.values = result.data();
  call.gradient = gradient.data();
  for (int step = 0; step < 2; ++step) {
    CHECK(cpu::ranking_step(call, executor).kind == cpu::RankingError::kNone);
  }
  for (const auto* part : {&gradient, &state, &thresholds, &curvatures}) {
    result.insert(result.end(), part->begin(), part->end());
  }
  return result;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

}  // namespace

int main() {
  std::mt19937_64 random(3);
  const Batch small = random_batch(random, {12, 1, 0, 9, 20});
  for (const RankingRule rule : {RankingRule::kNDCG, RankingRule::kListwise}) {
    check_gradient(small, rule, 0);
  }
  check_gradient(small, RankingRule::kNDCG, 3);
  check_value(small);

  for_each_simd([&](const char*) {
    for (const int64_t top_k : {int64_t{0}, int64_t{4}}) {
      const Batch chunks = random_batch(random, {3000, 40, 7000, 1, 0, 600, 4000});
      CHECK(same_bits(outcome(chunks, top_k, cpu::SerialExecutor()),
                      outcome(chunks, top_k, TwoThreads())));
      if (small_cases) continue;
      const Batch alone = random_batch(random, {70000, 40, 50000, 700});
      CHECK(same_bits(outcome(alone, top_k, cpu::SerialExecutor()),
                      outcome(alone, top_k, TwoThreads())));
    }
  });

  std::vector<float> scores = {0.1f, 0.7f, 0.3f, 0.9f}, relevance = {1, 0, 2, 0};
  std::vector<float> state(4, NAN), gradient(4);
  std::vector<int64_t> index = {0, -1, 9, -1};
  double value;
  cpu::RankingStep<float, float> call;
  call.lists = {nullptr, 1, 4};
  call.scores = scores.data();
  call.relevance = relevance.data();
  call.pair_index = index.data();
  call.state = state.data();
  call.rows = 4;
  call.values = &value;
  call.gradient = gradient.data();
  const cpu::RankingError error = cpu::ranking_step(call, cpu::SerialExecutor());
  CHECK(error.kind == cpu::RankingError::kPairIndex && error.position == 2);
  for (const float u : state) CHECK(std::isnan(u));
  index[2] = 1;
  scores[3] = NAN;
  CHECK(cpu::ranking_step(call, cpu::SerialExecutor()).kind == cpu::RankingError::kNone);
  CHECK(std::isnan(value) && std::isnan(gradient[1]));
  for (const float u : state) CHECK(std::isnan(u));
  scores[3] = 0.9f;
  CHECK(cpu::ranking_step(call, cpu::SerialExecutor()).kind == cpu::RankingError::kNone);
  CHECK(value < 0 && state[0] > 0 && state[1] > 0 && std::isnan(state[2]));
  return report();
}
