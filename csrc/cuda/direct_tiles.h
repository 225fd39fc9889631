// The inner loops of the direct algorithm: a tile of inner entries in shared memory against the
// outer scores that a thread holds. Three ways, by surrogate:
//
//   centred   squared, squared hinge: margin and a centre are taken into the scores, and the slope
//             is summed by halves: add, max, add, multiply-add a pair in the rows (3 in columns)
//   grouped   logistic and sigmoid of floats: pair_groups.h, 2 to 5 instructions a pair, for tiles
//             whose exponents and weights keep to its range
//   termwise  any pair term as it is written in core/
#pragma once

#include "core/pair_term.h"
#include "cuda/pair_groups.h"

namespace xrisk::cuda {

template <class T>
struct __align__(16) Four {
  T at[4];
};

// Entries at a multiple of four, in one or two loads of 16 bytes.
template <class T>
__device__ __forceinline__ Four<T> four_at(const T* entries, int k) {
  return *reinterpret_cast<const Four<T>*>(entries + k);
}

// kWeighted: else the caller multiplies the sums by the weight that all entries have.
template <bool kHinge, bool kRows, bool kWeighted, int kOuter, class T>
__device__ __forceinline__ void centred_tile(const T* scores, const T* weights, int count,
                                             const T (&x)[kOuter], T (&sums)[kOuter],
                                             T (&slopes)[kOuter]) {
  const auto add = [&](T y, T weight) {
#pragma unroll
    for (int a = 0; a < kOuter; ++a) {
      const T d = kRows ? y - x[a] : x[a] - y, half = kHinge ? positive_part(d) : d;
      if constexpr (!kRows) {
        slopes[a] += weight * half;
      } else if constexpr (kWeighted) {
        const T weighted = weight * half;
        slopes[a] += weighted;
        sums[a] += weighted * half;
      } else {
        slopes[a] += half;
        sums[a] += half * half;
      }
    }
  };
  int k = 0;
#pragma unroll 2
  for (; k + 4 <= count; k += 4) {
    const Four<T> y = four_at(scores, k);
    Four<T> weight = {};
    if constexpr (kWeighted) weight = four_at(weights, k);
#pragma unroll
    for (int b = 0; b < 4; ++b) add(y.at[b], weight.at[b]);
  }
#pragma unroll 1
  for (; k < count; ++k) add(scores[k], kWeighted ? weights[k] : T(0));
}

// factors, weights: of the tile, zeros behind `count`. The slopes still lack the factor f scale.
template <Surrogate kKind, bool kRows, int kOuter>
__device__ __forceinline__ void grouped_tile(const PairGroup<kKind, kRows>* groups, int count,
                                             const float (&f)[kOuter], float (&values)[kOuter],
                                             float (&slopes)[kOuter]) {
  using Group = PairGroup<kKind, kRows>;
  typename Group::Sums sums[kOuter];
  const int end = (count + Group::kSize - 1) / Group::kSize;
#pragma unroll 2
  for (int k = 0; k < end; ++k) {
    const Group group = groups[k];
#pragma unroll
    for (int a = 0; a < kOuter; ++a) group.add(f[a], sums[a]);
  }
#pragma unroll
  for (int a = 0; a < kOuter; ++a) {
    values[a] = sums[a].value(f[a], end);
    slopes[a] = sums[a].slope;
  }
}

// shifts: an outer entry's in the rows, an inner entry's in the columns.
template <bool kRows, bool kShifted, int kOuter, class T, class Term>
__device__ __forceinline__ void termwise_tile(const Term& term, const T* scores, const T* weights,
                                              const T* inner_shifts, int count,
                                              const T (&x)[kOuter], const T (&outer_shifts)[kOuter],
                                              T (&sums)[kOuter], T (&slopes)[kOuter]) {
#pragma unroll 2
  for (int k = 0; k < count; ++k) {
    const T y = scores[k], weight = weights[k];
#pragma unroll
    for (int a = 0; a < kOuter; ++a) {
      T value, slope, shift = T(0);
      if constexpr (kShifted) shift = kRows ? outer_shifts[a] : inner_shifts[k];
      term.unscaled(kRows ? y - x[a] : x[a] - y, shift, value, slope);
      if constexpr (kRows) sums[a] += weight * value;
      slopes[a] += weight * slope;
    }
  }
}

}  // namespace xrisk::cuda
