// The near-linear log sums on CUDA against the definition in extended precision, to rounding: tiny
// shapes (several tiles and chunks) and a large one, segments of different lengths, ties, gaps
// of 10^4 temperatures, outliers, weights of 0 and 1e-6; and what is left to the direct algorithm.
#include <functional>

#include "cuda/near_log_launch.h"
#include "tests/cuda/device.h"
#include "tests/cuda/pair_case.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

using Wide = long double;
using TinyShape = cuda::LogShape<32, 64, 3, 72>;
using ColdShape = cuda::LogShape<32, 64, 8, 72>;  // more octaves of the squared hinge
using FarShape = cuda::LogShape<32, 64, 26, 72>;
using LargeShape = cuda::LogShape<128, 2048, 3, 72>;

// phi and its slope, stated once more.
void phi(Surrogate kind, Wide d, Wide m, Wide s, Wide& value, Wide& slope) {
  const Wide z = d + m;
  if (kind == Surrogate::kHinge) {
    value = z > 0 ? z : 0;
    slope = z > 0;
  } else if (kind == Surrogate::kSquaredHinge) {
    value = z > 0 ? z * z : 0;
    slope = z > 0 ? 2 * z : 0;
  } else if (kind == Surrogate::kBarrierHinge) {
    value = std::max({s * (d - m) + m, z, -s * z});
    slope = z <= 0 ? -s : (s - 1) * d > s * m ? s : 1;
  } else {
    const Wide q = expl(-fabsl(s * d));
    value = (d > 0 ? s * d : 0) + log1pl(q);
    slope = s * (d > 0 ? 1 : q) / (1 + q);
  }
}

struct Truth {
  std::vector<Wide> log_sums, slopes, columns;               // [S, P], [S, P], [S, M]
  std::vector<Wide> value_sizes, slope_sizes, column_sizes;  // that errors are relative to
};

template <class T>
Truth truth_of(const Case<T>& c, double temperature) {
  const auto rows = static_cast<size_t>(c.segments * c.p), items = size_t(c.segments * c.m);
  Truth truth{std::vector<Wide>(rows), std::vector<Wide>(rows), std::vector<Wide>(items),
              std::vector<Wide>(rows), std::vector<Wide>(rows), std::vector<Wide>(items)};
  const double scale = c.truth[0].params.scale;
  for (int s = 0; s < c.segments; ++s) {
    const Pairs& pairs = c.truth[s];
    const size_t count = pairs.items.size();
    Wide total = 0;
    for (const double w : pairs.weights[0]) total += w;
    for (size_t i = 0; i < pairs.anchors.size(); ++i) {
      std::vector<Wide> values(count), inner(count), shares(count, 0), depths(count, 0);
      Wide peak = -INFINITY, mass = 0, slope = 0, size = 0;
      for (size_t j = 0; j < count; ++j) {
        if (!(pairs.weights[0][j] > 0)) continue;
        phi(pairs.surrogate, Wide(pairs.items[j]) - pairs.anchors[i], pairs.params.margin, scale,
            values[j], inner[j]);
        peak = std::max(peak, values[j]);
      }
      for (size_t j = 0; j < count; ++j) {
        if (!(pairs.weights[0][j] > 0)) continue;
        depths[j] = (peak - values[j]) / temperature;
        shares[j] = pairs.weights[0][j] * expl(-depths[j]);
        mass += shares[j];
      }
      const size_t at = s * c.p + i;
      for (size_t j = 0; j < count; ++j) {
        const double w = pairs.weights[0][j];
        if (!(w > 0)) continue;
        const Wide a = std::fabs(c.truth_anchor_weights[s][0][i]);
        // the bound of the docstring; to rounding, what rounded exponents are off by
        const bool bounded = pairs.surrogate == Surrogate::kSquaredHinge;
        const Wide flat = bounded ? std::sqrt(temperature) : 1.0;
        const Wide rough = bounded ? 1 : 1 + std::min<Wide>(depths[j], 700) + peak / temperature;
        const Wide pull = shares[j] / mass * inner[j] / temperature;
        const Wide allowed =
            (shares[j] / mass + w / total) * (fabsl(inner[j]) + flat) / temperature * rough;
        slope += pull;
        size += allowed;
        truth.columns[s * c.m + j] += c.truth_anchor_weights[s][0][i] * pull;
        truth.column_sizes[s * c.m + j] += a * allowed;
      }
      truth.log_sums[at] = mass > 0 ? peak / temperature + logl(mass) : -INFINITY;
      truth.value_sizes[at] = 1 + fabsl(truth.log_sums[at]);
      truth.slopes[at] = slope;
      truth.slope_sizes[at] = size;
    }
  }
  return truth;
}

template <class T>
bool near(T value, Wide expected, double tolerance, Wide size) {
  return value == expected || fabsl(value - expected) <= tolerance * size;
}

// `rows_tolerance`: a few 1e-15 where the near-linear algorithm is to run, also for floats.
template <class Shape, class T>
void check_sums(Case<T>& c, double temperature, double rows_tolerance, bool schedules = false) {
  c.device_temperature = DeviceArray<double>(std::vector<double>{temperature});
  c.problem.temperature = c.device_temperature.data();
  const Truth truth = truth_of(c, temperature);
  const double columns_tolerance = std::max(rows_tolerance, sizeof(T) == 4 ? 6e-8 : 0.0);
  std::vector<double> first_sums;
  std::vector<T> first_out;
  const auto check = [&] {
    DeviceArray<double> sums_out(c.segments * c.p), slopes_out(sums_out.size());
    DeviceArray<double> masses(sums_out.size());
    DeviceArray<T> columns_out(c.segments * c.m);
    DeviceArray<char> rows_space(cuda::near_log_rows_bytes<Shape>(c.problem));
    DeviceArray<char> columns_space(cuda::near_log_columns_bytes<Shape>(c.problem));
    cuda::PairRows<T> rows{c.problem, sums_out.data(), slopes_out.data(), masses.data()};
    cuda::PairColumns<T> columns{c.problem, c.device_anchor_weights.data(), masses.data(),
                                 columns_out.data()};
    CHECK((cuda::near_log_rows<Shape>(rows, rows_space.data(), nullptr) == cudaSuccess));
    CHECK((cuda::near_log_columns<Shape>(columns, columns_space.data(), nullptr) == cudaSuccess));
    const auto sums = sums_out.read(), slopes = slopes_out.read();
    const auto out = columns_out.read();
    if (first_sums.empty()) {
      first_sums = sums;
      first_out = out;
    }
    for (int s = 0; s < c.segments; ++s) {
      for (size_t i = 0; i < c.truth[s].anchors.size(); ++i) {
        const size_t at = s * c.p + i;
        CHECK(near(sums[at], truth.log_sums[at], rows_tolerance, truth.value_sizes[at]));
        CHECK(near(slopes[at], truth.slopes[at], rows_tolerance, truth.slope_sizes[at]));
        CHECK(sums[at] == first_sums[at]);
      }
      for (size_t j = 0; j < c.truth[s].items.size(); ++j) {
        const size_t at = s * c.m + j;
        CHECK(near(out[at], truth.columns[at], columns_tolerance, truth.column_sizes[at]));
        CHECK(out[at] == first_out[at]);
      }
    }
  };
  if (schedules) {
    for_each_schedule(check);
  } else {
    check();
  }
}

// Changes the scores (and weights) of a case everywhere.
template <class T>
void change(Case<T>& c, const std::function<void(std::vector<T>&)>& scores,
            const std::function<void(std::vector<T>&)>& weights = {}) {
  scores(c.anchors);
  scores(c.items);
  if (weights) weights(c.weights);
  c.device_anchors = DeviceArray<T>(c.anchors);
  c.device_items = DeviceArray<T>(c.items);
  c.device_weights = DeviceArray<T>(c.weights);
  c.problem.anchors.scores = c.device_anchors.data();
  c.problem.items.scores = c.device_items.data();
  if (c.problem.items.weights != nullptr) c.problem.items.weights = c.device_weights.data();
  for (int s = 0; s < c.segments; ++s) {
    Pairs& pairs = c.truth[s];
    for (size_t i = 0; i < pairs.anchors.size(); ++i) pairs.anchors[i] = c.anchors[s * c.p + i];
    for (size_t j = 0; j < pairs.items.size(); ++j) {
      pairs.items[j] = c.items[s * c.m + j];
      if (c.problem.items.weights != nullptr) pairs.weights[0][j] = c.weights[s * c.m + j];
    }
  }
}

template <class T>
void test_values(Surrogate surrogate) {
  std::mt19937_64 random(7);
  const bool logistic = surrogate == Surrogate::kLogistic;
  const bool squared = surrogate == Surrogate::kSquaredHinge;
  // to rounding; the squared hinge far within its bound, rows being doubles
  const double kExact = !squared ? 4e-15 : sizeof(T) == 4 ? 1e-8 : 2e-14;
  const double cold = logistic ? 1.0 / 512 : 1e-3, usual = logistic ? 0.1 : 0.3;
  Case<T> plain(random, surrogate, 1, 1, 45, 110, false, true);
  check_sums<TinyShape>(plain, 1.0, kExact);
  check_sums<ColdShape>(plain, cold, kExact);
  if (squared) check_sums<TinyShape>(plain, 1e12, kExact);  // one bin for all
  if (surrogate == Surrogate::kBarrierHinge) {
    plain.set_scale(1.0);  // never steep
    check_sums<TinyShape>(plain, usual, kExact);
  }
  Case<T> segments(random, surrogate, 3, 1, 70, 40, true, true);
  check_sums<TinyShape>(segments, usual, kExact, sizeof(T) == 4);
  // ties, also with the kink, and a highest item of hardly any weight
  Case<T> grid(random, surrogate, 1, 1, 50, 60, true, true);
  change<T>(
      grid,
      [](std::vector<T>& x) {
        for (T& score : x) score = std::round(score * 4) / 4;
      },
      [&](std::vector<T>& w) {
        const auto highest = std::max_element(grid.items.begin(), grid.items.end());
        w[static_cast<size_t>(highest - grid.items.begin())] = static_cast<T>(1e-6);
      });
  check_sums<TinyShape>(grid, usual, kExact);
  // clusters far apart, and outliers
  Case<T> clusters(random, surrogate, 1, 1, 50, 60, true, true);
  change<T>(clusters, [](std::vector<T>& x) {
    for (size_t k = 0; k < x.size(); ++k) {
      if (k % 3 == 0) x[k] += T(3000);
      if (k % 11 == 5) x[k] = T(k % 2 == 0 ? 1e6 : -3e4);
    }
  });
  if (sizeof(T) == 8) return;
  check_sums<FarShape>(clusters, usual, kExact);
  for (int64_t anchors : {0, 1, 33}) {
    for (int64_t items : {0, 1, 33}) {
      Case<T> small(random, surrogate, 1, 1, anchors, items, true, true);
      check_sums<TinyShape>(small, usual, items == 33 ? kExact : 1e-5);  // none may weigh anything
    }
  }
  Case<T> usual_shape(random, surrogate, 2, 1, 130, 300, true, true);
  check_sums<LargeShape>(usual_shape, usual, kExact);
}

// A temperature that is no 1 / k, and scores that are not finite, go the direct way, in T.
template <class T>
void test_direct() {
  std::mt19937_64 random(8);
  const double rounding = sizeof(T) == 4 ? 1e-5 : 1e-13;
  Case<T> c(random, Surrogate::kLogistic, 2, 1, 20, 40, true, true);
  check_sums<TinyShape>(c, 0.3, rounding);
  Case<T> infinite(random, Surrogate::kHinge, 2, 1, 40, 40, true, true);
  infinite.anchors_live = infinite.items_live = {40, 40};
  infinite.items[7] = static_cast<T>(INFINITY);
  infinite.items[9] = static_cast<T>(NAN);
  infinite.items[48] = static_cast<T>(NAN);
  infinite.weights[7] = T(1);
  infinite.weights[9] = infinite.weights[48] = T(0);  // whatever the score is
  infinite.device_temperature = DeviceArray<double>(std::vector<double>{0.5});
  infinite.device_items = DeviceArray<T>(infinite.items);
  infinite.device_weights = DeviceArray<T>(infinite.weights);
  infinite.device_anchors_live = DeviceArray<int32_t>(infinite.anchors_live);
  infinite.device_items_live = DeviceArray<int32_t>(infinite.items_live);
  cuda::PairProblem<T>& problem = infinite.problem;
  problem.temperature = infinite.device_temperature.data();
  problem.items = {infinite.device_items.data(), infinite.device_weights.data(), 40,
                   infinite.device_items_live.data()};
  problem.anchors.live = infinite.device_anchors_live.data();
  DeviceArray<double> sums_out(80), slopes_out(80), masses(80);
  DeviceArray<T> columns_out(80);
  DeviceArray<char> rows_space(cuda::near_log_rows_bytes<TinyShape>(problem));
  DeviceArray<char> columns_space(cuda::near_log_columns_bytes<TinyShape>(problem));
  cuda::PairRows<T> rows{problem, sums_out.data(), slopes_out.data(), masses.data()};
  cuda::PairColumns<T> columns{problem, infinite.device_anchor_weights.data(), masses.data(),
                               columns_out.data()};
  CHECK((cuda::near_log_rows<TinyShape>(rows, rows_space.data(), nullptr) == cudaSuccess));
  CHECK((cuda::near_log_columns<TinyShape>(columns, columns_space.data(), nullptr) == cudaSuccess));
  const auto sums = sums_out.read();
  const auto out = columns_out.read();
  for (int i = 0; i < 40; ++i) {
    CHECK(std::isinf(sums[i]));
    CHECK(std::isfinite(sums[40 + i]) && std::isfinite(out[40 + i]));
  }
  CHECK(out[48] == T(0));
}

// A NaN that weighs something is in every sum.
void test_nan(Surrogate surrogate) {
  std::mt19937_64 random(10);
  Case<float> c(random, surrogate, 1, 1, 9, 20, false, true);
  c.items[6] = NAN;
  c.device_items = DeviceArray<float>(c.items);
  c.device_temperature = DeviceArray<double>(std::vector<double>{0.5});
  c.problem.items.scores = c.device_items.data();
  c.problem.temperature = c.device_temperature.data();
  DeviceArray<double> out(27);
  DeviceArray<char> space(cuda::near_log_rows_bytes<TinyShape>(c.problem));
  cuda::PairRows<float> rows{c.problem, out.data(), out.data() + 9, out.data() + 18};
  CHECK((cuda::near_log_rows<TinyShape>(rows, space.data(), nullptr) == cudaSuccess));
  const auto sums = out.read();
  for (int i = 0; i < 9; ++i) CHECK(std::isnan(sums[i]));
}

void test_refusals() {
  std::mt19937_64 random(9);
  Case<float> c(random, Surrogate::kHinge, 1, 1, 4, 4, false, true);
  DeviceArray<double> out(12);
  cuda::PairRows<float> rows{c.problem, out.data(), out.data() + 4, out.data() + 8};
  CHECK(cuda::launch_near_log_rows(rows, out.data(), nullptr) == cudaErrorInvalidValue);
  rows.problem.temperature = c.device_temperature.data();
  rows.problem.surrogate = Surrogate::kSigmoid;
  CHECK(cuda::launch_near_log_rows(rows, out.data(), nullptr) == cudaErrorInvalidValue);
  rows.problem.surrogate = Surrogate::kHinge;
  CHECK(cuda::near_log_rows_workspace_bytes(rows.problem) > 0);
}

}  // namespace

int main() {
  for (Surrogate surrogate : {Surrogate::kHinge, Surrogate::kBarrierHinge, Surrogate::kLogistic,
                              Surrogate::kSquaredHinge}) {
    for_each_type([&](auto zero) { test_values<decltype(zero)>(surrogate); });
    test_nan(surrogate);
  }
  for_each_type([](auto zero) { test_direct<decltype(zero)>(); });
  test_refusals();
  return report();
}
