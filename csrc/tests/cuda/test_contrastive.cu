// Sums and gradients of similarities in many small blocks, and the whole contrastive step, against
// plain double loops: exclusions, temperatures per anchor, both sides, symmetric similarities;
// first touch, duplicate ids, individual temperatures, what is not finite, a batch of one.
#include "tests/cuda/contrastive_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

// contrastive_log_sums by its kernels, blocks of 16 x 40.
void log_sums(int64_t rows, int64_t columns, int64_t exclusions) {
  constexpr int64_t kWidth = 5;
  std::mt19937_64 random(11);
  const auto x = normal<float>(random, rows * kWidth, 0, 1);
  const auto y = normal<float>(random, columns * kWidth, 0, 1);
  const auto upstream = normal<float>(random, rows, 0, 1);
  std::vector<int64_t> exclude(rows * exclusions);
  for (int64_t& id : exclude) id = static_cast<int64_t>(random() % (columns + 1)) - 1;
  for (int64_t e = 0; e < exclusions && columns == 1; ++e) exclude[e] = 0;  // row 0 keeps nothing
  std::vector<double> temperatures(rows);
  for (int64_t i = 0; i < rows; ++i) temperatures[i] = 0.3 + 0.1 * (i % 5);
  Doubles log_means(rows), dx(x.size(), 0.0), dy(y.size(), 0.0);
  const Doubles xd = widened(x), yd = widened(y);
  for (int64_t i = 0; i < rows; ++i) {
    Doubles z(columns, -INFINITY);
    double peak = -INFINITY, mass = 0.0;
    int64_t count = 0;
    for (int64_t j = 0; j < columns; ++j) {
      bool kept = true;
      for (int64_t e = 0; e < exclusions; ++e) kept = kept && exclude[i * exclusions + e] != j;
      if (!kept) continue;
      z[j] = dot(xd, i, yd, j, kWidth) / temperatures[i];
      peak = std::fmax(peak, z[j]);
      ++count;
    }
    for (int64_t j = 0; j < columns && count > 0; ++j) mass += std::exp(z[j] - peak);
    log_means[i] = count == 0 ? -INFINITY : peak + std::log(mass / static_cast<double>(count));
    for (int64_t j = 0; j < columns && count > 0; ++j) {
      const double weight = upstream[i] * std::exp(z[j] - peak) / mass / temperatures[i];
      for (int64_t k = 0; k < kWidth; ++k) {
        dx[i * kWidth + k] += weight * yd[j * kWidth + k];
        dy[j * kWidth + k] += weight * xd[i * kWidth + k];
      }
    }
  }
  const DeviceArray<float> device_x(x), device_y(y), device_upstream(upstream);
  const DeviceArray<int64_t> device_exclude(exclude);
  const DeviceArray<double> device_temperatures(temperatures);
  for_each_schedule([&] {
    DeviceArray<float> inverses(rows), peaks(rows), means(rows), exponents(rows), masses(rows);
    DeviceArray<float> weights(rows), shifts(rows), block(16 * 40), gx(x.size()), gy(y.size());
    DeviceArray<double> mass(rows), moment(rows);
    cuda::Similarities<float> problem;
    problem.x = device_x.data();
    problem.y = device_y.data();
    problem.rows = rows;
    problem.columns = columns;
    problem.width = kWidth;
    problem.exclude = device_exclude.data();
    problem.exclusions = exclusions;
    problem.block = block.data();
    problem.block_rows = 16;
    problem.block_columns = 40;
    const KernelProducts<float> products;
    const cuda::ExpSums<float> sums{peaks.data(), mass.data(), moment.data()};
    CHECK(cuda::launch_inverse_temperatures(device_temperatures.data(), true, rows, inverses.data(),
                                            nullptr) == cudaSuccess);
    CHECK(cuda::launch_similarity_sums(problem, inverses.data(), sums, inverses.data(),
                                       cuda::ExpSums<float>{}, products, nullptr) == cudaSuccess);
    CHECK(cuda::launch_log_means(problem, inverses.data(), sums, means.data(), exponents.data(),
                                 masses.data(), nullptr) == cudaSuccess);
    CHECK(cuda::launch_log_mean_weights(device_upstream.data(), inverses.data(), masses.data(),
                                        rows, weights.data(), shifts.data(),
                                        nullptr) == cudaSuccess);
    const cuda::PairWeights<float> of_rows{inverses.data(), peaks.data(), shifts.data(),
                                           weights.data()};
    CHECK(cuda::launch_similarity_gradients(problem, of_rows, cuda::PairWeights<float>{}, false,
                                            gx.data(), gy.data(), products,
                                            nullptr) == cudaSuccess);
    const auto found = means.read();
    for (int64_t i = 0; i < rows; ++i) {
      CHECK(std::isinf(log_means[i]) ? found[i] == -INFINITY
                                     : close(found[i], log_means[i], 1e-5, 1));
    }
    CHECK(all_close(gx.read(), dx, 1e-5));
    CHECK(all_close(gy.read(), dy, 1e-5));
  });
}

}  // namespace

int main() {
  log_sums(37, 90, 2);
  log_sums(5, 1, 1);
  log_sums(1, 41, 3);
  StepCase c;
  c.batch = 11;  // 22 anchors in blocks of 8
  check_step(c);
  c.per_view = true;
  check_step(c);
  c.individual = true;
  check_step(c);
  c.relative = true;
  c.per_view = c.write = false;
  check_step(c);
  c.write = true;
  c.few_entries = 11;
  check_step(c);
  c.adam = true;
  check_step(c);
  c.bimodal = true;
  check_step(c);
  c.adam = false;
  check_step(c);
  c.individual = c.normalize = false;
  check_step(c);
  c.batch = 3;  // one block, whose similarities are kept
  check_step(c);
  for (const bool bimodal : {false, true}) {
    StepCase bad;
    bad.bimodal = bimodal;
    bad.individual = bad.relative = bad.adam = true;
    bad.batch = 9;
    bad.poison = INFINITY;
    bad.few_entries = bimodal ? 0 : 11;
    check_step(bad);
    bad.poison = NAN;
    bad.individual = bad.relative = bad.adam =
        false;  // the other view's anchor of the entry is finite
    check_step(bad);
    bad.poison = 0.0f;
    bad.batch = 1;
    check_step(bad);
  }
  return report();
}
