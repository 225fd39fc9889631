// last_block_done of cuda/block.h: a sum over blocks in one launch, twice a kernel and two launches
// on one counter.
#include "cuda/block.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

template <int kBlock>
__global__ void two_sums_kernel(const int* x, int* partial, unsigned* counters, int* sums) {
  const int blocks = static_cast<int>(gridDim.x);
  for (int round = 0; round < 2; ++round) {
    int* mine = partial + round * blocks * kBlock;
    const int i = static_cast<int>(blockIdx.x) * kBlock + static_cast<int>(threadIdx.x);
    mine[i] = x[i] + round;  // by every thread, so that one fence must cover them all
    if (last_block_done(counters + round, gridDim.x)) {
      int sum = 0;
      for (int b = 0; b < blocks; ++b) {
        // what another thread of the other block wrote
        sum += mine[b * kBlock + (static_cast<int>(threadIdx.x) + 33) % kBlock];
      }
      sum = block_sum<kBlock>(sum);
      if (threadIdx.x == 0) sums[round] = sum;
    }
  }
}

template <int kBlock>
void test_blocks(int blocks) {
  std::vector<int> x(static_cast<size_t>(blocks) * kBlock);
  int sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] = static_cast<int>(i * i % 1009);
  const DeviceArray<int> device_x(x);
  for_each_schedule([&] {
    DeviceArray<unsigned> counters(std::vector<unsigned>{0, 0});
    for (int launch = 0; launch < 2; ++launch) {
      DeviceArray<int> partial(2 * blocks * kBlock), sums(2);
      XRISK_LAUNCH(two_sums_kernel<kBlock>, blocks, kBlock, 0, nullptr, device_x.data(),
                   partial.data(), counters.data(), sums.data());
      CHECK(cudaGetLastError() == cudaSuccess);
      CHECK((sums.read() == std::vector<int>{sum, sum + blocks * kBlock}));
      CHECK((counters.read() == std::vector<unsigned>{0, 0}));
    }
  });
}

int main() {
  for (int blocks : {1, 2, 7}) {
    test_blocks<32>(blocks);
    test_blocks<256>(blocks);
  }
  return report();
}
