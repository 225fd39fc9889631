// The direct pair sums under the SIMT shim: every surrogate, rows and columns, plain and log sums,
// tiny tiles (so that a few hundred scores take many blocks) and the default one.
#include "cuda/direct_launch.h"
#include "simt/simt.h"
#include "tests/check.h"
#include "tests/cuda/pairs_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

using TinyTile = cuda::DirectTile<32, 2, 16>;

// Segments of one problem in the layout of the kernels, and the same as doubles.
template <class T>
struct Case {
  int segments, channels;
  int64_t p, m;
  std::vector<T> anchors, items, weights;
  std::vector<int32_t> anchors_live, items_live;
  std::vector<double> anchor_weights;
  double scale = 2.0, temperature = 0.3;
  cuda::PairProblem<T> problem;
  std::vector<Pairs> truth;
  std::vector<std::vector<std::vector<double>>> truth_anchor_weights;

  Case(std::mt19937_64& random, Surrogate surrogate, int segment_count, int channel_count,
       int64_t anchor_count, int64_t item_count, bool weighted, bool positive)
      : segments(segment_count), channels(channel_count), p(anchor_count), m(item_count) {
    anchors = normal<T>(random, segments * p, 30.0, 1.0);
    items = normal<T>(random, segments * m, 30.0, 1.0);
    for (int64_t k = 0; k + 3 < segments * m; k += 7) items[k + 3] = items[k];  // ties
    for (int64_t k = 0; k < segments * channels * m; ++k) {
      const double w = static_cast<double>(random() % 5) - (positive ? 0.0 : 2.0);
      weights.push_back(static_cast<T>(w));
    }
    for (int64_t k = 0; k < segments * channels * p; ++k) {
      anchor_weights.push_back(static_cast<double>(static_cast<int>(random() % 7) - 3) / 4);
    }
    for (int s = 0; s < segments; ++s) {
      anchors_live.push_back(static_cast<int32_t>(s == 0 ? p : random() % (p + 1)));
      items_live.push_back(static_cast<int32_t>(s == 0 ? m : random() % (m + 1)));
    }
    problem.surrogate = surrogate;
    problem.margin = 0.75;
    problem.scale = &scale;
    problem.segments = segments;
    problem.channels = channels;
    problem.anchors = {anchors.data(), nullptr, p, segments > 1 ? anchors_live.data() : nullptr};
    problem.items = {items.data(), weighted ? weights.data() : nullptr, m,
                     segments > 1 ? items_live.data() : nullptr};
    for (int s = 0; s < segments; ++s) {
      Pairs pairs{surrogate, {problem.margin, scale}, {}, {}, {}};
      std::vector<std::vector<double>> a(channels);
      pairs.weights.resize(channels);
      for (int i = 0; i < anchors_live[s]; ++i) pairs.anchors.push_back(anchors[s * p + i]);
      for (int j = 0; j < items_live[s]; ++j) pairs.items.push_back(items[s * m + j]);
      for (int c = 0; c < channels; ++c) {
        for (int j = 0; j < items_live[s]; ++j) {
          pairs.weights[c].push_back(weighted ? weights[(s * channels + c) * m + j] : 1.0);
        }
        for (int i = 0; i < anchors_live[s]; ++i) {
          a[c].push_back(anchor_weights[(s * channels + c) * p + i]);
        }
      }
      truth.push_back(pairs);
      truth_anchor_weights.push_back(a);
    }
  }
};

// 16 ulp of the sum of magnitudes: a tile's sum is sequential.
template <class T>
double tolerance() {
  return sizeof(T) == 4 ? 4e-6 : 1e-14;
}

template <class Tile, class T>
void check_sums(Case<T>& c) {
  std::vector<double> sums(c.segments * c.channels * c.p, NAN), slopes(sums);
  std::vector<T> out(c.segments * c.m, T(NAN));
  std::vector<char> rows_space(cuda::direct_rows_bytes<Tile>(c.problem));
  std::vector<char> columns_space(cuda::direct_columns_bytes<Tile>(c.problem));
  cuda::PairRows<T> rows{c.problem, sums.data(), slopes.data(), nullptr};
  cuda::PairColumns<T> columns{c.problem, c.anchor_weights.data(), nullptr, out.data()};
  CHECK((cuda::direct_rows<Tile, false>(rows, rows_space.data(), nullptr) == cudaSuccess));
  CHECK((cuda::direct_columns<Tile, false>(columns, columns_space.data(), nullptr) ==
         cudaSuccess));
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

template <class Tile, class T>
void check_log_sums(Case<T>& c) {
  c.problem.temperature = &c.temperature;
  std::vector<double> sums(c.p, NAN), slopes(c.p, NAN), masses(c.p, NAN);
  std::vector<T> out(c.m, T(NAN));
  std::vector<char> rows_space(cuda::direct_rows_bytes<Tile>(c.problem));
  std::vector<char> columns_space(cuda::direct_columns_bytes<Tile>(c.problem));
  cuda::PairRows<T> rows{c.problem, sums.data(), slopes.data(), masses.data()};
  cuda::PairColumns<T> columns{c.problem, c.anchor_weights.data(), masses.data(), out.data()};
  CHECK((cuda::direct_rows<Tile, true>(rows, rows_space.data(), nullptr) == cudaSuccess));
  CHECK((cuda::direct_columns<Tile, true>(columns, columns_space.data(), nullptr) == cudaSuccess));
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
      const double term = c.truth_anchor_weights[0][0][i] * values[j] / mass * inner[j] / c.temperature;
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
        if (surrogate == Surrogate::kExponential) logs.scale = 0.25, logs.truth[0].params.scale = 0.25;
        check_log_sums<TinyTile>(logs);
      }
    }
  }
}

}  // namespace

int main() {
  simt::for_each_schedule([] {
    std::mt19937_64 random(3);
    run_all<float>(random);
    run_all<double>(random);
  });
  return report();
}
