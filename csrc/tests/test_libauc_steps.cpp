// The steps that only LibAUC's losses take, against plain loops: MIDAM's pooled margin, and the
// gradient of mAP with ranks. Ids that come twice, one class alone, threads and labels that were
// not chosen.
#include <algorithm>

#include "cpu/pooled_margin_step.h"
#include "cpu/ranked_precision.h"
#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

constexpr int64_t kSamples = 9;

// (1 - gamma) u + gamma x, of all entries of one id the mean.
std::vector<double> averaged(const std::vector<double>& state, const std::vector<int64_t>& index,
                             const std::vector<double>& x, double gamma) {
  std::vector<double> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    double total = 0, count = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      if (index[k] != index[i]) continue;
      total += (1 - gamma) * state[static_cast<size_t>(index[k])] + gamma * x[k];
      count += 1;
    }
    out[i] = total / count;
  }
  return out;
}

template <class T>
std::vector<double> widened(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}

template <class T>
std::vector<T> positive_numbers(std::mt19937_64& random, int64_t count) {
  std::vector<T> x = normal<T>(random, count, 0, 1);
  for (T& value : x) value = std::fabs(value) + T(0.2);
  return x;
}

// mean_+ (h - a)^2 + mean_- (h - b)^2; the slope by h, which goes to by_pooled, is that of the
// objective with its terms of alpha.
double objective(const std::vector<double>& h, const std::vector<uint8_t>& positive, double a,
                 double b, double alpha, std::vector<double>& by_pooled, double by[2]) {
  double counts[2] = {}, value = 0;
  for (const uint8_t y : positive) counts[y] += 1;
  by_pooled.assign(h.size(), 0.0);
  by[0] = by[1] = 0;
  if (counts[0] == 0 || counts[1] == 0) return 0;
  for (size_t i = 0; i < h.size(); ++i) {
    const double share = 1 / counts[positive[i]], d = h[i] - (positive[i] ? a : b);
    value += share * d * d;
    by_pooled[i] = share * (2 * d + (positive[i] ? -alpha : alpha));
    by[positive[i] ? 0 : 1] -= 2 * share * d;
  }
  return value;
}

template <class T>
void pooled(int64_t batch, bool attention, bool with_state, bool one_class, double tolerance) {
  std::mt19937_64 random(7);
  const auto values = positive_numbers<T>(random, batch),
             divisors = positive_numbers<T>(random, batch);
  std::vector<uint8_t> labels(values.size());
  std::vector<int64_t> index(values.size());
  for (size_t i = 0; i < labels.size(); ++i) {
    labels[i] = one_class || i % 3 == 0;
    index[i] = static_cast<int64_t>(5 * i % 7);
  }
  std::vector<double> n = positive_numbers<double>(random, kSamples), q = n;
  std::reverse(q.begin(), q.end());
  const double gamma = 0.4, tau = 0.3, a = 0.2, b = -0.1, alpha = 0.7;
  std::vector<double> top = widened(values), bottom = widened(divisors), h, by_value, by_divisor;
  if (with_state) top = averaged(n, index, top, gamma), bottom = averaged(q, index, bottom, gamma);
  for (size_t i = 0; i < top.size(); ++i) {
    h.push_back(attention ? 1 / (1 + std::exp(-top[i] / bottom[i])) : tau * std::log(top[i]));
    by_value.push_back(attention ? h[i] * (1 - h[i]) / bottom[i] : tau / top[i]);
    by_divisor.push_back(-by_value[i] * top[i] / bottom[i]);
  }
  std::vector<double> by_pooled;
  double by[2];
  double expected = objective(h, labels, a, b, alpha, by_pooled, by);
  for (size_t i = 0; i < h.size(); ++i) {
    expected += by_pooled[i] * by_value[i] * static_cast<double>(values[i]);
    if (attention) expected += by_pooled[i] * by_divisor[i] * static_cast<double>(divisors[i]);
  }
  std::vector<T> to_values(values.size()), to_divisors(values.size());
  cpu::PooledMarginStep<T, double> call;
  call.values = values.data();
  if (attention) call.denominators = divisors.data();
  call.positive = labels.data();
  call.batch = batch;
  if (with_state) {
    call.index = index.data();
    call.state = n.data();
    call.state_denominators = attention ? q.data() : nullptr;
    call.rows = kSamples;
  }
  call.gamma = gamma;
  call.tau = tau;
  call.a = a;
  call.b = b;
  call.alpha = alpha;
  call.by_values = to_values.data();
  call.by_denominators = to_divisors.data();
  const cpu::PooledMarginResult found = cpu::pooled_margin_step(call, TwoThreads());
  CHECK(close(found.value, expected, tolerance, 1 + std::fabs(expected)));
  CHECK(close(found.by_a, by[0], tolerance, 1) && close(found.by_b, by[1], tolerance, 1));
  for (size_t i = 0; i < h.size(); ++i) {
    CHECK(close(to_values[i], by_pooled[i] * by_value[i], tolerance, 1));
    if (attention) CHECK(close(to_divisors[i], by_pooled[i] * by_divisor[i], tolerance, 1));
    if (!with_state) continue;
    CHECK(close(n[static_cast<size_t>(index[i])], top[i], tolerance, 1));
    if (attention) CHECK(close(q[static_cast<size_t>(index[i])], bottom[i], tolerance, 1));
  }
}

template <class T>
void ranked(int64_t batch, bool with_state, double spread, double tolerance) {
  constexpr int64_t kLabels = 3;
  constexpr double kMargin = 0.8, kTop = 2.0, kFactor = 0.5;
  std::mt19937_64 random(9);
  const auto scores = normal<T>(random, batch * kLabels, 0, spread);
  const auto state = positive_numbers<float>(random, kLabels * kSamples * 2);
  std::vector<uint8_t> positive(scores.size());
  std::vector<int64_t> index(static_cast<size_t>(batch));
  for (size_t k = 0; k < positive.size(); ++k) positive[k] = (k * 7 + k / 5) % 3 == 0;
  for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int64_t>(i % kSamples);
  const bool chosen[kLabels] = {true, false, true};
  std::vector<double> expected(scores.size(), 0.0);
  const auto at = [&](int64_t i, int64_t l) { return static_cast<size_t>(i * kLabels + l); };
  for (int64_t l = 0; l < kLabels; ++l) {
    if (!chosen[l]) continue;
    const auto gap = [&](int64_t j, int64_t i) {  // of the squared hinge
      const double d =
          static_cast<double>(scores[at(j, l)]) - static_cast<double>(scores[at(i, l)]);
      return std::fmax(kMargin + d, 0.0);
    };
    double count = 0;
    for (int64_t i = 0; i < batch; ++i) count += positive[at(i, l)];
    for (int64_t i = 0; i < batch; ++i) {
      if (!positive[at(i, l)]) continue;
      double u[2] = {};
      for (int64_t j = 0; j < batch; ++j) {
        const double phi = gap(j, i) * gap(j, i) / static_cast<double>(batch);
        u[0] += phi;
        u[1] += positive[at(j, l)] ? phi : 0.0;
      }
      if (with_state) {
        const auto row = static_cast<size_t>((l * kSamples + index[static_cast<size_t>(i)]) * 2);
        u[0] = static_cast<double>(state[row]);
        u[1] = static_cast<double>(state[row + 1]);
      }
      for (int64_t j = 0; j < batch; ++j) {
        double above = 0;
        for (int64_t k = 0; k < batch; ++k) {
          if (positive[at(k, l)]) above += gap(j, k) * gap(j, k);
        }
        const double selector = 1 / (1 + std::exp(above - kTop));
        const double weight = selector * (u[1] - (positive[at(j, l)] ? u[0] : 0.0)) / (u[0] * u[0]);
        const double slope =
            kFactor * weight * 2 * gap(j, i) / (count * static_cast<double>(batch));
        expected[at(j, l)] += slope;
        expected[at(i, l)] -= slope;
      }
    }
  }
  double size = 1e-9;
  for (const double g : expected) size = std::fmax(size, std::fabs(g));
  std::vector<T> first;
  const cpu::SerialExecutor serial;
  const TwoThreads two;
  for (const cpu::Executor* executor :
       {static_cast<const cpu::Executor*>(&serial), static_cast<const cpu::Executor*>(&two)}) {
    std::vector<T> gradient(scores.size());
    cpu::RankedPrecision<T, float> call;
    call.batch.batch = batch;
    call.batch.labels = kLabels;
    call.batch.scores = scores.data();
    call.batch.positive = positive.data();
    call.batch.index = index.data();
    call.batch.rows = kSamples;
    call.batch.gradient = gradient.data();
    call.chosen = chosen;
    call.spec.params.margin = kMargin;
    call.top_k = kTop;
    call.factor = kFactor;
    if (with_state) call.state = state.data();
    cpu::ranked_precision_gradient(call, *executor);
    for (size_t k = 0; k < gradient.size(); ++k) {
      CHECK(close(gradient[k], expected[k], tolerance, size));
    }
    if (first.empty()) first = gradient;
    CHECK(gradient == first);
  }
}

int main() {
  for_each_simd([](const char*) {
    for (const bool attention : {false, true}) {
      for (const bool with_state : {false, true}) {
        pooled<float>(33, attention, with_state, false, 1e-5);
        pooled<double>(33, attention, with_state, false, 1e-12);
        pooled<double>(5, attention, with_state, true, 1e-12);
        pooled<double>(0, attention, with_state, true, 1e-12);
      }
    }
    for (const bool with_state : {false, true}) {
      ranked<float>(41, with_state, 0.4, 1e-4);
      ranked<double>(41, with_state, 0.4, 1e-11);
      ranked<double>(2, with_state, 0.4, 1e-11);
      ranked<float>(5, with_state, 1e18, 1e-4);  // squares leave the range of float
    }
  });
  return report();
}
