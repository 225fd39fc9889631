// Row and column sums of the piecewise-polynomial surrogates from a sorted table, exact.
//
// Every piece ends at an offset o: item y and anchor x are on its upper side where y > x + o, which
// is -margin, 0, or s m / (s - 1) where the barrier hinge turns steep. Rows split the sorted items
// at x + o, columns the sorted anchors at y - o, both as if in exact arithmetic; the moments of
// either side about the split point are the sums.
#pragma once

#include "cuda/pair_by_pair.h"
#include "cuda/sorted_table.h"

namespace xrisk::cuda {

struct Piecewise {
  Surrogate surrogate;
  double margin;
  const double* scale;
};

// The offsets at which a surrogate's pieces end.
struct Offsets {
  double first, second;
  bool has_second;
};

__device__ __forceinline__ Offsets offsets_of(const Piecewise& phi, double scale) {
  switch (phi.surrogate) {
    case Surrogate::kZeroOne:
      return {0.0, 0.0, true};  // twice, with the ties on either side
    case Surrogate::kBarrierHinge:
      if (scale > 1.0) return {-phi.margin, scale * phi.margin / (scale - 1.0), true};
      return {-phi.margin, 0.0, false};  // at s = 1 it never turns steep
    default:
      return {-phi.margin, 0.0, false};
  }
}

// Of `count` keys, kStride apart, how many are up to the point's: dead ones sort beyond all of
// them.
template <int kStride, class T, class W>
__device__ __forceinline__ int64_t count_below(const SortedTable<T, W>& table, int64_t segment,
                                               int64_t count, const SplitPoint<T>& point) {
  const auto* keys = table.keys + segment * table.capacity;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle * kStride] <= point.last_below) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The last chunk that begins below the point, -1 if none does.
template <int kChunk, class T, class W>
__device__ __forceinline__ int64_t find_chunk(const SortedTable<T, W>& table, int64_t segment,
                                              const SplitPoint<T>& point) {
  return count_below<kChunk>(table, segment, table.chunks, point) - 1;
}

struct Halves {
  Moments above, below;
};

// Moments on both sides of the point, about the point, of one row of [segments, channels].
template <class Shape, class T, class W>
__device__ __forceinline__ Halves split(const SortedTable<T, W>& table, int64_t segment,
                                        int64_t channel, int64_t chunk,
                                        const SplitPoint<T>& point) {
  using Table = SortedTable<T, W>;
  const int64_t row = segment * table.channels + channel;
  Halves halves = {no_moments(), no_moments()};
  // Farthest first, so that small sums are not added to large ones one by one.
  if (table.above != nullptr && chunk + 1 < table.chunks) {
    const Moments later = table.tile_above[row * table.tiles + (chunk + 1) / Shape::kBlock];
    add_shifted(halves.above, later, point.distance_to_above(later.at));
    const Moments rest = table.above[row * table.chunks + chunk + 1];
    add_shifted(halves.above, rest, point.distance_to_above(rest.at));
  }
  if (chunk < 0) return halves;
  if (table.below != nullptr) {
    const Moments earlier = table.tile_below[row * table.tiles + chunk / Shape::kBlock];
    add_shifted(halves.below, earlier, point.distance_to_below(earlier.at));
    const Moments rest = table.below[row * table.chunks + chunk];  // with the chunk's first entry
    add_shifted(halves.below, rest, point.distance_to_below(rest.at));
  }
  for (int k = 1; k < Shape::kChunk; ++k) {
    const int64_t entry = chunk * Shape::kChunk + k;
    if (entry >= table.capacity) break;
    const auto key = table.keys[segment * table.capacity + entry];
    if (key == Table::kDead) break;
    const double p = static_cast<double>(score_of_key(key));
    double weight = table.weight(row, entry);
    if (p != p && weight != 0.0) weight = p;
    if (key > point.last_below) {
      add_entry(halves.above, weight, point.distance_to_above(p));
    } else {
      add_entry(halves.below, weight, point.distance_to_below(p));
    }
  }
  return halves;
}

// sums[s, c, i] = sum_j w_cj phi(y_j - x_i), slopes the same with phi'.
//   Mapping: a thread an anchor; binary search over the chunks, then kChunk - 1 entries.
//   Bytes: an anchor reads its score, ~log2(chunks) sectors, 2 to 4 records of 32 bytes and one
//   chunk, mostly from L2; writes 16 a channel.
//   Hazard: scores near 30 with spread 0.05 in float: everything is relative to the split point,
//   with what rounding took from x + o, and of one sign. Infinities have no moments: pair by pair.
template <class T, class Shape>
__global__ void __launch_bounds__(kHeavyBlock)
    sorted_rows_kernel(SortedTable<T, T> table, Piecewise phi, Side<T> anchors, Side<T> items,
                       double* __restrict__ sums, double* __restrict__ slopes) {
  const int64_t thread = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  if (thread >= table.segments * anchors.capacity) return;
  const int64_t segment = thread / anchors.capacity, anchor = thread % anchors.capacity;
  const bool live = anchors.live == nullptr || anchor < anchors.live[segment];
  const T x = live ? anchors.scores[thread] : T(0);
  const double scale = phi.surrogate == Surrogate::kBarrierHinge ? *phi.scale : 1.0;
  const Offsets offsets = offsets_of(phi, scale);
  const bool zero_one = phi.surrogate == Surrogate::kZeroOne;
  const SplitPoint<T> first = split_at(x, offsets.first, true);
  const int64_t first_chunk = live ? find_chunk<Shape::kChunk>(table, segment, first) : 0;
  SplitPoint<T> second = first;
  int64_t second_chunk = 0;
  if (offsets.has_second && live) {
    second = split_at(x, offsets.second, !zero_one);
    second_chunk = find_chunk<Shape::kChunk>(table, segment, second);
  }
  const bool finite = x - x == T(0);
  for (int64_t c = 0; c < table.channels; ++c) {
    double sum = 0.0, slope = 0.0;
    if (live) {
      const Halves h = split<Shape>(table, segment, c, first_chunk, first);
      switch (phi.surrogate) {
        case Surrogate::kSquaredHinge:
          sum = h.above.m2;
          slope = 2.0 * h.above.m1;
          break;
        case Surrogate::kHinge:
          sum = h.above.m1;
          slope = h.above.m0;
          break;
        case Surrogate::kBarrierHinge:  // m + d above -m, -s (m + d) below
          sum = h.above.m1 + scale * h.below.m1;
          slope = h.above.m0 - scale * h.below.m0;
          break;
        default:  // zero_one
          sum = 0.5 * h.above.m0;
      }
      if (offsets.has_second) {
        const Halves h2 = split<Shape>(table, segment, c, second_chunk, second);
        sum += zero_one ? 0.5 * h2.above.m0 : (scale - 1.0) * h2.above.m1;
        slope += zero_one ? 0.0 : (scale - 1.0) * h2.above.m0;
      }
      if (!finite || !is_finite(sum)) {
        const SurrogateParams params{phi.margin, scale};
        pair_by_pair(phi.surrogate, params, x, items, segment, segment * table.channels + c, sum,
                     slope);
      }
    }
    const int64_t at = (segment * table.channels + c) * anchors.capacity + anchor;
    sums[at] = sum;
    slopes[at] = slope;
  }
}

// out[s, j] = sum_c w_cj sum_i a_ci phi'(y_j - x_i).
//   Mapping: a thread an item; binary search over the sorted anchors' chunks.
//   Bytes: an item reads its score and weights and writes sizeof(T); the table comes from L2.
//   Hazard: as for the rows; an exact tie y = x + o takes the slope of the piece below it.
template <class T, class Shape>
__global__ void __launch_bounds__(kHeavyBlock)
    sorted_columns_kernel(SortedTable<T, double> table, Piecewise phi, Side<T> items,
                          T* __restrict__ out) {
  const int64_t thread = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  if (thread >= table.segments * items.capacity) return;
  const int64_t segment = thread / items.capacity, item = thread % items.capacity;
  double total = 0.0;
  if (items.live == nullptr || item < items.live[segment]) {
    const T y = items.scores[thread];
    const double scale = phi.surrogate == Surrogate::kBarrierHinge ? *phi.scale : 1.0;
    const Offsets offsets = offsets_of(phi, scale);
    const SplitPoint<T> first = split_at(y, -offsets.first, false);
    const int64_t first_chunk = find_chunk<Shape::kChunk>(table, segment, first);
    SplitPoint<T> second = first;
    int64_t second_chunk = 0;
    if (offsets.has_second) {
      second = split_at(y, -offsets.second, false);
      second_chunk = find_chunk<Shape::kChunk>(table, segment, second);
    }
    const bool finite = y - y == T(0);
    for (int64_t c = 0; c < table.channels; ++c) {
      const int64_t row = segment * table.channels + c;
      const double weight = items.weights == nullptr
                                ? 1.0
                                : static_cast<double>(items.weights[row * items.capacity + item]);
      if (weight == 0.0) continue;
      const Halves h = split<Shape>(table, segment, c, first_chunk, first);
      double slope = h.below.m0;
      if (phi.surrogate == Surrogate::kSquaredHinge) slope = 2.0 * h.below.m1;
      if (phi.surrogate == Surrogate::kBarrierHinge) slope -= scale * h.above.m0;
      if (offsets.has_second) {
        slope += (scale - 1.0) * split<Shape>(table, segment, c, second_chunk, second).below.m0;
      }
      total += weight * (finite ? slope : static_cast<double>(y - y));
    }
  }
  out[thread] = static_cast<T>(total);
}

template <class T>
bool too_many(const PairProblem<T>& problem) {
  // Numbers of entries are 32-bit in the sort.
  const int64_t most = std::max(problem.anchors.capacity, problem.items.capacity);
  return problem.segments * most >= int64_t{1} << 31;
}

template <class T, class Shape>
TableMemory<T, T> rows_memory(const PairProblem<T>& problem, Carver& carver, Shape shape) {
  TableMemory<T, T> memory;
  const bool barrier = problem.surrogate == Surrogate::kBarrierHinge;
  memory.lay_out(carver, problem.items.capacity, problem.segments, problem.channels,
                 problem.items.weights != nullptr, {true, barrier}, shape);
  return memory;
}

template <class T, class Shape>
TableMemory<T, double> columns_memory(const PairProblem<T>& problem, Carver& carver, Shape shape) {
  TableMemory<T, double> memory;
  const bool barrier = problem.surrogate == Surrogate::kBarrierHinge;
  memory.lay_out(carver, problem.anchors.capacity, problem.segments, problem.channels, true,
                 {barrier, true}, shape);
  return memory;
}

template <class T, class Shape>
cudaError_t launch_piecewise_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream,
                                  Shape shape) {
  const PairProblem<T>& problem = call.problem;
  const int64_t threads = problem.segments * problem.anchors.capacity;
  if (threads == 0 || problem.channels == 0) return cudaSuccess;
  Carver carver(workspace);
  TableMemory<T, T> memory = rows_memory(problem, carver, shape);
  XRISK_RETURN_IF_ERROR(
      build_table(memory, problem.items, problem.items.weights, false, shape, stream));
  const Piecewise phi{problem.surrogate, problem.margin, problem.scale};
  XRISK_LAUNCH((sorted_rows_kernel<T, Shape>), blocks_for(threads, kHeavyBlock), kHeavyBlock, 0,
               stream, memory.table, phi, problem.anchors, problem.items, call.sums, call.slopes);
  return cudaGetLastError();
}

template <class T, class Shape>
cudaError_t launch_piecewise_columns(const PairColumns<T>& call, void* workspace,
                                     cudaStream_t stream, Shape shape) {
  const PairProblem<T>& problem = call.problem;
  const int64_t threads = problem.segments * problem.items.capacity;
  if (threads == 0) return cudaSuccess;
  if (problem.surrogate == Surrogate::kZeroOne) {  // flat
    return cudaMemsetAsync(call.out, 0, static_cast<size_t>(threads) * sizeof(T), stream);
  }
  Carver carver(workspace);
  TableMemory<T, double> memory = columns_memory(problem, carver, shape);
  XRISK_RETURN_IF_ERROR(
      build_table(memory, problem.anchors, call.anchor_weights, true, shape, stream));
  const Piecewise phi{problem.surrogate, problem.margin, problem.scale};
  XRISK_LAUNCH((sorted_columns_kernel<T, Shape>), blocks_for(threads, kHeavyBlock), kHeavyBlock, 0,
               stream, memory.table, phi, problem.items, call.out);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
