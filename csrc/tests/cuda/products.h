// Products of matrices for tests of kernels that get theirs from the caller: a thread an element.
#pragma once

#include "core/products.h"
#include "cuda/platform.h"
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

}  // namespace xrisk::test
