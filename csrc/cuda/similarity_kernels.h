// Kernels on a block of similarities s [rows, columns], between the products around them.
//
//   row_sums:    per row,    peak = max s, mass = sum e^z, moment = sum e^z z, z = (s - peak) / t
//   column_sums: per column, the same
//   weights:     s <- w_i exp((s - peak_i) / t_i + shift_i) + the same of column j
//
// Mapping: rows take a thread block each, columns 32 a thread block with kStrips threads to a
// column; a row or column of the block belongs to one thread block, which merges it into what
// earlier blocks left, so that sums are added in one fixed order. Bytes: the block twice (sums) or
// once each way (weights), from L2. Hazards: as cpu/tile_inl.h.
#pragma once

#include <cmath>

#include "cuda/block.h"
#include "cuda/platform.h"
#include "cuda/similarity.h"

namespace xrisk::cuda {

// Exponents stop here: e^z is 0, and e^z z with it.
template <class T>
__device__ __forceinline__ T exponent(T s, T peak, T inverse) {
  const T z = (s - peak) * inverse;
  return z < T(-1000) ? T(-1000) : z;  // keeps a NaN
}

__device__ __forceinline__ float exponential_of(float z) { return expf(z); }
__device__ __forceinline__ double exponential_of(double z) { return exp(z); }

template <class T>
__device__ __forceinline__ T finite_peak(T peak) {
  return peak == static_cast<T>(-INFINITY) ? T(0) : peak;
}

// Adds the sums of one block to those of earlier ones.
template <class T>
__device__ __forceinline__ void merge_sums(const ExpSums<T>& sums, int64_t anchor, double inverse,
                                           T peak, double mass, double moment) {
  const T old = sums.peaks[anchor], highest = old > peak ? old : peak;
  double total = 0.0, total_moment = 0.0;
  const auto add = [&](T part_peak, double part, double part_moment) {
    if (part == 0.0) return;
    const double z = (static_cast<double>(part_peak) - static_cast<double>(highest)) * inverse;
    const double factor = z == 0.0 ? 1.0 : exp(z);
    total += factor * part;
    total_moment += factor * (part_moment + part * z);
  };
  add(old, sums.masses[anchor], sums.moments[anchor]);
  add(peak, mass, moment);
  sums.peaks[anchor] = highest;
  sums.masses[anchor] = total;
  sums.moments[anchor] = total_moment;
}

template <class T>
__global__ void clear_sums_kernel(ExpSums<T> sums, int64_t count) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= count) return;
  sums.peaks[k] = static_cast<T>(-INFINITY);
  sums.masses[k] = sums.moments[k] = 0.0;
}

// A thread a row; what it leaves out of the block becomes -inf.
template <class T>
__global__ void exclude_kernel(const int64_t* exclude, int64_t exclusions, int64_t row,
                               int64_t rows, int64_t column, int64_t columns, T* s) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  for (int64_t e = 0; e < exclusions; ++e) {
    const int64_t j = exclude[(row + i) * exclusions + e] - column;
    if (j >= 0 && j < columns) s[i * columns + j] = static_cast<T>(-INFINITY);
  }
}

template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    row_sums_kernel(const T* s, int64_t row, int64_t columns, const T* inverses, ExpSums<T> sums) {
  const int64_t i = blockIdx.x;
  const T* mine = s + i * columns;
  T high = static_cast<T>(-INFINITY);
  for (int64_t j = threadIdx.x; j < columns; j += kBlock) high = mine[j] > high ? mine[j] : high;
  const T peak = block_max<kBlock>(high, static_cast<T>(-INFINITY));
  const T shift = finite_peak(peak), inverse = inverses[row + i];
  T mass = T(0), moment = T(0);
  for (int64_t j = threadIdx.x; j < columns; j += kBlock) {
    const T z = exponent(mine[j], shift, inverse), e = exponential_of(z);
    mass += e;
    moment += e * z;
  }
  const double total = block_sum<kBlock>(static_cast<double>(mass));
  const double total_moment = block_sum<kBlock>(static_cast<double>(moment));
  if (threadIdx.x != 0) return;
  merge_sums(sums, row + i, static_cast<double>(inverse), peak, total, total_moment);
}

template <int kStrips, class T>
__global__ void __launch_bounds__(32 * kStrips)
    column_sums_kernel(const T* s, int64_t rows, int64_t column, int64_t columns, const T* inverses,
                       ExpSums<T> sums) {
  XRISK_SHARED(T, highs, [kStrips][32]);
  XRISK_SHARED(double, masses, [kStrips][32]);
  XRISK_SHARED(double, moments, [kStrips][32]);
  const int lane = lane_index(), strip = warp_index();
  const int64_t j = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  const bool mine = j < columns;
  T high = static_cast<T>(-INFINITY);
  for (int64_t i = strip; mine && i < rows; i += kStrips) {
    const T x = s[i * columns + j];
    high = x > high ? x : high;
  }
  highs[strip][lane] = high;
  __syncthreads();
  for (int k = 0; k < kStrips; ++k) high = highs[k][lane] > high ? highs[k][lane] : high;
  const T shift = finite_peak(high), inverse = mine ? inverses[column + j] : T(1);
  T mass = T(0), moment = T(0);
  for (int64_t i = strip; mine && i < rows; i += kStrips) {
    const T z = exponent(s[i * columns + j], shift, inverse), e = exponential_of(z);
    mass += e;
    moment += e * z;
  }
  masses[strip][lane] = static_cast<double>(mass);
  moments[strip][lane] = static_cast<double>(moment);
  __syncthreads();
  if (strip != 0 || !mine) return;
  double total = 0.0, total_moment = 0.0;
  for (int k = 0; k < kStrips; ++k) {
    total += masses[k][lane];
    total_moment += moments[k][lane];
  }
  merge_sums(sums, column + j, static_cast<double>(inverse), high, total, total_moment);
}

template <class T>
__device__ __forceinline__ T pair_weight(T s, const PairWeights<T>& of, int64_t anchor) {
  return of.weights[anchor] *
         exponential_of((s - of.peaks[anchor]) * of.inverse_temperatures[anchor] +
                        of.shifts[anchor]);
}

// A thread an element; a grid row a row.
template <class T>
__global__ void weights_kernel(int64_t row, int64_t column, int64_t columns, PairWeights<T> rows,
                               PairWeights<T> others, T* s) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t i = blockIdx.y;
  if (j >= columns) return;
  const T x = s[i * columns + j];
  T weight = pair_weight(x, rows, row + i);
  if (others.weights != nullptr) weight += pair_weight(x, others, column + j);
  s[i * columns + j] = weight;
}

template <class T>
__global__ void inverse_temperatures_kernel(const double* temperatures, bool per_anchor,
                                            int64_t count, T* out) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k < count) out[k] = static_cast<T>(1.0 / temperatures[per_anchor ? k : 0]);
}

// A thread an anchor.
template <class T>
__global__ void log_means_kernel(Similarities<T> problem, const T* inverses, ExpSums<T> sums,
                                 T* log_means, T* exponents, T* masses) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= problem.rows) return;
  int64_t kept = problem.columns;
  const int64_t* exclude = problem.exclude + i * problem.exclusions;
  for (int64_t e = 0; e < problem.exclusions; ++e) {
    bool fresh = exclude[e] >= 0 && exclude[e] < problem.columns;
    for (int64_t k = 0; k < e; ++k) fresh = fresh && exclude[k] != exclude[e];
    kept -= fresh ? 1 : 0;
  }
  const double mass = sums.masses[i];
  const bool none = mass == 0.0;
  if (none) sums.peaks[i] = T(0);
  const double peak = static_cast<double>(sums.peaks[i]) * static_cast<double>(inverses[i]);
  log_means[i] = static_cast<T>(none ? -INFINITY : peak + log(mass / static_cast<double>(kept)));
  exponents[i] = static_cast<T>(none ? 0.0 : peak + sums.moments[i] / mass);
  masses[i] = static_cast<T>(mass);
}

template <class T>
__global__ void log_mean_weights_kernel(const T* upstream, const T* inverses, const T* masses,
                                        int64_t count, T* weights, T* shifts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  weights[i] = masses[i] == T(0) ? T(0) : upstream[i] * inverses[i] / masses[i];
  shifts[i] = T(0);
}

}  // namespace xrisk::cuda
