// The smooth algorithm: every way, on scores that try its weak places, against plain loops in long
// double and within the stated bound; and that threads do not change a bit.
#include <algorithm>

#include "cpu/smooth.h"
#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

void phi(Surrogate kind, long double z, long double& value, long double& slope) {
  const long double q = std::exp(-std::fabs(z)), r = 1 / (1 + q);
  const long double sigma = z > 0 ? r : q * r;
  value = kind == Surrogate::kLogistic ? std::max(z, 0.0L) + std::log1p(q) : sigma;
  slope = kind == Surrogate::kLogistic ? sigma : q * r * r;
}

template <class T>
struct Case {
  std::vector<T> anchors, items, weights;
  int64_t channels = 0;
};

constexpr const char* kKinds[] = {"normal", "ties",  "clusters",   "outliers", "Cauchy",
                                  "spread", "edges", "far from 0", "separated"};
constexpr int kKindCount = 9;

template <class T>
std::vector<T> make_scores(int kind, int64_t count, bool anchors, double scale,
                           std::mt19937_64& random) {
  std::vector<T> x = normal<T>(random, count, 0.0, 3.0);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  for (T& y : x) {
    const double z = static_cast<double>(y);
    switch (kind) {
      case 1:
        y = T(0.625);
        break;
      case 2:
        y = static_cast<T>((random() % 2 == 0 ? 40.0 : -55.0) + 1e-3 * z);
        break;
      case 3:
        if (random() % 40 == 0) y = static_cast<T>((random() % 2 == 0 ? 1e6 : -1e6) + z);
        break;
      case 4:
        y = static_cast<T>(std::tan(1.5707 * uniform(random)));
        break;
      case 5:
        y = static_cast<T>(3e3 * uniform(random) * static_cast<double>(count) / scale);
        break;
      case 6:  // edges and centres of bins
        y = static_cast<T>(SmoothFit<T>::kWidth / scale * 0.5 *
                           static_cast<double>(static_cast<int64_t>(random() % 200) - 100));
        break;
      case 7:
        y = static_cast<T>(3000.0 + 0.05 * z);
        break;
      case 8:
        y = static_cast<T>((anchors ? 20.0 : -20.0) / scale + 0.1 * z);
        break;
      default:
        break;
    }
  }
  return x;
}

// By plain loops, each with the sum of what its terms may be wrong by.
struct Truth {
  std::vector<double> alpha;  // of the columns
  std::vector<long double> sums, sum_sizes, slopes, slope_sizes, columns, column_sizes;
};

template <class T>
Truth find_truth(const Case<T>& c, Surrogate surrogate, double scale) {
  const size_t channels = static_cast<size_t>(std::max<int64_t>(1, c.channels));
  const size_t p = c.anchors.size(), m = c.items.size();
  std::mt19937_64 random(5);
  Truth truth;
  truth.alpha = normal<double>(random, static_cast<int64_t>(channels * p), 0.3, 1);
  truth.columns.resize(m);
  truth.column_sizes.assign(m, 1e-300L);
  for (size_t k = 0; k < channels; ++k) {
    for (size_t i = 0; i < p; ++i) {
      const double a = truth.alpha[k * p + i];
      long double sum = 0, slope = 0, size = 0, slope_size = 0;
      for (size_t j = 0; j < m; ++j) {
        const long double d = static_cast<long double>(c.items[j]) - c.anchors[i];
        const long double w = c.channels == 0 ? 1.0L : c.weights[k * m + j];
        long double value, derivative;
        phi(surrogate, scale * d, value, derivative);
        sum += w * value;
        slope += scale * w * derivative;
        size += std::fabs(w) * (1 + std::fabs(value));
        slope_size += scale * std::fabs(w) * (1 + derivative);
        truth.columns[j] += scale * w * a * derivative;
        truth.column_sizes[j] += scale * std::fabs(w * a) * (1 + derivative);
      }
      truth.sums.push_back(sum);
      truth.sum_sizes.push_back(size);
      truth.slopes.push_back(slope);
      truth.slope_sizes.push_back(slope_size);
    }
  }
  return truth;
}

// In the type of the scores: the same sums, rounded.
template <class T>
void compare_narrow(const Case<T>& c, const cpu::PairwiseSpec& spec, const Truth& truth,
                    const std::vector<double>& sums, const std::vector<double>& slopes,
                    const std::vector<T>& out) {
  cpu::Scratch scratch;
  const TwoThreads executor;
  const cpu::Anchors<T> anchors{c.anchors.data(), static_cast<int64_t>(c.anchors.size())};
  const auto pairs = cpu::make_pairwise_sums(spec, anchors, scratch, executor);
  cpu::ItemPass<T> pass;
  pass.items = {c.items.data(), c.channels == 0 ? nullptr : c.weights.data(),
                static_cast<int64_t>(c.items.size()), std::max<int64_t>(1, c.channels)};
  const std::vector<T> alpha(truth.alpha.begin(), truth.alpha.end());
  std::vector<T> narrow(sums.size(), T(NAN)), narrow_slopes(narrow), narrow_out(out.size(), T(NAN));
  if (!pairs->narrow_rows(pass, narrow.data(), narrow_slopes.data())) return;  // it is direct
  CHECK(pairs->narrow_columns(pass, alpha.data(), narrow_out.data()));
  for (size_t i = 0; i < sums.size(); ++i) {
    CHECK(narrow[i] == static_cast<T>(sums[i]));
    CHECK(narrow_slopes[i] == static_cast<T>(slopes[i]));
  }
  CHECK(narrow_out == out);
}

template <class T>
void compare(const Case<T>& c, const cpu::PairwiseSpec& spec, const Truth& truth, double bound,
             double& largest) {
  std::vector<double> sums, slopes;
  std::vector<T> out;
  const auto run = [&](const cpu::Executor& executor, bool separately) {
    cpu::Scratch scratch;
    const cpu::Anchors<T> anchors{c.anchors.data(), static_cast<int64_t>(c.anchors.size())};
    const auto pairs = cpu::make_pairwise_sums(spec, anchors, scratch, executor);
    cpu::ItemPass<T> pass;
    pass.items = {c.items.data(), c.channels == 0 ? nullptr : c.weights.data(),
                  static_cast<int64_t>(c.items.size()), std::max<int64_t>(1, c.channels)};
    sums.assign(truth.sums.size(), NAN);
    slopes = sums;
    out.assign(c.items.size(), T(NAN));
    pairs->rows(pass, sums.data(), slopes.data());
    if (separately) {  // what a later call has of an earlier one
      const uint32_t* order = pass.plan == nullptr ? nullptr : pass.plan->order;
      pass = {pass.items, {}, order, nullptr};
      cpu::make_pairwise_sums(spec, anchors, scratch, executor)
          ->columns(pass, truth.alpha.data(), out.data());
      CHECK(order == nullptr || pass.plan->order == order);
      return;
    }
    pairs->columns(pass, truth.alpha.data(), out.data());
  };
  const auto check = [&](double actual, long double expected, long double size) {
    const double error = static_cast<double>(std::fabs(actual - expected) / size);
    if (!(error <= largest)) largest = error;
    CHECK(error <= bound);
  };
  for_each_simd([&](const char* name) {
    const int before = failures;
    run(cpu::SerialExecutor(), false);
    for (size_t i = 0; i < sums.size(); ++i) {
      check(sums[i], truth.sums[i], truth.sum_sizes[i]);
      check(slopes[i], truth.slopes[i], truth.slope_sizes[i]);
    }
    for (size_t j = 0; j < out.size(); ++j) {
      check(static_cast<double>(out[j]), truth.columns[j], truth.column_sizes[j]);
    }
    const auto sums_before = sums, slopes_before = slopes;
    const auto out_before = out;
    run(TwoThreads(), true);
    CHECK(sums == sums_before);
    CHECK(slopes == slopes_before);
    CHECK(out == out_before);
    compare_narrow(c, spec, truth, sums, slopes, out);
    if (failures > before) std::printf("%s:\n", name);
  });
}

// Where every access is checked, which takes long, every fifth case: each kind of scores has its
// turn with each surrogate and with each number of channels.
#if defined(__SANITIZE_ADDRESS__)
const int one_in = 5;
#else
const int one_in = tiny_cases ? 97 : 1;  // kinds, channels and scales take turns
#endif

template <class T>
void all_cases(double bound) {
  double largest[5] = {};
  int number = 0;
  for (Surrogate surrogate : {Surrogate::kLogistic, Surrogate::kSigmoid}) {
    for (double scale : {0.01, 1.0, 130.0}) {
      for (int kind = 0; kind < kKindCount; ++kind) {
        for (int64_t channels : {0, 1, 3}) {
          if (++number % one_in != 0) continue;
          std::mt19937_64 random(static_cast<uint64_t>(kind));
          Case<T> c;
          const int64_t p = channels == 1 ? 150 : 37, m = channels == 1 ? 60 : 90;
          c.anchors = make_scores<T>(kind, p, true, scale, random);
          c.items = make_scores<T>(kind, m, false, scale, random);
          c.channels = channels;
          if (channels > 0) {
            c.weights = normal<T>(random, channels * m, 0.2, 1.0);
            c.weights[0] = T(0);
          }
          const Truth truth = find_truth(c, surrogate, scale);
          for (int way = 0; way < 5; ++way) {
            cpu::PairwiseSpec spec{surrogate, {1.0, scale}, Algorithm::kSmooth};
            spec.smooth_way = static_cast<cpu::SmoothWay>(way);
            // The bins between two outliers would fill the memory.
            if (spec.smooth_way == cpu::SmoothWay::kBins && kind >= 3 && kind <= 5) continue;
            const int before = failures;
            compare(c, spec, truth, bound, largest[way]);
            if (failures > before) {
              std::printf("%s, surrogate %d, scale %g, channels %d, way %d, %zu bytes\n",
                          kKinds[kind], static_cast<int>(surrogate), scale,
                          static_cast<int>(channels), way, sizeof(T));
            }
          }
        }
      }
    }
  }
  for (int way = 0; way < 5; ++way) std::printf("way %d: error %.2g\n", way, largest[way]);
  if (small_cases) return;
  // Several chunks of moments, of translations and of pages.
  for (int kind : {0, 3, 5}) {
    std::mt19937_64 random(9);
    Case<T> c;
    c.anchors = make_scores<T>(kind, 3, true, 1.0, random);
    c.items = make_scores<T>(kind, 40000, false, 1.0, random);
    const Truth truth = find_truth(c, Surrogate::kLogistic, 1.0);
    for (int way : {0, 2, 3, 4}) {
      cpu::PairwiseSpec spec{Surrogate::kLogistic, {1.0, 1.0}, Algorithm::kSmooth};
      spec.smooth_way = static_cast<cpu::SmoothWay>(way);
      if (spec.smooth_way == cpu::SmoothWay::kBins && kind != 0) continue;
      compare(c, spec, truth, bound, largest[way]);
    }
  }
}

}  // namespace

int main() {
  all_cases<float>(1e-6);
  all_cases<double>(1e-12);
  return report();
}
