// The contract of cuda/device_sort.h, for the host's branch and, on a GPU, for cub.
#include <numeric>

#include "cuda/device_sort.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

template <class Key>
void test_sort(int64_t count, Key different_keys, int begin_bit, int end_bit) {
  std::mt19937_64 random(static_cast<uint64_t>(count));
  std::vector<Key> keys(static_cast<size_t>(count));
  for (Key& key : keys) key = static_cast<Key>(random());
  if (different_keys > 0) {  // spread over all bits
    for (Key& key : keys) key = static_cast<Key>(key % different_keys * 0x9E3779B97F4A7C15ull);
  }
  std::vector<uint32_t> payload(keys.size());  // the places, backwards: payloads must not be sorted
  std::iota(payload.rbegin(), payload.rend(), 0u);

  const Key mask = ~Key{0} >> (8 * sizeof(Key) - (end_bit - begin_bit));
  std::vector<uint32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return ((keys[a] >> begin_bit) & mask) < ((keys[b] >> begin_bit) & mask);
  });

  const DeviceArray<Key> keys_in(keys);
  const DeviceArray<uint32_t> payload_in(payload);
  DeviceArray<Key> keys_out(count);
  DeviceArray<uint32_t> payload_out(count);
  const size_t bytes = sort_pairs_workspace_bytes(count, begin_bit, end_bit);
  CHECK(bytes > 0);
  DeviceArray<unsigned char> workspace(static_cast<int64_t>(bytes));
  for (int call = 0; call < 2; ++call) {  // the second finds the workspace used
    CHECK(sort_pairs(keys_in.data(), keys_out.data(), payload_in.data(), payload_out.data(), count,
                     begin_bit, end_bit, workspace.data(), bytes, nullptr) == cudaSuccess);
    const auto got_keys = keys_out.read();
    const auto got_payload = payload_out.read();
    bool good = true;
    for (size_t i = 0; i < order.size(); ++i) {
      good &= got_keys[i] == keys[order[i]] && got_payload[i] == payload[order[i]];
    }
    CHECK(good);
    CHECK(keys_in.read() == keys && payload_in.read() == payload);
  }
}

template <class Key>
void test_errors() {
  constexpr int kBits = 8 * sizeof(Key);
  const DeviceArray<Key> keys(std::vector<Key>{2, 1, 2});
  const DeviceArray<uint32_t> payload(std::vector<uint32_t>{0, 1, 2});
  DeviceArray<Key> keys_out(3);
  DeviceArray<uint32_t> payload_out(3);
  const size_t bytes = sort_pairs_workspace_bytes(3, 0, kBits);
  DeviceArray<unsigned char> workspace(static_cast<int64_t>(bytes));
  const auto sort = [&](int64_t count, int begin_bit, int end_bit, size_t workspace_bytes) {
    return sort_pairs(keys.data(), keys_out.data(), payload.data(), payload_out.data(), count,
                      begin_bit, end_bit, workspace.data(), workspace_bytes, nullptr);
  };
  CHECK(sort(3, 0, kBits, bytes) == cudaSuccess);
  CHECK(sort(3, 0, kBits, 0) == cudaErrorInvalidValue);
  CHECK(sort(-1, 0, kBits, bytes) == cudaErrorInvalidValue);
  CHECK(sort(int64_t{1} << 31, 0, kBits, bytes) == cudaErrorInvalidValue);
  CHECK(sort(3, -1, kBits, bytes) == cudaErrorInvalidValue);
  CHECK(sort(3, 5, 5, bytes) == cudaErrorInvalidValue);
  CHECK(sort(3, 0, kBits + 1, bytes) == cudaErrorInvalidValue);
}

template <class Key>
void test_keys() {
  constexpr int kBits = 8 * sizeof(Key);
  for (int64_t count : {0, 1, 2, 33, 1000, 20011}) {
    test_sort<Key>(count, 0, 0, kBits);
    test_sort<Key>(count, 1, 0, kBits);  // all equal
    test_sort<Key>(count, 5, 0, kBits);
    test_sort<Key>(count, 0, 0, 1);
    test_sort<Key>(count, 0, 3, 17);
    test_sort<Key>(count, 0, kBits - 9, kBits);
  }
  test_errors<Key>();
}

int main() {
  test_keys<uint32_t>();
  test_keys<uint64_t>();
  return report();
}
