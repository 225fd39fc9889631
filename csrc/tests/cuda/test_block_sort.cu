// block_sort of cuda/block.h, called twice by a kernel, from tiles of one warp to several keys a
// thread.
#include "cuda/block.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

// Sorts a tile, halves the keys in place and sorts by them, descending.
template <int kBlock, int kTile, class Key>
__global__ void sort_twice_kernel(const Key* in, Key* keys_out, unsigned* payloads_out) {
  XRISK_SHARED(Key, keys, [kTile]);
  XRISK_SHARED(unsigned, payloads, [kTile]);
  XRISK_SHARED(Key, spare_keys, [kTile]);
  XRISK_SHARED(unsigned, spare_payloads, [kTile]);
  for (int i = threadIdx.x; i < kTile; i += kBlock) {
    keys[i] = in[i];
    payloads[i] = i;
  }
  block_sort<kBlock, kTile>(keys, payloads, spare_keys, spare_payloads);
  for (int i = threadIdx.x; i < kTile; i += kBlock) {
    // of a neighbour: wrong unless the sort ends with a barrier
    keys_out[i] = keys[kTile - 1 - i];
    payloads_out[i] = payloads[kTile - 1 - i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTile; i += kBlock) keys[i] = 1000 - keys[i];
  block_sort<kBlock, kTile>(keys, payloads, spare_keys, spare_payloads);
  for (int i = threadIdx.x; i < kTile; i += kBlock) {
    keys_out[kTile + i] = keys[kTile - 1 - i];
    payloads_out[kTile + i] = payloads[kTile - 1 - i];
  }
}

template <class Key>
using Pairs = std::vector<std::pair<Key, unsigned>>;

template <int kBlock, int kTile, class Key>
void test_sort(unsigned different_keys) {
  std::mt19937 random(kTile);
  std::vector<Key> in(kTile);
  for (Key& key : in) key = static_cast<Key>(random() % different_keys);
  Pairs<Key> first;
  for (unsigned i = 0; i < kTile; ++i) first.emplace_back(in[i], i);
  std::sort(first.begin(), first.end());
  Pairs<Key> second = first;
  for (auto& [key, payload] : second) key = 1000 - key;
  std::sort(second.begin(), second.end());

  const DeviceArray<Key> device_in(in);
  for_each_schedule([&] {
    DeviceArray<Key> keys(2 * kTile);
    DeviceArray<unsigned> payloads(2 * kTile);
    XRISK_LAUNCH((sort_twice_kernel<kBlock, kTile, Key>), 1, kBlock, 0, nullptr, device_in.data(),
                 keys.data(), payloads.data());
    CHECK(cudaGetLastError() == cudaSuccess);
    const auto got_keys = keys.read();
    const auto got_payloads = payloads.read();
    bool first_good = true, second_good = true;
    for (int i = 0; i < kTile; ++i) {
      const int k = kTile - 1 - i;
      first_good &= got_keys[i] == first[k].first && got_payloads[i] == first[k].second;
      second_good &=
          got_keys[kTile + i] == second[k].first && got_payloads[kTile + i] == second[k].second;
    }
    CHECK(first_good);
    CHECK(second_good);
  });
}

int main() {
  for (unsigned different_keys : {1000u, 7u}) {
    test_sort<32, 32, float>(different_keys);
    test_sort<64, 64, uint32_t>(different_keys);
    test_sort<96, 512, double>(different_keys);
    test_sort<256, 256, uint64_t>(different_keys);
    test_sort<1024, 2048, float>(different_keys);
  }
  return report();
}
