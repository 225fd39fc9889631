// The losses of ranked lists against finite differences of plain double loops over the formulas,
// with the weights of LambdaRank as constants: masks, padding by relevance, weights, ties, lists
// with nothing to rank, bad scores, blocks that take several lists, lists longer than a block.
#include "cuda/listwise_step.h"

#include <numeric>

#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

using Doubles = std::vector<double>;

struct Item {
  double h, y, w;
};
using Items = std::vector<Item>;

double sigma(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }

std::vector<int> descending(const Doubles& x) {
  std::vector<int> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  return order;
}

Doubles normalized_gains(const Items& items, int64_t top_k) {
  Doubles gains, y;
  for (const Item& item : items) {
    gains.push_back(std::exp2(item.y) - 1.0);
    y.push_back(item.y);
  }
  double ideal = 0.0;
  const std::vector<int> order = descending(y);
  for (size_t r = 0; r < order.size(); ++r) {
    if (top_k == 0 || static_cast<int64_t>(r) < top_k)
      ideal += gains[order[r]] / std::log2(2.0 + r);
  }
  for (double& gain : gains) gain /= ideal;
  return gains;
}

struct Heat {
  double temperature = 0.7, rank_temperature = 1.3;
};

double pairs_value(const ListOptions& options, const Items& items, const Items& constant) {
  const bool lambda = options.loss == ListLoss::kLambdaRank;
  Doubles gains, h;
  std::vector<int> rank(items.size());
  if (lambda) {
    gains = normalized_gains(items, options.top_k);
    for (const Item& item : constant) h.push_back(item.h);
    const std::vector<int> order = descending(h);
    for (size_t r = 0; r < order.size(); ++r) rank[order[r]] = static_cast<int>(r) + 1;
  }
  double value = 0.0, pairs = 0.0;
  for (size_t i = 0; i < items.size(); ++i) {
    for (size_t j = 0; j < items.size(); ++j) {
      if (!(items[i].y > items[j].y)) continue;
      double weight = pair_weight(options.pair_weight, items[i].y, items[j].y);
      if (lambda) {
        const int64_t k = options.top_k;
        if (k > 0 && (rank[i] > k || rank[j] > k)) continue;
        weight = std::fabs(gains[i] - gains[j]) / std::log(2.0) *
                 std::fabs(1.0 / std::log2(1.0 + rank[i]) - 1.0 / std::log2(1.0 + rank[j]));
      }
      value += weight * softplus((items[j].h - items[i].h) / Heat().temperature);
      pairs += 1.0;
    }
  }
  return lambda ? value : value / pairs;
}

double ranks_value(const ListOptions& options, const Items& items) {
  const bool approx = options.loss == ListLoss::kApproxNDCG;
  const Doubles gains = approx ? normalized_gains(items, 0) : Doubles();
  double positives = 0.0, value = approx ? 0.0 : 1.0;
  for (const Item& item : items) positives += item.y > 0 ? item.w : 0.0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!(items[i].y > 0)) continue;
    double rank = 0.5, positive_rank = 0.5;
    for (const Item& other : items) {
      const double above = other.w * sigma((other.h - items[i].h) / Heat().temperature);
      rank += above;
      if (other.y > 0) positive_rank += above;
    }
    if (approx) value -= gains[i] / std::log2(1.0 + rank);
    if (options.loss == ListLoss::kSmoothAP) value -= items[i].w / positives * positive_rank / rank;
    for (int c = 0; c < options.cutoff_count; ++c) {
      const auto k = static_cast<double>(options.cutoffs[c]);
      value -= items[i].w * sigma((k - rank) / Heat().rank_temperature) /
               (std::min(k, positives) * options.cutoff_count);
    }
  }
  return value;
}

double scans_value(const ListOptions& options, const Items& items) {
  double value = 0.0, total = 0.0, y_total = 0.0;
  if (options.loss == ListLoss::kListNet) {
    for (const Item& item : items) total += std::exp(item.h), y_total += std::exp(item.y);
    for (const Item& item : items) {
      value += std::exp(item.y) / y_total * (std::log(total) - item.h);
    }
    return value;
  }
  if (options.loss == ListLoss::kListMLE) {
    Doubles y;
    for (const Item& item : items) y.push_back(item.y);
    const std::vector<int> order = descending(y);
    for (size_t k = order.size(); k-- > 0;) {
      total += std::exp(items[order[k]].h);
      value += std::log(total) - items[order[k]].h;
    }
    return value;
  }
  Doubles any(options.num_bins + 1, 0.0), of_positives = any;
  double positives = 0.0, above = 0.0, positives_above = 0.0;
  for (const Item& item : items) {
    const double per_score = options.num_bins / (options.high - options.low);
    const double place =
        std::min(std::max((options.high - item.h) * per_score, 0.0), 1.0 * options.num_bins);
    for (size_t l = 0; l < any.size(); ++l) {
      const double pulse = item.w * std::max(0.0, 1.0 - std::fabs(place - l));
      any[l] += pulse;
      if (item.y > 0) of_positives[l] += pulse;
    }
    positives += item.y > 0 ? item.w : 0.0;
  }
  for (size_t l = 0; l < any.size(); ++l) {
    above += any[l];
    positives_above += of_positives[l];
    if (above > 0) value += of_positives[l] * positives_above / above;
  }
  return 1.0 - value / positives;
}

double neural_value(const ListOptions& options, const Items& items) {
  const size_t n = items.size();
  const Doubles gains = normalized_gains(items, options.top_k);
  std::vector<Doubles> p(n, Doubles(n));
  Doubles distances(n, 0.0);
  for (size_t j = 0; j < n; ++j) {
    for (const Item& other : items) distances[j] += std::fabs(other.h - items[j].h);
  }
  for (size_t k = 0; k < n; ++k) {
    double total = 0.0, top = -INFINITY;
    for (size_t j = 0; j < n; ++j) {
      p[k][j] = ((1.0 * n - 1.0 - 2.0 * k) * items[j].h - distances[j]) / Heat().temperature;
      top = std::max(top, p[k][j]);
    }
    for (double& x : p[k]) total += x = std::exp(x - top);
    for (double& x : p[k]) x /= total;
  }
  for (int64_t t = 0; t < options.max_iterations; ++t) {
    for (size_t j = 0; j < n; ++j) {
      double total = 0.0;
      for (size_t k = 0; k < n; ++k) total += p[k][j];
      for (size_t k = 0; k < n; ++k) p[k][j] /= total;
    }
    for (Doubles& row : p) {
      const double total = std::accumulate(row.begin(), row.end(), 0.0);
      for (double& x : row) x /= total;
    }
  }
  double value = 0.0;
  for (size_t k = 0; k < n; ++k) {
    if (options.top_k > 0 && static_cast<int64_t>(k) >= options.top_k) break;
    for (size_t j = 0; j < n; ++j) value -= p[k][j] * gains[j] / std::log2(2.0 + k);
  }
  return value;
}

// `constant`: what the weights of LambdaRank are made of.
double value_of(const ListOptions& options, const Items& items, const Items& constant) {
  const auto same_level = [&](const Item& item) { return item.y == items[0].y; };
  const auto relevant = [](const Item& item) { return item.y > 0; };
  if (options.loss <= ListLoss::kListMLE) {
    if (std::all_of(items.begin(), items.end(), same_level)) return 0.0;
  } else if (std::none_of(items.begin(), items.end(), relevant)) {
    return 0.0;
  }
  switch (options.loss) {
    case ListLoss::kRankNet:
    case ListLoss::kLambdaRank:
      return pairs_value(options, items, constant);
    case ListLoss::kListNet:
    case ListLoss::kListMLE:
    case ListLoss::kFastAP:
      return scans_value(options, items);
    case ListLoss::kNeuralNDCG:
      return neural_value(options, items);
    default:
      return ranks_value(options, items);
  }
}

struct Case {
  ListOptions options;
  ListReduction reduction = ListReduction::kMean;
  int64_t lists = 4, length = 0, max_blocks = 4096, near_from = 8192, band_to = 512;
  uint64_t grades = 4;  // of the first list
  size_t every = 1;     // of how many items one's gradient is checked
  bool masked = false, weighted = false, ties = false, bad = false;
  bool huge = false;  // scores, of which only that nothing overflows is checked
};

template <class T>
void run(const Case& c) {
  std::mt19937_64 random(static_cast<uint64_t>(c.length));
  const bool retrieval = is_retrieval(c.options.loss);
  const int64_t size = c.lists * c.length;
  std::vector<T> h = normal<T>(random, size, 0.0, 1.0), y, w;
  std::vector<uint8_t> mask;
  for (int64_t k = 0; k < size; ++k) {
    const int64_t q = k / c.length;
    const uint64_t grades = retrieval ? 2 : q == 0 ? c.grades : 4;
    const auto grade = static_cast<T>(q == 1 ? 0 : random() % grades);
    y.push_back(!retrieval && random() % 8 == 0 ? T(-1) : grade);  // -1: padding
    mask.push_back(q != 2 && random() % 4 != 0);  // the third list is padding alone
    w.push_back(static_cast<T>(random() % 3));
    if (c.ties) h[k] = std::round(2 * h[k]) / 2 + T(0.1);
    if (c.huge) h[k] *= T(1e30);
  }
  if (c.bad) h[0] = NAN, y[0] = 1, mask[0] = 1, w[0] = 1;
  const DeviceArray<T> scores(h), relevance(y), weights(w);
  const DeviceArray<uint8_t> present(mask);
  const DeviceArray<double> heat(Doubles{Heat().temperature}),
      rank_heat(Doubles{Heat().rank_temperature});
  DeviceArray<T> values(c.lists), total(1), gradient(size);
  cuda::ListwiseStep<T> call;
  call.options = c.options;
  call.reduction = c.reduction;
  call.temperature = heat.data();
  call.rank_temperature = rank_heat.data();
  call.lists = c.lists;
  call.length = c.length;
  call.scores = scores.data();
  call.relevance = relevance.data();
  call.mask = c.masked ? present.data() : nullptr;
  call.weights = c.weighted ? weights.data() : nullptr;
  call.values = values.data();
  call.total = total.data();
  call.gradient = gradient.data();
  call.max_blocks = c.max_blocks;
  call.near_from = c.near_from;
  call.band_to = c.band_to;
  const size_t bytes = cuda::listwise_step_workspace_bytes(call);
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  CHECK(cuda::launch_listwise_step(call, workspace.data(), bytes, nullptr) == cudaSuccess);

  const auto got_values = values.read(), got_gradient = gradient.read(), got_total = total.read();
  if (c.huge) {
    for (const T x : got_values) CHECK(std::isfinite(x));
    for (const T x : got_gradient) CHECK(std::isfinite(x));
    return;
  }
  std::vector<Items> lists(c.lists);
  std::vector<std::vector<int64_t>> places(c.lists);
  double mass = 0.0, mean = 0.0;
  for (int64_t k = 0; k < size; ++k) {
    const double weight = c.weighted ? static_cast<double>(w[k]) : 1.0;
    if ((c.masked && !mask[k]) || weight == 0.0 || (!retrieval && y[k] < 0)) continue;
    lists[k / c.length].push_back({static_cast<double>(h[k]), static_cast<double>(y[k]), weight});
    places[k / c.length].push_back(k);
  }
  Doubles masses;
  for (const Items& items : lists) {
    const bool relevant =
        std::any_of(items.begin(), items.end(), [](const Item& item) { return item.y > 0; });
    masses.push_back(retrieval ? relevant : !items.empty());
    mass += masses.back();
  }
  const double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-7;
  const auto same = [&](double a, double b, double scale) {
    return std::isnan(b) ? std::isnan(a) : std::fabs(a - b) <= tolerance * scale;
  };
  // Of the gradient, and of the values, which is what differences are exact to.
  Doubles expected(size, 0.0), sizes;
  std::vector<bool> checked(size, true);
  for (int64_t q = 0; q < c.lists; ++q) {
    Items items = lists[q];
    const bool bad = c.bad && q == 0;
    const double value = items.empty() ? 0.0 : value_of(c.options, items, items);
    sizes.push_back(bad ? 0.0 : value);
    CHECK(same(got_values[q], bad ? NAN : value, 1.0 + std::fabs(value)));
    const double share =
        c.reduction == ListReduction::kMean ? masses[q] / std::max(mass, 1.0) : 1.0;
    mean += share * value;
    for (size_t i = 0; i < items.size(); ++i) {
      checked[places[q][i]] = i % c.every == 0;
      if (!checked[places[q][i]]) continue;
      const double kept = items[i].h, step = 1e-5;
      items[i].h = kept + step;
      const double above = value_of(c.options, items, lists[q]);
      items[i].h = kept - step;
      const double below = value_of(c.options, items, lists[q]);
      items[i].h = kept;
      expected[places[q][i]] = bad ? NAN : share * (above - below) / (2 * step);
    }
  }
  if (c.reduction != ListReduction::kNone) {
    CHECK(same(got_total[0], c.bad ? NAN : mean, 1.0 + std::fabs(mean)));
  }
  // At a tie the distances of NeuralSort have a kink, where one-sided differences mean nothing.
  if (c.ties && c.options.loss == ListLoss::kNeuralNDCG) return;
  for (int64_t k = 0; k < size; ++k) {
    if (!checked[k]) continue;
    // each of many items has little of the gradient
    const double scale = (1.0 + std::fabs(sizes[k / c.length])) / static_cast<double>(c.every);
    CHECK(same(got_gradient[k], expected[k], scale));
  }
}

// Lists that the near-linear sums take, and some that they leave: nothing to rank, padding alone,
// NaN, more levels than they have.
void near_lists(const ListOptions& options) {
  Case c;
  c.options = options;
  c.lists = 3;
  c.length = 30;
  c.near_from = 30;
  c.weighted = is_retrieval(options.loss);
  c.ties = true;
  if (options.loss == ListLoss::kRankNet || options.loss == ListLoss::kLambdaRank) {
    c.grades = 12;
    run<float>(c);
    if (options.loss == ListLoss::kRankNet) return;
    c.lists = 1;
    c.grades = 5;
    c.masked = true;
    c.length = 1100;  // chunks of ranks
    c.every = 500;
    run<float>(c);
    c.huge = true;
    run<float>(c);
    c.huge = c.ties = false;
    if (options.top_k > 0) c.options.top_k = 300;
    return run<double>(c);
  }
  c.masked = options.loss == ListLoss::kSmoothAP;
  c.bad = options.loss == ListLoss::kRecallAtK;
  if (options.loss == ListLoss::kApproxNDCG) return run<double>(c);
  run<float>(c);
}

std::vector<ListOptions> all_options() {
  std::vector<ListOptions> all(kListLossCount);
  for (int loss = 0; loss < kListLossCount; ++loss) {
    ListOptions& options = all[static_cast<size_t>(loss)];
    options.loss = static_cast<ListLoss>(loss);
    options.max_iterations = 3;
    options.tolerance = 0.0;
    options.num_bins = 6;
    options.low = -2.05;
    options.high = 1.9;
    if (options.loss == ListLoss::kRecallAtK) {
      options.cutoffs[0] = 1;
      options.cutoffs[1] = 5;
      options.cutoff_count = 2;
    }
  }
  ListOptions more = all[0];
  more.pair_weight = PairWeight::kSquaredDifference;
  all.push_back(more);
  more = all[1];
  more.top_k = 4;
  all.push_back(more);
  more = all[static_cast<size_t>(ListLoss::kNeuralNDCG)];
  more.top_k = 3;
  more.max_iterations = 1;
  all.push_back(more);
  return all;
}

}  // namespace

int main() {
  Case c;
  c.length = 11;
  for_each_schedule([&] {
    for (const ListOptions& options : all_options()) {
      Case short_lists = c;
      short_lists.options = options;
      short_lists.lists = 3;
      short_lists.masked = true;
      short_lists.max_blocks = 2;
      run<double>(short_lists);
    }
  });
  for (const ListOptions& options : all_options()) {
    c = Case();
    c.options = options;
    c.length = 11;
    run<float>(c);
    c.ties = true;
    run<float>(c);
    c.huge = true;
    run<float>(c);
    c.huge = c.ties = false;
    c.masked = true;
    c.bad = true;
    run<float>(c);
    c.bad = false;
    c.weighted = is_retrieval(options.loss);
    c.reduction = ListReduction::kNone;
    run<float>(c);
    c.reduction = ListReduction::kSum;
    run<double>(c);
    if (options.loss == ListLoss::kNeuralNDCG) {
      c.band_to = 0;  // the matrix in the workspace
      c.masked = true;
      run<float>(c);
      if (options.top_k > 0) continue;
      c = Case();
      c.options = options;
      c.lists = 1;
      c.every = 30;
      for (const int64_t length : {140, 330}) {  // a kernel each; beyond the reach of many a row
        c.length = length;
        run<float>(c);
      }
      continue;
    }
    c = Case();
    c.options = options;
    c.lists = 1;
    c.length = 300;  // more items than threads
    c.every = 7;
    run<double>(c);
    const bool near = options.loss == ListLoss::kApproxNDCG ||
                      options.loss == ListLoss::kSmoothAP || options.loss == ListLoss::kRecallAtK ||
                      options.loss == ListLoss::kLambdaRank ||
                      options.pair_weight == PairWeight::kSquaredDifference;
    if (!near) continue;
    near_lists(options);
  }
  return report();
}
