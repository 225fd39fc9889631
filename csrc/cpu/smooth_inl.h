// The streaming halves of the smooth algorithm; cpu/translate_inl.h leads from the one to the
// other.
//
//   moments:   m[bin_j] += w_j {1, t_j, .., t_j^(q-1)}
//   evaluate:  value_i = sum_l local[bin_i][l] t_i^l
//
// Mapping: scores in blocks of 64, the powers of one score across the lanes; sums across lanes are
// formed for a whole register of scores at once. Bytes: the scores once each way, the bins stay in
// cache. Hazard: t needs all bits of the score: k * width is taken off in two parts, the first of
// which is exact.
#pragma once

#include "cpu/smooth_grid.h"
#include "cpu/sums_inl.h"

namespace xrisk::cpu::XRISK_ISA {

constexpr int64_t kSmoothBlock = 64;

// At most kSmoothBlock scores: bins (relative to the first) and local coordinates t, with their
// squares, fourth and eighth powers, ready to be broadcast from memory.
template <class U>
struct alignas(64) Located {
  int32_t bins[kSmoothBlock];
  U t[4][kSmoothBlock];
};

template <int kSquares, class T, class U>
XRISK_HD void locate(const SmoothGrid& grid, const T* scores, int64_t count, Located<U>& out) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  typedef int32_t Narrow __attribute__((vector_size(D::kLanes * sizeof(int32_t))));
  typedef U Coordinates __attribute__((vector_size(D::kLanes * sizeof(U))));
  const D inverse(grid.inverse_width), twice(2.0 * grid.inverse_width);
  const D high(grid.width_high), low(grid.width_low), first(grid.first), magic(kMagic);
  for (int64_t k = 0; k < count; k += D::kLanes) {
    const D y = widen(scores + k, count - k, scores[k]);
    const D bin = (rounded(y * inverse) + magic) - magic;  // everywhere the same
    const D residual = (y - bin * high) - bin * low;
    const Narrow number = __builtin_convertvector((bin - first).v, Narrow);
    memcpy(out.bins + k, &number, sizeof(number));
    Coordinates t = __builtin_convertvector((residual * twice).v, Coordinates);
    memcpy(out.t[0] + k, &t, sizeof(t));
    for (int square = 1; square <= kSquares; ++square) {
      t *= t;
      memcpy(out.t[square] + k, &t, sizeof(t));
    }
  }
}

template <class T>
void smooth_bins(const SmoothGrid& grid, const T* scores, int64_t begin, int64_t end,
                 int32_t* bins) {
  for (int64_t j = begin; j < end; j += kSmoothBlock) {
    const int64_t size = end - j < kSmoothBlock ? end - j : kSmoothBlock;
    Located<double> at;
    locate<0>(grid, scores + j, size, at);
    memcpy(bins + j, at.bins, size * sizeof(int32_t));
  }
}

// The smallest and the largest score; count > 0.
template <class T>
void score_range(const T* x, int64_t count, T* range) {
  using V = Vec<T>;
  V low(x[0]), high(x[0]);
  for (int64_t j = 0; j < count; j += V::kLanes) {
    const int64_t left = count - j;
    const V y = left >= V::kLanes ? V::load(x + j) : V::load_partial(x + j, left, x[0]);
    low = select(greater(low, y), y, low);
    high = select(greater(y, high), y, high);
  }
  T lows[V::kLanes], highs[V::kLanes];
  low.store(lows);
  high.store(highs);
  range[0] = lows[0];
  range[1] = highs[0];
  for (int k = 1; k < V::kLanes; ++k) {
    range[0] = lows[k] < range[0] ? lows[k] : range[0];
    range[1] = highs[k] > range[1] ? highs[k] : range[1];
  }
}

// x, times *factor in the lanes whose number has the bit.
template <int kBit, class T>
XRISK_HD Vec<T> times_in_lanes(Vec<T> x, const T* factor) {
#if XRISK_VECTOR_BYTES == 64
  constexpr int kLanes[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
  if constexpr (sizeof(T) == sizeof(float)) {
    const __m512 v(x.v);
    return Vec<T>(
        typename Vec<T>::Native(_mm512_mask_mul_ps(v, kLanes[kBit], v, _mm512_set1_ps(*factor))));
  } else {
    const __m512d v(x.v);
    return Vec<T>(typename Vec<T>::Native(
        _mm512_mask_mul_pd(v, kLanes[kBit] & 0xff, v, _mm512_set1_pd(*factor))));
  }
#else
  using Lane = std::conditional_t<sizeof(T) == sizeof(int32_t), int32_t, int64_t>;
  static constexpr Lane kBits[3][8] = {
      {0, -1, 0, -1, 0, -1, 0, -1}, {0, 0, -1, -1, 0, 0, -1, -1}, {0, 0, 0, 0, -1, -1, -1, -1}};
  typename Vec<T>::Mask mask;
  memcpy(&mask.bits, kBits[kBit], sizeof(mask.bits));
  return x * select(mask, Vec<T>(*factor), Vec<T>(T(1)));
#endif
}

// first * t^(lane mod kTerms) in the first register, and what follows in kTerms / lanes - 1 others.
template <int kTerms, class T>
struct Powers {
  using V = Vec<T>;
  static constexpr int kVectors = kTerms > V::kLanes ? kTerms / V::kLanes : 1;
  static constexpr int kFirst = kTerms < V::kLanes ? kTerms : V::kLanes;  // different ones in it
  static constexpr int kSquares = kTerms > 8 ? 3 : 2;  // needed: up to t^8 or t^4
  V p[kVectors];

  XRISK_HD Powers(const T* t, const T* t2, const T* t4, const T* t8, V first) {
    p[0] = times_in_lanes<0>(first, t);
    if constexpr (kFirst >= 4) p[0] = times_in_lanes<1>(p[0], t2);
    if constexpr (kFirst >= 8) p[0] = times_in_lanes<2>(p[0], t4);
    if constexpr (kFirst >= 16) p[0] = times_in_lanes<3>(p[0], t8);
    const V next(kFirst == 2 ? *t2 : kFirst == 4 ? *t4 : *t8);  // t^kFirst
    for (int v = 1; v < kVectors; ++v) p[v] = p[v - 1] * next;
  }
  XRISK_HD Powers(const Located<T>& at, int64_t k, V first)
      : Powers(at.t[0] + k, at.t[1] + k, at.t[2] + k, at.t[kSquares] + k, first) {}
  XRISK_HD explicit Powers(T t) {
    const T t2 = t * t, t4 = t2 * t2, t8 = t4 * t4;
    *this = Powers(&t, &t2, &t4, &t8, V(T(1)));
  }
};

// slots: the bins' places among the occupied ones, per score; null: the bins themselves. Scores in
// the same bin would wait for each other: where bins are few, every kCopies-th has copies of its
// own.
template <class T>
void smooth_moments(const SmoothGrid& grid, const T* scores, const T* weights, const int32_t* slots,
                    int64_t begin, int64_t end, int64_t bins, double* moments) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kSquares = Powers<kTerms, double>::kSquares;
  constexpr int64_t kCopies = 4, kFewBins = 64;
  const bool few = bins <= kFewBins && end - begin >= 4 * bins;
  const int64_t size = bins * kTerms;
  alignas(64) double others[(kCopies - 1) * kFewBins * kTerms];
  double* copies[kCopies] = {moments, moments, moments, moments};
  for (int64_t c = 1; few && c < kCopies; ++c) {
    copies[c] = others + (c - 1) * size;
    memset(copies[c], 0, size * sizeof(double));
  }
  for (int64_t j = begin; j < end; j += kSmoothBlock) {
    const int64_t count = end - j < kSmoothBlock ? end - j : kSmoothBlock;
    Located<double> at;
    locate<kSquares>(grid, scores + j, count, at);
    const int32_t* places = slots == nullptr ? at.bins : slots + j;
    double weight[kSmoothBlock];
    for (int64_t k = 0; weights != nullptr && k < count; ++k) {
      weight[k] = static_cast<double>(weights[j + k]);
    }
    const auto add = [&](int64_t k, double* copy) {
      const Powers<kTerms, double> powers(at, k, D(weights == nullptr ? 1.0 : weight[k]));
      double* m = copy + static_cast<int64_t>(places[k]) * kTerms;
      for (int v = 0; v < powers.kVectors; ++v) {
        (D::load(m + v * D::kLanes) + powers.p[v]).store(m + v * D::kLanes);
      }
    };
    int64_t k = 0;
    for (; k + kCopies <= count; k += kCopies) {
      for (int64_t c = 0; c < kCopies; ++c) add(k + c, copies[c]);
    }
    for (; k < count; ++k) add(k, moments);
  }
  for (int64_t c = 1; few && c < kCopies; ++c) {
    for (int64_t l = 0; l < size; ++l) moments[l] += copies[c][l];
  }
}

// Sums of neighbouring lanes: {a0 + a1, a2 + a3, .., b0 + b1, ..}.
template <class T>
XRISK_HD Vec<T> pair_sums(Vec<T> a, Vec<T> b) {
  constexpr int kLanes = Vec<T>::kLanes;
  if constexpr (kLanes == 2) {
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 0, 2) +
                  __builtin_shufflevector(a.v, b.v, 1, 3));
  } else if constexpr (kLanes == 4) {
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6) +
                  __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7));
  } else if constexpr (kLanes == 8) {
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6, 8, 10, 12, 14) +
                  __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7, 9, 11, 13, 15));
  } else {
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24,
                                          26, 28, 30) +
                  __builtin_shufflevector(a.v, b.v, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25,
                                          27, 29, 31));
  }
}

// The polynomials of a block of scores; only those that are wanted.
template <bool kValues, class T>
XRISK_HD void evaluate_block(const T* local, const int32_t* places, const Located<T>& at,
                             int64_t count, T* values, T* slopes) {
  using V = Vec<T>;
  constexpr int kTerms = SmoothFit<T>::kTerms, kLanes = V::kLanes;
  constexpr bool kWide = kLanes > kTerms;  // both polynomials of a score in one register
  constexpr int kResults = kValues || kWide ? 2 : 1;
  constexpr int kScores = kLanes / kResults;          // at once
  constexpr int kSummands = kWide ? kTerms : kLanes;  // registers that become one
  for (int64_t k = 0; k < count; k += kScores) {
    V a[kSummands];
    for (int s = 0; s < kScores; ++s) {
      const int64_t i = k + s < count ? k + s : count - 1;
      const Powers<kTerms, T> powers(at, i, V(T(1)));
      const T* both = local + static_cast<int64_t>(places[i]) * 2 * kTerms;
      if constexpr (kWide) {
        a[s] = powers.p[0] * V::load(both);
      } else {
        for (int r = 0; r < kResults; ++r) {
          const T* one = both + (kResults == 1 ? kTerms : r * kTerms);
          V total = powers.p[0] * V::load(one);
          for (int v = 1; v < powers.kVectors; ++v) {
            total = total + powers.p[v] * V::load(one + v * kLanes);
          }
          a[s * kResults + r] = total;
        }
      }
    }
    for (int width = kSummands / 2; width > 0; width /= 2) {
      for (int s = 0; s < width; ++s) a[s] = pair_sums(a[2 * s], a[2 * s + 1]);
    }
    T lanes[kLanes];
    a[0].store(lanes);
    for (int s = 0; s < kScores; ++s) {
      if constexpr (kValues) values[k + s] = lanes[2 * s];
      slopes[k + s] = lanes[kResults * (s + 1) - 1];
    }
  }
}

// The same where all bins have a lane: the coefficients of 16 scores are one permutation of a
// register or two, and nothing is summed across lanes.
constexpr int64_t kLaneBins = XRISK_VECTOR_BYTES == 64 ? 32 : 0;

// table: [2 (value, slope), terms, kLaneBins]
template <class T>
XRISK_HD void fill_lanes(const T* local, int64_t bins, T* table) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  for (int64_t k = 0; k < bins; ++k) {
    for (int l = 0; l < 2 * kTerms; ++l) table[l * kLaneBins + k] = local[k * 2 * kTerms + l];
  }
}

template <bool kValues>
XRISK_HD void evaluate_lanes(const float* table, const int32_t* places, const Located<float>& at,
                             int64_t count, float* values, float* slopes) {
#if XRISK_VECTOR_BYTES == 64
  constexpr int kTerms = SmoothFit<float>::kTerms;
  for (int64_t k = 0; k < count; k += 16) {
    const __m512i index = _mm512_loadu_si512(places + k);
    const __m512 t = _mm512_loadu_ps(at.t[0] + k);
    const auto polynomial = [&](const float* coefficients) {
      const auto coefficient = [&](int l) {
        const float* row = coefficients + l * kLaneBins;
        return _mm512_permutex2var_ps(_mm512_loadu_ps(row), index, _mm512_loadu_ps(row + 16));
      };
      __m512 total = coefficient(kTerms - 1);
      for (int l = kTerms - 2; l >= 0; --l) total = _mm512_fmadd_ps(total, t, coefficient(l));
      return total;
    };
    if constexpr (kValues) _mm512_storeu_ps(values + k, polynomial(table));
    _mm512_storeu_ps(slopes + k, polynomial(table + kTerms * kLaneBins));
  }
#else
  (void)table, (void)places, (void)at, (void)count, (void)values, (void)slopes;
#endif
}

// f(at, values, slopes) of the polynomials of scores [begin, end), block by block.
template <bool kValues, class T, class F>
XRISK_HD void for_polynomials(const SmoothGrid& grid, const T* local, int64_t bins, const T* scores,
                              const int32_t* slots, int64_t begin, int64_t end, F&& f) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  constexpr bool kHasLanes = kLaneBins > 0 && sizeof(T) == sizeof(float);
  alignas(64) T table[kHasLanes ? 2 * kTerms * kLaneBins : 1];
  const bool lanes = kHasLanes && bins <= kLaneBins;
  if constexpr (kHasLanes) {
    if (lanes) fill_lanes(local, bins, table);
  }
  for (int64_t j = begin; j < end; j += kSmoothBlock) {
    const int64_t count = end - j < kSmoothBlock ? end - j : kSmoothBlock;
    Located<T> at;
    T values[kSmoothBlock + Vec<T>::kLanes], slopes[kSmoothBlock + Vec<T>::kLanes];
    locate<Powers<kTerms, T>::kSquares>(grid, scores + j, count, at);
    const int32_t* places = slots == nullptr ? at.bins : slots + j;
    if constexpr (kHasLanes) {
      if (lanes) evaluate_lanes<kValues>(table, places, at, count, values, slopes);
    }
    if (!lanes) evaluate_block<kValues>(local, places, at, count, values, slopes);
    f(j, count, values, slopes);
  }
}

// Sums and slopes of anchors [begin, end), the latter times `scale`; the first is sums[0].
template <class T>
void smooth_rows(const SmoothGrid& grid, const T* local, int64_t bins, const T* scores,
                 const int32_t* slots, double scale, int64_t begin, int64_t end, T* sums,
                 T* slopes) {
  for_polynomials<true>(grid, local, bins, scores, slots, begin, end,
                        [&](int64_t j, int64_t count, const T* values, const T* derivatives) {
                          for (int64_t k = 0; k < count; ++k) {
                            sums[j - begin + k] = values[k];
                            slopes[j - begin + k] =
                                static_cast<T>(scale * static_cast<double>(derivatives[k]));
                          }
                        });
}

// Items [begin, end): out (+)= weight * scale * slope; weights may be null.
template <class T>
void smooth_columns(const SmoothGrid& grid, const T* local, int64_t bins, const T* scores,
                    const T* weights, const int32_t* slots, double scale, bool add, int64_t begin,
                    int64_t end, T* out) {
  const T factor = static_cast<T>(scale);
  for_polynomials<false>(grid, local, bins, scores, slots, begin, end,
                         [&](int64_t j, int64_t count, const T*, const T* slopes) {
                           for (int64_t k = 0; k < count; ++k) {
                             T slope = slopes[k] * factor;
                             if (weights != nullptr) slope = slope * weights[j + k];
                             out[j + k] = add ? out[j + k] + slope : slope;
                           }
                         });
}

}  // namespace xrisk::cpu::XRISK_ISA
