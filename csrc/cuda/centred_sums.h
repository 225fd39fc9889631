// Row and column sums of the squared surrogate, O(P + M), from moments of the items about their
// mean:
//   sum_j w_j (m + y_j - x)^2 = m2 + 2 u m1 + u^2 m0, u = centre - (x - m), m_k = sum_j w_j
//   (y_j - centre)^k
// and for the columns from those of the anchors. The centre is weighted by |w|, so with weights of
// one sign m1 vanishes and the two terms that are left have one sign: nothing cancels.
#pragma once

#include "cuda/block.h"
#include "cuda/moments.h"
#include "cuda/pair_by_pair.h"
#include "cuda/pairs.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

// sum_j w_j (p_j - centre)^k; mass = sum_j |w_j|.
struct __align__(8) Centred {
  double centre, mass, m0, m1, m2;
};

template <int kBlockThreads, int kEntriesPerThread>
struct CentredTiles {
  static constexpr int kBlock = kBlockThreads;
  static constexpr int kEntries = kEntriesPerThread;
};

// Moments of one tile about its own centre.
//   Mapping: a block a tile of one row of [segments, channels], kEntries strided entries a thread.
//   Bytes: a score and a weight in an entry. Hazard: see above; two sums over registers.
template <class T, class W, class Shape>
__global__ void __launch_bounds__(Shape::kBlock)
    centred_tiles_kernel(Side<T> side, const W* __restrict__ weights, int channels, int64_t tiles,
                         Centred* __restrict__ out) {
  constexpr int kBlock = Shape::kBlock, kEntries = Shape::kEntries;
  const int64_t tile = blockIdx.x % tiles, row = blockIdx.x / tiles;
  const int64_t segment = row / channels;
  const int64_t live = side.live == nullptr ? side.capacity : side.live[segment];
  double p[kEntries], w[kEntries], mass = 0.0, sum = 0.0;
  for (int k = 0; k < kEntries; ++k) {
    const int64_t entry = (tile * kEntries + k) * kBlock + threadIdx.x;
    p[k] = w[k] = 0.0;
    if (entry >= live) continue;
    w[k] = weights == nullptr ? 1.0 : static_cast<double>(weights[row * side.capacity + entry]);
    if (w[k] == 0.0) continue;  // whatever its score is
    p[k] = static_cast<double>(side.scores[segment * side.capacity + entry]);
    mass += fabs(w[k]);
    sum += fabs(w[k]) * p[k];
  }
  Centred m;
  m.mass = block_sum<kBlock>(mass);
  sum = block_sum<kBlock>(sum);
  m.centre = m.mass == 0.0 ? 0.0 : sum / m.mass;
  double m0 = 0.0, m1 = 0.0, m2 = 0.0;
  for (int k = 0; k < kEntries; ++k) {
    if (w[k] == 0.0) continue;
    const double d = p[k] - m.centre;
    m0 += w[k];
    m1 += w[k] * d;
    m2 += w[k] * d * d;
  }
  m.m0 = block_sum<kBlock>(m0);
  m.m1 = block_sum<kBlock>(m1);
  m.m2 = block_sum<kBlock>(m2);
  if (threadIdx.x == 0) out[row * tiles + tile] = m;
}

// Moments of a whole row about its centre. Mapping: a block a row of [segments, channels], its
// threads stride over the tiles. Bytes: 40 in a tile, twice. Hazard: as above.
template <class Shape>
__global__ void __launch_bounds__(Shape::kBlock)
    centred_join_kernel(const Centred* __restrict__ tiles, int64_t tile_count,
                        Centred* __restrict__ out) {
  constexpr int kBlock = Shape::kBlock;
  const Centred* mine = tiles + blockIdx.x * tile_count;
  double mass = 0.0, sum = 0.0;
  for (int64_t t = threadIdx.x; t < tile_count; t += kBlock) {
    mass += mine[t].mass;
    sum += mine[t].mass * mine[t].centre;
  }
  Centred m;
  m.mass = block_sum<kBlock>(mass);
  sum = block_sum<kBlock>(sum);
  m.centre = m.mass == 0.0 ? 0.0 : sum / m.mass;
  double m0 = 0.0, m1 = 0.0, m2 = 0.0;
  for (int64_t t = threadIdx.x; t < tile_count; t += kBlock) {
    const double d = mine[t].mass == 0.0 ? 0.0 : mine[t].centre - m.centre;
    m2 += mine[t].m2 + d * (2.0 * mine[t].m1 + d * mine[t].m0);
    m1 += mine[t].m1 + d * mine[t].m0;
    m0 += mine[t].m0;
  }
  m.m0 = block_sum<kBlock>(m0);
  m.m1 = block_sum<kBlock>(m1);
  m.m2 = block_sum<kBlock>(m2);
  if (threadIdx.x == 0) out[blockIdx.x] = m;
}

// sums[s, c, i], slopes. Mapping: a thread an anchor. Bytes: sizeof(T) in, 16 out a channel.
// Hazard: u is taken from the exact x - m. Infinities have no moments: pair by pair.
template <class T>
__global__ void __launch_bounds__(kPlainBlock)
    centred_rows_kernel(const Centred* __restrict__ moments, Side<T> anchors, Side<T> items,
                        int segments, int channels, double margin, double* __restrict__ sums,
                        double* __restrict__ slopes) {
  const int64_t thread = int64_t{blockIdx.x} * kPlainBlock + threadIdx.x;
  if (thread >= segments * anchors.capacity) return;
  const int64_t segment = thread / anchors.capacity, anchor = thread % anchors.capacity;
  const bool live = anchors.live == nullptr || anchor < anchors.live[segment];
  const T x = live ? anchors.scores[thread] : T(0);
  const SplitPoint<T> point = split_at(x, -margin, true);
  for (int c = 0; c < channels; ++c) {
    const int64_t row = segment * channels + c;
    const Centred m = moments[row];
    const double u = point.distance_to_above(m.centre);
    double sum = m.m2 + u * (2.0 * m.m1 + u * m.m0), slope = 2.0 * (m.m1 + u * m.m0);
    if (live && !is_finite(sum)) {
      const SurrogateParams params{margin, 1.0};
      pair_by_pair(Surrogate::kSquared, params, x, items, segment, row, sum, slope);
    }
    sums[row * anchors.capacity + anchor] = live ? sum : 0.0;
    slopes[row * anchors.capacity + anchor] = live ? slope : 0.0;
  }
}

// out[s, j] = sum_c w_cj 2 sum_i a_ci (y_j + m - x_i). Mapping: a thread an item. Bytes: a score
// and its weights in, sizeof(T) out.
template <class T>
__global__ void __launch_bounds__(kPlainBlock)
    centred_columns_kernel(const Centred* __restrict__ moments, Side<T> items, int segments,
                           int channels, double margin, T* __restrict__ out) {
  const int64_t thread = int64_t{blockIdx.x} * kPlainBlock + threadIdx.x;
  if (thread >= segments * items.capacity) return;
  const int64_t segment = thread / items.capacity, item = thread % items.capacity;
  double total = 0.0;
  if (items.live == nullptr || item < items.live[segment]) {
    const SplitPoint<T> point = split_at(items.scores[thread], margin, true);
    for (int c = 0; c < channels; ++c) {
      const int64_t row = segment * channels + c;
      const double weight = items.weights == nullptr
                                ? 1.0
                                : static_cast<double>(items.weights[row * items.capacity + item]);
      if (weight == 0.0) continue;
      const Centred m = moments[row];
      total += weight * 2.0 * (point.distance_to_below(m.centre) * m.m0 - m.m1);
    }
  }
  out[thread] = static_cast<T>(total);
}

struct CentredMemory {
  Centred *tiles, *rows;
  int64_t tile_count, row_count;
};

template <class Shape>
CentredMemory centred_memory(Carver& carver, int64_t capacity, int segments, int channels, Shape) {
  CentredMemory memory;
  constexpr int64_t kTile = int64_t{Shape::kBlock} * Shape::kEntries;
  memory.row_count = int64_t{segments} * channels;
  memory.tile_count = (capacity + kTile - 1) / kTile;
  memory.tiles = carver.take<Centred>(memory.row_count * memory.tile_count);
  memory.rows = carver.take<Centred>(memory.row_count);
  return memory;
}

template <class T, class W, class Shape>
cudaError_t launch_centred_moments(const CentredMemory& memory, const Side<T>& side,
                                   const W* weights, int channels, Shape, cudaStream_t stream) {
  const int64_t blocks = memory.row_count * memory.tile_count;
  if (blocks > 0) {
    XRISK_LAUNCH((centred_tiles_kernel<T, W, Shape>), static_cast<unsigned>(blocks), Shape::kBlock,
                 0, stream, side, weights, channels, memory.tile_count, memory.tiles);
    XRISK_RETURN_IF_ERROR(cudaGetLastError());
  }
  XRISK_LAUNCH(centred_join_kernel<Shape>, static_cast<unsigned>(memory.row_count), Shape::kBlock,
               0, stream, static_cast<const Centred*>(memory.tiles), memory.tile_count,
               memory.rows);
  return cudaGetLastError();
}

template <class T, class Shape>
cudaError_t launch_centred_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream,
                                Shape shape) {
  const PairProblem<T>& problem = call.problem;
  const int64_t threads = problem.segments * problem.anchors.capacity;
  if (threads == 0 || problem.channels == 0) return cudaSuccess;
  Carver carver(workspace);
  const CentredMemory memory =
      centred_memory(carver, problem.items.capacity, problem.segments, problem.channels, shape);
  XRISK_RETURN_IF_ERROR(launch_centred_moments(memory, problem.items, problem.items.weights,
                                               problem.channels, shape, stream));
  XRISK_LAUNCH(centred_rows_kernel<T>, blocks_for(threads, kPlainBlock), kPlainBlock, 0, stream,
               static_cast<const Centred*>(memory.rows), problem.anchors, problem.items,
               problem.segments, problem.channels, problem.margin, call.sums, call.slopes);
  return cudaGetLastError();
}

template <class T, class Shape>
cudaError_t launch_centred_columns(const PairColumns<T>& call, void* workspace, cudaStream_t stream,
                                   Shape shape) {
  const PairProblem<T>& problem = call.problem;
  const int64_t threads = problem.segments * problem.items.capacity;
  if (threads == 0 || problem.channels == 0) return cudaSuccess;
  Carver carver(workspace);
  const CentredMemory memory =
      centred_memory(carver, problem.anchors.capacity, problem.segments, problem.channels, shape);
  XRISK_RETURN_IF_ERROR(launch_centred_moments(memory, problem.anchors, call.anchor_weights,
                                               problem.channels, shape, stream));
  XRISK_LAUNCH(centred_columns_kernel<T>, blocks_for(threads, kPlainBlock), kPlainBlock, 0, stream,
               static_cast<const Centred*>(memory.rows), problem.items, problem.segments,
               problem.channels, problem.margin, call.out);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
