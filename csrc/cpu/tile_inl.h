// Exponentials of a tile of similarities: sums over its rows and columns, and pair weights.
//
//   peak = max s,  mass = sum e^z,  moment = sum e^z z,  z = (s - peak) / temperature
//   weight_ij = w_i exp((s_ij - peak_i) / t_i + shift_i) + the same of the column's anchor
//
// Mapping: rows take one row after the other, columns four vectors of neighbours at a time; each
// twice, for the peak and for the sums. Bytes: the tile twice, from L2. Hazards: e^z z of an
// excluded pair (0 * -inf), and anchors without any pair (peak -inf), which both must give 0; a NaN
// must survive. A row of a tile is short, so its sums stay in T.
#pragma once

#include "cpu/simd.h"
#include "cpu/simd_math.h"
#include "cpu/tile_kernels.h"

namespace xrisk::cpu::XRISK_ISA {

// Exponents stop here: e^z is 0 in float and double, and e^z z with it.
constexpr double kLowestExponent = -1000.0;

template <class T>
XRISK_HD Vec<T> exponent(Vec<T> s, Vec<T> peak, Vec<T> inverse_temperature) {
  const Vec<T> z = (s - peak) * inverse_temperature, low(static_cast<T>(kLowestExponent));
  return select(greater(low, z), low, z);  // keeps a NaN
}

template <class T>
XRISK_HD Vec<T> largest(Vec<T> a, Vec<T> b) {
  return select(greater(a, b), a, b);
}

// What to subtract: the peak, or 0 where there is none.
template <class T>
XRISK_HD Vec<T> finite_peak(Vec<T> peak) {
  return select(greater(peak, Vec<T>(static_cast<T>(-INFINITY))), peak, Vec<T>(T(0)));
}

template <class T>
void row_sums(const Tile<T>& tile, const T* inverse_temperatures, const ExpSums<T, T>& sums) {
  using V = Vec<T>;
  constexpr int64_t kStep = 2 * V::kLanes;
  const T nothing = static_cast<T>(-INFINITY);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const T* s = tile.values + i * tile.stride;
    V high[2] = {V(nothing), V(nothing)};
    int64_t j = 0;
    for (; j + kStep <= tile.columns; j += kStep) {
      high[0] = largest(high[0], V::load(s + j));
      high[1] = largest(high[1], V::load(s + j + V::kLanes));
    }
    for (; j < tile.columns; j += V::kLanes) {
      const int64_t left = tile.columns - j;
      high[0] = largest(high[0],
                        left >= V::kLanes ? V::load(s + j) : V::load_partial(s + j, left, nothing));
    }
    T lanes[V::kLanes];
    largest(high[0], high[1]).store(lanes);
    T peak = lanes[0];
    for (int k = 1; k < V::kLanes; ++k) peak = lanes[k] > peak ? lanes[k] : peak;
    const V shift = finite_peak(V(peak)), inverse(inverse_temperatures[i]);
    V mass[2] = {V(T(0)), V(T(0))}, moment[2] = {V(T(0)), V(T(0))};
    const auto add = [&](int half, V x) {
      const V z = exponent(x, shift, inverse), e = exponential(z);
      mass[half] = mass[half] + e;
      moment[half] = moment[half] + e * z;
    };
    j = 0;
    for (; j + kStep <= tile.columns; j += kStep) {
      add(0, V::load(s + j));
      add(1, V::load(s + j + V::kLanes));
    }
    for (; j < tile.columns; j += V::kLanes) {
      const int64_t left = tile.columns - j;
      add(0, left >= V::kLanes ? V::load(s + j) : V::load_partial(s + j, left, nothing));
    }
    sums.peaks[i] = peak;
    sums.masses[i] = sum(mass[0] + mass[1]);
    sums.moments[i] = sum(moment[0] + moment[1]);
  }
}

// kVectors vectors of columns, of which `left` columns exist.
template <int kVectors, class T>
XRISK_HD void column_group(const Tile<T>& tile, const T* inverse_temperatures, int64_t column,
                           int64_t left, const ExpSums<T, double>& sums) {
  using V = Vec<T>;
  constexpr int kColumns = kVectors * V::kLanes;
  const T nothing = static_cast<T>(-INFINITY);
  const bool whole = left >= kColumns;
  const int64_t count = whole ? kColumns : left;
  const auto load = [&](const T* p, int k, T fill) {
    if (whole) return V::load(p + k * V::kLanes);
    const int64_t rest = count - k * V::kLanes;
    return V::load_partial(p + k * V::kLanes, rest < V::kLanes ? rest : V::kLanes, fill);
  };
  const T* s = tile.values + column;
  V high[kVectors], shift[kVectors], inverse[kVectors], mass[kVectors], moment[kVectors];
  for (int k = 0; k < kVectors; ++k) high[k] = load(sums.peaks + column, k, nothing);
  for (int64_t i = 0; i < tile.rows; ++i) {
    for (int k = 0; k < kVectors; ++k) {
      high[k] = largest(high[k], load(s + i * tile.stride, k, nothing));
    }
  }
  T old_masses[kColumns], old_exponents[kColumns], new_masses[kColumns], new_moments[kColumns];
  for (int k = 0; k < kVectors; ++k) {
    shift[k] = finite_peak(high[k]);
    inverse[k] = load(inverse_temperatures + column, k, T(1));
    mass[k] = moment[k] = V(T(0));
    const V z = exponent(load(sums.peaks + column, k, nothing), shift[k], inverse[k]);
    z.store(old_exponents + k * V::kLanes);
    exponential(z).store(old_masses + k * V::kLanes);
  }
  for (int64_t i = 0; i < tile.rows; ++i) {
    for (int k = 0; k < kVectors; ++k) {
      const V z = exponent(load(s + i * tile.stride, k, nothing), shift[k], inverse[k]);
      const V e = exponential(z);
      mass[k] = mass[k] + e;
      moment[k] = moment[k] + e * z;
    }
  }
  T peaks[kColumns];
  for (int k = 0; k < kVectors; ++k) {
    high[k].store(peaks + k * V::kLanes);
    mass[k].store(new_masses + k * V::kLanes);
    moment[k].store(new_moments + k * V::kLanes);
  }
  for (int64_t k = 0; k < count; ++k) {
    const double factor = static_cast<double>(old_masses[k]);
    const double old = factor * sums.masses[column + k];
    sums.moments[column + k] = factor * sums.moments[column + k] +
                               old * static_cast<double>(old_exponents[k]) +
                               static_cast<double>(new_moments[k]);
    sums.masses[column + k] = old + static_cast<double>(new_masses[k]);
    sums.peaks[column + k] = peaks[k];
  }
}

template <class T>
void column_sums(const Tile<T>& tile, const T* inverse_temperatures,
                 const ExpSums<T, double>& sums) {
  constexpr int kVectors = 4;
  constexpr int64_t kLanes = Vec<T>::kLanes;
  int64_t j = 0;
  for (; j + kVectors * kLanes <= tile.columns; j += kVectors * kLanes) {
    column_group<kVectors>(tile, inverse_temperatures, j, tile.columns - j, sums);
  }
  for (; j < tile.columns; j += kLanes) {
    column_group<1>(tile, inverse_temperatures, j, tile.columns - j, sums);
  }
}

template <class T>
XRISK_HD Vec<T> pair_weight(Vec<T> s, Vec<T> peak, Vec<T> inverse, Vec<T> shift, Vec<T> weight) {
  return weight * exponential((s - peak) * inverse + shift);
}

template <bool kColumns, class T>
XRISK_HD void tile_weights(const Tile<T>& tile, const PairWeights<T>& rows,
                           const PairWeights<T>& columns) {
  using V = Vec<T>;
  const T nothing = static_cast<T>(-INFINITY);
  for (int64_t i = 0; i < tile.rows; ++i) {
    T* s = tile.values + i * tile.stride;
    const V peak(rows.peaks[i]), inverse(rows.inverse_temperatures[i]), shift(rows.shifts[i]),
        weight(rows.weights[i]);
    const auto weigh = [&](V x, int64_t j, auto load) {
      V total = pair_weight(x, peak, inverse, shift, weight);
      if constexpr (kColumns) {
        total =
            total + pair_weight(x, load(columns.peaks + j, T(0)),
                                load(columns.inverse_temperatures + j, T(1)),
                                load(columns.shifts + j, T(0)), load(columns.weights + j, T(0)));
      }
      return total;
    };
    int64_t j = 0;
    for (; j + V::kLanes <= tile.columns; j += V::kLanes) {
      weigh(V::load(s + j), j, [](const T* p, T) { return V::load(p); }).store(s + j);
    }
    const int64_t left = tile.columns - j;
    if (left > 0) {
      const auto load = [left](const T* p, T fill) { return V::load_partial(p, left, fill); };
      weigh(load(s + j, nothing), j, load).store_partial(s + j, left);
    }
  }
}

template <class T>
void weights(const Tile<T>& tile, const PairWeights<T>& rows, const PairWeights<T>* columns) {
  if (columns == nullptr) {
    tile_weights<false>(tile, rows, rows);
  } else {
    tile_weights<true>(tile, rows, *columns);
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
