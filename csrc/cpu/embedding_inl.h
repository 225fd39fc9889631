// Rows of embeddings: normalised, and the gradient taken back through the normalisation.
//
//   e = x / |x|;  dx = (g - <g, e> e) / |x|,  g = the gradient by e, plus p times the partner
//
// A row of zeros stays zero and gets no gradient. Bytes: each row twice, from L1. Hazard: squares
// leave the range of a double from 1e154 on, and vanish below 1e-154: such rows are scaled first.
#pragma once

#include "cpu/sums_inl.h"
#include "cpu/tile_kernels.h"

namespace xrisk::cpu::XRISK_ISA {

template <class T>
XRISK_HD double dot_row(const T* a, const T* b, int64_t width) {
  using V = Vec<T>;
  V total[2] = {V(T(0)), V(T(0))};
  int64_t k = 0;
  for (; k + 2 * V::kLanes <= width; k += 2 * V::kLanes) {
    total[0] = total[0] + V::load(a + k) * V::load(b + k);
    total[1] = total[1] + V::load(a + k + V::kLanes) * V::load(b + k + V::kLanes);
  }
  for (; k < width; k += V::kLanes) {
    const int64_t left = width - k < V::kLanes ? width - k : V::kLanes;
    total[0] = total[0] + V::load_partial(a + k, left, T(0)) * V::load_partial(b + k, left, T(0));
  }
  return static_cast<double>(sum(total[0] + total[1]));
}

template <class T>
void dots(const T* a, const T* b, int64_t rows, int64_t width, double* out) {
  for (int64_t i = 0; i < rows; ++i) out[i] = dot_row(a + i * width, b + i * width, width);
}

// y = (x / divisor) * factor
template <class T>
XRISK_HD void scale_row(const T* x, int64_t width, double divisor, double factor, T* y) {
  typedef T Narrow __attribute__((vector_size(D::kLanes * sizeof(T))));
  for (int64_t k = 0; k < width; k += D::kLanes) {
    const int64_t left = width - k;
    const D scaled = widen(x + k, left, T(0)) / D(divisor) * D(factor);
    const Narrow narrow = __builtin_convertvector(scaled.v, Narrow);
    memcpy(y + k, &narrow, (left < D::kLanes ? left : D::kLanes) * sizeof(T));
  }
}

template <class T>
XRISK_HD double square_sum(const T* x, int64_t width, double divisor) {
  D total(0.0);
  for (int64_t k = 0; k < width; k += D::kLanes) {
    const D y = widen(x + k, width - k, T(0)) / D(divisor);
    total = total + y * y;
  }
  return sum(total);
}

// norms: NaN where a row is not finite, 0 where it is zero. Without `normalize` rows are copied.
template <class T>
void normalize_rows(const T* x, int64_t rows, int64_t width, bool normalize, T* e, double* norms) {
  for (int64_t i = 0; i < rows; ++i) {
    const T* row = x + i * width;
    T* out = e + i * width;
    double divisor = 1.0, squares = square_sum(row, width, divisor);
    if (!(squares > 1e-280 && squares < 1e280)) {
      const double largest = static_cast<double>(largest_magnitude(row, width));
      const bool scalable = largest > 0.0 && largest < INFINITY;
      divisor = scalable ? largest : 1.0;
      squares = largest == INFINITY ? NAN : square_sum(row, width, divisor);
    }
    norms[i] = normalize ? divisor * sqrt(squares) : squares - squares + 1.0;
    if (!normalize || squares == 0.0) {
      memcpy(out, row, static_cast<size_t>(width) * sizeof(T));
    } else {
      scale_row(row, width, divisor, 1.0 / sqrt(squares), out);
    }
  }
}

// g (in place): to the gradient by e is added p times the partner, then it passes the norms; null:
// there was no normalisation.
template <class T>
void finish_gradients(const T* e, const T* partners, const T* p, const double* norms, int64_t rows,
                      int64_t width, T* g) {
  using V = Vec<T>;
  for (int64_t i = 0; i < rows; ++i) {
    const T *row = e + i * width, *partner = partners + i * width;
    T* out = g + i * width;
    const V pull(p[i]);
    for (int64_t k = 0; k < width; k += V::kLanes) {
      const int64_t left = width - k < V::kLanes ? width - k : V::kLanes;
      (V::load_partial(out + k, left, T(0)) + pull * V::load_partial(partner + k, left, T(0)))
          .store_partial(out + k, left);
    }
    if (norms == nullptr) continue;
    const T inverse = norms[i] == 0.0 ? T(0) : static_cast<T>(1.0 / norms[i]);
    const V along(static_cast<T>(dot_row(row, out, width))), factor(inverse);
    for (int64_t k = 0; k < width; k += V::kLanes) {
      const int64_t left = width - k < V::kLanes ? width - k : V::kLanes;
      ((V::load_partial(out + k, left, T(0)) - along * V::load_partial(row + k, left, T(0))) *
       factor)
          .store_partial(out + k, left);
    }
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
