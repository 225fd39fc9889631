// The ranking step against the method's formulas in plain double loops: every rule, padded and
// ragged lists, weights, ids that repeat, empty and bad queries, thresholds stepped and solved.
#include <map>
#include <numeric>

#include "core/ranking_rules.h"
#include "core/rules.h"
#include "core/topk.h"
#include "cuda/ranking_launch.h"
#include "tests/cuda/device.h"
#include "tests/cuda/pairs_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

struct Case {
  RankingRule rule = RankingRule::kNDCG;
  int options = 0;
  int64_t top_k = 0;
  bool thresholds = true, state = true, ragged = false, masked = false, sized = false;
  Surrogate surrogate = Surrogate::kSquaredHinge;
};

constexpr int64_t kQueries = 5, kItems = 23, kPairs = 12, kUsers = 3;
constexpr double kGamma = 0.4, kGamma1 = 0.3, kEta = 0.1, kTau1 = 0.3, kTau2 = 0.01, kAlpha = 2.0;

struct Data {
  std::vector<double> scores, relevance, weights, state, thresholds, curvatures;
  std::vector<uint8_t> mask;
  std::vector<int64_t> pairs, users, offsets;
  int columns = 1;
};

Data random_data(const Case& c, std::mt19937_64& random) {
  Data d;
  d.offsets = {0};
  for (int64_t q = 0; q < kQueries; ++q) {
    const int64_t length = !c.ragged ? kItems : q == 2 ? 0 : kItems - 4 * q;
    d.offsets.push_back(d.offsets.back() + length);
  }
  const int64_t entries = d.offsets.back();
  const bool labels = c.rule == RankingRule::kAveragePrecision;
  d.columns = labels ? 2 : 1;
  d.scores = normal<double>(random, entries, 0.0, 1.0);
  for (int64_t e = 0; e < entries; ++e) {
    const bool none = !c.ragged && e / kItems == 3;  // the fourth query has nothing relevant
    d.relevance.push_back(none || random() % 3 != 0 ? 0.0 : static_cast<double>(1 + random() % 3));
    d.weights.push_back(static_cast<double>(random() % 3) * 0.5);
    d.mask.push_back(random() % 4 != 0);
    d.pairs.push_back(static_cast<int64_t>(random() % kPairs));
  }
  d.pairs[0] = d.pairs[1];
  for (int64_t q = 0; q < kQueries; ++q) d.users.push_back(q % kUsers);
  const bool log_domain = c.rule == RankingRule::kListwise;
  const int64_t rows = labels ? kQueries * kPairs : kPairs;
  for (int64_t k = 0; k < rows * d.columns; ++k) {
    const double untouched = log_domain ? -INFINITY : NAN;
    d.state.push_back(k / d.columns % 3 == 0 ? untouched : 0.5 + 0.25 * (random() % 4));
  }
  for (int64_t u = 0; u < (labels ? kQueries : kUsers); ++u) {
    d.thresholds.push_back(u == 1 ? NAN : 0.5 * static_cast<double>(u));
    d.curvatures.push_back(u == 1 ? NAN : 0.2);
  }
  if (!c.ragged) d.scores[4 * kItems + 1] = INFINITY;  // the last query is bad
  if (!c.ragged) d.weights[4 * kItems + 1] = d.mask[4 * kItems + 1] = 1;
  return d;
}

double num_items_of(const Case& c, double present) { return c.sized ? present + 6.0 : present; }

struct Truth {
  std::vector<double> values, gradient, state, thresholds, curvatures;
};

double solve(const std::vector<double>& h, const std::vector<double>& w, const SmoothTopK& p) {
  double low = -100.0, high = 100.0;
  const double total = std::accumulate(w.begin(), w.end(), 0.0);
  for (int step = 0; step < 200; ++step) {
    const double middle = 0.5 * (low + high);
    double above = 0.0;
    for (size_t j = 0; j < h.size(); ++j)
      above += w[j] / (1.0 + std::exp((middle - h[j]) / p.tau1));
    (p.derivative(middle, above / total) < 0 ? low : high) = middle;
  }
  return low;
}

// A query as the formulas see it.
struct List {
  std::vector<int64_t> items, anchors;  // entries
  std::vector<double> h, w;             // of the items
  double total = 0.0, anchor_total = 0.0, present = 0.0, lambda = -INFINITY, s = 1.0, ideal = 1.0;
  std::vector<std::vector<double>> g, u;
  bool live = false, bad = false;
};

double weight_of(const Case& c, const Data& d, int64_t e) {
  return c.masked && d.mask[e] == 0 ? 0.0 : d.weights[e];
}

List list_of(const Case& c, const Data& d, int64_t q) {
  List l;
  for (int64_t e = d.offsets[q]; e < d.offsets[q + 1]; ++e) {
    const double w = weight_of(c, d, e);
    if (w == 0.0) continue;
    l.present += 1.0;
    l.bad = l.bad || !std::isfinite(d.scores[e]);
    if (d.relevance[e] > 0) l.anchors.push_back(e), l.anchor_total += w;
    if ((c.options & kIrrelevantItems) != 0 && d.relevance[e] > 0) continue;
    l.items.push_back(e), l.h.push_back(d.scores[e]), l.w.push_back(w), l.total += w;
  }
  if (c.rule == RankingRule::kNDCG) {
    std::vector<double> gains;
    for (const int64_t e : l.anchors) gains.push_back(ndcg_gain(d.relevance[e]));
    std::sort(gains.rbegin(), gains.rend());
    if (c.top_k > 0 && gains.size() > static_cast<size_t>(c.top_k)) gains.resize(c.top_k);
    l.ideal = 0.0;
    for (size_t k = 0; k < gains.size(); ++k) l.ideal += gains[k] / std::log2(k + 2.0);
  }
  const bool any = !l.anchors.empty() && !l.items.empty();
  l.live = any && !l.bad;
  l.bad = any && l.bad;
  if (!l.live) return l;
  const Pairs phi{c.surrogate, {1.0, 1.5}, {}, {}, {}};
  for (const int64_t i : l.anchors) {
    std::vector<double> g(d.columns, 0.0);
    for (size_t j = 0; j < l.items.size(); ++j) {
      double value, slope;
      phi_of(phi, l.h[j] - d.scores[i], value, slope);
      if (c.rule == RankingRule::kListwise) value = std::exp(l.h[j] - d.scores[i]);
      g[0] += l.w[j] * value / l.total;
      if (d.columns == 2 && d.relevance[l.items[j]] > 0) g[1] += l.w[j] * value / l.total;
    }
    if (c.rule == RankingRule::kListwise) g[0] = std::log(g[0]);
    l.g.push_back(g);
  }
  return l;
}

// Blends of entries (row, old blend), the mean stored for all of a row.
void update(std::vector<double>& state, const std::vector<int64_t>& rows,
            std::vector<double>& values, double gamma, bool log_domain) {
  std::map<int64_t, std::vector<double>> groups;
  for (size_t k = 0; k < rows.size(); ++k) {
    const double old = state[rows[k]];
    const BlendFactors f = log_domain ? log_factors(gamma) : linear_factors(gamma);
    groups[rows[k]].push_back(log_domain ? blend_log(old, values[k], f.keep, f.add)
                                         : blend_linear(old, values[k], f.keep, f.add));
  }
  for (size_t k = 0; k < rows.size(); ++k) {
    double total = 0.0;
    for (const double blend : groups[rows[k]]) total += log_domain ? std::exp(blend) : blend;
    total /= static_cast<double>(groups[rows[k]].size());
    values[k] = log_domain ? std::log(total) : total;
    state[rows[k]] = values[k];
  }
}

void find_thresholds(const Case& c, const Data& d, std::vector<List>& lists, Truth& truth) {
  std::vector<int64_t> rows;
  std::vector<double> next, curvatures;
  std::vector<List*> stepped;
  for (int64_t q = 0; q < kQueries; ++q) {
    List& l = lists[q];
    const double n = num_items_of(c, l.present);
    if (!l.live || n <= static_cast<double>(c.top_k)) continue;
    const SmoothTopK problem{(static_cast<double>(c.top_k) + 0.5) / n, kTau1, kTau2};
    const int64_t row = c.rule == RankingRule::kAveragePrecision ? q : d.users[q];
    const bool keeps = c.thresholds && (c.options & kSolvedThreshold) == 0;
    l.lambda = keeps ? d.thresholds[row] : solve(l.h, l.w, problem);
    if (std::isnan(l.lambda)) {
      std::map<double, double, std::greater<double>> weight_at;
      for (size_t j = 0; j < l.h.size(); ++j) weight_at[l.h[j]] += l.w[j];
      double reached = 0.0;
      for (const auto& [score, weight] : weight_at) {
        if ((reached += weight) > problem.kappa * l.total) {
          l.lambda = score;
          break;
        }
      }
    }
    double above = 0.0, slope = 0.0;
    for (size_t j = 0; j < l.h.size(); ++j) {
      const double p = 1.0 / (1.0 + std::exp((l.lambda - l.h[j]) / kTau1));
      above += l.w[j] * p / l.total;
      slope += l.w[j] * p * (1.0 - p) / l.total;
    }
    l.s = problem.curvature(slope);
    if (!keeps) continue;
    rows.push_back(row), stepped.push_back(&l), curvatures.push_back(l.s);
    next.push_back(l.lambda - kEta * problem.derivative(l.lambda, above));
  }
  update(truth.thresholds, rows, next, 1.0, false);
  update(truth.curvatures, rows, curvatures, kGamma1, false);
  for (size_t k = 0; k < rows.size(); ++k) stepped[k]->s = curvatures[k];
}

Truth truth_of(const Case& c, const Data& d) {
  Truth truth{std::vector<double>(kQueries, 0.0), std::vector<double>(d.scores.size(), 0.0),
              d.state, d.thresholds, d.curvatures};
  std::vector<List> lists;
  for (int64_t q = 0; q < kQueries; ++q) lists.push_back(list_of(c, d, q));
  const bool log_domain = c.rule == RankingRule::kListwise;
  double shift = -INFINITY;
  for (const List& l : lists) {
    for (const int64_t i : l.live ? l.anchors : std::vector<int64_t>()) {
      shift = std::max(shift, *std::max_element(l.h.begin(), l.h.end()) - d.scores[i]);
    }
  }
  if ((c.options & kBatchShift) == 0) shift = 0.0;
  for (int column = 0; column < d.columns; ++column) {
    std::vector<int64_t> rows;
    std::vector<double> values;
    for (int64_t q = 0; q < kQueries; ++q) {
      for (size_t i = 0; lists[q].live && i < lists[q].anchors.size(); ++i) {
        const int64_t e = lists[q].anchors[i];
        const int64_t id = d.columns == 2 ? q * kPairs + d.pairs[e - d.offsets[q]] : d.pairs[e];
        rows.push_back(id * d.columns + column);
        values.push_back(lists[q].g[i][column] - (log_domain ? shift : 0.0));
      }
    }
    const std::vector<double> before = truth.state;
    if (c.state) update(truth.state, rows, values, kGamma, log_domain);
    size_t at = 0;
    for (List& l : lists) {
      for (size_t i = 0; l.live && i < l.anchors.size(); ++i, ++at) {
        l.u.resize(l.anchors.size(), std::vector<double>(d.columns, 0.0));
        l.u[i][column] = values[at];
        if (c.state && (c.options & kStaleState) != 0 && !std::isnan(before[rows[at]]) &&
            before[rows[at]] != -INFINITY) {
          l.u[i][column] = before[rows[at]];
        }
      }
    }
  }
  if (c.top_k > 0) find_thresholds(c, d, lists, truth);
  const Pairs phi{c.surrogate, {1.0, 1.5}, {}, {}, {}};
  for (int64_t q = 0; q < kQueries; ++q) {
    const List& l = lists[q];
    if (l.bad) {
      truth.values[q] = NAN;
      for (int64_t e = d.offsets[q]; e < d.offsets[q + 1]; ++e) truth.gradient[e] = NAN;
    }
    if (!l.live) continue;
    const double n = num_items_of(c, l.present), factor = 1.0 / kQueries;
    double pull = 0.0;
    for (size_t i = 0; i < l.anchors.size(); ++i) {
      const int64_t e = l.anchors[i];
      double share = weight_of(c, d, e) / l.anchor_total, f, a[2];
      const OuterTerms psi = c.top_k > 0 ? top_k_rule(d.scores[e] - l.lambda, kAlpha,
                                                      (c.options & kPublishedTopK) != 0)
                                         : OuterTerms{1.0, 0.0};
      if (c.rule == RankingRule::kAveragePrecision) {
        const AnchorTerms terms = average_precision_rule(l.u[i][0], l.u[i][1]);
        f = terms.value, a[0] = terms.negative_weight, a[1] = terms.positive_weight;
      } else {
        share *= static_cast<double>(l.anchors.size());
        if (c.rule == RankingRule::kNDCG) {
          share *= ndcg_gain(d.relevance[e]) / l.ideal;
          const OuterTerms terms = ndcg_rule(l.u[i][0], n);
          f = terms.value, a[0] = a[1] = terms.slope;
        } else {
          share *= d.relevance[e] / n;
          f = l.u[i][0] + std::log(n), a[0] = a[1] = 1.0;
        }
      }
      truth.values[q] += share * psi.value * f;
      for (size_t j = 0; j < l.items.size(); ++j) {
        double value, slope;
        phi_of(phi, l.h[j] - d.scores[e], value, slope);
        if (log_domain) slope = std::exp(l.h[j] - d.scores[e] - shift - l.u[i][0]);
        const double weight = a[d.relevance[l.items[j]] > 0 ? 1 : 0];
        const double p = factor * share * psi.value * weight * slope * l.w[j] / l.total;
        truth.gradient[l.items[j]] += p;
        truth.gradient[e] -= p;
      }
      if (c.top_k > 0 && (c.options & kPracticalTopK) == 0) {
        truth.gradient[e] += factor * share * psi.slope * f;
        pull += factor * share * psi.slope * f;
      }
    }
    for (size_t j = 0; l.lambda > -INFINITY && j < l.items.size(); ++j) {
      const double p = 1.0 / (1.0 + std::exp((l.lambda - l.h[j]) / kTau1));
      const double part = l.w[j] * p * (1.0 - p) / (kTau1 * l.total);
      truth.gradient[l.items[j]] -=
          pull * implicit_weight(part, l.s, (c.options & kPublishedTopK) != 0);
    }
  }
  return truth;
}

void expect(const std::vector<double>& truth, const std::vector<double>& found, double tolerance) {
  CHECK(truth.size() == found.size());
  double scale = 1e-300;
  for (const double x : truth) scale = std::isfinite(x) ? std::max(scale, std::fabs(x)) : scale;
  for (size_t k = 0; k < truth.size(); ++k) {
    const bool same = std::isnan(truth[k])   ? std::isnan(found[k])
                      : std::isinf(truth[k]) ? truth[k] == found[k]
                                             : close(found[k], truth[k], tolerance, scale);
    if (!same) std::printf("%zu: %.17g, expected %.17g of %g\n", k, found[k], truth[k], scale);
    CHECK(same);
  }
}

template <class T>
std::vector<T> as(const std::vector<double>& values) {
  return std::vector<T>(values.begin(), values.end());
}
template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  return std::vector<double>(values.begin(), values.end());
}

template <class T, class State, int kThreads>
void run(const Case& c, unsigned seed) {
  std::mt19937_64 random(seed);
  Data d = random_data(c, random);
  // the truth sees what the kernel sees
  d.scores = widened(as<T>(d.scores));
  d.state = widened(as<State>(d.state));
  d.thresholds = widened(as<State>(d.thresholds));
  const Truth truth = truth_of(c, d);
  const int64_t entries = static_cast<int64_t>(d.scores.size());
  std::vector<double> sizes;
  for (int64_t q = 0; q < kQueries; ++q) sizes.push_back(list_of(c, d, q).present + 6.0);
  const bool labels = c.rule == RankingRule::kAveragePrecision;
  const DeviceArray<T> scores(as<T>(d.scores)), weights(as<T>(d.weights));
  const DeviceArray<double> relevance(d.relevance), num_items(sizes);
  const DeviceArray<uint8_t> mask(d.mask);
  const DeviceArray<int64_t> pairs(d.pairs), users(d.users), offsets(d.offsets);
  const DeviceArray<double> scalars({kGamma, kGamma1, kEta, kTau1, kTau2, kAlpha, 1.5});
  for_each_schedule([&] {
    DeviceArray<State> state(as<State>(d.state)), thresholds(as<State>(d.thresholds));
    DeviceArray<State> curvatures(as<State>(d.curvatures));
    DeviceArray<T> values(kQueries), mean(1), gradient(entries);
    cuda::RankingStep<T, State> call;
    call.rule = c.rule;
    call.surrogate = c.surrogate;
    call.options = c.options;
    call.gamma = scalars.data();
    call.scale = scalars.data() + 6;
    call.lists = {c.ragged ? offsets.data() : nullptr, kQueries, kItems};
    call.entries = entries;
    call.scores = scores.data();
    call.relevance = relevance.data();
    call.mask = c.masked ? mask.data() : nullptr;
    call.weights = weights.data();
    call.num_items = c.sized ? num_items.data() : nullptr;
    call.sizes_per_query[0] = true;
    if (c.state) {
      call.pair_index = pairs.data();
      call.state = state.data();
      call.rows = kPairs;
    }
    call.top_k.k = c.top_k;
    call.top_k.gamma1 = scalars.data() + 1;
    call.top_k.eta0 = scalars.data() + 2;
    call.top_k.tau1 = scalars.data() + 3;
    call.top_k.tau2 = scalars.data() + 4;
    call.top_k.alpha = scalars.data() + 5;
    if (c.top_k > 0 && c.thresholds) {
      call.top_k.thresholds = thresholds.data();
      call.top_k.curvatures = curvatures.data();
      call.top_k.rows = labels ? kQueries : kUsers;
      call.top_k.query_index = labels ? nullptr : users.data();
    }
    call.values = values.data();
    call.mean_value = mean.data();
    call.gradient = gradient.data();
    const size_t bytes = cuda::RankingPlan<T, State>(call, nullptr).bytes;
    DeviceArray<char> workspace(static_cast<int64_t>(bytes));
    CHECK(
        (cuda::run_ranking_step<kThreads>(call, workspace.data(), bytes, nullptr) == cudaSuccess));
    const double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-10;
    const double stored = sizeof(State) == 4 ? 2e-6 : tolerance;
    expect(truth.values, widened(values.read()), std::max(tolerance, stored));
    double total = 0.0;
    for (const double value : truth.values) total += value / kQueries;
    expect({total}, widened(mean.read()), std::max(tolerance, stored));
    expect(truth.gradient, widened(gradient.read()), std::max(tolerance, stored));
    expect(truth.state, widened(state.read()), std::max(tolerance, stored));
    if (c.top_k > 0) {
      expect(truth.thresholds, widened(thresholds.read()), std::max(tolerance, stored));
      expect(truth.curvatures, widened(curvatures.read()), std::max(tolerance, stored));
    }
  });
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](auto&& change) {
    Case c;
    change(c);
    all.push_back(c);
  };
  add([](Case&) {});
  add([](Case& c) { c.ragged = c.sized = true, c.surrogate = Surrogate::kLogistic; });
  add([](Case& c) { c.masked = true, c.options = kStaleState; });
  add([](Case& c) { c.state = false, c.sized = true, c.surrogate = Surrogate::kSigmoid; });
  add([](Case& c) { c.top_k = 3, c.masked = true; });
  add([](Case& c) { c.top_k = 3, c.ragged = true, c.options = kPublishedTopK; });
  add([](Case& c) { c.top_k = 4, c.options = kPracticalTopK, c.sized = true; });
  add([](Case& c) { c.top_k = 2, c.options = kSolvedThreshold; });
  add([](Case& c) { c.top_k = 12, c.thresholds = false, c.ragged = true; });
  add([](Case& c) { c.rule = RankingRule::kListwise, c.sized = true; });
  add([](Case& c) { c.rule = RankingRule::kListwise, c.ragged = true, c.options = kStaleState; });
  add([](Case& c) {
    c.rule = RankingRule::kListwise, c.masked = true, c.options = kIrrelevantItems | kBatchShift;
  });
  add([](Case& c) { c.rule = RankingRule::kAveragePrecision, c.top_k = 3; });
  return all;
}

}  // namespace

int main() {
  unsigned seed = 1;
  for (const Case& c : cases()) {
    const int before = failures;
    run<double, double, 64>(c, ++seed);
    run<float, float, 32>(c, seed);
    if (failures > before) std::printf("case %u\n", seed - 1);
  }
  run<float, double, 64>(cases()[0], 100);
  run<double, float, 64>(cases()[4], 101);
  return report();
}
