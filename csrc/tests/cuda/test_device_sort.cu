// The contract of cuda/device_sort.h, for the host's branch and, on a GPU, for both of its ways;
// the ranked sort by itself, with small tiles, on either.
#include <numeric>

#include "cuda/device_sort.h"
#include "cuda/ranked_sort.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

struct ByDevice {
  static size_t bytes(int64_t count, int begin_bit, int end_bit) {
    return sort_pairs_workspace_bytes(count, begin_bit, end_bit);
  }
  template <class... Arguments>
  static cudaError_t sort(size_t bytes, void* workspace, Arguments... arguments) {
    return sort_pairs(arguments..., workspace, bytes, nullptr);
  }
};

template <class Shape>
struct ByRanks {
  static size_t bytes(int64_t count, int, int) { return ranked_sort_bytes<Shape>(count); }
  template <class... Arguments>
  static cudaError_t sort(size_t, void* workspace, Arguments... arguments) {
    return sort_by_ranks<Shape>(arguments..., workspace, nullptr);
  }
};

template <class Sorter, class Key>
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
  const size_t bytes = Sorter::bytes(count, begin_bit, end_bit);
  CHECK(bytes > 0);
  DeviceArray<unsigned char> workspace(static_cast<int64_t>(bytes));
  const auto sort_once = [&] {
    const cudaError_t status =
        Sorter::sort(bytes, workspace.data(), keys_in.data(), keys_out.data(), payload_in.data(),
                     payload_out.data(), count, begin_bit, end_bit);
    CHECK(status == cudaSuccess);
    const auto got_keys = keys_out.read();
    const auto got_payload = payload_out.read();
    bool good = true;
    for (size_t i = 0; i < order.size(); ++i) {
      good &= got_keys[i] == keys[order[i]] && got_payload[i] == payload[order[i]];
    }
    CHECK(good);
    CHECK(keys_in.read() == keys && payload_in.read() == payload);
  };
  for_each_schedule([&] {
    sort_once();
    sort_once();  // finds the workspace used
  });
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

template <class Sorter, class Key>
void test_keys(std::initializer_list<int64_t> counts) {
  constexpr int kBits = 8 * sizeof(Key);
  for (int64_t count : counts) {
    test_sort<Sorter, Key>(count, 0, 0, kBits);
    test_sort<Sorter, Key>(count, 1, 0, kBits);  // all equal
    test_sort<Sorter, Key>(count, 5, 0, kBits);
    test_sort<Sorter, Key>(count, 0, 0, 1);
    test_sort<Sorter, Key>(count, 0, 3, 17);
    test_sort<Sorter, Key>(count, 0, kBits - 9, kBits);
  }
}

// Keys of all bits set, which nothing that fills a tile may overtake.
template <class Sorter>
void test_largest_keys() {
  const DeviceArray<uint32_t> keys(std::vector<uint32_t>(131, ~0u));
  std::vector<uint32_t> places(131);
  std::iota(places.begin(), places.end(), 0u);
  const DeviceArray<uint32_t> payload(places);
  const size_t bytes = Sorter::bytes(131, 0, 32);
  DeviceArray<unsigned char> workspace(static_cast<int64_t>(bytes));
  for_each_schedule([&] {
    DeviceArray<uint32_t> keys_out(131), payload_out(131);
    const cudaError_t status =
        Sorter::sort(bytes, workspace.data(), keys.data(), keys_out.data(), payload.data(),
                     payload_out.data(), int64_t{131}, 0, 32);
    CHECK(status == cudaSuccess);
    CHECK(payload_out.read() == places);
  });
}

int main() {
  test_keys<ByDevice, uint32_t>({0, 1, 2, 33, 1000, 20011, 70001});
  test_keys<ByDevice, uint64_t>({0, 1, 2, 33, 1000, 20011, 70001});
  test_errors<uint32_t>();
  test_errors<uint64_t>();
  using Many = ByRanks<RankedShape<64, 128, 4>>;  // of tiles
  using Wide = ByRanks<RankedShape<32, 256, 1>>;  // pairs a thread
  test_keys<Many, uint32_t>({1, 127, 128, 129, 700});
  test_keys<Many, uint64_t>({300});
  test_keys<Wide, uint32_t>({600});
  test_largest_keys<ByDevice>();
  test_largest_keys<Many>();
  return report();
}
