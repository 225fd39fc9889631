// The smoothed problem and the gradients.
//
//   L'(t) = kappa + tau2 t - mean_j sigma((h_j - t) / tau1) = 0,   slopes: upstream t_j / (n H)
//
// Short rows: a warp or a block per row runs all of Newton's method (core/topk.h) in one launch,
// reading the row from the cache. Long rows: a step a launch over many blocks, whose last one adds
// up the parts in their order and moves on; launches after the last step leave at once. Gradient:
// one pass for H (smooth) or the first place of the threshold (exact), one to write.
// Bytes: a read of the scores a step; for the gradient two reads and one write.
#pragma once

#include "core/topk.h"
#include "cuda/topk_select.h"

namespace xrisk::cuda {

constexpr int kMostNewtonSteps = 200;  // in one launch
constexpr int kNewtonLaunches = 64;    // the worst known case takes 44

template <class T>
struct SoftSums {
  double above = 0.0, slope = 0.0;
  T rounded, rest, inverse;

  __device__ SoftSums(double at, double tau1)
      : rounded(static_cast<T>(at)),
        rest(static_cast<T>(at - static_cast<double>(static_cast<T>(at)))),
        inverse(static_cast<T>(1.0 / tau1)) {}
  __device__ __forceinline__ T slope_at(T x, T& share) const {
    T steepness;
    soft_indicator(((x - rounded) - rest) * inverse, share, steepness);
    return steepness;
  }
  __device__ __forceinline__ void add(T x) {
    T share;
    slope += static_cast<double>(slope_at(x, share));
    above += static_cast<double>(share);
  }
};

template <class T>
__device__ __forceinline__ SmoothTopK problem_of(const TopK<T>& call, int64_t count) {
  return {(static_cast<double>(call.k) + call.epsilon) / static_cast<double>(count), call.tau1,
          call.tau2};
}

__device__ __forceinline__ double newton_start(double exact) {
  return is_finite(exact) ? exact : 0.0;
}

// Rows of `least` + 1 to `most` scores, from the exact threshold in `roots`, which it replaces.
template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    newton_short_rows_kernel(TopK<T> call, int64_t least, int64_t most, double* roots) {
  const int64_t row = blockIdx.x;
  const RowSpan span = span_of(call, row);
  if (span.count <= call.k || span.count <= least || span.count > most) return;
  const SmoothTopK problem = problem_of(call, span.count);
  const double n = static_cast<double>(span.count);
  NewtonSearch search(newton_start(roots[row]), 4.0 * call.tau1);
  for (int step = 0; step < kMostNewtonSteps; ++step) {
    SoftSums<T> sums(search.at, call.tau1);
    for (int64_t k = threadIdx.x; k < span.count; k += kBlock) {
      sums.add(call.scores[span.begin + k]);
    }
    const double above = block_sum<kBlock>(sums.above), slope = block_sum<kBlock>(sums.slope);
    // the same in every thread: all leave together
    if (search.advance(problem.derivative(search.at, above / n), problem.curvature(slope / n),
                       newton_tolerance<T>(search.at, call.tau1))) {
      break;
    }
  }
  __syncthreads();  // every thread has read its start
  if (threadIdx.x == 0) roots[row] = search.at;
}

// The parts of sums over long rows, and where their searches stand.
struct LongSearches {
  NewtonSearch* searches = nullptr;  // [capacity]
  int* done = nullptr;               // [capacity]
  double* parts = nullptr;           // [capacity, blocks, 2]
};

template <class Key>
__global__ void start_searches_kernel(LongRows<Key> longs, LongSearches searches, double tau1,
                                      const double* roots) {
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (slot >= *longs.used || slot >= longs.capacity) return;
  searches.searches[slot] = NewtonSearch(newton_start(roots[longs.rows[slot].row]), 4.0 * tau1);
  searches.done[slot] = 0;
}

// sum over `parts` [count, 2], in their order, for every thread of the block.
template <int kBlock>
__device__ __forceinline__ void add_parts(const double* parts, int count, double& above,
                                          double& slope) {
  double a = 0.0, s = 0.0;
  for (int k = static_cast<int>(threadIdx.x); k < count; k += kBlock) {
    a += parts[2 * k];
    s += parts[2 * k + 1];
  }
  above = block_sum<kBlock>(a);
  slope = block_sum<kBlock>(s);
}

// Of part `part` of `blocks` of a row.
template <class Shape, class T>
__device__ __forceinline__ SoftSums<T> sum_part(const TopK<T>& call, RowSpan span, double at,
                                                int64_t part, int blocks) {
  SoftSums<T> sums(at, call.tau1);
  const int64_t stride = static_cast<int64_t>(blocks) * Shape::kBlock;
  for (int64_t k = part * Shape::kBlock + threadIdx.x; k < span.count; k += stride) {
    sums.add(call.scores[span.begin + k]);
  }
  return sums;
}

template <class Shape, class T, class Key>
__global__ void __launch_bounds__(Shape::kBlock)
    newton_step_kernel(TopK<T> call, LongRows<Key> longs, LongSearches searches, double* roots) {
  constexpr int kBlock = Shape::kBlock;
  const int64_t slot = blockIdx.x / longs.blocks, part = blockIdx.x % longs.blocks;
  if (slot >= *longs.used || slot >= longs.capacity || searches.done[slot] != 0) return;
  const int64_t row = longs.rows[slot].row;
  const RowSpan span = span_of(call, row);
  const double at = searches.searches[slot].at;
  const SoftSums<T> sums = sum_part<Shape>(call, span, at, part, longs.blocks);
  double* const parts = searches.parts + slot * longs.blocks * 2;
  double above = block_sum<kBlock>(sums.above), slope = block_sum<kBlock>(sums.slope);
  if (threadIdx.x == 0) {
    parts[2 * part] = above;
    parts[2 * part + 1] = slope;
  }
  if (!last_block_done(&longs.counters[slot], static_cast<unsigned>(longs.blocks))) return;
  add_parts<kBlock>(parts, longs.blocks, above, slope);
  if (threadIdx.x > 0) return;
  const SmoothTopK problem = problem_of(call, span.count);
  const double n = static_cast<double>(span.count);
  NewtonSearch search = searches.searches[slot];
  const bool done = search.advance(problem.derivative(at, above / n), problem.curvature(slope / n),
                                   newton_tolerance<T>(at, call.tau1));
  searches.searches[slot] = search;
  searches.done[slot] = done;
  roots[row] = search.at;
}

// ------------------------------------------------------------------------------------ gradients

struct GradientParts {
  unsigned long long* first = nullptr;  // [rows] exact: the first place of the threshold
  double* parts = nullptr;              // [rows, blocks, 2] smooth
  double* factors = nullptr;            // [rows] smooth: upstream / (n tau1 H)
  unsigned* counters = nullptr;         // [rows], for last_block_done
  int blocks = 1;                       // of a row
};

struct Least {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

// Fills with zeros and looks for the threshold.
template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    find_threshold_kernel(TopK<T> call, GradientParts work, const double* roots, T* gradient) {
  constexpr unsigned long long kNone = ~0ull;
  const int64_t row = blockIdx.x / work.blocks, part = blockIdx.x % work.blocks;
  const RowSpan span = span_of(call, row);
  const T root = static_cast<T>(roots[row]);
  const bool wanted = span.count > call.k, nan = root != root;
  unsigned long long first = kNone;
  const int64_t stride = static_cast<int64_t>(work.blocks) * Shape::kBlock;
  for (int64_t k = part * Shape::kBlock + threadIdx.x; k < span.count; k += stride) {
    const T x = call.scores[span.begin + k];
    gradient[span.begin + k] = T(0);
    if (wanted && first == kNone && (nan ? x != x : x == root)) {
      first = static_cast<unsigned long long>(k);
    }
  }
  first = block_reduce<Shape::kBlock>(first, kNone, Least());
  if (threadIdx.x == 0 && first != kNone) atomicMin(&work.first[row], first);
}

template <class T>
__global__ void place_gradient_kernel(TopK<T> call, GradientParts work, const T* upstream,
                                      T* gradient) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= call.rows.count) return;
  const RowSpan span = span_of(call, row);
  if (work.first[row] < static_cast<unsigned long long>(span.count)) {
    gradient[span.begin + static_cast<int64_t>(work.first[row])] = upstream[row];
  }
}

template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    curvature_kernel(TopK<T> call, GradientParts work, const double* roots, const T* upstream) {
  constexpr int kBlock = Shape::kBlock;
  const int64_t row = blockIdx.x / work.blocks, part = blockIdx.x % work.blocks;
  const RowSpan span = span_of(call, row);
  if (span.count <= call.k) return;
  const SoftSums<T> sums = sum_part<Shape>(call, span, roots[row], part, work.blocks);
  double* const parts = work.parts + row * work.blocks * 2;
  double above = block_sum<kBlock>(sums.above), slope = block_sum<kBlock>(sums.slope);
  if (threadIdx.x == 0) {
    parts[2 * part] = above;
    parts[2 * part + 1] = slope;
  }
  if (!last_block_done(&work.counters[row], static_cast<unsigned>(work.blocks))) return;
  add_parts<kBlock>(parts, work.blocks, above, slope);
  if (threadIdx.x > 0) return;
  const double n = static_cast<double>(span.count);
  const double scale = n * call.tau1 * problem_of(call, span.count).curvature(slope / n);
  work.factors[row] = scale > 0.0 ? static_cast<double>(upstream[row]) / scale : 0.0;
}

template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    slopes_kernel(TopK<T> call, GradientParts work, const double* roots, T* gradient) {
  const int64_t row = blockIdx.x / work.blocks, part = blockIdx.x % work.blocks;
  const RowSpan span = span_of(call, row);
  const bool wanted = span.count > call.k;
  const T factor = wanted ? static_cast<T>(work.factors[row]) : T(0);
  const SoftSums<T> point(wanted ? roots[row] : 0.0, call.tau1);
  const int64_t stride = static_cast<int64_t>(work.blocks) * Shape::kBlock;
  for (int64_t k = part * Shape::kBlock + threadIdx.x; k < span.count; k += stride) {
    T share;
    const T slope = wanted ? point.slope_at(call.scores[span.begin + k], share) : T(0);
    gradient[span.begin + k] = factor * slope;
  }
}

}  // namespace xrisk::cuda
