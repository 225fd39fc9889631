// The surrogates elementwise against the same in double precision: every kind, no element, more
// than one block, the margin's tie.
#include "cuda/surrogate_values.h"

#include "core/surrogate.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

template <class T>
void values_and_slopes(Surrogate surrogate, int64_t count) {
  const SurrogateParams params{0.5, 2.0};
  const double tolerance = sizeof(T) == 4 ? 4e-6 : 1e-14;
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> uniform(-3, 3);
  std::vector<T> gaps(count);
  for (T& gap : gaps) gap = static_cast<T>(uniform(random));
  if (count > 0) gaps.back() = static_cast<T>(-params.margin);
  const DeviceArray<T> differences(gaps);
  const DeviceArray<double> scale(std::vector<double>{params.scale});
  for_each_schedule([&] {
    DeviceArray<T> values(count), slopes(count);
    CHECK(cuda::launch_surrogate_values(surrogate, params.margin, scale.data(), differences.data(),
                                        count, values.data(), slopes.data(),
                                        nullptr) == cudaSuccess);
    const std::vector<T> value = values.read(), slope = slopes.read();
    visit_surrogate<double>(surrogate, params, [&](auto phi) {
      for (int64_t k = 0; k < count; ++k) {
        double expected, expected_slope;
        phi(static_cast<double>(gaps[k]), expected, expected_slope);
        CHECK(close(value[k], expected, tolerance, std::fabs(expected) + 1));
        CHECK(close(slope[k], expected_slope, tolerance, std::fabs(expected_slope) + 1));
      }
    });
  });
}

}  // namespace

int main() {
  for (int kind = 0; kind <= static_cast<int>(Surrogate::kZeroOne); ++kind) {
    for (const int64_t count : {0, 1, 301}) {
      values_and_slopes<float>(static_cast<Surrogate>(kind), count);
      values_and_slopes<double>(static_cast<Surrogate>(kind), count);
    }
  }
  return report();
}
