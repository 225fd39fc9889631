// The top-K threshold with tiny tiles: rows of a warp, of a block and of many blocks, equal and
// ragged, ties, infinities, NaN; the smoothed problem and both gradients against the CPU's sums.
#include <algorithm>

#include "core/topk.h"
#include "cuda/topk_launch.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

// A warp takes 64, a block 256; radix passes have tiles of 64 and digits of 5 bits (6 the last);
// half of a row may be copied. Parts of 32 threads that keep 64 bytes. Hasty: no luck is allowed
// for, so that samples mislead, and one launch of Newton's method is not enough.
using Shape = cuda::TopKShape<2, 64, 4, 1, 5, 2, 32, 64, 1, 2, 10>;
using Hasty = cuda::TopKShape<2, 64, 4, 1, 5, 2, 32, 64, 1, 0, 1>;

enum class Kind { kNormal, kTies, kEqual, kSpecial, kNear };

template <class T>
std::vector<T> draw(int64_t count, Kind kind, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<T> x = normal<T>(random, count, 0.0, 2.0);
  const T inf = static_cast<T>(INFINITY), nan = static_cast<T>(NAN);
  const T special[] = {inf, -inf, nan, -nan, T(0), T(-0.0)};
  for (T& value : x) {
    if (kind == Kind::kTies) value = std::floor(value);
    if (kind == Kind::kEqual) value = T(-2.5);
    if (kind == Kind::kSpecial && random() % 2 == 0) value = special[random() % 6];
    if (kind == Kind::kNear) value = T(30) + value / 100;  // shares its first digits with all
  }
  return x;
}

template <class T>
bool above(T a, T b) {  // NaN first
  return a != a ? b == b : a > b;
}

// L' and H in double.
template <class T>
void sums_at(const T* x, int64_t count, const SmoothTopK& problem, double at, double& derivative,
             double& curvature) {
  double shares = 0, slopes = 0;
  for (int64_t k = 0; k < count; ++k) {
    double share, slope;
    soft_indicator((static_cast<double>(x[k]) - at) / problem.tau1, share, slope);
    shares += share;
    slopes += slope;
  }
  derivative = problem.derivative(at, shares / static_cast<double>(count));
  curvature = problem.curvature(slopes / static_cast<double>(count));
}

template <class T, class Shape = ::Shape>
void run(const std::vector<int64_t>& lengths, bool ragged, int64_t k, Kind kind, bool smooth,
         double tau1 = 0.1) {
  std::vector<int64_t> offsets = {0};
  for (const int64_t length : lengths) offsets.push_back(offsets.back() + length);
  const auto rows = static_cast<int64_t>(lengths.size());
  const std::vector<T> x = draw<T>(offsets.back(), kind, static_cast<uint64_t>(k + rows));
  const DeviceArray<T> scores(x);
  const DeviceArray<int64_t> device_offsets(offsets);
  std::vector<T> weights(lengths.size());
  for (size_t row = 0; row < weights.size(); ++row) weights[row] = static_cast<T>(row) + T(1);
  const DeviceArray<T> upstream(weights);
  DeviceArray<double> roots(rows);
  DeviceArray<T> values(rows);
  DeviceArray<T> gradient(offsets.back());
  cuda::TopK<T> call;
  call.scores = scores.data();
  call.total = offsets.back();
  call.rows = {ragged ? device_offsets.data() : nullptr, rows, lengths.empty() ? 0 : lengths[0]};
  call.k = k;
  call.smooth = smooth;
  call.tau1 = tau1;
  DeviceArray<char> space(static_cast<int64_t>(cuda::TopKMemory<Shape, T>(call, nullptr).bytes));
  CHECK(cuda::launch_topk_with<Shape>(call, {roots.data(), values.data()}, space.data(), nullptr) ==
        cudaSuccess);
  cuda::GradientParts parts;
  DeviceArray<char> more(
      static_cast<int64_t>(cuda::topk_gradient_memory<Shape>(call, nullptr, parts)));
  CHECK(cuda::launch_topk_gradient_with<Shape>(call, roots.data(), upstream.data(), gradient.data(),
                                               more.data(), nullptr) == cudaSuccess);

  const auto got = roots.read();
  const auto rounded = values.read();
  const auto slopes = gradient.read();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t begin = offsets[row], count = lengths[row];
    const double root = got[row];
    const T value = static_cast<T>(root);
    CHECK(rounded[row] == value || (value != value && rounded[row] != rounded[row]));
    if (count <= k) {
      CHECK(root == -INFINITY);
      for (int64_t j = 0; j < count; ++j) CHECK(slopes[begin + j] == T(0));
      continue;
    }
    if (!smooth) {
      std::vector<T> sorted(x.begin() + begin, x.begin() + begin + count);
      std::sort(sorted.begin(), sorted.end(), above<T>);
      const double expected = static_cast<double>(sorted[k]);
      CHECK(root == expected || (std::isnan(root) && std::isnan(expected)));
      bool found = false;
      for (int64_t j = 0; j < count; ++j) {
        const double value = static_cast<double>(x[begin + j]);
        const bool here = !found && (value == root || (std::isnan(value) && std::isnan(root)));
        CHECK(slopes[begin + j] == (here ? weights[row] : T(0)));
        found |= here;
      }
      continue;
    }
    const SmoothTopK problem{(static_cast<double>(k) + 0.5) / static_cast<double>(count), call.tau1,
                             call.tau2};
    double derivative, curvature;
    sums_at(x.data() + begin, count, problem, root, derivative, curvature);
    const double rounding = sizeof(T) == 4 ? 5e-7 : 1e-12;
    CHECK(std::fabs(derivative) <= rounding * (curvature * (std::fabs(root) + 1) + 1));
    for (int64_t j = 0; j < count; ++j) {
      double share, slope;
      soft_indicator((static_cast<double>(x[begin + j]) - root) / call.tau1, share, slope);
      const double expected =
          weights[row] * slope / (static_cast<double>(count) * call.tau1 * curvature);
      CHECK(std::fabs(slopes[begin + j] - expected) <= 2e3 * rounding * (expected + 1e-3));
    }
  }
}

template <class T>
void run_all() {
  const std::vector<int64_t> mixed = {3, 0, 70, 1, 300, 64, 290};
  constexpr bool kAll = sizeof(T) == 4;  // of double only what its keys and sums may break
  for (const bool smooth : {false, true}) {
    run<T>(mixed, true, 3, Kind::kNear, smooth, 0.01);
    run<T>({400}, false, 100, Kind::kSpecial, smooth);
    run<T>({1001, 1000}, true, 500, Kind::kNormal, smooth, 0.003);
    run<T, Hasty>({700, 701, 699}, true, 350, Kind::kNormal, smooth, 0.003);
    if (!kAll) continue;
    run<T>(mixed, true, 35, Kind::kSpecial, smooth);
    run<T>({400}, false, 399, Kind::kNormal, smooth);
    run<T>({350, 350}, false, 0, Kind::kTies, smooth);
    run<T>({340}, false, 70, Kind::kEqual, smooth);
    run<T>({100, 100}, false, 60, Kind::kTies, smooth);
    // so many rows that a thread of the gradient has several scores, and ties among them
    if (!smooth) run<T>(std::vector<int64_t>(1025, 70), false, 20, Kind::kEqual, smooth);
    run<T>({40, 40}, false, 20, Kind::kNormal, smooth);
    run<T>({200, 200}, false, 200, Kind::kNormal, smooth);
    run<T>({0, 0}, false, 0, Kind::kNormal, smooth);
    run<T>({}, false, 0, Kind::kNormal, smooth);
    run<T>({1500}, false, 20, Kind::kTies, smooth, 0.03);
    run<T>({1001}, false, 500, Kind::kNormal, smooth, 0.02);  // copied, but too many for a block
    // sampled at more places, and too much copied for a block
    if (!smooth) run<T>({16501}, false, 8000, Kind::kNormal, smooth);
    run<T, Hasty>({1001}, false, 500, Kind::kSpecial, smooth, 0.02);
    run<T, Hasty>({1001, 1000}, true, 100, Kind::kNear, smooth, 1e-5);
    run<T, Hasty>({900}, false, 450, Kind::kTies, smooth, 1e-4);
  }
}

}  // namespace

int main() {
  for_each_schedule([] { for_each_type([](auto zero) { run_all<decltype(zero)>(); }); });
  return report();
}
