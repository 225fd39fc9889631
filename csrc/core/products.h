// How the kernels multiply matrices without owning a BLAS: the caller lends one.
#pragma once

#include <cstdint>

namespace xrisk {

// c [m, n] = a [m, k] b [k, n], or c += a b. A transposed factor is stored [k, m] or [n, k].
// Factors may be 16-bit numbers: their products are exact in float32, in which they are summed.
template <class T, class Factor = T>
struct MatrixProduct {
  int64_t m = 0, n = 0, k = 0;
  const Factor* a = nullptr;
  int64_t a_stride = 0;  // between the stored rows
  bool a_transposed = false;
  const Factor* b = nullptr;
  int64_t b_stride = 0;
  bool b_transposed = false;
  T* c = nullptr;
  int64_t c_stride = 0;
  bool add = false;
};

// On the CPU called from inside the tasks of an Executor: one product runs on one thread. On CUDA
// the product goes to the stream of the kernels.
template <class T, class Factor = T>
class Products {
 public:
  virtual ~Products() = default;
  virtual void multiply(const MatrixProduct<T, Factor>& product) const = 0;
};

using HalfProducts = Products<float, uint16_t>;

}  // namespace xrisk
