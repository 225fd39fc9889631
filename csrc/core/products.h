// How the kernels multiply matrices without owning a BLAS: the caller lends one.
#pragma once

#include <cstdint>

namespace xrisk {

// c [m, n] = a [m, k] b [k, n], or c += a b. A transposed factor is stored [k, m] or [n, k].
template <class T>
struct MatrixProduct {
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t a_stride = 0;  // between the stored rows
  bool a_transposed = false;
  const T* b = nullptr;
  int64_t b_stride = 0;
  bool b_transposed = false;
  T* c = nullptr;
  int64_t c_stride = 0;
  bool add = false;
};

// On the CPU called from inside the tasks of an Executor: one product runs on one thread. On CUDA
// the product goes to the stream of the kernels.
template <class T>
class Products {
 public:
  virtual ~Products() = default;
  virtual void multiply(const MatrixProduct<T>& product) const = 0;
};

}  // namespace xrisk
