// The parallel paths of pairs, sorts, states and the steps made of them; tests/threads.h.
#include <algorithm>

#include "core/sort_key.h"
#include "cpu/log_sums.h"
#include "cpu/moving_average.h"
#include "cpu/pairwise.h"
#include "cpu/partial_auc_step.h"
#include "cpu/radix_sort.h"
#include "cpu/ranking_step.h"
#include "cpu/score_step.h"
#include "cpu/smooth.h"
#include "tests/threads.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

// More than 2^17 entries: the search for duplicates runs in parts, and with so many rows their
// union is cut into chunks, too.
constexpr int64_t kEntries = (1 << 17) + 4321, kRowStep = 14, kRows = kEntries * kRowStep;

void check_moving_average(const std::vector<int64_t>& index, int64_t columns, bool log) {
  const std::vector<double> values = random_values(kEntries * columns);
  check_same_on_all("moving_average", [&](const cpu::Executor& executor) {
    std::vector<float> state(static_cast<size_t>(kRows * columns), log ? -INFINITY : NAN);
    std::vector<double> stored(values.size());
    const double gamma = 0.3;
    cpu::MovingAverage<float, double, double> call;
    call.state = state.data();
    call.rows = kRows;
    call.columns = columns;
    call.index = index.data();
    call.values = values.data();
    call.entries = kEntries;
    call.gamma = &gamma;
    call.log_domain = log;
    call.stored = stored.data();
    CHECK(cpu::find_out_of_range(index.data(), kEntries, kRows, executor) == -1);
    for (int step = 0; step < 2; ++step) {
      cpu::Scratch scratch;
      cpu::moving_average_update(call, scratch, executor);
    }
    return stored;  // of the second step, which has read what the first one wrote
  });
}

void check_moving_averages() {
  std::mt19937_64 random(1);
  std::vector<int64_t> unique(static_cast<size_t>(kEntries)), repeated(unique.size());
  for (size_t b = 0; b < unique.size(); ++b) {
    unique[b] = static_cast<int64_t>(b) * kRowStep;
    repeated[b] = static_cast<int64_t>(random() % unique.size()) * kRowStep;
  }
  std::shuffle(unique.begin(), unique.end(), random);
  check_moving_average(unique, 1, false);
  check_moving_average(repeated, 1, false);
  check_moving_average(repeated, 2, true);
  std::vector<int64_t> between = unique;  // the first part and the last share one row
  between.back() = between.front();
  check_moving_average(between, 1, false);
  std::vector<int64_t> first = unique;  // one part alone repeats
  first[1] = first[0];
  check_moving_average(first, 1, true);
  const int64_t largest = (kEntries - 1) * kRowStep;
  CHECK(cpu::find_out_of_range(unique.data(), kEntries, largest, Threads(3)) >= 0);
}

template <class T>
void check_radix_sort(int64_t count) {
  const std::vector<double> x = random_values(count);
  check_same_on_all("radix_sort", [&](const cpu::Executor& executor) {
    std::vector<cpu::SortRecord<decltype(sort_key(T{}))>> records(x.size());
    for (size_t k = 0; k < x.size(); ++k) {
      records[k] = {sort_key(static_cast<T>(x[k])), static_cast<uint32_t>(k)};
    }
    cpu::Scratch scratch;
    const auto* sorted = cpu::radix_sort(records.data(), count, scratch, executor);
    std::vector<uint32_t> order;
    for (int64_t k = 0; k < count; ++k) order.push_back(sorted[k].payload);
    return order;
  });
}

template <class T>
void check_pairwise(const cpu::PairwiseSpec& spec, int64_t anchor_count, int64_t item_count,
                    int64_t channels) {
  const auto typed = [](int64_t count) {
    const std::vector<double> x = random_values(count);
    return std::vector<T>(x.begin(), x.end());
  };
  const std::vector<T> x = typed(anchor_count), y = typed(item_count);
  const std::vector<T> weights = typed(channels * item_count);
  const std::vector<double> alpha = random_values(channels * anchor_count);
  check_same_on_all("pairwise", [&](const cpu::Executor& executor) {
    cpu::Scratch scratch;
    const cpu::Anchors<T> anchors{x.data(), anchor_count};
    const auto pairs = cpu::make_pairwise_sums(spec, anchors, scratch, executor);
    cpu::ItemPass<T> pass;
    pass.items = {y.data(), weights.data(), item_count, channels};
    std::vector<double> sums(alpha.size()), slopes(alpha.size());
    std::vector<T> out(y.size());
    pairs->rows(pass, sums.data(), slopes.data());
    pairs->columns(pass, alpha.data(), out.data());
    return joined(sums, slopes, out);
  });
}

void check_pairwise(Surrogate surrogate, Algorithm algorithm, int64_t anchors, int64_t items,
                    int64_t channels) {
  check_pairwise<double>({surrogate, {0.5, 2.0}, algorithm}, anchors, items, channels);
}

// Columns that no rows came before find the ranks of the items themselves.
void check_columns_alone() {
  constexpr int64_t kCount = 30000;
  const std::vector<double> x = random_values(kCount);
  check_same_on_all("columns", [&](const cpu::Executor& executor) {
    cpu::Scratch scratch;
    const cpu::PairwiseSpec spec{Surrogate::kSquaredHinge, {0.5, 1.0}, Algorithm::kSort};
    const auto pairs =
        cpu::make_pairwise_sums(spec, cpu::Anchors<double>{x.data(), 500}, scratch, executor);
    cpu::ItemPass<double> pass;
    pass.items = {x.data(), nullptr, kCount, 1};
    std::vector<double> out(x.size());
    pairs->columns(pass, x.data(), out.data());
    return out;
  });
}

// Bins in a row, bins scattered over a wide range, and a scan of the sorted scores.
void check_smooth_ways() {
  cpu::PairwiseSpec spec{Surrogate::kSigmoid, {0.0, 1600.0}, Algorithm::kSmooth};
  spec.smooth_way = cpu::SmoothWay::kBins;
  check_pairwise<float>(spec, 70000, 17000, 1);
  spec.smooth_way = cpu::SmoothWay::kScattered;
  check_pairwise<float>(spec, 17000, 17000, 1);
  spec.smooth_way = cpu::SmoothWay::kScan;
  check_pairwise<float>(spec, 1000, 17000, 1);
}

// What a backward does: columns in the order that the forward's scan has found.
void check_scan_again() {
  constexpr int64_t kAnchors = 1000, kItems = 17000;
  const std::vector<float> x = random_floats(kAnchors), y = random_floats(kItems);
  const std::vector<double> alpha = random_values(kAnchors);
  check_same_on_all("scan", [&](const cpu::Executor& executor) {
    cpu::Scratch scratch;
    const cpu::PairwiseSpec spec{
        Surrogate::kLogistic, {0.0, 2.0}, Algorithm::kSmooth, cpu::SmoothWay::kScan};
    const cpu::Anchors<float> anchors{x.data(), kAnchors};
    const auto pairs = cpu::make_pairwise_sums(spec, anchors, scratch, executor);
    cpu::ItemPass<float> pass, again;
    pass.items = again.items = {y.data(), nullptr, kItems, 1};
    std::vector<double> sums(alpha.size()), slopes(alpha.size());
    std::vector<float> out(y.size());
    pairs->rows(pass, sums.data(), slopes.data());
    again.order = pass.plan->order;
    pairs->columns(again, alpha.data(), out.data());
    return joined(sums, slopes, out);
  });
}

void check_log_sums(Surrogate surrogate, Algorithm algorithm, int64_t anchor_count,
                    int64_t item_count) {
  const std::vector<double> x = random_values(anchor_count), y = random_values(item_count);
  check_same_on_all("log_sums", [&](const cpu::Executor& executor) {
    cpu::Scratch scratch;
    cpu::LogSums<double> call;
    call.term = {surrogate, {1.0, 1.0}, 2.0};
    call.anchors = x.data();
    call.anchor_count = anchor_count;
    call.items = {y.data(), nullptr, item_count, 1};
    std::vector<double> sums(x.size()), slopes(x.size()), masses(x.size()), out(y.size());
    const auto pairs = cpu::make_log_sums(call, algorithm, scratch, executor);
    pairs->rows(sums.data(), slopes.data(), masses.data());
    pairs->columns(x.data(), masses.data(), out.data());
    sums.insert(sums.end(), slopes.begin(), slopes.end());
    sums.insert(sums.end(), out.begin(), out.end());
    return sums;
  });
}

void check_score_step(Rule rule, int64_t batch, int64_t labels, bool weighted) {
  const std::vector<double> noise = random_values(batch * labels);
  const std::vector<float> scores(noise.begin(), noise.end());
  std::vector<uint8_t> positive(scores.size());
  std::vector<float> weights(scores.size());
  std::mt19937_64 random(6);
  for (size_t k = 0; k < scores.size(); ++k) {
    positive[k] = random() % 4 == 0;
    weights[k] = static_cast<float>(random() % 3);
  }
  std::vector<int64_t> index(static_cast<size_t>(batch));
  for (int64_t& id : index) id = static_cast<int64_t>(random() % index.size());
  check_same_on_all("score_step", [&](const cpu::Executor& executor) {
    std::vector<float> state(2 * scores.size(), NAN), gradient(scores.size());
    std::vector<double> values(static_cast<size_t>(labels));
    cpu::ScoreStep<float, float> call;
    call.rule = rule;
    call.batch = batch;
    call.labels = labels;
    call.scores = scores.data();
    call.positive = positive.data();
    call.weights = weighted ? weights.data() : nullptr;
    call.weights_per_label = true;
    call.index = index.data();
    call.state = rule == Rule::kAveragePrecision ? state.data() : nullptr;
    call.rows = batch;
    call.gamma = 0.5;
    call.values = values.data();
    call.gradient = gradient.data();
    for (int step = 0; step < 2; ++step) CHECK(cpu::score_step(call, executor) == -1);
    values.insert(values.end(), state.begin(), state.end());
    values.insert(values.end(), gradient.begin(), gradient.end());
    return values;
  });
}

// Labels in parallel, each of them serial, or the pairs of one alone.
void check_partial_auc(PartialRule rule, Surrogate surrogate, int64_t batch, int64_t labels) {
  const std::vector<float> scores = random_floats(batch * labels);
  const std::vector<uint8_t> positive = random_flags(batch * labels, 4);
  const std::vector<int64_t> index = random_ids(batch, batch);
  const bool logs =
      rule == PartialRule::kKL || rule == PartialRule::kTwoWayKL || rule == PartialRule::kPNormPush;
  const float start = logs ? -INFINITY : 0.3f;
  check_same_on_all("partial_auc_step", [&](const cpu::Executor& executor) {
    std::vector<float> state(scores.size(), start), dual(scores.size(), 0.5f);
    std::vector<float> outer(static_cast<size_t>(labels), start), gradient(scores.size());
    std::vector<double> values(static_cast<size_t>(labels));
    cpu::PartialAUCStep<float, float> call;
    call.rule = rule;
    call.spec.surrogate = surrogate;
    call.params = {0.3, rule == PartialRule::kExact ? 0.4 : 0.0, 3.0};
    call.schedules = {0.5, 0.8, 0.9, 0.9, 0.1, 0.1, 0.1};
    call.batch = batch;
    call.labels = labels;
    call.scores = scores.data();
    call.positive = positive.data();
    call.index = index.data();
    call.rows = batch;
    call.state = state.data();
    call.dual = dual.data();
    call.outer = outer.data();
    call.values = values.data();
    call.gradient = gradient.data();
    CHECK(cpu::partial_auc_step(call, executor) == -1);
    for (const double value : values) CHECK(std::isfinite(value));
    return joined(values, gradient, state, dual, outer);
  });
}

// Chunks of short queries and, with `queries` = 1, one whose pair sums are parallel themselves.
void check_ranking_step(int64_t queries, int64_t items, int64_t top_k) {
  const std::vector<double> noise = random_values(queries * items);
  const std::vector<float> scores(noise.begin(), noise.end());
  std::vector<float> relevance(scores.size());
  std::vector<int64_t> pairs(scores.size()), users(static_cast<size_t>(queries));
  std::mt19937_64 random(7);
  for (size_t k = 0; k < scores.size(); ++k) {
    relevance[k] = random() % 8 == 0 ? 1.0f : 0.0f;
    pairs[k] = static_cast<int64_t>(random() % scores.size());
  }
  for (int64_t& user : users) user = static_cast<int64_t>(random() % users.size());
  check_same_on_all("ranking_step", [&](const cpu::Executor& executor) {
    std::vector<float> state(scores.size(), NAN), gradient(scores.size());
    std::vector<float> thresholds(users.size(), NAN), curvatures(users.size(), NAN);
    std::vector<double> values(users.size());
    cpu::RankingStep<float, float> call;
    call.lists = {nullptr, queries, items};
    call.scores = scores.data();
    call.relevance = relevance.data();
    call.pair_index = pairs.data();
    call.state = state.data();
    call.rows = static_cast<int64_t>(state.size());
    call.gamma = 0.5;
    call.top_k.k = top_k;
    call.top_k.thresholds = thresholds.data();
    call.top_k.curvatures = curvatures.data();
    call.top_k.rows = queries;
    call.top_k.query_index = users.data();
    call.values = values.data();
    call.gradient = gradient.data();
    for (int step = 0; step < 2; ++step) {
      CHECK(cpu::ranking_step(call, executor).kind == cpu::RankingError::kNone);
    }
    std::vector<float> all(values.begin(), values.end());
    for (const auto* part : {&gradient, &state, &thresholds, &curvatures}) {
      all.insert(all.end(), part->begin(), part->end());
    }
    return all;
  });
}

}  // namespace

int main() {
  check_moving_averages();
  check_radix_sort<float>(200001);
  check_radix_sort<double>(70001);
  for (int surrogate = 0; surrogate < kSurrogateCount; ++surrogate) {
    const auto kind = static_cast<Surrogate>(surrogate);
    if (cpu::has_sort(kind)) check_pairwise(kind, Algorithm::kSort, 2000, 70000, 2);
    if (cpu::has_smooth(kind)) check_pairwise(kind, Algorithm::kSmooth, 2000, 70000, 2);
    check_pairwise(kind, Algorithm::kDirect, 300, 2000, 2);
  }
  check_pairwise(Surrogate::kSquaredHinge, Algorithm::kDirect, 5, 140000, 1);  // cut by items
  for (const Surrogate separable : {Surrogate::kSquared, Surrogate::kExponential}) {
    check_pairwise(separable, Algorithm::kSort, 20000, 20000, 1);  // many anchors
  }
  check_columns_alone();
  check_smooth_ways();
  check_scan_again();
  check_log_sums(Surrogate::kSquaredHinge, Algorithm::kDirect, 300, 2000);
  check_log_sums(Surrogate::kSquaredHinge, Algorithm::kDirect, 5, 140000);
  for (const int64_t anchors : {300, 20000}) {
    check_log_sums(Surrogate::kSquaredHinge, Algorithm::kSmooth, anchors, 30000);
    check_log_sums(Surrogate::kBarrierHinge, Algorithm::kSort, anchors, 30000);
    check_log_sums(Surrogate::kLogistic, Algorithm::kSort, anchors, 30000);
  }
  check_score_step(Rule::kAveragePrecision, 200000, 1, false);
  check_score_step(Rule::kPairwiseAUC, 100000, 1, true);
  check_score_step(Rule::kAveragePrecision, 3000, 5, true);
  for (int rule = 0; rule < kPartialRuleCount; ++rule) {
    const auto kind = static_cast<PartialRule>(rule);
    check_partial_auc(kind, Surrogate::kSquaredHinge, 300, 3);
    if (kind == PartialRule::kTopPush) continue;  // its pairs are those of one item
    check_partial_auc(kind, Surrogate::kSquaredHinge, 40000, 1);
  }
  check_partial_auc(PartialRule::kCVaR, Surrogate::kLogistic, 3000, 1);  // no keys: pair by pair
  check_ranking_step(400, 300, 20);
  check_ranking_step(1, 60000, 0);
  const std::vector<double> x = random_values(600000);
  check_same_on_all("largest_magnitude", [&](const cpu::Executor& executor) {
    return std::vector<double>{cpu::largest_magnitude(x.data(), 600000, executor)};
  });
  return report();
}
