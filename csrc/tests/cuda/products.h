// Products of matrices for tests of kernels that get theirs from the caller: a thread an element.
#pragma once

#include "core/products.h"
#include "cuda/platform.h"
#include "cuda/tensor_core.h"
#include "tests/check.h"

namespace xrisk::test {

template <class T>
__global__ void product_kernel(MatrixProduct<T> p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= p.m * p.n) return;
  const int64_t i = at / p.n, j = at % p.n;
  double total = p.add ? static_cast<double>(p.c[i * p.c_stride + j]) : 0.0;
  for (int64_t k = 0; k < p.k; ++k) {
    const T a = p.a_transposed ? p.a[k * p.a_stride + i] : p.a[i * p.a_stride + k];
    const T b = p.b_transposed ? p.b[j * p.b_stride + k] : p.b[k * p.b_stride + j];
    total += static_cast<double>(a) * static_cast<double>(b);
  }
  p.c[i * p.c_stride + j] = static_cast<T>(total);
}

template <class T>
struct KernelProducts final : Products<T> {
  void multiply(const MatrixProduct<T>& p) const override {
    const unsigned blocks = static_cast<unsigned>((p.m * p.n + 63) / 64);
    if (blocks == 0) return;
    XRISK_LAUNCH((product_kernel<T>), blocks, 64, 0, nullptr, p);
    CHECK(cudaGetLastError() == cudaSuccess);
  }
};

template <class Half>
__global__ void half_product_kernel(MatrixProduct<float, uint16_t> p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= p.m * p.n) return;
  const int64_t i = at / p.n, j = at % p.n;
  float total = p.add ? p.c[i * p.c_stride + j] : 0.0f;
  for (int64_t k = 0; k < p.k; ++k) {
    const uint16_t a = p.a_transposed ? p.a[k * p.a_stride + i] : p.a[i * p.a_stride + k];
    const uint16_t b = p.b_transposed ? p.b[j * p.b_stride + k] : p.b[k * p.b_stride + j];
    total += Half::low(a) * Half::low(b);
  }
  p.c[i * p.c_stride + j] = total;
}

struct HalfKernelProducts final : HalfProducts {
  explicit HalfKernelProducts(bool is_bfloat16) : bfloat16(is_bfloat16) {}

  void multiply(const MatrixProduct<float, uint16_t>& p) const override {
    const unsigned blocks = static_cast<unsigned>((p.m * p.n + 63) / 64);
    if (blocks == 0) return;
    if (bfloat16) {
      XRISK_LAUNCH((half_product_kernel<cuda::Bfloat16>), blocks, 64, 0, nullptr, p);
    } else {
      XRISK_LAUNCH((half_product_kernel<cuda::Float16>), blocks, 64, 0, nullptr, p);
    }
    CHECK(cudaGetLastError() == cudaSuccess);
  }

  bool bfloat16;
};

}  // namespace xrisk::test
