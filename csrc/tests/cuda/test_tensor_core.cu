// The matrix primitives of cuda/tensor_core.h: rounding to 16 bits, where every lane's elements lie
// in a matrix (as the PTX ISA has it, one element at a time), and whole products, twice in a
// kernel.
#include "cuda/tensor_core.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::cuda;
using namespace xrisk::test;

namespace {

// Row and column of element i of a lane: "Matrix fragments for mma.m16n8k16" of the PTX ISA.
struct Place {
  int row, column;
};
Place place_of_left(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  const bool upper = (0 <= i && i < 2) || (4 <= i && i < 6);
  return {upper ? group : group + 8, thread * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Place place_of_right(int lane, int i) {
  return {(lane % 4) * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2};
}
Place place_of_sum(int lane, int i) {
  return {i < 2 ? lane >> 2 : (lane >> 2) + 8, (lane % 4) * 2 + (i & 1)};
}

template <class Half>
__global__ void round_kernel(const float* x, int64_t pairs, uint32_t* bits, float* values) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= pairs) return;
  bits[k] = Half::pack(x[2 * k], x[2 * k + 1]);
  values[2 * k] = Half::low(bits[k]);
  values[2 * k + 1] = Half::high(bits[k]);
}

// The nearest number with that many bits behind the first, ties to even.
float nearest(float x, int bits, int lowest, double largest) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), lowest);
  const double value = std::ldexp(
      std::nearbyint(std::ldexp(static_cast<double>(x), bits - exponent)), exponent - bits);
  return static_cast<float>(std::fabs(value) > largest ? std::copysign(INFINITY, x) : value);
}

template <class Half>
void rounding(int bits, int lowest, double largest) {
  std::mt19937_64 random(3);
  std::vector<float> x{0.0f,       -0.0f,      INFINITY,     -INFINITY,  65504.0f,   65519.996f,
                       65520.0f,   -1e30f,     6.1e-5f,      0x1p-14f,   0x1p-24f,   0x1p-25f,
                       0x1.8p-24f, -0x1p-26f,  0x1.ffcp-15f, 0x1.002p0f, 0x1.006p0f, 0x1.01p0f,
                       0x1.03p0f,  0x1.ffep0f, NAN,          -NAN};
  for (int k = 0; k < 1000; ++k) {
    x.push_back(std::ldexp(static_cast<float>(random() % 32768) - 16384.0f,
                           static_cast<int>(random() % 60) - 50));
  }
  const int64_t pairs = static_cast<int64_t>(x.size()) / 2;
  const DeviceArray<float> device_x(x);
  DeviceArray<uint32_t> packed(pairs);
  DeviceArray<float> values(2 * pairs);
  XRISK_LAUNCH((round_kernel<Half>), 4, 256, 0, nullptr, device_x.data(), pairs, packed.data(),
               values.data());
  CHECK(cudaGetLastError() == cudaSuccess);
  const auto found = values.read();
  for (size_t k = 0; k < x.size(); ++k) {
    const float expected = nearest(x[k], bits, lowest, largest);
    CHECK(std::isnan(x[k]) ? std::isnan(found[k])
                           : found[k] == expected && std::signbit(found[k]) == std::signbit(x[k]));
  }
}

// Each lane brings the registers that it is told, twice: sums [2][32][4].
template <class Half>
__global__ void product_of_lanes_kernel(const LeftFragment* left, const RightFragment* right,
                                        int64_t probes, float* sums) {
  for (int64_t p = 0; p < probes; ++p) {
    SumFragment sum{{1.0f, 2.0f, 3.0f, 4.0f}};
    multiply_add<Half>(left[32 * p + lane_index()], right[32 * p + lane_index()], sum);
    for (int i = 0; i < 4; ++i) sums[(32 * p + lane_index()) * 4 + i] = sum.at[i];
  }
}

// Small whole numbers, exact in both types, as are sums of their products.
template <class Half>
struct Matrices {
  int left[16][16], right[16][8];

  explicit Matrices(std::mt19937_64& random) {
    for (auto& row : left) {
      for (int& x : row) x = static_cast<int>(random() % 201) - 100;
    }
    for (auto& row : right) {
      for (int& x : row) x = static_cast<int>(random() % 201) - 100;
    }
  }

  void append(std::vector<LeftFragment>& lefts, std::vector<RightFragment>& rights) const {
    for (int lane = 0; lane < 32; ++lane) {
      LeftFragment a;
      RightFragment b;
      const auto l = [&](int i) {
        return bits_of(left[place_of_left(lane, i).row][place_of_left(lane, i).column]);
      };
      const auto r = [&](int i) {
        return bits_of(right[place_of_right(lane, i).row][place_of_right(lane, i).column]);
      };
      for (int k = 0; k < 4; ++k) a.pairs[k] = l(2 * k) | l(2 * k + 1) << 16;
      for (int k = 0; k < 2; ++k) b.pairs[k] = r(2 * k) | r(2 * k + 1) << 16;
      lefts.push_back(a);
      rights.push_back(b);
    }
  }

  // Of a whole number below 2^8 in size.
  static uint32_t bits_of(int x) {
    if (x == 0) return 0;
    const bool brain = std::is_same_v<Half, Bfloat16>;
    const int exponent = std::ilogb(std::abs(x)), width = brain ? 7 : 10, bias = brain ? 127 : 15;
    return (x < 0 ? 0x8000u : 0u) | static_cast<uint32_t>(exponent + bias) << width |
           (static_cast<uint32_t>(std::abs(x)) << (width - exponent) & ((1u << width) - 1));
  }
};

template <class Half>
void products() {
  std::mt19937_64 random(5);
  std::vector<Matrices<Half>> matrices;
  for (int k = 0; k < 3; ++k) matrices.emplace_back(random);
  // then one element alone of the left factor, and of the right one, in turn
  for (int i = 0; i < 16 * 16 + 16 * 8; ++i) {
    matrices.emplace_back(random);
    for (int k = 0; k < 16 * 16 && i < 256; ++k) matrices.back().left[k / 16][k % 16] *= k == i;
    for (int k = 0; k < 16 * 8 && i >= 256; ++k) {
      matrices.back().right[k / 8][k % 8] *= k == i - 256;
    }
  }
  std::vector<LeftFragment> lefts;
  std::vector<RightFragment> rights;
  for (const auto& m : matrices) m.append(lefts, rights);
  const int64_t probes = static_cast<int64_t>(matrices.size());
  const DeviceArray<LeftFragment> left(lefts);
  const DeviceArray<RightFragment> right(rights);
  const auto check = [&] {
    DeviceArray<float> sums(probes * 128);
    XRISK_LAUNCH((product_of_lanes_kernel<Half>), 1, 32, 0, nullptr, left.data(), right.data(),
                 probes, sums.data());
    CHECK(cudaGetLastError() == cudaSuccess);
    const auto found = sums.read();
    for (int64_t k = 0; k < probes * 128; ++k) {
      const auto& m = matrices[k / 128];
      const Place at = place_of_sum(k / 4 % 32, k % 4);
      int expected = 1 + static_cast<int>(k % 4);
      for (int j = 0; j < 16; ++j) expected += m.left[at.row][j] * m.right[j][at.column];
      CHECK(found[k] == static_cast<float>(expected));
    }
  };
  for_each_schedule(check);
}

// A tile [32, 24] of shared memory; matrix m begins at (8 m, 8 (m % 2)).
__global__ void load_kernel(const uint16_t* x, uint32_t* plain, uint32_t* transposed) {
  XRISK_SHARED(uint16_t, tile, [32 * 24]);
  const int lane = lane_index();
  for (int round = 0; round < 2; ++round) {
    __syncthreads();
    for (int k = lane; k < 32 * 24; k += 32) tile[k] = x[k] + static_cast<uint16_t>(round);
    __syncthreads();
    const uint16_t* row = tile + 24 * lane + 8 * (lane / 8 % 2);
    uint32_t pairs[4];
    load_matrices(row, pairs);
    for (int m = 0; m < 4; ++m) plain[(round * 32 + lane) * 4 + m] = pairs[m];
    load_transposed(row, pairs);
    for (int m = 0; m < 4; ++m) transposed[(round * 32 + lane) * 4 + m] = pairs[m];
  }
}

void loads() {
  std::vector<uint16_t> x(32 * 24);
  for (size_t k = 0; k < x.size(); ++k) x[k] = static_cast<uint16_t>(7 * k);
  const DeviceArray<uint16_t> device_x(x);
  for_each_schedule([&] {
    DeviceArray<uint32_t> plain(256), transposed(256);
    XRISK_LAUNCH(load_kernel, 1, 32, 0, nullptr, device_x.data(), plain.data(), transposed.data());
    CHECK(cudaGetLastError() == cudaSuccess);
    const auto rows = plain.read(), columns = transposed.read();
    for (int k = 0; k < 256; ++k) {
      const int round = k / 128, group = k / 4 % 32 / 4, thread = k / 4 % 4, m = k % 4;
      const auto at = [&](int row, int column) {
        return static_cast<uint32_t>(x[(8 * m + row) * 24 + 8 * (m % 2) + column] + round);
      };
      CHECK(rows[k] == (at(group, 2 * thread) | at(group, 2 * thread + 1) << 16));
      CHECK(columns[k] == (at(2 * thread, group) | at(2 * thread + 1, group) << 16));
    }
  });
}

}  // namespace

int main() {
  rounding<Bfloat16>(7, -126, 3.3895313892515355e38);
  rounding<Float16>(10, -14, 65504.0);
  products<Bfloat16>();
  products<Float16>();
  loads();
  return report();
}
