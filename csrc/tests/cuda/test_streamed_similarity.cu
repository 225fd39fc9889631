// The streamed sums and gradients of similarities against plain double loops, in both 16-bit types:
// several tiles in a part and several parts, exclusions, temperatures per anchor, rows without
// keys, widths that are no multiple of 16 or not aligned; what is not finite as in blocks.
#include "cuda/streamed_similarity.h"
#include "tests/cuda/half_reference.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

void log_sums(const HalfCase& c, int64_t most_splits = 64) {
  const auto streamed_of = [&](const cuda::HalfSimilarities& halves) {
    cuda::StreamedSimilarities streamed;
    static_cast<cuda::HalfSimilarities&>(streamed) = halves;
    streamed.most_splits = most_splits;
    return streamed;
  };
  const auto space_of = [](const cuda::StreamedSimilarities& streamed) {
    return DeviceArray<char>(static_cast<int64_t>(cuda::streamed_workspace_bytes(streamed)));
  };
  check_log_sums(
      c, 3e-5,
      [&](const auto& halves, const float* inverses, const auto& sums) {
        const auto streamed = streamed_of(halves);
        auto space = space_of(streamed);
        return cuda::launch_streamed_sums(streamed, inverses, sums, inverses,
                                          cuda::ExpSums<float>{}, space.data(), nullptr);
      },
      [&](const auto& halves, const auto& rows, float* dx, float* dy) {
        const auto streamed = streamed_of(halves);
        auto space = space_of(streamed);
        return cuda::launch_streamed_gradients(streamed, rows, cuda::PairWeights<float>{}, dx, dy,
                                               space.data(), nullptr);
      });
}

}  // namespace

int main() {
  log_sums({true, 70, 140, 20, 2});      // three tiles of keys, each a part
  log_sums({false, 70, 140, 24, 1}, 1);  // one part of three tiles, rows of whole vectors
  log_sums({false, 40, 70, 5, 0, 3e6f});
  log_sums({true, 5, 1, 33, 1});
  log_sums({true, 1, 65, 128, 3});
  log_sums({true, 20, 30, 16, 1, 1.0f, NAN});
  log_sums({false, 20, 30, 16, 1, 1.0f, INFINITY});
  return report();
}
