// Direct rows and columns of the partial AUC step.
//
//   rows:    sums_i = sum_j w_j term(y_j - x_i), slopes_i with its slope, above_i its indicator
//   columns: out_j  = w_j sum_i a_i slope(y_j - x_i)
//
// Mapping: rows, a warp keeps two anchors against tiles of items in shared memory, its lanes
// stride over the tile; columns, four lanes an item against tiles of anchors. Few anchors or items
// a block: 410 against 4096 must reach more than a dozen multiprocessors. grid.y = labels. Bytes:
// the items once per block of anchors. Hazard: long float sums; a lane's part of a tile is summed
// in T, the tiles in double, in one order.
#pragma once

#include "core/pair_term.h"
#include "cuda/block.h"
#include "cuda/partial_pairs.h"

namespace xrisk::cuda {

template <class T, class Phi>
struct PartialTerm {
  Phi phi;
  PairKind kind;
  T inverse_temperature;

  __device__ __forceinline__ void operator()(T d, T shift, T& value, T& slope, T& above) const {
    above = T(0);
    if (kind == PairKind::kExponential) {
      ExponentialTerm<T, Phi>{phi, inverse_temperature}(d, shift, value, slope);
    } else if (kind == PairKind::kThreshold) {
      T ignored;
      ExcessTerm<T, Phi>{phi}(d, shift, value, slope);
      AboveTerm<T, Phi>{phi}(d, shift, above, ignored);
    } else {
      phi(d, value, slope);
    }
  }
};

template <Surrogate kKind, class T>
__device__ __forceinline__ auto make_partial_term(double margin, const double* scale, PairKind kind,
                                                  const double* temperature) {
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{margin, *scale});
  const T inverse = kind == PairKind::kExponential ? static_cast<T>(1.0 / *temperature) : T(0);
  return PartialTerm<T, std::decay_t<decltype(phi)>>{phi, kind, inverse};
}

// A warp: kAnchors anchors against `count` items. out[a] += {value, slope, above} in every lane.
template <int kAnchors, class T, class Term>
__device__ __forceinline__ void add_rows(const Term& term, const T* x, const T* shift,
                                         const T* scores, const T* weights, int count,
                                         double (*out)[3]) {
  T sums[kAnchors][3] = {};
  for (int j = lane_index(); j < count; j += 32) {
    const T weight = weights[j];
    if (weight == T(0)) continue;  // 0 times inf is not 0
    const T y = scores[j];
#pragma unroll
    for (int a = 0; a < kAnchors; ++a) {
      T value, slope, above;
      term(y - x[a], shift[a], value, slope, above);
      sums[a][0] += weight * value;
      sums[a][1] += weight * slope;
      sums[a][2] += weight * above;
    }
  }
#pragma unroll
  for (int a = 0; a < kAnchors; ++a) {
    for (int k = 0; k < 3; ++k) out[a][k] += static_cast<double>(sums[a][k]);
  }
}

// sum_i a_i slope(y - x_i) over every `stride`-th of `count` anchors.
template <class T, class Term>
__device__ __forceinline__ double column_of(const Term& term, T y, const T* x, const T* shifts,
                                            const T* weights, int first, int stride, int count) {
  T sum = T(0);
  for (int i = first; i < count; i += stride) {
    T value, slope, above;
    term(y - x[i], shifts[i], value, slope, above);
    sum += weights[i] * slope;
  }
  return static_cast<double>(sum);
}

constexpr int kRowAnchors = 2;   // of a warp
constexpr int kColumnLanes = 4;  // of an item

template <int kThreads, int kTile, Surrogate kKind, class T>
__global__ void __launch_bounds__(kThreads) partial_rows_kernel(PartialPairs<T> call) {
  XRISK_SHARED(T, scores, [kTile]);
  XRISK_SHARED(T, weights, [kTile]);
  const int label = static_cast<int>(blockIdx.y), t = static_cast<int>(threadIdx.x);
  const int64_t row = static_cast<int64_t>(label) * call.batch;
  const int64_t live = call.live[label];
  const int64_t block_first = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) * kRowAnchors;
  if (block_first >= live) return;  // the whole block
  const int64_t first = block_first + warp_index() * kRowAnchors;
  const auto term =
      make_partial_term<kKind, T>(call.margin, call.scale, call.kind, call.temperature);
  T x[kRowAnchors], shift[kRowAnchors];
  double out[kRowAnchors][3] = {};
  for (int a = 0; a < kRowAnchors; ++a) {
    const int64_t i = row + (first + a < live ? first + a : block_first);
    x[a] = call.anchors[i];
    shift[a] = static_cast<T>(call.shifts[i]);
  }
  for (int64_t tile = 0; tile < call.batch; tile += kTile) {
    const int size = static_cast<int>(call.batch - tile < kTile ? call.batch - tile : kTile);
    __syncthreads();  // the tile before may still be read
    for (int k = t; k < size; k += kThreads) {
      scores[k] = call.items[row + tile + k];
      weights[k] = call.item_weights[row + tile + k];
    }
    __syncthreads();
    add_rows<kRowAnchors>(term, x, shift, static_cast<const T*>(scores),
                          static_cast<const T*>(weights), size, out);
  }
  for (int a = 0; a < kRowAnchors; ++a) {
    double total[3];
    for (int k = 0; k < 3; ++k) total[k] = warp_sum(out[a][k]);
    if (lane_index() != 0 || first + a >= live) continue;
    call.sums[row + first + a] = total[0];
    call.slopes[row + first + a] = total[1];
    call.above[row + first + a] = total[2];
  }
}

template <int kThreads, int kTile, Surrogate kKind, class T>
__global__ void __launch_bounds__(kThreads) partial_columns_kernel(PartialPairs<T> call) {
  XRISK_SHARED(T, anchors, [kTile]);
  XRISK_SHARED(T, shifts, [kTile]);
  XRISK_SHARED(T, weights, [kTile]);
  const int label = static_cast<int>(blockIdx.y), t = static_cast<int>(threadIdx.x);
  const int64_t row = static_cast<int64_t>(label) * call.batch;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * (kThreads / kColumnLanes) + t / kColumnLanes;
  const int lane = t % kColumnLanes;
  const T weight = j < call.batch ? call.item_weights[row + j] : T(0);
  const T y = j < call.batch ? call.items[row + j] : T(0);
  const auto term =
      make_partial_term<kKind, T>(call.margin, call.scale, call.kind, call.temperature);
  double sum = 0.0;
  const int64_t live = call.live[label];
  for (int64_t tile = 0; tile < live; tile += kTile) {
    const int size = static_cast<int>(live - tile < kTile ? live - tile : kTile);
    __syncthreads();  // the tile before may still be read
    for (int k = t; k < size; k += kThreads) {
      anchors[k] = call.anchors[row + tile + k];
      shifts[k] = static_cast<T>(call.shifts[row + tile + k]);
      weights[k] = static_cast<T>(call.column_weights[row + tile + k]);
    }
    __syncthreads();
    if (weight == T(0)) continue;
    sum += column_of(term, y, static_cast<const T*>(anchors), static_cast<const T*>(shifts),
                     static_cast<const T*>(weights), lane, kColumnLanes, size);
  }
#pragma unroll
  for (int distance = kColumnLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kWholeWarp, sum, distance);
  }
  if (lane == 0 && j < call.batch) {
    call.columns[row + j] = static_cast<T>(sum * static_cast<double>(weight));
  }
}

}  // namespace xrisk::cuda
