// Every algorithm and surrogate, rows and columns, under every SIMD variant, against plain loops in
// double; and that threads do not change a bit.
#include "cpu/pairwise.h"

#include <algorithm>

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

void phi(Surrogate kind, double d, double m, double s, double& value, double& slope) {
  const double z = std::max(m + d, 0.0);
  switch (kind) {
    case Surrogate::kSquared:
      value = (m + d) * (m + d);
      slope = 2 * (m + d);
      return;
    case Surrogate::kSquaredHinge:
      value = z * z;
      slope = 2 * z;
      return;
    case Surrogate::kHinge:
      value = z;
      slope = z > 0;
      return;
    case Surrogate::kBarrierHinge:
      value = std::max({s * (d - m) + m, m + d, -s * (d + m)});
      slope = d <= -m ? -s : (s - 1) * d > s * m ? s : 1;
      return;
    case Surrogate::kLogistic:
      value = std::max(s * d, 0.0) + std::log1p(std::exp(-std::fabs(s * d)));
      slope = s / (1 + std::exp(-s * d));
      return;
    case Surrogate::kSigmoid:
      value = 1 / (1 + std::exp(-s * d));
      slope = s * value / (1 + std::exp(s * d));
      return;
    case Surrogate::kExponential:
      value = std::exp(s * d);
      slope = s * value;
      return;
    case Surrogate::kZeroOne:
      value = d > 0 ? 1.0 : d == 0 ? 0.5 : 0.0;
      slope = 0;
  }
}

template <class T>
struct Case {
  std::vector<T> anchors, items, weights;
  int64_t channels;
};

// kind: 0 normal, 1 far from zero, 2 ties on a grid, 3 all equal, 4 heavy tails
template <class T>
Case<T> make_case(int kind, int64_t anchors, int64_t items, int64_t channels) {
  std::mt19937_64 random(static_cast<uint64_t>(kind * 1000 + anchors + items));
  Case<T> c;
  const double centre = kind == 1 ? 30.0 : 0.0, spread = kind == 1 ? 0.05 : 1.0;
  c.anchors = normal<T>(random, anchors, centre, spread);
  c.items = normal<T>(random, items, centre, spread);
  const auto change = [kind](T& x) {
    if (kind == 2) x = std::round(x * 4) / 4;
    if (kind == 3) x = T(1.25);
    if (kind == 4) x = x * x * x * x * x * T(4);
  };
  std::for_each(c.anchors.begin(), c.anchors.end(), change);
  std::for_each(c.items.begin(), c.items.end(), change);
  c.channels = channels;
  if (channels > 0) {
    c.weights = normal<T>(random, channels * items, 1.0, 1.0);
    c.weights[0] = T(0);
  }
  return c;
}

template <class T>
struct Result {
  std::vector<double> sums, slopes;
  std::vector<T> out;
};

template <class T>
Result<T> run(const Case<T>& c, const cpu::PairwiseSpec& spec, const std::vector<double>& alpha,
              const cpu::Executor& executor) {
  const int64_t channels = std::max<int64_t>(1, c.channels);
  cpu::Scratch scratch;
  const cpu::Anchors<T> anchors{c.anchors.data(), static_cast<int64_t>(c.anchors.size())};
  const auto pairs = cpu::make_pairwise_sums(spec, anchors, scratch, executor);
  cpu::ItemPass<T> pass;
  pass.items = {c.items.data(), c.channels == 0 ? nullptr : c.weights.data(),
                static_cast<int64_t>(c.items.size()), channels};
  Result<T> r;
  r.sums.resize(static_cast<size_t>(channels) * c.anchors.size());
  r.slopes.resize(r.sums.size());
  r.out.resize(c.items.size());
  pairs->rows(pass, r.sums.data(), r.slopes.data());
  pairs->columns(pass, alpha.data(), r.out.data());
  return r;
}

template <class T>
void compare(const Case<T>& c, const cpu::PairwiseSpec& spec, double tolerance) {
  const size_t p = c.anchors.size(), m = c.items.size();
  const size_t channels = static_cast<size_t>(std::max<int64_t>(1, c.channels));
  std::mt19937_64 random(5);
  const std::vector<double> alpha =
      normal<double>(random, static_cast<int64_t>(channels * p), 1, 1);
  std::vector<double> sums, sum_scales, slopes, slope_scales, out(m, 0.0), out_scales(m, 0.0);
  for (size_t k = 0; k < channels; ++k) {
    for (size_t i = 0; i < p; ++i) {
      double sum = 0, slope = 0, sum_scale = 0, slope_scale = 0;
      for (size_t j = 0; j < m; ++j) {
        const double d = static_cast<double>(c.items[j]) - static_cast<double>(c.anchors[i]);
        const double w = c.channels == 0 ? 1.0 : static_cast<double>(c.weights[k * m + j]);
        double value = 0, derivative = 0;
        phi(spec.surrogate, d, spec.params.margin, spec.params.scale, value, derivative);
        sum += w * value;
        slope += w * derivative;
        sum_scale += std::fabs(w * value);
        slope_scale += std::fabs(w * derivative);
        out[j] += w * alpha[k * p + i] * derivative;
        out_scales[j] += std::fabs(w * alpha[k * p + i] * derivative);
      }
      sums.push_back(sum);
      sum_scales.push_back(sum_scale + 1e-30);
      slopes.push_back(slope);
      slope_scales.push_back(slope_scale + 1e-30);
    }
  }
  for_each_simd([&](const char* name) {
    const int before = failures;
    const Result<T> r = run(c, spec, alpha, cpu::SerialExecutor());
    for (size_t i = 0; i < sums.size(); ++i) {
      CHECK(close(r.sums[i], sums[i], tolerance, sum_scales[i]));
      CHECK(close(r.slopes[i], slopes[i], tolerance, slope_scales[i]));
    }
    for (size_t j = 0; j < m; ++j) {
      CHECK(close(static_cast<double>(r.out[j]), out[j], tolerance, out_scales[j] + 1e-30));
    }
    const Result<T> threads = run(c, spec, alpha, TwoThreads());
    CHECK(threads.sums == r.sums);
    CHECK(threads.slopes == r.slopes);
    CHECK(threads.out == r.out);
    if (failures > before) std::printf("%s:\n", name);
  });
}

template <class T>
void all_cases(double eps) {
  for (int surrogate = 0; surrogate < kSurrogateCount; ++surrogate) {
    for (Algorithm algorithm : {Algorithm::kDirect, Algorithm::kSort}) {
      cpu::PairwiseSpec spec{static_cast<Surrogate>(surrogate), {0.5, 2.0}, algorithm};
      if (algorithm == Algorithm::kSort && !cpu::has_sort(spec.surrogate)) continue;
      for (int kind = 0; kind < 5; kind += tiny_cases ? 2 : 1) {
        const bool exponential = spec.surrogate == Surrogate::kExponential;
        if (exponential && kind == 4) continue;  // overflows, by definition
        // exp(-|z|) has the relative error |z| eps, and heavy tails reach |z| of thousands.
        const bool smooth = !cpu::has_sort(spec.surrogate);
        const double tolerance = smooth && kind == 4 ? 5000 * eps : eps;
        for (int64_t channels : {0, 1, 3}) {
          const int before = failures;
          compare(make_case<T>(kind, 1, 1, channels), spec, tolerance);
          compare(make_case<T>(kind, 7, tiny_cases ? 70 : 130, channels), spec, tolerance);
          if (!tiny_cases) compare(make_case<T>(kind, 70, 33, channels), spec, tolerance);
          if (failures > before) {
            std::printf("surrogate %d, algorithm %d, kind %d, channels %d, %zu bytes\n", surrogate,
                        static_cast<int>(algorithm), kind, static_cast<int>(channels), sizeof(T));
          }
        }
        compare(make_case<T>(kind,
                             tiny_cases    ? 70
                             : small_cases ? 150
                                           : 1500,
                             40, 0),
                spec, tolerance);
      }
    }
  }
  if (small_cases) return;
  // Large enough for several chunks of items. (The plain loop itself is only good to 1e-13 here.)
  for (int kind : {0, 3, 4}) {
    const cpu::PairwiseSpec spec{Surrogate::kSquaredHinge, {1.0, 1.0}, Algorithm::kSort};
    compare(make_case<T>(kind, 40, 70000, 1), spec, std::max(eps, 1e-13));
    const cpu::PairwiseSpec direct{Surrogate::kSquaredHinge, {1.0, 1.0}, Algorithm::kDirect};
    compare(make_case<T>(kind, 5, 140000, 1), direct, std::max(eps, 1e-13));
  }
}

}  // namespace

int main() {
  all_cases<float>(1e-6);
  all_cases<double>(4e-15);
  return report();
}
