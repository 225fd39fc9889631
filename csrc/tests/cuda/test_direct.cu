// The direct pair sums: every surrogate, rows and columns, plain and log sums, tiny tiles (so that
// a few hundred scores take many blocks) and the default one.
#include <limits>

#include "cuda/direct_launch.h"
#include "tests/cuda/device.h"
#include "tests/cuda/pair_case.h"

// of the default tile those that are shipped
namespace xrisk::cuda {
XRISK_DIRECT_LAUNCHES(extern, false, float)
XRISK_DIRECT_LAUNCHES(extern, false, double)
}  // namespace xrisk::cuda

using namespace xrisk;
using namespace xrisk::test;

namespace {

using TinyTile = cuda::DirectTile<32, 2, 16, 6, 12>;

// 16 ulp of the sum of magnitudes: a tile's sum is sequential.
template <class T>
double tolerance() {
  return sizeof(T) == 4 ? 4e-6 : 1e-14;
}

template <class T>
struct Found {
  std::vector<double> sums, slopes;
  std::vector<T> columns;
};

// Rows and columns of a case; of log sums the columns take the masses that the rows wrote.
template <class Tile, bool kExponential, class T>
Found<T> launch_both(const Case<T>& c) {
  DeviceArray<double> sums_out(c.segments * c.channels * c.p), slopes_out(sums_out.size());
  DeviceArray<T> columns_out(c.segments * c.m);
  DeviceArray<double> masses(kExponential ? sums_out.size() : 0);
  double* const masses_out = kExponential ? masses.data() : nullptr;
  DeviceArray<char> rows_space(cuda::direct_rows_bytes<Tile>(c.problem));
  DeviceArray<char> columns_space(cuda::direct_columns_bytes<Tile>(c.problem));
  void *const rows_memory = rows_space.data(), *const columns_memory = columns_space.data();
  cuda::PairRows<T> rows{c.problem, sums_out.data(), slopes_out.data(), masses_out};
  cuda::PairColumns<T> columns{c.problem, c.device_anchor_weights.data(), masses_out,
                               columns_out.data()};
  CHECK((cuda::direct_rows<Tile, kExponential>(&rows, 1, &rows_memory, nullptr) == cudaSuccess));
  CHECK((cuda::direct_columns<Tile, kExponential>(&columns, 1, &columns_memory, nullptr) ==
         cudaSuccess));
  return {sums_out.read(), slopes_out.read(), columns_out.read()};
}

template <class Tile, class T>
void check_sums(Case<T>& c) {
  const auto [sums, slopes, out] = launch_both<Tile, false>(c);
  for (int s = 0; s < c.segments; ++s) {
    const Pairs& pairs = c.truth[s];
    for (int k = 0; k < c.channels; ++k) {
      for (size_t i = 0; i < pairs.anchors.size(); ++i) {
        Sum sum, slope;
        row_of(pairs, k, i, sum, slope);
        const size_t at = (s * c.channels + k) * c.p + i;
        CHECK(close(sums[at], sum.value, tolerance<T>(), sum.scale + 1e-30));
        CHECK(close(slopes[at], slope.value, tolerance<T>(), slope.scale + 1e-30));
      }
    }
    for (size_t j = 0; j < pairs.items.size(); ++j) {
      const Sum sum = column_of(pairs, c.truth_anchor_weights[s], j);
      CHECK(close(out[s * c.m + j], sum.value, tolerance<T>(), sum.scale + 1e-30));
    }
  }
}

// As close(), and infinities and NaN are the same.
template <class T>
bool alike(double got, const Sum& sum) {
  if (std::isfinite(sum.value)) return close(got, sum.value, tolerance<T>(), sum.scale + 1e-30);
  return got == sum.value || (std::isnan(got) && std::isnan(sum.value));
}

// One segment whose scores are not all of one size, or not finite; anchors that weigh nothing have
// no say.
template <class Tile, class T>
void check_rare(Case<T>& c) {
  const auto [sums, slopes, out] = launch_both<Tile, false>(c);
  const Pairs& pairs = c.truth[0];
  for (size_t i = 0; i < pairs.anchors.size(); ++i) {
    Sum sum, slope;
    row_of(pairs, 0, i, sum, slope);
    CHECK(alike<T>(sums[i], sum));
    CHECK(alike<T>(slopes[i], slope));
  }
  for (size_t j = 0; j < pairs.items.size(); ++j) {
    Sum sum;
    for (size_t i = 0; i < pairs.anchors.size(); ++i) {
      double value, slope;
      phi_of(pairs, pairs.items[j] - pairs.anchors[i], value, slope);
      const double weight = pairs.weights[0][j] * c.truth_anchor_weights[0][0][i];
      if (weight != 0.0) sum.add(weight * slope);
    }
    CHECK(alike<T>(out[j], sum));
  }
}

template <class T>
void run_rare(std::mt19937_64& random) {
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  for (const Surrogate surrogate : {Surrogate::kSquared, Surrogate::kSquaredHinge,
                                    Surrogate::kHinge, Surrogate::kLogistic, Surrogate::kSigmoid}) {
    for (const int rarity : {0, 1, 2, 3, 4, 5}) {
      Case<T> c(random, surrogate, 1, 1, 75, 90, true, true);
      if (rarity < 2) {  // one weight, and none: what is left out leaves several tiles of it
        for (T& weight : c.weights) weight = random() % 4 == 0 ? T(0) : T(1.5);
      }
      // an outlier, so that some tiles and blocks are out of the groups' range and others are not
      if (rarity == 1) c.items[31] += T(12), c.items[70] -= T(15), c.anchors[3] += T(40);
      if (rarity == 2) c.items[20] = infinity, c.items[21] = -infinity;
      if (rarity == 3) c.anchors[5] = infinity, c.anchors[70] = -infinity, c.items[9] = infinity;
      if (rarity == 4) c.anchors[66] = nan, c.items[33] = nan;
      if (rarity == 5) {  // no item weighs anything, and factors of the scores overflow
        std::fill(c.weights.begin(), c.weights.end(), T(0));
        c.anchors[5] = T(1e30), c.anchors[6] = T(-1e30);
      }
      c.refresh();
      check_rare<TinyTile>(c);
      check_rare<cuda::DefaultTile>(c);
    }
  }
  // several tiles of the default size, the last one ragged
  if constexpr (sizeof(T) == 4) {
    for (const Surrogate surrogate :
         {Surrogate::kSquaredHinge, Surrogate::kLogistic, Surrogate::kSigmoid}) {
      using OneBlock = cuda::DirectTile<128, 4, 256, 1, 1>;
      Case<T> c(random, surrogate, 1, 1, 530, 301, false, false);
      check_rare<OneBlock>(c);
    }
  }
}

template <class Tile, class T>
void check_log_sums(Case<T>& c) {
  c.problem.temperature = c.device_temperature.data();
  const auto [sums, slopes, out] = launch_both<Tile, true>(c);
  const Pairs& pairs = c.truth[0];
  const double rounding = sizeof(T) == 4 ? 4e-5 : 1e-12;  // exponents near 100
  std::vector<double> gradient(c.m, 0.0), scale(c.m, 0.0);
  for (int64_t i = 0; i < c.p; ++i) {
    double peak = -INFINITY, mass = 0.0, slope_sum = 0.0;
    std::vector<double> values(c.m), inner(c.m);
    for (int64_t j = 0; j < c.m; ++j) {
      phi_of(pairs, pairs.items[j] - pairs.anchors[i], values[j], inner[j]);
      if (pairs.weights[0][j] > 0) peak = std::fmax(peak, values[j]);
    }
    for (int64_t j = 0; j < c.m; ++j) {
      if (!(pairs.weights[0][j] > 0)) continue;
      values[j] = pairs.weights[0][j] * std::exp((values[j] - peak) / c.temperature);
      mass += values[j];
      slope_sum += values[j] * inner[j] / c.temperature;
    }
    const bool empty = mass == 0.0;
    const double log_sum = empty ? -INFINITY : peak / c.temperature + std::log(mass);
    CHECK(empty ? sums[i] == -INFINITY
                : close(sums[i], log_sum, rounding, 1.0 + std::fabs(peak) / c.temperature));
    CHECK(close(slopes[i], empty ? 0.0 : slope_sum / mass, rounding, 20.0));
    for (int64_t j = 0; j < c.m; ++j) {
      if (!(pairs.weights[0][j] > 0)) continue;
      const double term =
          c.truth_anchor_weights[0][0][i] * values[j] / mass * inner[j] / c.temperature;
      gradient[j] += term;
      scale[j] += std::fabs(term);
    }
  }
  for (int64_t j = 0; j < c.m; ++j) {
    CHECK(close(out[j], gradient[j], rounding, 20.0 * scale[j] + 1e-6));
  }
  c.problem.temperature = nullptr;
}

template <class T>
void run_all(std::mt19937_64& random) {
  const int64_t sizes[][2] = {{1, 1}, {3, 70}, {130, 45}, {65, 16}, {5, 0}};
  for (int kind = 0; kind < kSurrogateCount; ++kind) {
    const Surrogate surrogate = static_cast<Surrogate>(kind);
    for (const auto& size : sizes) {
      Case<T> plain(random, surrogate, 1, 1, size[0], size[1], false, false);
      check_sums<TinyTile>(plain);
      Case<T> weighted(random, surrogate, 2, 2, size[0], size[1], true, false);
      check_sums<TinyTile>(weighted);
      check_sums<cuda::DefaultTile>(weighted);
      if (surrogate == Surrogate::kZeroOne) continue;
      for (const bool weights : {false, true}) {
        Case<T> logs(random, surrogate, 1, 1, size[0], size[1], weights, true);
        if (surrogate == Surrogate::kExponential) logs.set_scale(0.25);
        check_log_sums<TinyTile>(logs);
      }
    }
  }
}

}  // namespace

int main() {
  for_each_schedule([] {
    std::mt19937_64 random(3);
    for_each_type([&](auto zero) {
      run_all<decltype(zero)>(random);
      run_rare<decltype(zero)>(random);
    });
  });
  return report();
}
