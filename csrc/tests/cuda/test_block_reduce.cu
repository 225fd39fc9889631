// Reductions and scans of cuda/block.h, each called twice by a kernel: a missing leading barrier
// shows only then.
#include <cstring>

#include "cuda/block.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

// ---------------------------------------------------------------------------------- reductions

template <int kBlock, class T>
__global__ void reduce_twice_kernel(const T* x, T* sums, T* maxima, T* warps) {
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * kBlock + t;
  sums[2 * i] = block_sum<kBlock>(x[i]);
  sums[2 * i + 1] = block_sum<kBlock>(static_cast<T>(x[i] + t));
  maxima[2 * i] = block_max<kBlock>(x[i], T(-1000));
  maxima[2 * i + 1] = block_max<kBlock>(static_cast<T>(-x[i]), T(-1000));
  warps[2 * i] = warp_sum(x[i]);
  warps[2 * i + 1] = warp_max(x[i]);
}

// The order in which block_sum adds: butterflies within warps, then over the warps.
template <class T>
T butterfly(const T* values, int count) {
  T lanes[32] = {};
  std::copy(values, values + count, lanes);
  for (int distance = 16; distance > 0; distance /= 2) {
    for (int lane = 0; lane < distance; ++lane) lanes[lane] += lanes[lane + distance];
  }
  return lanes[0];
}

template <class T>
T expected_sum(const std::vector<T>& values) {
  T partial[32] = {};
  const int warps = static_cast<int>(values.size()) / 32;
  for (int w = 0; w < warps; ++w) partial[w] = butterfly(values.data() + 32 * w, 32);
  return warps > 1 ? butterfly(partial, warps) : partial[0];
}

template <int kBlock, class T>
void test_reductions() {
  constexpr int kBlocks = 3;
  std::mt19937_64 random(kBlock);
  const std::vector<T> x = normal<T>(random, kBlocks * kBlock, 0.0, 50.0);
  const DeviceArray<T> device_x(x);
  for_each_schedule([&] {
    DeviceArray<T> sums(2 * kBlocks * kBlock), maxima(sums.size()), warps(sums.size());
    XRISK_LAUNCH((reduce_twice_kernel<kBlock, T>), kBlocks, kBlock, 0, nullptr, device_x.data(),
                 sums.data(), maxima.data(), warps.data());
    CHECK(cudaGetLastError() == cudaSuccess);
    const auto got_sums = sums.read(), got_maxima = maxima.read(), got_warps = warps.read();
    bool sums_good = true, maxima_good = true, warps_good = true;
    for (int b = 0; b < kBlocks; ++b) {
      const std::vector<T> first(x.begin() + b * kBlock, x.begin() + (b + 1) * kBlock);
      std::vector<T> second = first;
      for (int t = 0; t < kBlock; ++t) second[t] += static_cast<T>(t);
      const T sum_1 = expected_sum(first), sum_2 = expected_sum(second);
      const T max_1 = *std::max_element(first.begin(), first.end());
      const T max_2 = -*std::min_element(first.begin(), first.end());
      for (int t = 0; t < kBlock; ++t) {
        const int i = b * kBlock + t, w = t / 32 * 32;
        sums_good &= got_sums[2 * i] == sum_1 && got_sums[2 * i + 1] == sum_2;
        maxima_good &= got_maxima[2 * i] == max_1 && got_maxima[2 * i + 1] == max_2;
        warps_good &= got_warps[2 * i] == butterfly(first.data() + w, 32) &&
                      got_warps[2 * i + 1] == *std::max_element(&first[w], &first[w] + 32);
      }
    }
    CHECK(sums_good);
    CHECK(maxima_good);
    CHECK(warps_good);
  });
}

// --------------------------------------------------------------------------------------- scans

// x -> scale x + shift modulo 2^32, and how many were combined: associative, does not commute.
struct Affine {
  unsigned scale, shift, count;
};

struct Compose {
  __host__ __device__ Affine operator()(Affine earlier, Affine later) const {
    return {earlier.scale * later.scale, earlier.shift * later.scale + later.shift,
            earlier.count + later.count};
  }
};

__host__ __device__ inline Affine affine(unsigned k) { return {2 * k + 3, k * k + 1, 1}; }

template <int kBlock>
__global__ void scan_twice_kernel(Affine* before, Affine* inclusive, Affine* totals, double* sums) {
  const unsigned t = threadIdx.x;
  const Affine identity{1, 0, 0};
  block_scan<kBlock>(affine(t), identity, Compose(), before[t], totals[t]);
  block_scan<kBlock>(affine(t + 7), identity, Compose(), before[kBlock + t], totals[kBlock + t]);
  inclusive[t] = block_inclusive_scan<kBlock>(affine(t), identity, Compose());
  inclusive[kBlock + t] = block_inclusive_scan<kBlock>(affine(t + 7), identity, Compose());
  sums[t] = block_exclusive_scan<kBlock>(double(t), 0.0, Sum());
  sums[kBlock + t] = block_exclusive_scan<kBlock>(double(t) + 1.0, 0.0, Sum());
}

bool same(const Affine& a, const Affine& b) { return memcmp(&a, &b, sizeof(a)) == 0; }

template <int kBlock>
void test_scans() {
  for_each_schedule([&] {
    DeviceArray<Affine> before(2 * kBlock), inclusive(2 * kBlock), totals(2 * kBlock);
    DeviceArray<double> sums(2 * kBlock);
    XRISK_LAUNCH((scan_twice_kernel<kBlock>), 1, kBlock, 0, nullptr, before.data(),
                 inclusive.data(), totals.data(), sums.data());
    CHECK(cudaGetLastError() == cudaSuccess);
    const auto got_before = before.read(), got_inclusive = inclusive.read();
    const auto got_totals = totals.read();
    const auto got_sums = sums.read();
    bool scans_good = true, totals_good = true, sums_good = true;
    for (int call = 0; call < 2; ++call) {
      Affine running{1, 0, 0};
      double sum = 0.0;
      for (int t = 0; t < kBlock; ++t) {
        const int i = call * kBlock + t;
        scans_good &= same(got_before[i], running);
        running = Compose()(running, affine(static_cast<unsigned>(t + 7 * call)));
        scans_good &= same(got_inclusive[i], running);
        sums_good &= got_sums[i] == sum;
        sum += t + call;
      }
      for (int t = 0; t < kBlock; ++t) totals_good &= same(got_totals[call * kBlock + t], running);
    }
    CHECK(scans_good);
    CHECK(totals_good);
    CHECK(sums_good);
  });
}

template <int kBlock>
void test_block_size() {
  test_reductions<kBlock, float>();
  test_reductions<kBlock, double>();
  test_reductions<kBlock, int>();
  test_scans<kBlock>();
}

int main() {
  test_block_size<32>();
  test_block_size<96>();
  test_block_size<1024>();
  return report();
}
