// One-pass sums over the items alone: the O(n) algorithms for squared and exponential, the
// screen of their magnitudes, and the surrogates themselves for the tests. Bytes: one read of the
// scores.
#pragma once

#include "core/surrogate.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"

namespace xrisk::cpu::XRISK_ISA {

using D = Vec<double>;

// D::kLanes scores as doubles; lanes past `left` hold `fill`.
template <class T>
XRISK_HD D widen(const T* x, int64_t left, T fill) {
  typedef T Narrow __attribute__((vector_size(D::kLanes * sizeof(T))));
  Narrow narrow = Narrow{} + fill;
  if (left >= D::kLanes) {
    memcpy(&narrow, x, sizeof(narrow));
  } else {
    memcpy(&narrow, x, left * sizeof(T));
  }
  return D(__builtin_convertvector(narrow, D::Native));
}

template <class T>
XRISK_HD D weight_of(const T* weights, int64_t j, int64_t left) {
  static constexpr double kOnes[2 * 8] = {1, 1, 1, 1, 1, 1, 1, 1};
  if (weights != nullptr) return widen(weights + j, left, T(0));
  return left >= D::kLanes ? D(1.0) : D::load(kOnes + 8 - left);
}

// Two accumulators of each, or every addition waits for the one before.
template <class T>
void power_sums(const T* x, const T* weights, int64_t count, double centre, double out[3]) {
  D s0[2] = {D(0.0), D(0.0)}, s1[2] = {D(0.0), D(0.0)}, s2[2] = {D(0.0), D(0.0)};
  const auto add = [&](int half, int64_t j, int64_t left) {
    const D d = widen(x + j, left, x[j]) - D(centre);
    const D w = weight_of(weights, j, left);
    s0[half] = s0[half] + w;
    s1[half] = s1[half] + w * d;
    s2[half] = s2[half] + w * d * d;
  };
  int64_t j = 0;
  for (; j + 2 * D::kLanes <= count; j += 2 * D::kLanes) {
    add(0, j, D::kLanes);
    add(1, j + D::kLanes, D::kLanes);
  }
  for (; j < count; j += D::kLanes) add(0, j, count - j);
  out[0] = sum(s0[0] + s0[1]);
  out[1] = sum(s1[0] + s1[1]);
  out[2] = sum(s2[0] + s2[1]);
}

template <class T>
double exponential_sum(const T* x, const T* weights, int64_t count, double scale, double centre) {
  D total(0.0);
  for (int64_t j = 0; j < count; j += D::kLanes) {
    const D d = widen(x + j, count - j, x[j]) - D(centre);
    const D w = weight_of(weights, j, count - j);
    // not 0 * inf: an item of weight zero may lie above the centre, the largest of the others
    total = total + select(greater(absolute(w), D(0.0)), w * exponential(D(scale) * d), D(0.0));
  }
  return sum(total);
}

template <class T>
void scaled_exponentials(const T* x, int64_t count, double scale, double centre, double factor,
                         double* out) {
  for (int64_t j = 0; j < count; j += D::kLanes) {
    const int64_t left = count - j;
    const D d = widen(x + j, left, x[j]) - D(centre);
    const D y = D(factor) * exponential(D(scale) * d);
    if (left >= D::kLanes) {
      y.store(out + j);
    } else {
      y.store_partial(out + j, left);
    }
  }
}

template <class T>
T largest_magnitude(const T* x, int64_t count) {
  using V = Vec<T>;
  const V infinite(static_cast<T>(INFINITY));
  V largest(T(0));
  for (int64_t j = 0; j < count; j += V::kLanes) {
    const int64_t left = count - j;
    const V y = absolute(left >= V::kLanes ? V::load(x + j) : V::load_partial(x + j, left, T(0)));
    largest = select(greater(largest, y), largest, select(is_nan(y), infinite, y));
  }
  T lanes[V::kLanes];
  largest.store(lanes);
  T result = T(0);
  for (int k = 0; k < V::kLanes; ++k) result = lanes[k] > result ? lanes[k] : result;
  return result;
}

template <class T>
void surrogate(Surrogate kind, const SurrogateParams& params, const T* differences, int64_t count,
               T* values, T* slopes) {
  using V = Vec<T>;
  visit_surrogate<T>(kind, params, [&](const auto& phi) {
    for (int64_t j = 0; j < count; j += V::kLanes) {
      const int64_t left = count - j;
      V value, slope;
      if (left >= V::kLanes) {
        phi(V::load(differences + j), value, slope);
        value.store(values + j);
        slope.store(slopes + j);
      } else {
        phi(V::load_partial(differences + j, left, T(0)), value, slope);
        value.store_partial(values + j, left);
        slope.store_partial(slopes + j, left);
      }
    }
  });
}

}  // namespace xrisk::cpu::XRISK_ISA
