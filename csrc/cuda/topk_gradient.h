// The gradients of the top-K threshold: to the first score that equals the exact one; of the
// smoothed one upstream t_j / (n H).
//
// One pass for H (smooth) or the first place of the threshold (exact), one to write. Bytes: two
// reads of the scores and one write.
#pragma once

#include "cuda/topk_smooth.h"

namespace xrisk::cuda {

// Sums in double, in the order of the scores.
template <class T>
struct SoftSums {
  SoftPoint<T> point;
  double above = 0.0, slope = 0.0;

  __device__ __forceinline__ void add(T x) {
    T share;
    slope += static_cast<double>(point.slope_at(x, share));
    above += static_cast<double>(share);
  }
};

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
  SoftSums<T> sums{SoftPoint<T>(at, call.tau1)};
  const int64_t stride = static_cast<int64_t>(blocks) * Shape::kBlock;
  for (int64_t k = part * Shape::kBlock + threadIdx.x; k < span.count; k += stride) {
    sums.add(call.scores[span.begin + k]);
  }
  return sums;
}

struct GradientParts {
  unsigned long long* first = nullptr;  // [rows] exact: the first place of the threshold
  double* parts = nullptr;              // [rows, blocks, 2] smooth
  double* factors = nullptr;            // [rows] smooth: upstream / (n tau1 H)
  unsigned* counters = nullptr;         // [rows], for last_block_done
  int blocks = 1;                       // of a row
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
  first = block_reduce<Shape::kBlock>(first, kNone, Min());
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
  const SoftPoint<T> point(wanted ? roots[row] : 0.0, call.tau1);
  const int64_t stride = static_cast<int64_t>(work.blocks) * Shape::kBlock;
  for (int64_t k = part * Shape::kBlock + threadIdx.x; k < span.count; k += stride) {
    T share;
    const T slope = wanted ? point.slope_at(call.scores[span.begin + k], share) : T(0);
    gradient[span.begin + k] = factor * slope;
  }
}

}  // namespace xrisk::cuda
