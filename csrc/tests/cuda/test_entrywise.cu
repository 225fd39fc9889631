// The losses without pairs on CUDA: values against the plain formulas, gradients against their
// differences, more rows than threads, several labels, weight 0, NaN.
#include "cuda/entrywise.h"

#include <cmath>

#include "tests/cuda/device.h"
#include "tests/entrywise_reference.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

namespace {

PlainEntries make_entries(int64_t batch, int64_t labels) {
  std::mt19937_64 random(static_cast<uint64_t>(batch + labels));
  PlainEntries in;
  in.batch = batch;
  in.labels = labels;
  in.scores = normal<double>(random, batch * labels, 0.3, 1.0);
  for (size_t k = 0; k < in.scores.size(); ++k) {
    const size_t row = k / static_cast<size_t>(labels);  // one of each class comes first
    in.positive.push_back(row == 0 || (row > 1 && random() % 4 == 0));
    in.weights.push_back(row > 1 && k % 5 == 4 ? 0.0 : 0.5 + static_cast<double>(random() % 3));
  }
  return in;
}

template <class F>
double slope_of(double& x, F&& value) {
  const double kept = x, step = 1e-5;
  x = kept + step;
  const double above = value();
  x = kept - step;
  const double below = value();
  x = kept;
  return (above - below) / (2 * step);
}

template <class T>
struct OnDevice {
  DeviceArray<T> scores, weights;
  DeviceArray<uint8_t> positive;
  explicit OnDevice(const PlainEntries& in)
      : scores(std::vector<T>(in.scores.begin(), in.scores.end())),
        weights(std::vector<T>(in.weights.begin(), in.weights.end())),
        positive(in.positive) {}
  LabelledEntries<T> view(const PlainEntries& in) const {
    return {scores.data(), positive.data(), weights.data(), in.batch, static_cast<int>(in.labels)};
  }
};

template <class T>
void test_auc_margin(int64_t batch, int64_t labels, AucMargin kind) {
  PlainEntries in = make_entries(batch, labels);
  const OnDevice<T> device(in);
  const size_t n = static_cast<size_t>(labels);
  const DeviceArray<double> a(std::vector<double>(n, 0.4)), b(std::vector<double>(n, -0.2));
  const DeviceArray<double> alpha(std::vector<double>(n, 0.6)), priors(std::vector<double>(n, 0.3));
  const bool given = kind == AucMargin::kV1;
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-9;
  for_each_schedule([&] {
    DeviceArray<T> values(labels), by(3 * labels), gradient(batch * labels);
    AucMarginStep<T> call;
    call.entries = device.view(in);
    call.kind = kind;
    call.margin = 0.7;
    call.a = a.data();
    call.b = b.data();
    call.alpha = alpha.data();
    call.priors = given ? priors.data() : nullptr;
    call.share = 0.5;
    call.values = values.data();
    call.by_parameters = by.data();
    call.gradient = gradient.data();
    CHECK(launch_auc_margin_step(call, nullptr) == cudaSuccess);
    const auto got = values.read(), got_by = by.read(), got_gradient = gradient.read();
    for (int64_t l = 0; l < labels; ++l) {
      double p[3] = {0.4, -0.2, 0.6};
      const auto value = [&] {
        return plain_auc_margin(in, l, kind, p[0], p[1], p[2], 0.7, given ? 0.3 : -1);
      };
      CHECK(close(got[static_cast<size_t>(l)], value(), tolerance, 1));
      for (int k = 0; k < 3; ++k) {
        const double expected = 0.5 * slope_of(p[k], value);
        CHECK(close(got_by[static_cast<size_t>(k * labels + l)], expected, 10 * tolerance, 1));
      }
      for (int64_t row : {int64_t{0}, int64_t{1}, batch / 2, batch - 1}) {
        const size_t k = static_cast<size_t>(row * labels + l);
        CHECK(close(got_gradient[k], 0.5 * slope_of(in.scores[k], value), 10 * tolerance, 1));
      }
    }
  });
}

template <class T>
void test_cross_entropy(int64_t batch, int64_t labels, double focus) {
  PlainEntries in = make_entries(batch, labels);
  const OnDevice<T> device(in);
  const size_t n = static_cast<size_t>(labels);
  std::vector<double> two(2 * n, 0.5), gaps(2 * n, 0.1);
  std::fill(two.begin() + labels, two.end(), 1.5);
  const DeviceArray<double> weights(two), margins(gaps);
  const double w[2] = {0.5, 1.5}, m[2] = {0.1, 0.1};
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-9;
  for_each_schedule([&] {
    DeviceArray<T> values(labels), gradient(batch * labels);
    CrossEntropyStep<T> call;
    call.entries = device.view(in);
    call.class_weights = weights.data();
    call.margins = margins.data();
    call.scale = 1.5;
    call.focus = focus;
    call.share = 0.5;
    call.values = values.data();
    call.gradient = gradient.data();
    CHECK(launch_cross_entropy_step(call, nullptr) == cudaSuccess);
    const auto got = values.read(), got_gradient = gradient.read();
    for (int64_t l = 0; l < labels; ++l) {
      const auto value = [&] { return plain_cross_entropy(in, l, w, m, 1.5, focus); };
      CHECK(close(got[static_cast<size_t>(l)], value(), tolerance, 1));
      for (int64_t row : {int64_t{0}, int64_t{1}, batch / 2, batch - 1}) {
        const size_t k = static_cast<size_t>(row * labels + l);
        CHECK(close(got_gradient[k], 0.5 * slope_of(in.scores[k], value), 10 * tolerance, 1));
      }
    }
  });
}

void test_not_finite() {
  PlainEntries in = make_entries(40, 2);
  in.scores[8] = in.scores[9] = std::nan("");
  in.weights[8] = 1;
  in.weights[9] = 0;  // not looked at
  const OnDevice<float> device(in);
  const DeviceArray<double> zeros(std::vector<double>(2, 0.1));
  for_each_schedule([&] {
    for (bool margin : {true, false}) {
      DeviceArray<float> values(2), by(6), gradient(80);
      AucMarginStep<float> call;
      CrossEntropyStep<float> entropy;
      call.entries = entropy.entries = device.view(in);
      call.a = call.b = call.alpha = zeros.data();
      call.values = entropy.values = values.data();
      call.by_parameters = by.data();
      call.gradient = entropy.gradient = gradient.data();
      CHECK((margin ? launch_auc_margin_step(call, nullptr)
                    : launch_cross_entropy_step(entropy, nullptr)) == cudaSuccess);
      const auto got = values.read(), slopes = gradient.read();
      CHECK(std::isnan(got[0]) && std::isfinite(got[1]) && slopes[9] == 0);
      bool good = true;
      for (size_t k = 0; k < 80; ++k) {
        good &= k % 2 == 0 ? std::isnan(slopes[k]) : std::isfinite(slopes[k]);
      }
      CHECK(good);
    }
  });
}

template <class T>
void test_type() {
  for (AucMargin kind :
       {AucMargin::kV2, AucMargin::kV1, AucMargin::kMinMax, AucMargin::kV2OverAll}) {
    test_auc_margin<T>(37, 3, kind);
    test_auc_margin<T>(kEntrywiseThreads + 30, 1, kind);
  }
  for (double focus : {0.0, 2.0}) {
    test_cross_entropy<T>(37, 3, focus);
    test_cross_entropy<T>(kEntrywiseThreads + 30, 1, focus);
  }
}

}  // namespace

int main() {
  test_type<float>();
  test_type<double>();
  test_not_finite();
  return report();
}
