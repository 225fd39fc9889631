// The translation of the smooth algorithm, between the streaming halves of cpu/smooth_inl.h.
//
//   local[k] = sum over bins c in reach of m[c] . table[c - k], and what lies beyond
//
// Mapping: the terms of a target across the lanes; a few targets at a time, each with the source at
// the same distance, so that a row of a table is read once for all of them. Scattered bins have no
// such neighbours and go one by one. Bytes: 48 kB of tables (200 for double), 64 and 64 a bin.
#pragma once

#include "cpu/smooth_grid.h"
#include "cpu/sums_inl.h"

namespace xrisk::cpu::XRISK_ISA {

// {value, slope} of kTargets neighbouring bins. One target alone has two sums of everything, or
// each product would wait for the one before.
template <int kTerms, int kTargets, bool kValues>
struct LocalSums {
  static constexpr int kVectors = kTerms / D::kLanes, kParts = kTargets == 1 ? 2 : 1;
  static constexpr int kFirst = kValues ? 0 : 1;
  D sums[2][kTargets][kParts][kVectors];

  XRISK_HD LocalSums() {
    for (auto& result : sums) {
      for (auto& target : result) {
        for (auto& part : target) {
          for (D& sum : part) sum = D(0.0);
        }
      }
    }
  }
  // sources: the moments that each target gets; tables: {value, slope} for their distance.
  XRISK_HD void add(const double* const* sources, const double* const* tables) {
    for (int l = 0; l < kTerms; ++l) {
      D moments[kTargets];
      for (int t = 0; t < kTargets; ++t) moments[t] = D(sources[t][l]);
      for (int which = kFirst; which < 2; ++which) {
        for (int v = 0; v < kVectors; ++v) {
          const D row = D::load(tables[which] + l * kTerms + v * D::kLanes);
          for (int t = 0; t < kTargets; ++t) {
            D& sum = sums[which][t][l % kParts][v];
            sum = sum + moments[t] * row;
          }
        }
      }
    }
  }
  XRISK_HD void store(int target, double (&out)[2][kTerms]) const {
    for (int which = 0; which < 2; ++which) {
      for (int v = 0; v < kVectors; ++v) {
        D total = sums[which][target][0][v];
        for (int part = 1; part < kParts; ++part) total = total + sums[which][target][part][v];
        total.store(out[which] + v * D::kLanes);
      }
    }
  }
};

// Adds what lies beyond the reach of bin k, and writes its polynomials.
template <class T>
XRISK_HD void finish_local(const SmoothTranslation& call, int sign, int64_t k,
                           double (&sums)[2][SmoothFit<T>::kTerms], T* local) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  constexpr double kWidth = SmoothFit<T>::kWidth;
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

template <bool kValues, class T>
XRISK_HD void translate_line(const SmoothTranslation& call, int sign, int64_t begin, int64_t end,
                             T* local) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kSquare = kTerms * kTerms;
  constexpr int64_t kReach = SmoothFit<T>::kReach;
  // As many targets as leave their sums in registers.
  constexpr int kWide = kValues ? 4 : 8, kNarrow = kTerms == 8 ? kWide / 2 : 1;
  constexpr int kTargets = XRISK_VECTOR_BYTES == 64   ? kWide
                           : XRISK_VECTOR_BYTES == 32 ? kNarrow
                                                      : 1;
  static constexpr double kNothing[kTerms] = {};
  for (int64_t k = begin; k < end; k += kTargets) {
    LocalSums<kTerms, kTargets, kValues> sums;
    const int64_t low = k > kReach ? -kReach : -(k + kTargets - 1);  // distances of the sources
    const int64_t high = call.bins - k > kReach ? kReach : call.bins - 1 - k;
    for (int64_t apart = low < -kReach ? -kReach : low; apart <= high; ++apart) {
      const double* sources[kTargets];
      bool any = false;
      for (int t = 0; t < kTargets; ++t) {
        const int64_t c = k + t + apart;
        const bool filled = c >= 0 && c < call.bins && call.filled[c] != 0;
        sources[t] = filled ? call.moments + c * kTerms : kNothing;
        any |= filled;
      }
      if (!any) continue;
      const int64_t offset = (apart + kReach) * kSquare;
      const double* tables[2] = {kValues ? call.value_table + offset : nullptr,
                                 call.slope_table + offset};
      sums.add(sources, tables);
    }
    for (int t = 0; t < kTargets && k + t < end; ++t) {
      double out[2][kTerms];
      sums.store(t, out);
      finish_local(call, sign, k + t, out, local);
    }
  }
}

template <bool kValues, class T>
XRISK_HD void translate_scattered(const SmoothTranslation& call, int sign, int64_t begin,
                                  int64_t end, T* local) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kSquare = kTerms * kTerms;
  constexpr int kReach = SmoothFit<T>::kReach;
  const double* positions = call.positions;
  int64_t low = begin, high = begin;  // the bins in reach
  while (low > 0 && positions[begin] - positions[low - 1] <= kReach) --low;
  for (int64_t k = begin; k < end; ++k) {
    while (positions[k] - positions[low] > kReach) ++low;
    while (high < call.bins && positions[high] - positions[k] <= kReach) ++high;
    LocalSums<kTerms, 1, kValues> sums;
    for (int64_t c = low; c < high; ++c) {
      if (!call.filled[c]) continue;
      const int64_t offset = (static_cast<int64_t>(positions[c] - positions[k]) + kReach) * kSquare;
      const double* sources[1] = {call.moments + c * kTerms};
      const double* tables[2] = {kValues ? call.value_table + offset : nullptr,
                                 call.slope_table + offset};
      sums.add(sources, tables);
    }
    double out[2][kTerms];
    sums.store(0, out);
    finish_local(call, sign, k, out, local);
  }
}

// Bins [begin, end). local: [bins, 2 (value, slope), terms]. `sign` is 1 where pair terms grow with
// the sources' scores (rows), -1 in the columns.
template <class T>
void smooth_translate(const SmoothTranslation& call, int sign, int64_t begin, int64_t end,
                      T* local) {
  const auto run = [&](auto values) {
    constexpr bool kValues = decltype(values)::value;
    if (call.positions != nullptr) {
      translate_scattered<kValues>(call, sign, begin, end, local);
    } else {
      translate_line<kValues>(call, sign, begin, end, local);
    }
  };
  if (call.value_table != nullptr) {
    run(std::true_type());
  } else {
    run(std::false_type());
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
