// The losses without pairs: values against the plain formulas, gradients against differences of
// them, every SIMD variant, many chunks, threads, NaN and weight 0.
#include "cpu/entrywise.h"

#include <numeric>

#include "tests/check.h"
#include "tests/entrywise_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

PlainEntries make_entries(int64_t batch, int64_t labels, bool weighted) {
  std::mt19937_64 random(static_cast<uint64_t>(batch * 7 + labels));
  PlainEntries in;
  in.batch = batch;
  in.labels = labels;
  in.scores = normal<double>(random, batch * labels, 0.3, 1.0);
  for (size_t k = 0; k < in.scores.size(); ++k) {
    const size_t row = k / static_cast<size_t>(labels);  // one of each class comes first
    in.positive.push_back(row == 0 || (row > 1 && random() % 4 == 0));
    if (weighted)
      in.weights.push_back(row > 1 && k % 5 == 4 ? 0.0 : 0.5 + static_cast<double>(random() % 3));
  }
  return in;
}

template <class T>
struct Typed {
  std::vector<T> scores, weights;
  explicit Typed(const PlainEntries& in)
      : scores(in.scores.begin(), in.scores.end()), weights(in.weights.begin(), in.weights.end()) {}
  cpu::LabelledEntries<T> view(const PlainEntries& in) const {
    return {scores.data(), in.positive.data(), weights.empty() ? nullptr : weights.data(), in.batch,
            in.labels};
  }
};

// Rows whose gradients are compared with differences: of a long batch, of its first and last chunk.
std::vector<int64_t> rows_to_check(int64_t batch) {
  if (batch > 100) return {0, 1, batch / 2, batch - 1};
  std::vector<int64_t> rows(static_cast<size_t>(std::min<int64_t>(batch, 12)));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

template <class T>
void test_auc_margin(int64_t batch, int64_t labels, bool weighted, AucMargin kind, bool given) {
  PlainEntries in = make_entries(batch, labels, weighted);
  const Typed<T> typed(in);
  const size_t n = static_cast<size_t>(labels);
  std::vector<double> parameters(3 * n), priors(n, 0.3), values(n), by(3 * n), serial(n);
  for (size_t k = 0; k < 3 * n; ++k) parameters[k] = 0.3 * static_cast<double>(k % 5) - 0.4;
  std::vector<T> gradient(in.scores.size());
  cpu::AucMarginStep<T> call;
  call.entries = typed.view(in);
  call.kind = kind;
  call.margin = 0.7;
  call.parameters = parameters.data();
  call.priors = given ? priors.data() : nullptr;
  call.share = 0.5;
  call.values = values.data();
  call.by_parameters = by.data();
  call.gradient = gradient.data();
  cpu::auc_margin_step(call, TwoThreads());
  call.values = serial.data();
  cpu::auc_margin_step(call, cpu::SerialExecutor());
  CHECK(values == serial);
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-9;
  for (int64_t l = 0; l < labels; ++l) {
    double p[3];
    for (int64_t k = 0; k < 3; ++k) p[k] = parameters[static_cast<size_t>(k * labels + l)];
    const auto value = [&] {
      return plain_auc_margin(in, l, kind, p[0], p[1], p[2], 0.7, given ? 0.3 : -1);
    };
    CHECK(close(values[static_cast<size_t>(l)], value(), tolerance, 1));
    const double step = 1e-5;
    const auto slope = [&](double& x) {
      const double kept = x;
      x = kept + step;
      const double above = value();
      x = kept - step;
      const double below = value();
      x = kept;
      return (above - below) / (2 * step);
    };
    for (int k = 0; k < 3; ++k) {
      if (k == 2 && p[2] < 0 && kind != AucMargin::kMinMax) continue;  // flat in the clamped alpha
      const double got = by[static_cast<size_t>(k * labels + l)];
      CHECK(close(got, 0.5 * slope(p[k]), 10 * tolerance, 1));
    }
    for (const int64_t row : rows_to_check(batch)) {
      const size_t k = static_cast<size_t>(row * labels + l);
      CHECK(close(gradient[k], 0.5 * slope(in.scores[k]), 10 * tolerance, 1));
    }
  }
}

template <class T>
void test_cross_entropy(int64_t batch, int64_t labels, bool weighted, double focus) {
  PlainEntries in = make_entries(batch, labels, weighted);
  const Typed<T> typed(in);
  const size_t n = static_cast<size_t>(labels);
  std::vector<double> weights(2 * n), margins(2 * n), values(n), serial(n);
  for (size_t k = 0; k < 2 * n; ++k) {
    weights[k] = 0.5 + 0.1 * static_cast<double>(k);
    margins[k] = 0.05 * static_cast<double>(k);
  }
  std::vector<T> gradient(in.scores.size());
  cpu::CrossEntropyStep<T> call;
  call.entries = typed.view(in);
  call.class_weights = weights.data();
  call.margins = margins.data();
  call.scale = 1.5;
  call.focus = focus;
  call.share = 0.5;
  call.values = values.data();
  call.gradient = gradient.data();
  cpu::cross_entropy_step(call, TwoThreads());
  call.values = serial.data();
  cpu::cross_entropy_step(call, cpu::SerialExecutor());
  CHECK(values == serial);
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-9;
  for (int64_t l = 0; l < labels; ++l) {
    const size_t at = static_cast<size_t>(l);
    const double w[2] = {weights[at], weights[n + at]}, m[2] = {margins[at], margins[n + at]};
    const auto value = [&] { return plain_cross_entropy(in, l, w, m, 1.5, focus); };
    CHECK(close(values[at], value(), tolerance, 1));
    for (const int64_t row : rows_to_check(batch)) {
      const size_t k = static_cast<size_t>(row * labels + l);
      const double kept = in.scores[k], step = 1e-5;
      in.scores[k] = kept + step;
      const double above = value();
      in.scores[k] = kept - step;
      const double below = value();
      in.scores[k] = kept;
      CHECK(close(gradient[k], 0.5 * (above - below) / (2 * step), 10 * tolerance, 1));
    }
  }
}

template <class T>
void test_not_finite() {
  PlainEntries in = make_entries(40, 2, true);
  Typed<T> typed(in);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  typed.scores[8] = nan;  // label 0
  typed.weights[8] = 1;
  typed.scores[9] = nan;  // label 1, but it weighs nothing
  typed.weights[9] = 0;
  std::vector<double> parameters(6, 0.1), values(2), by(6);
  std::vector<T> gradient(80);
  const auto check = [&] {
    CHECK(std::isnan(values[0]) && std::isfinite(values[1]));
    for (size_t k = 0; k < 80; ++k) {
      CHECK(k % 2 == 0 ? std::isnan(gradient[k]) : std::isfinite(gradient[k]));
    }
    CHECK(gradient[9] == 0);
  };
  cpu::AucMarginStep<T> margin;
  margin.entries = typed.view(in);
  margin.parameters = parameters.data();
  margin.values = values.data();
  margin.by_parameters = by.data();
  margin.gradient = gradient.data();
  cpu::auc_margin_step(margin, TwoThreads());
  check();
  cpu::CrossEntropyStep<T> entropy;
  entropy.entries = typed.view(in);
  entropy.values = values.data();
  entropy.gradient = gradient.data();
  cpu::cross_entropy_step(entropy, TwoThreads());
  check();
}

template <class T>
void test_type() {
  for (int64_t batch : {2, 9, 33, 12000}) {
    if (small_cases && batch > 100) continue;
    for (int64_t labels : {1, 3, 17}) {
      for (bool weighted : {false, true}) {
        if (batch > 100 && !(labels == 3 && weighted)) continue;  // two chunks
        for (AucMargin kind :
             {AucMargin::kV2, AucMargin::kV1, AucMargin::kMinMax, AucMargin::kV2OverAll}) {
          const bool has_prior = kind == AucMargin::kV1 || kind == AucMargin::kMinMax;
          test_auc_margin<T>(batch, labels, weighted, kind, has_prior && weighted);
        }
        for (double focus : {0.0, 2.0}) test_cross_entropy<T>(batch, labels, weighted, focus);
      }
    }
  }
  test_not_finite<T>();
}

}  // namespace

int main() {
  for_each_simd([](const char*) {
    test_type<float>();
    test_type<double>();
  });
  return report();
}
