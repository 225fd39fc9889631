// What the kernels rely on of CUDA's own functions: the same facts on the host and on a GPU.
#include "cuda/platform.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::test;

constexpr unsigned kAll = 0xffffffffu;

// Each kernel counts in `wrong` what is not as it should be.
__device__ void expect(bool good, int* wrong) {
  if (!good) atomicAdd(wrong, 1);
}

template <class T>
__global__ void shuffle_kernel(int* wrong) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T mine = static_cast<T>(lane);
  expect(__shfl_sync(kAll, mine, 5) == T(5), wrong);
  expect(__shfl_sync(kAll, mine, 37) == T(5), wrong);  // modulo the width
  expect(__shfl_sync(kAll, mine, 3, 8) == static_cast<T>(lane / 8 * 8 + 3), wrong);
  expect(__shfl_up_sync(kAll, mine, 2) == static_cast<T>(lane < 2 ? lane : lane - 2), wrong);
  expect(__shfl_up_sync(kAll, mine, 3, 4) == static_cast<T>(lane % 4 < 3 ? lane : lane - 3), wrong);
  expect(__shfl_down_sync(kAll, mine, 1) == static_cast<T>(lane == 31 ? 31 : lane + 1), wrong);
  expect(__shfl_down_sync(kAll, mine, 1, 16) == static_cast<T>(lane % 16 == 15 ? lane : lane + 1),
         wrong);
  expect(__shfl_xor_sync(kAll, mine, 16) == static_cast<T>(lane ^ 16), wrong);
  if (lane < 8) expect(__shfl_xor_sync(0xffu, mine, 4) == static_cast<T>(lane ^ 4), wrong);
}

__global__ void vote_kernel(int* wrong) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  expect(__ballot_sync(kAll, lane % 2) == 0xaaaaaaaau, wrong);
  if (lane >= 16) expect(__ballot_sync(0xffff0000u, lane < 20) == 0x000f0000u, wrong);
  expect(__any_sync(kAll, lane == 7) && !__any_sync(kAll, lane > 31), wrong);
  expect(__all_sync(kAll, lane < 32) && !__all_sync(kAll, lane < 31), wrong);
  expect(__match_any_sync(kAll, lane % 16) == (0x00010001u << lane % 16), wrong);
  expect(__match_any_sync(kAll, 1ull << 40) == kAll, wrong);
  expect(__reduce_add_sync(kAll, lane) == 496 && __reduce_add_sync(kAll, 1u) == 32u, wrong);
  expect(__reduce_min_sync(kAll, lane - 5) == -5 && __reduce_max_sync(kAll, -lane) == 0, wrong);
  expect(__reduce_min_sync(kAll, lane - 5u) == 0u && __reduce_max_sync(kAll, lane + 5u) == 36u,
         wrong);
  expect(__reduce_or_sync(kAll, 1u << lane) == kAll && __reduce_and_sync(kAll, 6u | lane) == 6u,
         wrong);
  const int threads = static_cast<int>(blockDim.x);
  expect(__syncthreads_count(t % 2) == threads / 2, wrong);
  expect(__syncthreads_and(t < threads) && !__syncthreads_and(t != 1), wrong);
  expect(__syncthreads_or(t == 1) && !__syncthreads_or(t == threads), wrong);
}

struct Atomics {
  int add, minimum, maximum, exchange, subtract;
  unsigned add_u, inc, dec, either, both, min_u;
  unsigned long long add_ull, max_ull;
  float add_f;
  double add_d;
  int lock, guarded;
};

__global__ void atomics_kernel(Atomics* a) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const unsigned u = static_cast<unsigned>(t);
  atomicAdd(&a->add, t % 2 ? 2 : -1);
  atomicMin(&a->minimum, 50 - t);
  atomicMax(&a->maximum, t - 50);
  atomicExch(&a->exchange, 9);
  atomicSub(&a->subtract, 3);
  atomicAdd(&a->add_u, 0x80000001u);  // wraps around
  atomicInc(&a->inc, 9u);
  atomicDec(&a->dec, 9u);
  atomicOr(&a->either, 1u << (u % 20));
  atomicAnd(&a->both, ~(1u << (u % 20)));
  atomicMin(&a->min_u, 1000u - u);
  atomicAdd(&a->add_ull, 1ull << 33);
  atomicMax(&a->max_ull, static_cast<unsigned long long>(u) << 33);
  atomicAdd(&a->add_f, 0.5f);
  atomicAdd(&a->add_d, 0.25);
  // a lock, of which the race detector knows nothing: what it guards is touched by atomics
  for (bool done = false; !done;) {
    if (atomicCAS(&a->lock, 0, 1) == 0) {
      __threadfence();
      atomicExch(&a->guarded, atomicAdd(&a->guarded, 0) + 1);
      __threadfence();
      atomicExch(&a->lock, 0);
      done = true;
    }
  }
}

template <class T>
__global__ void maths_kernel(T one, int* wrong) {
  const T e = exp(one), tiny = one / 1024;
  expect(e > T(2.718281) && e < T(2.718282), wrong);
  expect(log(e) > T(0.999999) && log(e) < T(1.000001), wrong);
  expect(log1p(tiny) < tiny && log1p(tiny) > T(0.999) * tiny && expm1(tiny) > tiny, wrong);
  expect(fmin(one, 2 * one) == one && fmax(one, 2 * one) == 2 * one, wrong);
  expect(fmax(one, static_cast<T>(NAN)) == one && fmin(static_cast<T>(NAN), one) == one, wrong);
  expect(fma(one, 3 * one, one) == T(4) && sqrt(4 * one) == T(2) && fabs(-one) == one, wrong);
  expect(isnan(static_cast<T>(NAN)) && isinf(-one / (one - one)) && !isnan(one), wrong);
  expect(min(one, 2 * one) == one && max(one, 2 * one) == 2 * one, wrong);
  expect(rsqrt(4 * one) > T(0.49999) && rsqrt(4 * one) < T(0.50001), wrong);
}

__global__ void bits_kernel(unsigned five, int* wrong) {
  expect(__float_as_uint(-1.0f) == 0xbf800000u && __uint_as_float(0x3f800000u) == 1.0f, wrong);
  expect(__float_as_int(1.0f) == 0x3f800000 && __int_as_float(0x40000000) == 2.0f, wrong);
  expect(__longlong_as_double(__double_as_longlong(-0.1)) == -0.1, wrong);
  expect(__popc(five) == 2 && __popcll(5ull << 40) == 2, wrong);
  expect(__clz(0) == 32 && __clz(static_cast<int>(five)) == 29 && __clzll(1) == 63, wrong);
  expect(__ffs(0) == 0 && __ffs(8) == 4 && __brev(five) == 0xa0000000u, wrong);
  expect(__float2int_rn(2.5f) == 2 && __float2int_rd(-0.5f) == -1, wrong);
  expect(__umulhi(0x80000000u, five) == 2u && min(3, 4) == 3 && max(3u, five) == 5u, wrong);
}

template <class F>
void expect_none_wrong(F&& launch) {
  for_each_schedule([&] {
    DeviceArray<int> wrong(std::vector<int>{0});
    launch(wrong.data());
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(wrong.read()[0] == 0);
  });
}

void test_atomics() {
  for_each_schedule([&] {
    constexpr int kBlocks = 2, kThreads = 64;
    Atomics zero{};
    zero.both = kAll;
    zero.min_u = kAll;
    DeviceArray<Atomics> device(std::vector<Atomics>{zero});
    XRISK_LAUNCH(atomics_kernel, kBlocks, kThreads, 0, nullptr, device.data());
    CHECK(cudaGetLastError() == cudaSuccess);
    const Atomics a = device.read()[0];
    CHECK(a.add == 64 && a.subtract == -384 && a.exchange == 9);
    CHECK(a.minimum == -77 && a.maximum == 77 && a.min_u == 873u);
    CHECK(a.add_u == 128u && a.inc == 128 % 10 && a.dec == (10 - 128 % 10) % 10);
    CHECK(a.either == 0xfffffu && a.both == 0xfff00000u);
    CHECK(a.add_ull == 128ull << 33 && a.max_ull == 127ull << 33);
    CHECK(a.add_f == 64.0f && a.add_d == 32.0);
    CHECK(a.lock == 0 && a.guarded == 128);
  });
}

void test_runtime() {
  DeviceArray<int> x(4), y(4);
  CHECK(cudaMemsetAsync(x.data(), 0, 3 * sizeof(int), nullptr) == cudaSuccess);
  CHECK(cudaMemcpyAsync(y.data(), x.data(), x.size() * sizeof(int), cudaMemcpyDeviceToDevice,
                        nullptr) == cudaSuccess);
  CHECK((y.read() == std::vector<int>{0, 0, 0, -1}));
  int processors = 0;
  CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess);
  CHECK(processors > 0);
}

int main() {
  const auto each = [](auto launch) { expect_none_wrong(launch); };
  each([](int* wrong) { XRISK_LAUNCH(shuffle_kernel<int>, 2, 96, 0, nullptr, wrong); });
  each([](int* wrong) { XRISK_LAUNCH(shuffle_kernel<float>, 1, 32, 0, nullptr, wrong); });
  each([](int* wrong) { XRISK_LAUNCH(shuffle_kernel<double>, 1, 32, 0, nullptr, wrong); });
  each([](int* w) { XRISK_LAUNCH(shuffle_kernel<unsigned long long>, 1, 32, 0, nullptr, w); });
  each([](int* wrong) { XRISK_LAUNCH(vote_kernel, 2, 96, 0, nullptr, wrong); });
  each([](int* wrong) { XRISK_LAUNCH(maths_kernel<float>, 1, 1, 0, nullptr, 1.0f, wrong); });
  each([](int* wrong) { XRISK_LAUNCH(maths_kernel<double>, 1, 1, 0, nullptr, 1.0, wrong); });
  each([](int* wrong) { XRISK_LAUNCH(bits_kernel, 1, 1, 0, nullptr, 5u, wrong); });
  test_atomics();
  test_runtime();
  return report();
}
