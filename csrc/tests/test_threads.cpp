// Every parallel path at sizes that make several chunks, on two and four threads, against one.
//
// Under ThreadSanitizer (`make test-threads`) a race is seen whether or not it happens to bite; the
// comparison holds the threads to the promise that their number changes no bit.
#include <algorithm>

#include "core/sort_key.h"
#include "cpu/log_sums.h"
#include "cpu/moving_average.h"
#include "cpu/pairwise.h"
#include "cpu/radix_sort.h"
#include "cpu/ranking_step.h"
#include "cpu/score_step.h"
#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

// f(executor) returns what was computed; bit patterns are compared, since NaN is a state's start.
// ThreadSanitizer compares nothing: four threads do for it, which keep apart whatever two tasks two
// threads keep apart. The other builds compare.
template <class F>
void check_same_on_all(const char* what, F&& f) {
#if defined(__SANITIZE_THREAD__)
  const bool computed = !f(Threads(4)).empty();
  if (!computed) std::printf("%s computed nothing\n", what);
  CHECK(computed);
#else
  const auto expected = f(cpu::SerialExecutor());
  for (int64_t threads : {2, 4}) {
    const auto result = f(Threads(threads));
    const bool same =
        result.size() == expected.size() &&
        std::memcmp(result.data(), expected.data(), result.size() * sizeof(result[0])) == 0;
    if (!same) std::printf("%s differs on %d threads\n", what, static_cast<int>(threads));
    CHECK(same);
  }
#endif
}

std::vector<double> random_values(int64_t count) {
  std::mt19937_64 random(static_cast<uint64_t>(count));
  return normal<double>(random, count, 0.0, 1.0);
}

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

void check_pairwise(Surrogate surrogate, Algorithm algorithm, int64_t anchor_count,
                    int64_t item_count, int64_t channels) {
  const std::vector<double> x = random_values(anchor_count), y = random_values(item_count);
  const std::vector<double> weights = random_values(channels * item_count);
  const std::vector<double> alpha = random_values(channels * anchor_count);
  check_same_on_all("pairwise", [&](const cpu::Executor& executor) {
    cpu::Scratch scratch;
    const cpu::PairwiseSpec spec{surrogate, {0.5, 2.0}, algorithm};
    const cpu::Anchors<double> anchors{x.data(), anchor_count};
    const auto pairs = cpu::make_pairwise_sums(spec, anchors, scratch, executor);
    cpu::ItemPass<double> pass;
    pass.items = {y.data(), weights.data(), item_count, channels};
    std::vector<double> sums(alpha.size()), slopes(alpha.size()), out(y.size());
    pairs->rows(pass, sums.data(), slopes.data());
    pairs->columns(pass, alpha.data(), out.data());
    sums.insert(sums.end(), slopes.begin(), slopes.end());
    sums.insert(sums.end(), out.begin(), out.end());
    return sums;
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
  check_log_sums(Surrogate::kSquaredHinge, Algorithm::kDirect, 300, 2000);
  check_log_sums(Surrogate::kSquaredHinge, Algorithm::kDirect, 5, 140000);
  for (const int64_t anchors : {300, 20000}) {
    check_log_sums(Surrogate::kSquaredHinge, Algorithm::kSmooth, anchors, 30000);
    check_log_sums(Surrogate::kBarrierHinge, Algorithm::kSort, anchors, 30000);
    check_log_sums(Surrogate::kLogistic, Algorithm::kSort, anchors, 30000);
  }
  check_score_step(Rule::kAveragePrecision, 600000, 1, false);  // 150 000 positives
  check_score_step(Rule::kPairwiseAUC, 100000, 1, true);
  check_score_step(Rule::kAveragePrecision, 3000, 5, true);
  check_ranking_step(400, 300, 20);
  check_ranking_step(1, 60000, 0);
  const std::vector<double> x = random_values(600000);
  check_same_on_all("largest_magnitude", [&](const cpu::Executor& executor) {
    return std::vector<double>{cpu::largest_magnitude(x.data(), 600000, executor)};
  });
  return report();
}
