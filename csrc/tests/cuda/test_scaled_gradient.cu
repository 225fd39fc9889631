// Scaled gradients against the product and rounding of each number: pieces of eight and of one,
// more than a thread block, both types.
#include "cuda/scaled_gradient.h"

#include "cuda/tensor_core.h"
#include "tests/cuda/half_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

void scaled(int64_t count, bool bfloat16) {
  // m / 64 times 2 is exact in both types
  std::mt19937_64 random(5);
  const HalfNumbers numbers = half_numbers(random, count, bfloat16);
  std::vector<float> halved = numbers.values;
  for (float& x : halved) x /= 2;
  const DeviceArray<float> gradient(halved), factor(std::vector<float>{2.0f});
  for_each_schedule([&] {
    DeviceArray<uint16_t> out(count);
    CHECK(cuda::launch_scaled_gradient(gradient.data(), factor.data(), count, bfloat16, out.data(),
                                       nullptr) == cudaSuccess);
    CHECK(out.read() == numbers.bits);
  });
}

}  // namespace

int main() {
  for (const bool bfloat16 : {true, false}) {
    scaled(4096, bfloat16);
    scaled(301, bfloat16);
    scaled(0, bfloat16);
  }
  return report();
}
