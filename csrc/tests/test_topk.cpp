// The top-K threshold against a sorted row and against bisection: short and long rows, ragged ones,
// ties, both zeros, infinities, NaN of either sign, bits at random; gradients; two threads.
#include "cpu/topk.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

template <class T>
std::vector<T> make_row(std::mt19937_64& random, int64_t count, int kind) {
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  std::vector<T> x = normal<T>(random, count, 0.0, 2.0);
  const T special[] = {inf,
                       -inf,
                       nan,
                       -nan,
                       T(0),
                       -T(0),
                       std::numeric_limits<T>::denorm_min(),
                       std::numeric_limits<T>::max()};
  for (int64_t k = 0; k < count; ++k) {
    T& value = x[static_cast<size_t>(k)];
    switch (kind) {
      case 1:
        value = T(3);
        break;  // all ties
      case 2:
        value = std::floor(value);
        break;  // a few values
      case 3:
        value = random() % 10 == 0 ? value : T(random() % 2 ? 0.0 : -0.0);
        break;
      case 4:
        value = static_cast<T>(k);
        break;  // ascending
      case 5:
        value = static_cast<T>(-k);
        break;  // descending
      case 6:
        value = special[random() % 8];
        break;  // mostly not numbers
      case 7:
        if (random() % 8 == 0) value = special[random() % 8];
        break;
      case 8: {  // bits at random
        const uint64_t bits = random();
        memcpy(&value, &bits, sizeof(T));
        break;
      }
      case 9:
        value = std::ldexp(value, static_cast<int>(random() % 240) - 120);
        break;
      default:
        break;
    }
  }
  return x;
}

constexpr int kKinds = 10;

// NaN first, as torch.topk has them.
template <class T>
std::vector<T> descending(std::vector<T> x) {
  const auto end_of_nans = std::partition(x.begin(), x.end(), [](T v) { return v != v; });
  std::sort(end_of_nans, x.end(), [](T a, T b) { return a > b; });
  return x;
}

template <class T>
void compare_exact(int64_t count, int kind, const cpu::Executor& executor) {
  std::mt19937_64 random(static_cast<uint64_t>(count * 16 + kind));
  const std::vector<T> x = make_row<T>(random, count, kind), sorted = descending(x);
  for_each_simd([&](const char* name) {
    for (const int64_t k : {int64_t{0}, int64_t{1}, count / 100, count / 2, count - 2, count - 1}) {
      if (k < 0 || k >= count) continue;
      const T got = cpu::kth_largest(x.data(), count, k, executor);
      const T expected = sorted[static_cast<size_t>(k)];
      const bool good = got == expected || (std::isnan(got) && std::isnan(expected));
      if (!good) {
        std::printf("%s: n=%ld k=%ld kind=%d: %g, expected %g\n", name, count, k, kind, double(got),
                    double(expected));
      }
      CHECK(good);
    }
    CHECK(cpu::kth_largest(x.data(), count, count, executor) == -INFINITY);
  });
}

// L' in long double.
template <class T>
long double slow_derivative(const std::vector<T>& x, const std::vector<T>& w, const SmoothTopK& p,
                            long double at) {
  long double above = 0, mass = 0;
  for (size_t k = 0; k < x.size(); ++k) {
    const long double weight = w.empty() ? 1.0L : w[k], z = (x[k] - at) / p.tau1;
    above += weight * (z > 0 ? 1.0L / (1.0L + std::exp(-z)) : std::exp(z) / (1.0L + std::exp(z)));
    mass += weight;
  }
  return p.kappa + p.tau2 * at - above / mass;
}

template <class T>
void compare_smooth(int64_t count, double centre, double spread, int64_t k, double tau1,
                    bool weighted, const cpu::Executor& executor) {
  std::mt19937_64 random(static_cast<uint64_t>(count + k));
  const std::vector<T> x = normal<T>(random, count, centre, spread);
  std::vector<T> w;
  if (weighted) {
    w = normal<T>(random, count, 0.0, 1.0);
    for (T& value : w) value = std::fabs(value);
  }
  const SmoothTopK problem{(static_cast<double>(k) + 0.5) / static_cast<double>(count), tau1, 1e-4};
  for_each_simd([&](const char*) {
    double curvature = 0;
    const double root = cpu::smooth_threshold(x.data(), w.empty() ? nullptr : w.data(), count,
                                              problem, &curvature, executor);
    const double error = (sizeof(T) == 4 ? 6e-7 : 1e-12) * (std::fabs(root) + 1);
    CHECK(slow_derivative(x, w, problem, root - error) < 0);
    CHECK(slow_derivative(x, w, problem, root + error) > 0);
    const auto here =
        cpu::soft_derivatives(x.data(), w.empty() ? nullptr : w.data(), count, problem, root);
    CHECK(close(curvature, here.curvature, sizeof(T) == 4 ? 1e-5 : 1e-12, here.curvature));
  });
}

template <class T>
void compare_rows() {
  std::mt19937_64 random(3);
  const std::vector<int64_t> lengths = {3, 0, 70000, 1, 17, 300, tiny_cases ? 5 : 131072, 64, 9};
  std::vector<int64_t> offsets = {0};
  for (const int64_t length : lengths) offsets.push_back(offsets.back() + length);
  std::vector<T> x = make_row<T>(random, offsets.back(), 2);
  const auto rows = static_cast<int64_t>(lengths.size());
  cpu::TopK<T> call;
  call.scores = x.data();
  call.rows = {offsets.data(), rows, 0};
  call.k = 3;
  for (const bool smooth : {false, true}) {
    call.smooth = smooth;
    std::vector<double> roots(lengths.size()), again(lengths.size());
    std::vector<T> upstream(lengths.size(), T(2)), gradient(x.size(), T(7)), other(x.size());
    cpu::topk_thresholds(call, roots.data(), TwoThreads());
    cpu::topk_thresholds(call, again.data(), cpu::SerialExecutor());
    CHECK(roots == again);
    cpu::topk_gradient(call, roots.data(), upstream.data(), gradient.data(), TwoThreads());
    cpu::topk_gradient(call, roots.data(), upstream.data(), other.data(), cpu::SerialExecutor());
    CHECK(gradient == other);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t begin = offsets[row], count = lengths[row];
      const T *from = x.data() + begin, *slopes = gradient.data() + begin;
      double total = 0;
      for (int64_t k = 0; k < count; ++k) total += slopes[k];
      if (count <= call.k) {
        CHECK(roots[row] == -INFINITY);
        CHECK(total == 0);
      } else if (smooth) {
        const SmoothTopK problem{3.5 / static_cast<double>(count), call.tau1, call.tau2};
        const double bend =
            cpu::soft_derivatives<T>(from, nullptr, count, problem, roots[row]).curvature;
        CHECK(close(total, 2 * (1 - call.tau2 / bend), sizeof(T) == 4 ? 2e-5 : 1e-9, 2));
      } else {
        CHECK(static_cast<T>(roots[row]) == descending(std::vector<T>(from, from + count))[3]);
        const auto first = std::find(from, from + count, static_cast<T>(roots[row])) - from;
        CHECK(slopes[first] == T(2));
        CHECK(total == 2);
      }
    }
  }
}

template <class T>
void test_all() {
  const TwoThreads threads;
  for (const int64_t count : {1, 2, 10, 63, 64, 65, 100, 129, 1000, 8193}) {
    if (tiny_cases && count > 1000) continue;
    for (int kind = 0; kind < kKinds; ++kind) compare_exact<T>(count, kind, threads);
  }
  const int64_t longest = small_cases ? 70000 : 150000;
  for (int kind = 0; kind < (tiny_cases ? 1 : kKinds); ++kind) {
    compare_exact<T>(longest, kind, threads);
  }
  for (const int64_t count : {1, 5, 40, 128, 129, 1000, 20000}) {
    if (tiny_cases && count > 1000) continue;
    for (const double tau1 : {1e-3, 0.01, 1.0}) {
      compare_smooth<T>(count, 0.0, 1.0, std::min<int64_t>(count - 1, 10), tau1, false, threads);
      compare_smooth<T>(count, 30.0, 0.05, count / 3, tau1, false, threads);
      compare_smooth<T>(count, 0.0, 1.0, count / 2, tau1, true, threads);
    }
  }
  compare_smooth<T>(longest, 0.0, 1.0, longest / 100, 0.01, false, threads);
  if (!tiny_cases) compare_smooth<T>(longest, -4.0, 3.0, 0, 0.01, false, threads);
  for_each_simd([](const char*) { compare_rows<T>(); });
}

}  // namespace

int main() {
  test_all<float>();
  test_all<double>();
  return report();
}
