// The near-linear pair sums on CUDA against plain loops in long double: every surrogate, tiny tiles
// and the default ones; scores far from zero, ties, outliers; weights of both signs and none;
// segments of different lengths with rubbish beyond their ends.
#include <cmath>
#include <limits>

#include "cuda/centred_sums.h"
#include "cuda/sorted_sums.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

namespace {

using Wide = long double;
const double kNaN = std::nan("");

[[maybe_unused]] void phi(Surrogate kind, Wide d, Wide m, Wide s, Wide& value, Wide& slope) {
  const Wide z = m + d;
  value = slope = 0;
  switch (kind) {
    case Surrogate::kSquared:
      value = z * z;
      slope = 2 * z;
      return;
    case Surrogate::kSquaredHinge:
      value = z > 0 ? z * z : 0;
      slope = z > 0 ? 2 * z : 0;
      return;
    case Surrogate::kHinge:
      value = z > 0 ? z : 0;
      slope = z > 0;
      return;
    case Surrogate::kBarrierHinge:
      value = std::max({s * (d - m) + m, z, -s * z});
      slope = z <= 0 ? -s : (s - 1) * d > s * m ? s : 1;
      return;
    default:
      value = d > 0 ? 1 : d == 0 ? 0.5L : 0;
  }
}

enum class Scores { kNormal, kNear30, kGrid, kEqual, kOutliers, kUlps };
enum class Weights { kNone, kPositive, kMixed };

struct Shape {
  int64_t anchors, items;
  int segments, channels;
  bool ragged;
};

template <class T>
struct Case {
  Shape shape;
  double margin, scale;
  std::vector<T> anchors, items, weights;  // weights empty: none
  std::vector<double> anchor_weights;
  std::vector<int32_t> anchors_live, items_live;

  int64_t live(const std::vector<int32_t>& counts, int segment, int64_t capacity) const {
    return shape.ragged ? counts[static_cast<size_t>(segment)] : capacity;
  }
};

template <class T>
std::vector<T> make_scores(std::mt19937_64& random, Scores kind, int64_t count, double shift) {
  const bool far = kind == Scores::kNear30;
  std::vector<T> x = normal<T>(random, count, far ? 30 : 0, far ? 0.05 : 1);
  for (size_t k = 0; k < x.size(); ++k) {
    if (kind == Scores::kGrid) x[k] = std::round(x[k] * 4) / 4;
    if (kind == Scores::kGrid && k % 9 == 4) x[k] = k % 2 == 0 ? T(0) : -T(0);
    if (kind == Scores::kEqual) x[k] = T(1.25);
    if (kind == Scores::kUlps) {
      const T ulp = 16 * std::numeric_limits<T>::epsilon();
      x[k] = static_cast<T>(30 + shift) + ulp * static_cast<T>(static_cast<int>(random() % 17) - 8);
    }
    if (kind == Scores::kOutliers && k % 7 == 3) x[k] *= k % 2 == 0 ? T(1e6) : T(-3e4);
  }
  return x;
}

template <class T>
Case<T> make_case(Shape shape, Scores scores, Weights weights, double margin, double scale) {
  Case<T> c{shape, margin, scale, {}, {}, {}, {}, {}, {}};
  std::mt19937_64 random(static_cast<uint64_t>(shape.anchors * 7919 + shape.items * 31 +
                                               static_cast<int>(scores) * 3 + shape.channels));
  c.anchors = make_scores<T>(random, scores, shape.anchors * shape.segments, margin);
  c.items = make_scores<T>(random, scores, shape.items * shape.segments, 0.0);
  const int64_t rows = int64_t{shape.segments} * shape.channels;
  if (weights != Weights::kNone) c.weights = normal<T>(random, rows * shape.items, 0, 1);
  c.anchor_weights = normal<double>(random, rows * shape.anchors, 0, 1);
  if (weights == Weights::kPositive) {
    for (T& w : c.weights) w = std::fabs(w);
    for (double& a : c.anchor_weights) a = std::fabs(a);
  }
  for (size_t k = 0; k < c.weights.size(); k += 3) c.weights[k] = T(0);
  for (size_t k = 0; k < c.anchor_weights.size(); k += 5) c.anchor_weights[k] = 0;
  if (!shape.ragged) return c;
  for (int s = 0; s < shape.segments; ++s) {  // the first segment is full, the second empty
    c.anchors_live.push_back(static_cast<int32_t>(s == 1 ? 0 : shape.anchors - 5 * s));
    c.items_live.push_back(static_cast<int32_t>(s == 1 ? 0 : shape.items - 9 * s));
    for (int64_t i = c.anchors_live.back(); i < shape.anchors; ++i) {
      c.anchors[s * shape.anchors + i] = static_cast<T>(kNaN);
      for (int k = 0; k < shape.channels; ++k) {
        c.anchor_weights[(s * shape.channels + k) * shape.anchors + i] = kNaN;
      }
    }
    for (int64_t j = c.items_live.back(); j < shape.items; ++j) {
      c.items[s * shape.items + j] = static_cast<T>(kNaN);
      for (int k = 0; k < shape.channels && !c.weights.empty(); ++k) {
        c.weights[(s * shape.channels + k) * shape.items + j] = static_cast<T>(kNaN);
      }
    }
  }
  return c;
}

template <class T>
struct Result {
  std::vector<double> sums, slopes;
  std::vector<T> out;

  bool operator==(const Result& other) const {
    const auto same = [](const auto& a, const auto& b) {  // bit for bit
      return a.size() == b.size() &&
             (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return same(sums, other.sums) && same(slopes, other.slopes) && same(out, other.out);
  }
};

// The launchers as cuda/sorted.cu publishes them.
struct Default {
  template <class T>
  static cudaError_t rows(const PairRows<T>& call) {
    DeviceArray<char> memory(static_cast<int64_t>(sorted_rows_workspace_bytes(call.problem)));
    return launch_sorted_rows(call, memory.data(), nullptr);
  }
  template <class T>
  static cudaError_t columns(const PairColumns<T>& call) {
    DeviceArray<char> memory(static_cast<int64_t>(sorted_columns_workspace_bytes(call.problem)));
    return launch_sorted_columns(call, memory.data(), nullptr);
  }
};

// The same with tiles of kBlock * kChunk entries.
template <int kBlock, int kChunk>
struct Tiny {
  using Sorted = Tiles<kBlock, kChunk>;
  using Moments = CentredTiles<kBlock, kChunk>;

  template <class T>
  static cudaError_t rows(const PairRows<T>& call) {
    const PairProblem<T>& p = call.problem;
    Carver carver(nullptr);
    const bool squared = p.surrogate == Surrogate::kSquared;
    if (squared) centred_memory(carver, p.items.capacity, p.segments, p.channels, Moments());
    if (!squared) rows_memory(p, carver, Sorted());
    DeviceArray<char> memory(static_cast<int64_t>(carver.used()));
    return squared ? launch_centred_rows(call, memory.data(), nullptr, Moments())
                   : launch_piecewise_rows(call, memory.data(), nullptr, Sorted());
  }
  template <class T>
  static cudaError_t columns(const PairColumns<T>& call) {
    const PairProblem<T>& p = call.problem;
    Carver carver(nullptr);
    const bool squared = p.surrogate == Surrogate::kSquared;
    if (squared) centred_memory(carver, p.anchors.capacity, p.segments, p.channels, Moments());
    if (!squared) columns_memory(p, carver, Sorted());
    DeviceArray<char> memory(static_cast<int64_t>(carver.used()));
    return squared ? launch_centred_columns(call, memory.data(), nullptr, Moments())
                   : launch_piecewise_columns(call, memory.data(), nullptr, Sorted());
  }
};

template <class Launcher, class T>
Result<T> run(const Case<T>& c, Surrogate surrogate) {
  const Shape& shape = c.shape;
  const DeviceArray<T> anchors(c.anchors), items(c.items), weights(c.weights);
  const DeviceArray<double> anchor_weights(c.anchor_weights);
  const DeviceArray<double> scale(std::vector<double>{c.scale});
  const DeviceArray<int32_t> anchors_live(c.anchors_live), items_live(c.items_live);
  const int64_t rows = int64_t{shape.segments} * shape.channels;
  DeviceArray<double> sums(rows * shape.anchors), slopes(rows * shape.anchors);
  DeviceArray<T> out(shape.segments * shape.items);
  PairProblem<T> problem;
  problem.surrogate = surrogate;
  problem.margin = c.margin;
  problem.scale = scale.data();
  problem.anchors = {anchors.data(), nullptr, shape.anchors,
                     shape.ragged ? anchors_live.data() : nullptr};
  problem.items = {items.data(), c.weights.empty() ? nullptr : weights.data(), shape.items,
                   shape.ragged ? items_live.data() : nullptr};
  problem.segments = shape.segments;
  problem.channels = shape.channels;
  PairRows<T> row_call;
  row_call.problem = problem;
  row_call.sums = sums.data();
  row_call.slopes = slopes.data();
  CHECK(Launcher::rows(row_call) == cudaSuccess);
  PairColumns<T> column_call;
  column_call.problem = problem;
  column_call.anchor_weights = anchor_weights.data();
  column_call.out = out.data();
  CHECK(Launcher::columns(column_call) == cudaSuccess);
  return {sums.read(), slopes.read(), out.read()};
}

bool near(Wide value, Wide expected, double tolerance, Wide scale) {
  return std::fabs(value - expected) <= tolerance * scale;  // false for NaN
}

template <class T>
void check_result(const Case<T>& c, Surrogate surrogate, const Result<T>& r) {
  const int64_t anchors = c.shape.anchors, items = c.shape.items;
  const Wide margin = surrogate == Surrogate::kZeroOne ? 0 : c.margin;
  for (int s = 0; s < c.shape.segments; ++s) {
    const int64_t p = c.live(c.anchors_live, s, anchors), m = c.live(c.items_live, s, items);
    std::vector<Wide> out(static_cast<size_t>(items), 0), scale(out);
    for (int k = 0; k < c.shape.channels; ++k) {
      const int64_t row = s * c.shape.channels + k;
      for (int64_t i = 0; i < anchors; ++i) {
        Wide sum = 0, slope = 0, sum_scale = 0, slope_scale = 0;
        for (int64_t j = 0; j < m && i < p; ++j) {
          const Wide d = Wide{c.items[s * items + j]} - Wide{c.anchors[s * anchors + i]};
          const Wide w = c.weights.empty() ? 1 : c.weights[row * items + j];
          const Wide a = c.anchor_weights[row * anchors + i];
          Wide value, derivative;
          phi(surrogate, d, margin, c.scale, value, derivative);
          sum += w * value;
          slope += w * derivative;
          sum_scale += std::fabs(w * value);
          slope_scale += std::fabs(w * derivative);
          out[j] += w * a * derivative;
          scale[j] += std::fabs(w * a * derivative);
        }
        CHECK(near(r.sums[row * anchors + i], sum, 1e-12, sum_scale));
        CHECK(near(r.slopes[row * anchors + i], slope, 1e-12, slope_scale));
      }
    }
    const double tolerance = sizeof(T) == 4 ? 1e-7 : 1e-12;
    for (int64_t j = 0; j < items; ++j) {
      CHECK(near(r.out[s * items + j], out[j], tolerance, scale[j]));
    }
  }
}

constexpr Surrogate kSurrogates[] = {Surrogate::kSquared, Surrogate::kSquaredHinge,
                                     Surrogate::kHinge, Surrogate::kBarrierHinge,
                                     Surrogate::kZeroOne};

template <class Launcher, class T>
void compare(const Case<T>& c) {
  for (Surrogate surrogate : kSurrogates) {
    Result<T> first;
    for_each_schedule([&] {
      const Result<T> r = run<Launcher>(c, surrogate);
      if (first.sums.empty()) {
        first = r;
        check_result(c, surrogate, r);
      } else {
        CHECK(r == first);
      }
    });
    CHECK((run<Launcher>(c, surrogate) == first));
  }
}

template <class T>
void test_values() {
  using Small = Tiny<32, 2>;
  for (Scores scores :
       {Scores::kNormal, Scores::kNear30, Scores::kGrid, Scores::kEqual, Scores::kOutliers}) {
    const bool far = scores == Scores::kNear30;
    const double margin = far ? 0.07 : 0.5;
    // 3 tiles of items and one of anchors, then the reverse
    compare<Small>(make_case<T>({40, 150, 1, 1, false}, scores, Weights::kNone, margin, 2.0));
    compare<Small>(make_case<T>({140, 66, 3, 2, true}, scores, Weights::kPositive, margin, 1.5));
    compare<Tiny<64, 3>>(make_case<T>({70, 200, 2, 2, false}, scores, Weights::kMixed, 0.3, 2.0));
  }
  compare<Small>(make_case<T>({40, 70, 1, 1, false}, Scores::kGrid, Weights::kMixed, 0.0, 2.0));
  // Items within a few ulp of the kink, whose place no score can hold.
  compare<Small>(make_case<T>({40, 70, 1, 1, false}, Scores::kUlps, Weights::kPositive, 0.1, 2.0));
  // Past one round of tiles in the joining block: 32 tiles of 32.
  compare<Tiny<32, 1>>(
      make_case<T>({3, 2100, 1, 1, false}, Scores::kNear30, Weights::kPositive, 0.07, 2.0));
  compare<Tiny<32, 1>>(make_case<T>({1100, 3, 1, 2, false}, Scores::kGrid, Weights::kMixed, 0.5,
                                    1.0));  // and never steep
  compare<Default>(
      make_case<T>({300, 1030, 1, 2, false}, Scores::kGrid, Weights::kMixed, 0.5, 2.0));
  compare<Default>(make_case<T>({520, 60, 3, 1, true}, Scores::kNear30, Weights::kNone, 0.07, 2.0));
}

template <class T>
void test_sizes() {
  for (int64_t anchors : {0, 1, 63, 64, 65}) {
    for (int64_t items : {0, 1, 2, 63, 64, 65, 129}) {
      const auto c =
          make_case<T>({anchors, items, 1, 1, false}, Scores::kNormal, Weights::kMixed, 0.5, 2.0);
      for (Surrogate surrogate : kSurrogates) {
        check_result(c, surrogate, run<Tiny<32, 2>>(c, surrogate));
      }
    }
  }
  const auto c = make_case<T>({7, 11, 5, 1, true}, Scores::kNormal, Weights::kNone, 0.5, 2.0);
  for (Surrogate surrogate : kSurrogates) {
    check_result(c, surrogate, run<Default>(c, surrogate));
  }
}

// A score that is not finite makes NaN of the sums that it takes part in, never a wrong number; one
// without a weight takes no part.
template <class T>
void test_not_finite() {
  for (Surrogate surrogate : kSurrogates) {
    auto c = make_case<T>({70, 130, 1, 2, false}, Scores::kNormal, Weights::kPositive, 0.5, 2.0);
    c.items[17] = static_cast<T>(kNaN);
    c.weights[17] = c.weights[130 + 17] = T(0);
    c.items[18] = static_cast<T>(INFINITY);
    c.weights[18] = c.weights[130 + 18] = T(0);
    // One more, so that the NaN, which sorts last, is not the first entry of its chunk; and an
    // anchor whose split point lies in that chunk.
    c.weights[20] = c.weights[130 + 20] = T(0);
    c.anchors[5] = T(100);
    c.anchors[3] = static_cast<T>(kNaN);
    c.anchor_weights[3] = c.anchor_weights[70 + 3] = 0;
    const auto masked = run<Tiny<32, 2>>(c, surrogate);
    for (int k = 0; k < 140; ++k) {
      CHECK(std::isnan(masked.sums[k]) == (k % 70 == 3));
    }
    for (const T value : masked.out) CHECK(std::isfinite(value));
    c.weights[17] = T(1);  // in the first channel
    c.anchor_weights[3] = 1;
    const auto poisoned = run<Tiny<32, 2>>(c, surrogate);
    for (int k = 0; k < 70; ++k) CHECK(std::isnan(poisoned.sums[k]));
    if (surrogate == Surrogate::kZeroOne) continue;
    for (int j = 0; j < 130; ++j) {
      CHECK(std::isnan(poisoned.out[j]) == (c.weights[j] != 0 || j == 17));
    }
    for (size_t k = 0; k < 70; ++k)
      c.anchors[k] = static_cast<T>(k % 2 == 0 ? INFINITY : -INFINITY);
    for (size_t k = 0; k < 130; ++k) c.items[k] = static_cast<T>(k % 3 == 0 ? kNaN : INFINITY);
    run<Tiny<32, 2>>(c, surrogate);  // reads and writes within bounds
  }
}

// Infinities, several of each sign, weights of both: the sums are those of IEEE arithmetic, pair by
// pair.
template <class T>
void test_infinities() {
  const T inf = static_cast<T>(INFINITY);
  for (const Weights weights : {Weights::kNone, Weights::kPositive, Weights::kMixed}) {
    for (const int which : {1, 2, 3}) {  // items below, above, both
      for (Surrogate surrogate : kSurrogates) {
        auto c = make_case<T>({9, 60, 2, 2, true}, Scores::kNormal, weights, 0.5, 2.0);
        for (const size_t j : {4, 5, 6, 22, 40}) {
          if (which != 2) c.items[j] = -inf;
          if (which != 1) c.items[j + 3] = inf;
        }
        c.anchors[2] = inf;
        c.anchors[5] = -inf;
        const auto result = run<Tiny<32, 2>>(c, surrogate);
        const Wide margin = surrogate == Surrogate::kZeroOne ? 0 : c.margin;
        for (int channel = 0; channel < 2; ++channel) {
          for (int i = 0; i < 9; ++i) {
            Wide sum = 0;
            for (int j = 0; j < c.live(c.items_live, 0, 60); ++j) {
              const Wide w = c.weights.empty() ? 1 : c.weights[channel * 60 + j];
              const Wide d = Wide{c.items[j]} - Wide{c.anchors[i]};
              Wide value, derivative;
              phi(surrogate, d, margin, c.scale, value, derivative);
              if (w != 0) sum += w * (d != d ? d : value);
            }
            const double got = result.sums[channel * 9 + i];
            if (std::isfinite(sum)) {
              CHECK(near(got, sum, 1e-9, std::fabs(sum) + 100));
            } else {
              CHECK(std::isnan(sum) ? std::isnan(got) : got == static_cast<double>(sum));
            }
          }
        }
      }
    }
  }
}

void test_errors() {
  PairRows<float> rows;
  rows.problem.surrogate = Surrogate::kLogistic;
  CHECK(launch_sorted_rows(rows, nullptr, nullptr) == cudaErrorInvalidValue);
  rows.problem.surrogate = Surrogate::kHinge;
  const double temperature = 1;
  rows.problem.temperature = &temperature;
  CHECK(launch_sorted_rows(rows, nullptr, nullptr) == cudaErrorInvalidValue);
  PairColumns<float> columns;
  columns.problem.surrogate = Surrogate::kHinge;
  columns.problem.items.capacity = int64_t{1} << 31;
  CHECK(launch_sorted_columns(columns, nullptr, nullptr) == cudaErrorInvalidValue);
}

}  // namespace

int main() {
  for_each_type([](auto zero) {
    using T = decltype(zero);
    test_values<T>();
    test_sizes<T>();
    test_not_finite<T>();
    test_infinities<T>();
  });
  test_errors();
  return report();
}
