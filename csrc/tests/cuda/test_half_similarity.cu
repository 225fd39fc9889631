// Sums and gradients of similarities by products of 16-bit matrices against plain double loops, in
// both types: one block, several, strips of tiles, exclusions, temperatures per anchor, rows
// without keys, gradients beyond the range of float16; what is not finite as in floats.
#include "cuda/half_similarity.h"
#include "tests/cuda/half_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

// Blocks of 256, strips of three tiles and of one.
void log_sums(const HalfCase& c) {
  const HalfKernelProducts products(c.bfloat16);
  const auto small = [&](cuda::HalfSimilarities halves) {
    halves.block = 256;
    halves.strip = 3;  // and what is left of four
    return halves;
  };
  const auto space_of = [](const cuda::HalfSimilarities& halves) {
    return DeviceArray<char>(static_cast<int64_t>(cuda::half_similarity_workspace_bytes(halves)));
  };
  // a weight is off by half of its last bit, 2^-9 or 2^-12, and weights cancel in part
  check_log_sums(
      c, c.bfloat16 ? 0x1p-8 : 0x1p-11,
      [&](const auto& halves, const float* inverses, const auto& sums) {
        auto space = space_of(small(halves));
        return cuda::launch_half_sums(small(halves), inverses, sums, inverses,
                                      cuda::ExpSums<float>{}, products, space.data(), nullptr);
      },
      [&](const auto& halves, const auto& rows, float* dx, float* dy) {
        auto space = space_of(small(halves));
        DeviceArray<float> fit(2);
        const cudaError_t error =
            cuda::launch_half_gradients(small(halves), rows, cuda::PairWeights<float>{}, dx, dy,
                                        fit.data(), products, space.data(), nullptr);
        if (error != cudaSuccess || c.bfloat16) return error;
        CHECK(cuda::launch_rescale(fit.data(), c.rows, c.width, dx, nullptr) == cudaSuccess);
        return cuda::launch_rescale(fit.data(), c.columns, c.width, dy, nullptr);
      });
}

}  // namespace

int main() {
  log_sums({true, 70, 140, 20, 2});
  log_sums({false, 300, 280, 3, 1});  // four blocks
  log_sums({false, 40, 70, 5, 0, 3e6f});
  log_sums({false, 40, 70, 5, 0, 1e-9f});
  log_sums({true, 5, 1, 33, 1});
  log_sums({true, 1, 65, 8, 3});
  log_sums({true, 20, 30, 16, 1, 1.0f, NAN});
  log_sums({false, 20, 30, 16, 1, 1.0f, INFINITY});
  return report();
}
