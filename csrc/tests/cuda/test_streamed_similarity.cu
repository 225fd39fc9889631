// The streamed sums and gradients of similarities against plain double loops, in both 16-bit types:
// several tiles in a part and several parts, exclusions, temperatures per anchor, rows without
// keys, widths that are no multiple of 16 or not aligned; what is not finite as in blocks.
#include "cuda/streamed_similarity.h"
#include "tests/cuda/device.h"
#include "tests/cuda/products.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

using Doubles = std::vector<double>;

// m / 64, exact in both types.
uint16_t bits_of(int m, bool bfloat16) {
  if (m == 0) return 0;
  const int width = bfloat16 ? 7 : 10, top = std::ilogb(std::abs(m));
  const int exponent = top - 6 + (bfloat16 ? 127 : 15);
  return static_cast<uint16_t>((m < 0 ? 0x8000 : 0) | exponent << width |
                               ((std::abs(m) << (width - top)) & ((1 << width) - 1)));
}

struct Case {
  bool bfloat16;
  int64_t rows, columns, width, exclusions, most_splits;
  float upstream = 1.0f;
  float poison = 0.0f;  // the first number of the last row, if it is not finite
};

struct Found {
  std::vector<float> means, exponents, dx, dy;
};

// Of one way to the sums and gradients: launch_sums(inverses, sums), launch_gradients(weights, dx,
// dy).
template <class Sums, class Gradients>
Found run(const Case& c, const DeviceArray<double>& temperatures,
          const DeviceArray<float>& upstream, const DeviceArray<int64_t>& exclude,
          Sums&& launch_sums, Gradients&& launch_gradients) {
  DeviceArray<float> inverses(c.rows), peaks(c.rows), means(c.rows), exponents(c.rows);
  DeviceArray<float> masses(c.rows), weights(c.rows), shifts(c.rows);
  DeviceArray<float> dx(c.rows * c.width), dy(c.columns * c.width);
  DeviceArray<double> mass(c.rows), moment(c.rows);
  cuda::Similarities<float> problem;
  problem.rows = c.rows;
  problem.columns = c.columns;
  problem.width = c.width;
  problem.exclude = exclude.data();
  problem.exclusions = c.exclusions;
  const cuda::ExpSums<float> sums{peaks.data(), mass.data(), moment.data()};
  CHECK(cuda::launch_inverse_temperatures(temperatures.data(), true, c.rows, inverses.data(),
                                          nullptr) == cudaSuccess);
  CHECK(launch_sums(problem, inverses.data(), sums) == cudaSuccess);
  CHECK(cuda::launch_log_means(problem, inverses.data(), sums, means.data(), exponents.data(),
                               masses.data(), nullptr) == cudaSuccess);
  CHECK(cuda::launch_log_mean_weights(upstream.data(), inverses.data(), masses.data(), c.rows,
                                      weights.data(), shifts.data(), nullptr) == cudaSuccess);
  const cuda::PairWeights<float> rows{inverses.data(), peaks.data(), shifts.data(), weights.data()};
  CHECK(launch_gradients(problem, rows, dx.data(), dy.data()) == cudaSuccess);
  return {means.read(), exponents.read(), dx.read(), dy.read()};
}

Found truth(const Case& c, const std::vector<float>& x, const std::vector<float>& y,
            const std::vector<double>& temperatures, const std::vector<float>& upstream,
            const std::vector<int64_t>& exclude) {
  Doubles dx(x.size(), 0.0), dy(y.size(), 0.0);
  Found out;
  for (int64_t i = 0; i < c.rows; ++i) {
    Doubles z(c.columns, -INFINITY);
    double peak = -INFINITY, mass = 0.0, count = 0.0;
    for (int64_t j = 0; j < c.columns; ++j) {
      bool kept = true;
      for (int64_t e = 0; e < c.exclusions; ++e) kept = kept && exclude[i * c.exclusions + e] != j;
      if (!kept) continue;
      z[j] = 0.0;
      for (int64_t k = 0; k < c.width; ++k) {
        z[j] += static_cast<double>(x[i * c.width + k]) * static_cast<double>(y[j * c.width + k]);
      }
      z[j] /= temperatures[i];
      peak = std::fmax(peak, z[j]);
      ++count;
    }
    double moment = 0.0;
    for (int64_t j = 0; j < c.columns && count > 0; ++j) {
      mass += std::exp(z[j] - peak);
      if (z[j] > -INFINITY) moment += std::exp(z[j] - peak) * z[j];
    }
    out.exponents.push_back(static_cast<float>(count > 0 ? moment / mass : 0.0));
    out.means.push_back(static_cast<float>(count > 0 ? peak + std::log(mass / count) : -INFINITY));
    for (int64_t j = 0; j < c.columns && count > 0; ++j) {
      const double weight =
          static_cast<double>(upstream[i]) * std::exp(z[j] - peak) / mass / temperatures[i];
      for (int64_t k = 0; k < c.width; ++k) {
        dx[i * c.width + k] += weight * static_cast<double>(y[j * c.width + k]);
        dy[j * c.width + k] += weight * static_cast<double>(x[i * c.width + k]);
      }
    }
  }
  out.dx.assign(dx.begin(), dx.end());
  out.dy.assign(dy.begin(), dy.end());
  return out;
}

bool all_close(const std::vector<float>& found, const std::vector<float>& expected) {
  double size = 1e-6;
  for (const float x : expected) size = std::fmax(size, std::fabs(x));
  bool good = found.size() == expected.size();
  for (size_t k = 0; good && k < found.size(); ++k) good = close(found[k], expected[k], 3e-5, size);
  return good;
}

bool same_gaps(const std::vector<float>& found, const std::vector<float>& expected) {
  bool good = found.size() == expected.size();
  for (size_t k = 0; good && k < found.size(); ++k) {
    good = std::isnan(found[k]) == std::isnan(expected[k]);
  }
  return good;
}

void log_sums(const Case& c) {
  std::mt19937_64 random(17);
  std::vector<float> x, y;
  std::vector<uint16_t> half_x, half_y;
  const auto fill = [&](int64_t count, std::vector<float>& values, std::vector<uint16_t>& halves) {
    for (int64_t k = 0; k < count; ++k) {
      const int m = static_cast<int>(random() % 129) - 64;
      values.push_back(static_cast<float>(m) / 64.0f);
      halves.push_back(bits_of(m, c.bfloat16));
    }
  };
  fill(c.rows * c.width, x, half_x);
  fill(c.columns * c.width, y, half_y);
  const bool poisoned = c.poison != 0.0f;
  if (poisoned) {
    x[(c.rows - 1) * c.width] = c.poison;
    const int infinite = c.bfloat16 ? 0x7f80 : 0x7c00;
    half_x[(c.rows - 1) * c.width] =
        static_cast<uint16_t>(infinite | (std::isnan(c.poison) ? 0x40 : 0));
  }
  std::vector<int64_t> exclude(c.rows * c.exclusions);
  for (int64_t& id : exclude) id = static_cast<int64_t>(random() % (c.columns + 1)) - 1;
  for (int64_t e = 0; e < c.exclusions && c.columns == 1; ++e) exclude[e] = 0;
  std::vector<double> temperatures(c.rows);
  for (int64_t i = 0; i < c.rows; ++i) temperatures[i] = 0.05 + 0.1 * static_cast<double>(i % 5);
  auto upstream = normal<float>(random, c.rows, 0, 1);
  for (float& u : upstream) u *= c.upstream;
  const DeviceArray<uint16_t> device_x(half_x), device_y(half_y);
  const DeviceArray<float> float_x(x), float_y(y), device_upstream(upstream);
  const DeviceArray<int64_t> device_exclude(exclude);
  const DeviceArray<double> device_temperatures(temperatures);
  cuda::StreamedSimilarities streamed;
  streamed.x = device_x.data();
  streamed.y = device_y.data();
  streamed.bfloat16 = c.bfloat16;
  streamed.rows = c.rows;
  streamed.columns = c.columns;
  streamed.width = c.width;
  streamed.exclude = device_exclude.data();
  streamed.exclusions = c.exclusions;
  streamed.most_splits = c.most_splits;
  Found expected;
  if (poisoned) {  // as the similarities in blocks
    DeviceArray<float> block(c.rows * c.columns);
    const auto in_block = [&](cuda::Similarities<float> problem) {
      problem.x = float_x.data();
      problem.y = float_y.data();
      problem.block = block.data();
      return problem;
    };
    expected = run(
        c, device_temperatures, device_upstream, device_exclude,
        [&](const auto& problem, const float* inverses, const auto& sums) {
          return cuda::launch_similarity_sums(in_block(problem), inverses, sums, inverses,
                                              cuda::ExpSums<float>{}, KernelProducts<float>(),
                                              nullptr);
        },
        [&](const auto& problem, const auto& rows, float* dx, float* dy) {
          return cuda::launch_similarity_gradients(in_block(problem), rows,
                                                   cuda::PairWeights<float>{}, false, dx, dy,
                                                   KernelProducts<float>(), nullptr);
        });
  } else {
    expected = truth(c, x, y, temperatures, upstream, exclude);
  }
  for_each_schedule([&] {
    const int64_t bytes = static_cast<int64_t>(cuda::streamed_workspace_bytes(streamed));
    DeviceArray<char> space(bytes);
    const Found found = run(
        c, device_temperatures, device_upstream, device_exclude,
        [&](const auto&, const float* inverses, const auto& sums) {
          return cuda::launch_streamed_sums(streamed, inverses, sums, space.data(), nullptr);
        },
        [&](const auto&, const auto& rows, float* dx, float* dy) {
          return cuda::launch_streamed_gradients(streamed, rows, dx, dy, space.data(), nullptr);
        });
    if (poisoned) {
      CHECK(same_gaps(found.means, expected.means));
      CHECK(std::isnan(found.means[c.rows - 1]));
      CHECK(same_gaps(found.dx, expected.dx));
      CHECK(same_gaps(found.dy, expected.dy));
      return;
    }
    for (int64_t i = 0; i < c.rows; ++i) {
      const float mean = expected.means[i];
      CHECK(std::isinf(mean) ? found.means[i] == mean
                             : close(found.means[i], mean, 2e-6, 1 + std::fabs(mean)));
    }
    CHECK(all_close(found.exponents, expected.exponents));
    CHECK(all_close(found.dx, expected.dx));
    CHECK(all_close(found.dy, expected.dy));
  });
}

}  // namespace

int main() {
  log_sums({true, 70, 140, 20, 2, 64});  // three tiles of keys, each a part
  log_sums({false, 70, 140, 24, 1, 1});  // one part of three tiles, rows of whole vectors
  log_sums({false, 40, 70, 5, 0, 64, 3e6f});
  log_sums({true, 5, 1, 33, 1, 64});
  log_sums({true, 1, 65, 128, 3, 64});
  log_sums({true, 20, 30, 16, 1, 64, 1.0f, NAN});
  log_sums({false, 20, 30, 16, 1, 64, 1.0f, INFINITY});
  return report();
}
