// Log sums of 16-bit embeddings in plain double loops, and the check of one way to them on the
// device, under every schedule.
#pragma once

#include "cuda/half_similarity.h"
#include "tests/cuda/device.h"
#include "tests/cuda/products.h"

namespace xrisk::test {

using Doubles = std::vector<double>;

// m / 64, exact in both types.
inline uint16_t bits_of(int m, bool bfloat16) {
  if (m == 0) return 0;
  const int width = bfloat16 ? 7 : 10, top = std::ilogb(std::abs(m));
  const int exponent = top - 6 + (bfloat16 ? 127 : 15);
  return static_cast<uint16_t>((m < 0 ? 0x8000 : 0) | exponent << width |
                               ((std::abs(m) << (width - top)) & ((1 << width) - 1)));
}

// Numbers that both types hold, some of them 0, and their bits.
struct HalfNumbers {
  std::vector<float> values;
  std::vector<uint16_t> bits;
};
inline HalfNumbers half_numbers(std::mt19937_64& random, int64_t count, bool bfloat16) {
  HalfNumbers out;
  for (int64_t k = 0; k < count; ++k) {
    const int m = static_cast<int>(random() % 129) - 64;
    out.values.push_back(static_cast<float>(m) / 64.0f);
    out.bits.push_back(bits_of(m, bfloat16));
  }
  return out;
}

// One of them becomes infinite or NaN.
inline void poison(HalfNumbers& numbers, size_t at, float with, bool bfloat16) {
  const int infinite = bfloat16 ? 0x7f80 : 0x7c00;
  numbers.values[at] = with;
  numbers.bits[at] = static_cast<uint16_t>(infinite | (std::isnan(with) ? 0x40 : 0));
}

struct HalfCase {
  bool bfloat16;
  int64_t rows, columns, width, exclusions;
  float upstream = 1.0f;
  float poison = 0.0f;  // the first number of the last row, if it is not finite
};

struct Found {
  std::vector<float> means, exponents, dx, dy;
};

// Of one way to the sums and gradients: launch_sums(inverses, sums), launch_gradients(weights, dx,
// dy).
template <class Sums, class Gradients>
Found run(const HalfCase& c, const DeviceArray<double>& temperatures,
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

inline Found truth(const HalfCase& c, const std::vector<float>& x, const std::vector<float>& y,
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

inline bool all_close(const std::vector<float>& found, const std::vector<float>& expected,
                      double tolerance) {
  double size = 1e-20;
  for (const float x : expected) size = std::fmax(size, std::fabs(x));
  bool good = found.size() == expected.size();
  for (size_t k = 0; good && k < found.size(); ++k)
    good = close(found[k], expected[k], tolerance, size);
  return good;
}

inline bool same_gaps(const std::vector<float>& found, const std::vector<float>& expected) {
  bool good = found.size() == expected.size();
  for (size_t k = 0; good && k < found.size(); ++k) {
    good = std::isnan(found[k]) == std::isnan(expected[k]);
  }
  return good;
}

// Gradients by `tolerance` of the largest. sums(problem, inverses, sums) and gradients(problem,
// weights, dx, dy): the way, whose problem is that of cuda/half_similarity.h.
template <class Sums, class Gradients>
void check_log_sums(const HalfCase& c, double tolerance, Sums&& launch_sums,
                    Gradients&& launch_gradients) {
  std::mt19937_64 random(17);
  HalfNumbers x = half_numbers(random, c.rows * c.width, c.bfloat16);
  const HalfNumbers y = half_numbers(random, c.columns * c.width, c.bfloat16);
  const bool poisoned = c.poison != 0.0f;
  if (poisoned) poison(x, static_cast<size_t>((c.rows - 1) * c.width), c.poison, c.bfloat16);
  std::vector<int64_t> exclude(c.rows * c.exclusions);
  for (int64_t& id : exclude) id = static_cast<int64_t>(random() % (c.columns + 1)) - 1;
  for (int64_t e = 0; e < c.exclusions && c.columns == 1; ++e) exclude[e] = 0;
  std::vector<double> temperatures(c.rows);
  for (int64_t i = 0; i < c.rows; ++i) temperatures[i] = 0.05 + 0.1 * static_cast<double>(i % 5);
  auto upstream = normal<float>(random, c.rows, 0, 1);
  for (float& u : upstream) u *= c.upstream;
  const DeviceArray<uint16_t> device_x(x.bits), device_y(y.bits);
  const DeviceArray<float> float_x(x.values), float_y(y.values), device_upstream(upstream);
  const DeviceArray<int64_t> device_exclude(exclude);
  const DeviceArray<double> device_temperatures(temperatures);
  cuda::HalfSimilarities halves;
  halves.x = device_x.data();
  halves.y = device_y.data();
  halves.bfloat16 = c.bfloat16;
  halves.rows = c.rows;
  halves.columns = c.columns;
  halves.width = c.width;
  halves.exclude = device_exclude.data();
  halves.exclusions = c.exclusions;
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
    expected = truth(c, x.values, y.values, temperatures, upstream, exclude);
  }
  for_each_schedule([&] {
    const Found found = run(
        c, device_temperatures, device_upstream, device_exclude,
        [&](const auto&, const float* inverses, const auto& sums) {
          return launch_sums(halves, inverses, sums);
        },
        [&](const auto&, const auto& rows, float* dx, float* dy) {
          return launch_gradients(halves, rows, dx, dy);
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
    CHECK(all_close(found.exponents, expected.exponents, 3e-5));
    CHECK(all_close(found.dx, expected.dx, tolerance));
    CHECK(all_close(found.dy, expected.dy, tolerance));
  });
}

}  // namespace xrisk::test
