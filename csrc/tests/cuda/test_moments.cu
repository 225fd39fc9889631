// The join of shifted moments across a block, in both directions, against a plain loop.
#include "cuda/moments.h"

#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

namespace {

const double kNaN = std::nan("");

// Twice in a row, so that the second call finds the first one's shared memory in use.
template <int kBlock, bool kAbove>
__global__ void join_twice_kernel(const Moments* in, Moments* out) {
  const int t = static_cast<int>(threadIdx.x);
  out[t] = join_beyond<kBlock, kAbove>(in[t]);
  out[kBlock + t] = join_beyond<kBlock, kAbove>(in[kBlock + t]);
}

template <bool kAbove>
void test_join_beyond() {
  constexpr int kBlock = 96;
  std::vector<Moments> moments, expected(2 * kBlock);
  for (int k = 0; k < 2 * kBlock; ++k) {
    const double w = k % 5 == 0 ? 0.0 : 1.0 + k;
    moments.push_back({w == 0.0 ? kNaN : 0.25 * (k % kBlock), w, 0.5 * w, 0.25 * w});
  }
  for (int k = 0; k < 2 * kBlock; ++k) {
    Moments& sum = expected[static_cast<size_t>(k)];
    sum = {kNaN, 0.0, 0.0, 0.0};
    const int first = k / kBlock * kBlock, step = kAbove ? 1 : -1;
    for (int j = k + step; j >= first && j < first + kBlock; j += step) {
      const Moments& m = moments[static_cast<size_t>(j)];
      if (m.m0 == 0.0) continue;
      if (sum.m0 == 0.0) sum.at = m.at;
      const double d = std::fabs(m.at - sum.at);
      sum.m0 += m.m0;
      sum.m1 += m.m1 + d * m.m0;
      sum.m2 += m.m2 + 2 * d * m.m1 + d * d * m.m0;
    }
  }
  const DeviceArray<Moments> in(moments);
  for_each_schedule([&] {
    DeviceArray<Moments> out(2 * kBlock);
    XRISK_LAUNCH((join_twice_kernel<kBlock, kAbove>), 1, kBlock, 0, nullptr, in.data(), out.data());
    const std::vector<Moments> got = out.read();
    for (size_t k = 0; k < got.size(); ++k) {
      const Moments &g = got[k], &e = expected[k];
      CHECK(g.at == e.at || (std::isnan(g.at) && std::isnan(e.at)));
      CHECK(close(g.m0, e.m0, 1e-14, e.m0) && close(g.m1, e.m1, 1e-14, e.m1) &&
            close(g.m2, e.m2, 1e-14, e.m2));
    }
  });
}

}  // namespace

int main() {
  test_join_beyond<true>();
  test_join_beyond<false>();
  return report();
}
