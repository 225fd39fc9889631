// The products that the kernels borrow, one sum at a time.
#pragma once

#include "core/products.h"

namespace xrisk::test {

template <class T>
struct PlainProducts final : Products<T> {
  void multiply(const MatrixProduct<T>& p) const override {
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        double total = p.add ? static_cast<double>(p.c[i * p.c_stride + j]) : 0.0;
        for (int64_t k = 0; k < p.k; ++k) {
          const T a = p.a_transposed ? p.a[k * p.a_stride + i] : p.a[i * p.a_stride + k];
          const T b = p.b_transposed ? p.b[j * p.b_stride + k] : p.b[k * p.b_stride + j];
          total += static_cast<double>(a) * static_cast<double>(b);
        }
        p.c[i * p.c_stride + j] = static_cast<T>(total);
      }
    }
  }
};

}  // namespace xrisk::test
