// The streaming halves of the smooth algorithm, and the translation between them.
//
//   moments:   m[bin_j] += w_j {1, t_j, .., t_j^(q-1)}
//   translate: local[k] = sum over bins c in reach of m[c] . table[c - k], and what lies beyond
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

// Bin (relative to the first) and local coordinate of at most kSmoothBlock scores.
template <class T>
XRISK_HD void locate(const SmoothGrid& grid, const T* scores, int64_t count, int32_t* bins,
                     double* t) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  typedef int32_t Narrow __attribute__((vector_size(D::kLanes * sizeof(int32_t))));
  const D inverse(grid.inverse_width), twice(2.0 * grid.inverse_width);
  const D high(grid.width_high), low(grid.width_low), first(grid.first), magic(kMagic);
  for (int64_t k = 0; k < count; k += D::kLanes) {
    const D y = widen(scores + k, count - k, scores[k]);
    const D bin = (rounded(y * inverse) + magic) - magic;  // everywhere the same
    const D residual = (y - bin * high) - bin * low;
    const Narrow number = __builtin_convertvector((bin - first).v, Narrow);
    memcpy(bins + k, &number, sizeof(number));
    (residual * twice).store(t + k);
  }
}

template <class T>
void smooth_bins(const SmoothGrid& grid, const T* scores, int64_t begin, int64_t end,
                 int32_t* bins) {
  for (int64_t j = begin; j < end; j += kSmoothBlock) {
    const int64_t size = end - j < kSmoothBlock ? end - j : kSmoothBlock;
    int32_t numbers[kSmoothBlock];
    double t[kSmoothBlock];
    locate(grid, scores + j, size, numbers, t);
    memcpy(bins + j, numbers, size * sizeof(int32_t));
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

// All ones in the lanes whose number has the bit.
template <class T>
XRISK_HD typename Vec<T>::Mask lanes_with_bit(int bit) {
  using Lane = std::conditional_t<sizeof(T) == sizeof(int32_t), int32_t, int64_t>;
  static constexpr Lane kBits[4][16] = {{0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1},
                                        {0, 0, -1, -1, 0, 0, -1, -1, 0, 0, -1, -1, 0, 0, -1, -1},
                                        {0, 0, 0, 0, -1, -1, -1, -1, 0, 0, 0, 0, -1, -1, -1, -1},
                                        {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1}};
  typename Vec<T>::Mask mask;
  memcpy(&mask.bits, kBits[bit], sizeof(mask.bits));
  return mask;
}

// t^(lane mod kTerms) in the first register, and the further powers in kTerms / lanes - 1 others.
template <int kTerms, class T>
struct Powers {
  using V = Vec<T>;
  static constexpr int kVectors = kTerms > V::kLanes ? kTerms / V::kLanes : 1;
  static constexpr int kFirst = kTerms < V::kLanes ? kTerms : V::kLanes;  // different ones in it
  V p[kVectors];

  XRISK_HD explicit Powers(T t) {
    const V one(T(1));
    p[0] = select(lanes_with_bit<T>(0), V(t), one);
    T power = t * t;
    if constexpr (kFirst >= 4) p[0] = p[0] * select(lanes_with_bit<T>(1), V(power), one);
    if constexpr (kFirst >= 4) power *= power;
    if constexpr (kFirst >= 8) p[0] = p[0] * select(lanes_with_bit<T>(2), V(power), one);
    if constexpr (kFirst >= 8) power *= power;
    for (int v = 1; v < kVectors; ++v) p[v] = p[v - 1] * V(power);
  }
};

// slots: the bins' places among the occupied ones, per score; null: the bins themselves.
template <class T>
void smooth_moments(const SmoothGrid& grid, const T* scores, const T* weights, const int32_t* slots,
                    int64_t begin, int64_t end, double* moments) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  for (int64_t j = begin; j < end; j += kSmoothBlock) {
    const int64_t size = end - j < kSmoothBlock ? end - j : kSmoothBlock;
    int32_t bins[kSmoothBlock];
    double t[kSmoothBlock];
    locate(grid, scores + j, size, bins, t);
    const int32_t* places = slots == nullptr ? bins : slots + j;
    for (int64_t k = 0; k < size; ++k) {
      const Powers<kTerms, double> powers(t[k]);
      const D weight(weights == nullptr ? 1.0 : static_cast<double>(weights[j + k]));
      double* m = moments + static_cast<int64_t>(places[k]) * kTerms;
      for (int v = 0; v < powers.kVectors; ++v) {
        (D::load(m + v * D::kLanes) + weight * powers.p[v]).store(m + v * D::kLanes);
      }
    }
  }
}

// Adds moments . table to the local polynomial; two sums, or every product waits for the last.
template <int kTerms>
XRISK_HD void add_translated(const double* moments, const double* table, D* even, D* odd) {
  constexpr int kVectors = kTerms / D::kLanes;
  for (int l = 0; l < kTerms; l += 2) {
    const D a(moments[l]), b(moments[l + 1]);
    for (int v = 0; v < kVectors; ++v) {
      even[v] = even[v] + a * D::load(table + l * kTerms + v * D::kLanes);
      odd[v] = odd[v] + b * D::load(table + (l + 1) * kTerms + v * D::kLanes);
    }
  }
}

// Bins [begin, end). local: [bins, 2 (value, slope), terms]. `sign` is 1 where pair terms grow with
// the sources' scores (rows), -1 in the columns.
template <class T>
void smooth_translate(const SmoothTranslation& call, int sign, int64_t begin, int64_t end,
                      T* local) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kReach = SmoothFit<T>::kReach;
  constexpr int kVectors = kTerms / D::kLanes, kSquare = kTerms * kTerms;
  constexpr double kWidth = SmoothFit<T>::kWidth;
  const double* positions = call.positions;
  int64_t low = begin, high = begin;  // the bins in reach
  for (int64_t k = begin; k < end; ++k) {
    if (positions == nullptr) {
      low = k > kReach ? k - kReach : 0;
      high = k + kReach + 1 < call.bins ? k + kReach + 1 : call.bins;
    } else {
      if (k == begin) {
        while (low > 0 && positions[k] - positions[low - 1] <= kReach) --low;
      }
      while (positions[k] - positions[low] > kReach) ++low;
      while (high < call.bins && positions[high] - positions[k] <= kReach) ++high;
    }
    D even[2][kVectors], odd[2][kVectors];
    for (int v = 0; v < kVectors; ++v) {
      even[0][v] = even[1][v] = odd[0][v] = odd[1][v] = D(0.0);
    }
    for (int64_t c = low; c < high; ++c) {
      if (!call.filled[c]) continue;
      const int64_t apart =
          positions == nullptr ? c - k : static_cast<int64_t>(positions[c] - positions[k]);
      const int64_t offset = (apart + kReach) * kSquare;
      const double* m = call.moments + c * kTerms;
      if (call.value_table != nullptr) {
        add_translated<kTerms>(m, call.value_table + offset, even[0], odd[0]);
      }
      add_translated<kTerms>(m, call.slope_table + offset, even[1], odd[1]);
    }
    double sums[2][kTerms];
    for (int which = 0; which < 2; ++which) {
      for (int v = 0; v < kVectors; ++v) {
        (even[which][v] + odd[which][v]).store(sums[which] + v * D::kLanes);
      }
    }
    if (call.far_weight != nullptr) {
      if (call.value_is_linear) {
        sums[0][0] += kWidth * call.far_distance[k];
        sums[0][1] -= sign * 0.5 * kWidth * call.far_weight[k];
      } else {
        sums[0][0] += call.far_weight[k];
      }
      if (call.slope_is_constant) sums[1][0] += call.far_weight[k];
    }
    if (call.value_table == nullptr) sums[0][0] = sums[0][1] = 0.0;
    T* target = local + k * 2 * kTerms;
    for (int which = 0; which < 2; ++which) {
      for (int l = 0; l < kTerms; ++l) target[which * kTerms + l] = static_cast<T>(sums[which][l]);
    }
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

// The polynomials of a block of scores. results: {value, slope} of each score, or its slope alone.
template <bool kValues, class T>
XRISK_HD void evaluate_block(const T* local, const int32_t* places, const double* t, int64_t count,
                             T* results) {
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
      const Powers<kTerms, T> powers(static_cast<T>(t[i]));
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
    if constexpr (kResults == 2 && !kValues) {
      T lanes[kLanes];
      a[0].store(lanes);
      for (int s = 0; s < kScores; ++s) results[k + s] = lanes[2 * s + 1];
    } else {
      a[0].store(results + k * kResults);
    }
  }
}

// Anchors [begin, end): sums and slopes, the latter times `scale`.
template <class T>
void smooth_rows(const SmoothGrid& grid, const T* local, const T* scores, const int32_t* slots,
                 double scale, int64_t begin, int64_t end, double* sums, double* slopes) {
  for (int64_t j = begin; j < end; j += kSmoothBlock) {
    const int64_t size = end - j < kSmoothBlock ? end - j : kSmoothBlock;
    int32_t bins[kSmoothBlock];
    double t[kSmoothBlock];
    T results[2 * kSmoothBlock + Vec<T>::kLanes];
    locate(grid, scores + j, size, bins, t);
    evaluate_block<true>(local, slots == nullptr ? bins : slots + j, t, size, results);
    for (int64_t k = 0; k < size; ++k) {
      sums[j + k] = static_cast<double>(results[2 * k]);
      slopes[j + k] = scale * static_cast<double>(results[2 * k + 1]);
    }
  }
}

// Items [begin, end): out (+)= weight * scale * slope; weights may be null.
template <class T>
void smooth_columns(const SmoothGrid& grid, const T* local, const T* scores, const T* weights,
                    const int32_t* slots, double scale, bool add, int64_t begin, int64_t end,
                    T* out) {
  const T factor = static_cast<T>(scale);
  for (int64_t j = begin; j < end; j += kSmoothBlock) {
    const int64_t size = end - j < kSmoothBlock ? end - j : kSmoothBlock;
    int32_t bins[kSmoothBlock];
    double t[kSmoothBlock];
    T results[kSmoothBlock + Vec<T>::kLanes];
    locate(grid, scores + j, size, bins, t);
    evaluate_block<false>(local, slots == nullptr ? bins : slots + j, t, size, results);
    for (int64_t k = 0; k < size; ++k) {
      T slope = results[k] * factor;
      if (weights != nullptr) slope = slope * weights[j + k];
      out[j + k] = add ? out[j + k] + slope : slope;
    }
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
