// The smooth pair sums on CUDA within their bound: tiny shapes (several windows of bins and chunks
// of sources) and the default one, segments of different lengths; and what is left to the direct
// algorithm: scores that span too many bins, and scores that are not finite.
#include "cuda/smooth_launch.h"
#include "tests/cuda/device.h"
#include "tests/cuda/pair_case.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

// Two tiles of sources and more, of one warp and of four; bins of one and of two passes.
using TinyShape = cuda::SmoothShape<32, 64, 3, cuda::SmoothTile<32, 2, 5>>;
using WarpsShape = cuda::SmoothShape<64, 128, 2, cuda::SmoothTile<128, 1, 6>>;

template <class T>
double bound() {
  return sizeof(T) == 4 ? 1e-6 : 1e-12;
}

template <class Shape, class T>
void check_sums(Case<T>& c) {
  const double scale = c.truth[0].params.scale;
  std::vector<double> first_sums;
  std::vector<T> first_out;
  for_each_schedule([&] {
    DeviceArray<double> sums_out(c.segments * c.channels * c.p), slopes_out(sums_out.size());
    DeviceArray<T> columns_out(c.segments * c.m);
    DeviceArray<char> rows_space(cuda::smooth_rows_bytes<Shape>(c.problem));
    DeviceArray<char> columns_space(cuda::smooth_columns_bytes<Shape>(c.problem));
    cuda::PairRows<T> rows{c.problem, sums_out.data(), slopes_out.data(), nullptr};
    cuda::PairColumns<T> columns{c.problem, c.device_anchor_weights.data(), nullptr,
                                 columns_out.data()};
    CHECK((cuda::smooth_rows<Shape>(rows, rows_space.data(), nullptr) == cudaSuccess));
    CHECK((cuda::smooth_columns<Shape>(columns, columns_space.data(), nullptr) == cudaSuccess));
    const auto sums = sums_out.read(), slopes = slopes_out.read();
    const auto out = columns_out.read();
    if (first_sums.empty()) {
      first_sums = sums;
      first_out = out;
    }
    for (int s = 0; s < c.segments; ++s) {
      const Pairs& pairs = c.truth[s];
      for (int k = 0; k < c.channels; ++k) {
        double total = 1e-30;
        for (const double w : pairs.weights[k]) total += std::fabs(w);
        for (size_t i = 0; i < pairs.anchors.size(); ++i) {
          Sum sum, slope;
          row_of(pairs, k, i, sum, slope);
          const size_t at = (s * c.channels + k) * c.p + i;
          CHECK(close(sums[at], sum.value, bound<T>(), sum.scale + total));
          CHECK(close(slopes[at], slope.value, bound<T>(), slope.scale + scale * total));
          CHECK(sums[at] == first_sums[at]);
        }
      }
      for (size_t j = 0; j < pairs.items.size(); ++j) {
        const Sum sum = column_of(pairs, c.truth_anchor_weights[s], j);
        double total = 1e-30;
        for (int k = 0; k < c.channels; ++k) {
          for (const double a : c.truth_anchor_weights[s][k]) {
            total += std::fabs(a * pairs.weights[k][j]);
          }
        }
        CHECK(close(out[s * c.m + j], sum.value, bound<T>(), sum.scale + scale * total));
        CHECK(out[s * c.m + j] == first_out[s * c.m + j]);
      }
    }
  });
}

template <class T>
void test_values() {
  std::mt19937_64 random(3);
  // 6 standard deviations are 0.05 bins, 9, 50 (two windows, and bins beyond the reach) and 900,
  // more than the tiny shape has
  for (double scale : {0.01, 2.0, 11.0, 200.0}) {
    if (sizeof(T) == 8 && scale != 11.0) continue;  // the same code with more terms
    Case<T> c(random, Surrogate::kLogistic, 1, 1, 50, 110, false, false);
    c.set_scale(scale);
    check_sums<TinyShape>(c);
  }
  for (Surrogate surrogate : {Surrogate::kLogistic, Surrogate::kSigmoid}) {
    Case<T> channels(random, surrogate, 1, 3, 40, 33, true, false);
    check_sums<TinyShape>(channels);
    Case<T> segments(random, surrogate, 3, 1, 40, 45, true, true);
    segments.set_scale(11.0);
    check_sums<TinyShape>(segments);
  }
  if (sizeof(T) == 8) return;
  Case<T> usual(random, Surrogate::kSigmoid, 2, 1, 90, 300, true, false);
  check_sums<cuda::DefaultSmooth>(usual);
  for (int64_t anchors : {0, 1, 33}) {
    for (int64_t items : {0, 1, 33}) {
      Case<T> c(random, Surrogate::kLogistic, 1, 1, anchors, items, true, false);
      check_sums<TinyShape>(c);
    }
  }
}

// However the sources spread over the bins: all in one, in clusters, in a few bins and a far one,
// in nearly a bin each, with several tiles in a chunk and with chunks that are joined.
template <class T>
void test_spreads() {
  std::mt19937_64 random(6);
  const auto one = [](int64_t /*k*/) { return 0.25; };
  const auto clusters = [](int64_t k) {
    return k % 3 == 0 ? -0.5 : 0.01 * static_cast<double>(k % 5);
  };
  const auto outlier = [](int64_t k) {
    return k == 17 ? 60.0 : 0.001 * static_cast<double>(k % 1000);
  };
  const auto even = [](int64_t k) { return 0.5 * static_cast<double>(k * 97 % 128); };
  for (double (*score)(int64_t) :
       {static_cast<double (*)(int64_t)>(one), static_cast<double (*)(int64_t)>(clusters),
        static_cast<double (*)(int64_t)>(outlier), static_cast<double (*)(int64_t)>(even)}) {
    if (sizeof(T) == 8 && score(1) != even(1)) continue;  // the same code with more terms
    Case<T> c(random, Surrogate::kLogistic, 1, 1, 20, 700, true, false);
    for (int64_t k = 0; k < c.m; ++k) {
      c.items[k] = static_cast<T>(score(k));
      c.truth[0].items[k] = c.items[k];
    }
    for (int64_t k = 0; k < c.p; ++k) {
      c.anchors[k] = static_cast<T>(score(k));
      c.truth[0].anchors[k] = c.anchors[k];
    }
    c.device_items = DeviceArray<T>(c.items);
    c.device_anchors = DeviceArray<T>(c.anchors);
    c.problem.items.scores = c.device_items.data();
    c.problem.anchors.scores = c.device_anchors.data();
    check_sums<WarpsShape>(c);
  }
}

// An infinite score goes the direct way, and with it its segment alone.
template <class T>
void test_infinity() {
  std::mt19937_64 random(4);
  Case<T> c(random, Surrogate::kLogistic, 2, 1, 40, 40, false, false);
  c.anchors_live = c.items_live = {40, 40};
  c.items[7] = static_cast<T>(INFINITY);
  c.device_items = DeviceArray<T>(c.items);
  c.device_anchors_live = DeviceArray<int32_t>(c.anchors_live);
  c.device_items_live = DeviceArray<int32_t>(c.items_live);
  c.problem.items.scores = c.device_items.data();
  c.problem.items.live = c.device_items_live.data();
  c.problem.anchors.live = c.device_anchors_live.data();
  DeviceArray<double> sums_out(80), slopes_out(80);
  DeviceArray<char> space(cuda::smooth_rows_bytes<TinyShape>(c.problem));
  cuda::PairRows<T> rows{c.problem, sums_out.data(), slopes_out.data(), nullptr};
  CHECK((cuda::smooth_rows<TinyShape>(rows, space.data(), nullptr) == cudaSuccess));
  const auto sums = sums_out.read();
  for (int i = 0; i < 40; ++i) {
    CHECK(std::isinf(sums[i]));
    CHECK(std::isfinite(sums[40 + i]));
  }
}

void test_refusals() {
  std::mt19937_64 random(5);
  Case<float> c(random, Surrogate::kHinge, 1, 1, 4, 4, false, false);
  DeviceArray<double> out(8);
  cuda::PairRows<float> rows{c.problem, out.data(), out.data() + 4, nullptr};
  CHECK(cuda::launch_smooth_rows(rows, out.data(), nullptr) == cudaErrorInvalidValue);
  c.problem.surrogate = Surrogate::kSigmoid;
  CHECK(cuda::smooth_rows_workspace_bytes(c.problem) > 0);
}

}  // namespace

int main() {
  for_each_type([](auto zero) {
    using T = decltype(zero);
    test_values<T>();
    test_spreads<T>();
    test_infinity<T>();
  });
  test_refusals();
  return report();
}
