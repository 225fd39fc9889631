// Rows of logits as exponentials relative to the largest of their row.
//
//   e_k = exp(x_k - peak),  mass = sum_k e_k
//
// Mapping: one row after the other, two vectors side by side; once for the peak and once for the
// exponentials, one a logit. Bytes: a row read twice, the second time from the cache, written once.
// Hazards: rows may be long, so their sums leave T every few vectors; a NaN must survive.
#pragma once

#include "cpu/tile_inl.h"

namespace xrisk::cpu::XRISK_ISA {

template <class T>
XRISK_HD T peak_of_row(const T* x, int64_t width) {
  using V = Vec<T>;
  constexpr int64_t kStep = 2 * V::kLanes;
  const T nothing = static_cast<T>(-INFINITY);
  V high[2] = {V(nothing), V(nothing)};
  int64_t k = 0;
  for (; k + kStep <= width; k += kStep) {
    high[0] = largest(high[0], V::load(x + k));
    high[1] = largest(high[1], V::load(x + k + V::kLanes));
  }
  for (; k < width; k += V::kLanes) {
    const int64_t left = width - k;
    high[0] = largest(high[0],
                      left >= V::kLanes ? V::load(x + k) : V::load_partial(x + k, left, nothing));
  }
  T lanes[V::kLanes];
  largest(high[0], high[1]).store(lanes);
  T peak = lanes[0];
  for (int lane = 1; lane < V::kLanes; ++lane) peak = lanes[lane] > peak ? lanes[lane] : peak;
  return peak;
}

// Stores e in `out` [rows, width] unless it is null.
template <class T>
void row_exponentials(const T* x, int64_t rows, int64_t width, T* out, double* peaks,
                      double* masses) {
  using V = Vec<T>;
  constexpr int64_t kStep = 2 * V::kLanes, kFlush = 32 * kStep;  // logits whose sums stay in T
  const T nothing = static_cast<T>(-INFINITY);
  for (int64_t i = 0; i < rows; ++i) {
    const T* row = x + i * width;
    T* to = out == nullptr ? nullptr : out + i * width;
    const T peak = peak_of_row(row, width);
    const V shift = finite_peak(V(peak));
    double mass = 0.0;
    for (int64_t block = 0; block < width; block += kFlush) {
      const int64_t stop = block + kFlush < width ? block + kFlush : width;
      V sums[2] = {V(T(0)), V(T(0))};
      int64_t k = block;
      for (; k + kStep <= stop; k += kStep) {
        for (int half = 0; half < 2; ++half) {
          const int64_t at = k + half * V::kLanes;
          const V e = exponential(V::load(row + at) - shift);
          sums[half] = sums[half] + e;
          if (to != nullptr) e.store(to + at);
        }
      }
      for (; k < stop; k += V::kLanes) {
        const int64_t left = stop - k;
        const bool whole = left >= V::kLanes;
        const V s = whole ? V::load(row + k) : V::load_partial(row + k, left, nothing);
        const V e = exponential(s - shift);
        sums[0] = sums[0] + e;
        if (to == nullptr) continue;
        if (whole) {
          e.store(to + k);
        } else {
          e.store_partial(to + k, left);
        }
      }
      mass += static_cast<double>(sum(sums[0] + sums[1]));
    }
    peaks[i] = static_cast<double>(peak);
    masses[i] = mass;
  }
}

// Row i of out [rows, width] times factors[i].
template <class T>
void scale_rows(const T* factors, int64_t rows, int64_t width, T* out) {
  using V = Vec<T>;
  for (int64_t i = 0; i < rows; ++i) {
    T* row = out + i * width;
    const V factor(factors[i]);
    int64_t k = 0;
    for (; k + V::kLanes <= width; k += V::kLanes) (V::load(row + k) * factor).store(row + k);
    for (; k < width; ++k) row[k] *= factors[i];
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
