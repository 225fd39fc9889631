// The parallel paths of ranked lists, of the top-K threshold, of metrics and of losses that need no
// pairs; tests/threads.h.
#include <numeric>

#include "cpu/curve_sums.h"
#include "cpu/descending_sort.h"
#include "cpu/entrywise.h"
#include "cpu/listwise_step.h"
#include "cpu/pooled_margin_step.h"
#include "cpu/ranked_precision.h"
#include "cpu/topk.h"
#include "tests/list_options.h"
#include "tests/threads.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

void check_listwise(ListLoss loss, int64_t lists, int64_t length, uint64_t levels = 4,
                    double temperature = 0.5) {
  const std::vector<float> scores = random_floats(lists * length);
  std::vector<uint8_t> mask = random_flags(lists * length, 5);
  for (uint8_t& present : mask) present = !present;
  std::vector<float> relevance(scores.size());
  std::mt19937_64 random(4);
  for (float& y : relevance) {
    y = static_cast<float>(random() % levels) * (4.0f / static_cast<float>(levels));
  }
  check_same_on_all("listwise_step", [&](const cpu::Executor& executor) {
    std::vector<double> values(static_cast<size_t>(lists)), total(1);
    std::vector<float> gradient(scores.size());
    cpu::ListwiseStep<float> call;
    call.options = options_of(loss);
    call.temperature = temperature;
    call.lists = lists;
    call.length = length;
    call.scores = scores.data();
    call.relevance = relevance.data();
    call.mask = mask.data();
    call.values = values.data();
    call.total = total.data();
    call.gradient = gradient.data();
    cpu::listwise_step(call, executor);
    return joined(values, total, gradient);
  });
}

// Short lists dealt out in batches; long ones cut by their own algorithm, where they have one.
void check_listwise_losses() {
  for (int loss = 0; loss < kListLossCount; ++loss) {
    check_listwise(static_cast<ListLoss>(loss), 70, 30);
  }
  check_listwise(ListLoss::kListNet, 1200, 30);  // the mean over the lists is parallel, too
  constexpr int64_t kLong = 40000;
  check_listwise(ListLoss::kRankNet, 1, kLong);         // level by level, by sums of pairs
  check_listwise(ListLoss::kLambdaRank, 1, 5000, 900);  // parts by splits, others pair by pair
  check_listwise(ListLoss::kLambdaRank, 1, 5000, 4, 1e-151);  // too far apart for splits
  for (const ListLoss loss : {ListLoss::kApproxNDCG, ListLoss::kSmoothAP, ListLoss::kRecallAtK}) {
    check_listwise(loss, 1, kLong);
  }
}

void check_topk(int64_t rows, int64_t length, double spread, bool smooth) {
  std::vector<float> scores = random_floats(rows * length);
  for (float& x : scores) x *= static_cast<float>(spread);
  const std::vector<float> upstream = random_floats(rows);
  check_same_on_all("topk", [&](const cpu::Executor& executor) {
    std::vector<double> roots(upstream.size());
    std::vector<float> gradient(scores.size());
    cpu::TopK<float> call;
    call.scores = scores.data();
    call.rows = {nullptr, rows, length};
    call.k = length / 3;
    call.smooth = smooth;
    cpu::topk_thresholds(call, roots.data(), executor);
    cpu::topk_gradient(call, roots.data(), upstream.data(), gradient.data(), executor);
    return joined(roots, gradient);
  });
}

// Rows in batches, and one whose chunks are shared; so many scores near the threshold that they are
// summed in parallel, or found twice because the first guess of their number was too low.
void check_topk_rows() {
  for (const bool smooth : {false, true}) {
    check_topk(50, 1000, 1.0, smooth);
    check_topk(1, 140000, 1.0, smooth);
  }
  check_topk(1, 140000, 0.1, true);
  const std::vector<double> x = random_values(40000);
  std::vector<double> weights = random_values(40001);
  for (double& w : weights) w = std::fabs(w);
  check_same_on_all("smooth_threshold", [&](const cpu::Executor& executor) {
    return std::vector<double>{cpu::smooth_threshold(x.data(), weights.data(), 40000,
                                                     {0.1, 0.01, 1e-4}, nullptr, executor)};
  });
}

// What the metrics are made of: rows sorted, and the sums under their curves.
void check_curves(int64_t rows, int64_t columns, bool weighted) {
  const std::vector<float> scores = random_floats(rows * columns);
  const std::vector<uint8_t> positive = random_flags(rows * columns, 3);
  const std::vector<double> weights(scores.size(), 0.5);
  check_same_on_all("curves", [&](const cpu::Executor& executor) {
    std::vector<float> values(scores.size());
    std::vector<int64_t> indices(scores.size());
    std::vector<double> sums(static_cast<size_t>(4 * rows));
    cpu::sort_descending(
        cpu::DescendingSort<float>{scores.data(), values.data(), indices.data(), rows, columns},
        executor);
    cpu::CurveSums<float> call;
    call.values = values.data();
    call.indices = indices.data();
    call.positive = positive.data();
    call.weights = weighted ? weights.data() : nullptr;
    call.rows = rows;
    call.columns = columns;
    call.max_fpr = 0.4;
    call.min_tpr = 0.2;
    call.sums = sums.data();
    CHECK(cpu::curve_sums(call, executor));
    return joined(values, indices, sums);
  });
}

void check_entrywise(int64_t batch, int64_t labels) {
  const std::vector<float> scores = random_floats(batch * labels);
  const std::vector<uint8_t> positive = random_flags(batch * labels, 4);
  const std::vector<float> weights(scores.size(), 0.5f);
  const std::vector<double> parameters(static_cast<size_t>(3 * labels), 0.2);
  const cpu::LabelledEntries<float> entries{scores.data(), positive.data(), weights.data(), batch,
                                            labels};
  check_same_on_all("auc_margin_step", [&](const cpu::Executor& executor) {
    std::vector<double> values(static_cast<size_t>(labels)), by(parameters.size());
    std::vector<float> gradient(scores.size());
    cpu::AucMarginStep<float> call;
    call.entries = entries;
    call.parameters = parameters.data();
    call.values = values.data();
    call.by_parameters = by.data();
    call.gradient = gradient.data();
    cpu::auc_margin_step(call, executor);
    return joined(values, by, gradient);
  });
  check_same_on_all("cross_entropy_step", [&](const cpu::Executor& executor) {
    std::vector<double> values(static_cast<size_t>(labels));
    std::vector<float> gradient(scores.size());
    cpu::CrossEntropyStep<float> call;
    call.entries = entries;
    call.focus = 2.0;
    call.values = values.data();
    call.gradient = gradient.data();
    cpu::cross_entropy_step(call, executor);
    return joined(values, gradient);
  });
}

// MIDAM's bags, whose ids come twice.
void check_pooled_margin(int64_t batch) {
  std::vector<float> values = random_floats(batch), denominators = values;
  for (size_t k = 0; k < values.size(); ++k) {
    denominators[k] = values[k] = std::fabs(values[k]) + 0.2f;
  }
  const std::vector<uint8_t> positive = random_flags(batch, 3);
  const std::vector<int64_t> index = random_ids(batch, batch);
  check_same_on_all("pooled_margin_step", [&](const cpu::Executor& executor) {
    std::vector<float> state(values.size(), 0.7f), other = state;
    std::vector<float> by_values(values.size()), by_denominators(values.size());
    cpu::PooledMarginStep<float, float> call;
    call.values = values.data();
    call.denominators = denominators.data();
    call.positive = positive.data();
    call.batch = batch;
    call.index = index.data();
    call.state = state.data();
    call.state_denominators = other.data();
    call.rows = batch;
    call.gamma = 0.4;
    call.by_values = by_values.data();
    call.by_denominators = by_denominators.data();
    const cpu::PooledMarginResult result = cpu::pooled_margin_step(call, executor);
    return joined(state, other, by_values, by_denominators, std::vector<double>{result.value});
  });
}

// Labels in parallel, or the pairs of one alone.
void check_ranked_precision(int64_t batch, int64_t labels) {
  const std::vector<float> scores = random_floats(batch * labels);
  const std::vector<uint8_t> positive = random_flags(batch * labels, 4);
  check_same_on_all("ranked_precision", [&](const cpu::Executor& executor) {
    std::vector<float> gradient(scores.size());
    cpu::RankedPrecision<float, float> call;
    call.batch.batch = batch;
    call.batch.labels = labels;
    call.batch.scores = scores.data();
    call.batch.positive = positive.data();
    call.batch.gradient = gradient.data();
    call.top_k = 20.0;
    cpu::ranked_precision_gradient(call, executor);
    return gradient;
  });
}

}  // namespace

int main() {
  check_listwise_losses();
  check_topk_rows();
  check_curves(100, 700, true);
  check_curves(2, 140000, false);
  check_entrywise(70000, 1);
  check_entrywise(24000, 3);
  check_pooled_margin(9000);
  check_ranked_precision(200, 3);
  check_ranked_precision(20000, 1);
  return report();
}
