// Kernels of the contrastive step between the sums of similarities and their gradients: what
// happens per anchor.
//
// Mapping: a thread an anchor or an entry, one thread block for the value. Hazard: one anchor that
// is not finite must leave every state alone, so that it turns all observations into NaN, which are
// never stored.
#pragma once

#include <cmath>

#include "cuda/block.h"
#include "cuda/contrastive_step.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

// What the anchors, [0, B) of view1 and [B, 2B) of view2, carry from kernel to kernel.
template <class T>
struct StepSpace {
  double* norms;          // [2B] 0: a row of zeros, NaN: not finite
  double* positives;      // [B]
  double* temperatures;   // [2B]
  AnchorExponents* seen;  // [2B]
  double* log_means;      // [2B], all NaN if one is not finite
  double* shared;         // [B] log of the mean over the views
  double* log_u;          // [2B]
  double* values;         // [2B]
  double* slopes;         // [2B]
  double* totals;         // [2B]
  double* squares;        // [2B] of the slopes, and the number of steps with each: Adam
  double* steps;          // [2B]
  double* constants;      // {beta, 1, second_beta}
  int* not_finite;        // 1: an anchor
  int64_t* index;         // [2, B]
  int64_t* exclude;       // [2B, 2] or [B, 1]
  T* inverses;            // [2B]
  T* shifts;              // [2B]
  T* weights;             // [2B]
  T* pulls;               // [2B]
  ExpSums<T> sums;        // [2B]
};

template <class T, class State>
struct StepAnchors {
  ContrastiveStep<T, State> call;
  StepSpace<T> space;
  int64_t anchors;  // 2B
  double count;     // negatives of an anchor
  double share;     // of an anchor in the objective
};

// A thread an anchor: its temperature, its id, what it excludes.
template <class T, class State>
__device__ __forceinline__ void prepare_anchor(const StepAnchors<T, State>& step, int64_t a) {
  const ContrastiveStep<T, State>& call = step.call;
  const StepSpace<T>& space = step.space;
  const int64_t batch = call.batch, i = a < batch ? a : a - batch;
  double tau = *call.temperature;
  if (call.index != nullptr) {
    const int64_t id = call.index[i];
    space.index[a] = id;
    if (call.temperatures != nullptr && id >= 0 && id < call.rows) {
      tau =
          static_cast<double>(call.temperatures[(call.bimodal && a >= batch ? call.rows : 0) + id]);
    }
  }
  space.temperatures[a] = tau;
  space.inverses[a] = static_cast<T>(1.0 / tau);
  if (call.bimodal) {
    if (a < batch) space.exclude[a] = a;
  } else {
    space.exclude[2 * a] = a;
    space.exclude[2 * a + 1] = a < batch ? a + batch : a - batch;
  }
  if (a == 0) {
    space.constants[0] = call.beta;
    space.constants[1] = 1.0;
    space.constants[2] = call.second_beta;
    *space.not_finite = 0;
  }
}

// What the kernel that reads the embeddings does beside.
template <class T, class State>
struct PrepareAnchor {
  StepAnchors<T, State> step;
  __device__ __forceinline__ void operator()(int64_t a) const { prepare_anchor(step, a); }
};

template <class T, class State>
__device__ __forceinline__ void observe(const StepAnchors<T, State>& step, int64_t a) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch;
  const bool relative = step.call.bimodal || step.call.relative;
  const double offset = relative ? space.positives[a < batch ? a : a - batch] : 0.0;
  const AnchorExponents seen =
      anchor_exponents(static_cast<double>(space.sums.peaks[a]), space.sums.masses[a],
                       space.sums.moments[a], offset, space.temperatures[a], step.count);
  space.seen[a] = seen;
  // NaN if anything of this anchor is not finite
  const double gap = (seen.mean - seen.mean) + (space.norms[a] - space.norms[a]);
  const double log_mean = seen.log_mean + gap + (seen.log_mean - seen.log_mean);
  space.log_means[a] = log_mean;
  if (!(log_mean - log_mean == 0.0)) atomicOr(space.not_finite, 1);
}

// A thread an anchor.
template <class T, class State>
__global__ void observe_kernel(StepAnchors<T, State> step) {
  const int64_t a = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (a < step.anchors) observe(step, a);
}

// Entry i, of which all anchors were observed: if one of all is not finite, none is; log u starts
// as log g.
template <class T, class State>
__device__ __forceinline__ void settle(const StepAnchors<T, State>& step, int64_t i) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch;
  const double gap = *space.not_finite != 0 ? static_cast<double>(NAN) : 0.0;
  const double first = space.log_means[i] + gap, second = space.log_means[batch + i] + gap;
  const double shared = log_mean_exp(first, second) + gap;
  const bool apart = step.call.bimodal || step.call.per_view;
  space.log_means[i] = first;
  space.log_means[batch + i] = second;
  space.shared[i] = shared;
  space.log_u[i] = apart ? first : shared;
  space.log_u[batch + i] = apart ? second : shared;
}

// `shared`: both views have the log u of the first.
template <class T, class State>
__device__ __forceinline__ void apply_rule(const StepAnchors<T, State>& step, bool shared,
                                           int64_t a) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch, i = a < batch ? a : a - batch;
  const double log_u = space.log_u[shared ? i : a];
  const double poison = space.log_means[a] - space.log_means[a];  // 0 or NaN
  InfoNce info_nce = step.call.info_nce;
  info_nce.log_alpha = log(step.call.alpha != nullptr ? *step.call.alpha : step.count);
  const ContrastiveTerms terms =
      step.call.stateless
          ? info_nce_rule(space.seen[a], space.temperatures[a], info_nce)
          : contrastive_rule(space.seen[a], log_u, space.temperatures[a], step.call.options);
  const bool relative = step.call.bimodal || step.call.relative;
  space.values[a] = terms.value - (relative ? 0.0 : space.positives[i]) + poison;
  space.slopes[a] = terms.temperature_slope + poison;
  space.totals[a] = terms.total + poison;
  space.shifts[a] = static_cast<T>(terms.shift);
  space.weights[a] = static_cast<T>(terms.weight * step.share / step.count + poison);
}

// The pull of the positive pair of entry i.
template <class T, class State>
__device__ __forceinline__ void balance(const StepAnchors<T, State>& step, int64_t i) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch;
  const bool relative = step.call.bimodal || step.call.relative;
  const double both = space.totals[i] + space.totals[batch + i];
  // `both` may only poison where the pair has the weight of one view each
  const double pull = relative ? both : 2.0 + (both - both);
  space.pulls[i] = space.pulls[batch + i] = static_cast<T>(-pull * step.share);
}

// What happens between the sums and the averages, after these, or both at once if there are none.
enum class Phase { kBefore, kAfter, kBoth };

// A thread an entry.
template <class T, class State>
__global__ void entries_kernel(StepAnchors<T, State> step, Phase phase, bool shared) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= step.call.batch) return;
  if (phase != Phase::kAfter) settle(step, i);
  if (phase == Phase::kBefore) return;
  apply_rule(step, shared, i);
  apply_rule(step, shared, step.call.batch + i);
  balance(step, i);
}

// By one thread block: the value and its slope by a global temperature, in one fixed order.
template <int kBlock, class T, class State>
__device__ __forceinline__ void evaluate(const StepAnchors<T, State>& step) {
  double value = 0.0, slope = 0.0;
#pragma unroll 4
  for (int64_t a = threadIdx.x; a < step.anchors; a += kBlock) {
    value += step.space.values[a];
    slope += step.space.slopes[a];
  }
  value = block_sum<kBlock>(value);
  slope = block_sum<kBlock>(slope);
  if (threadIdx.x != 0) return;
  *step.call.value = static_cast<T>(value * step.share);
  *step.call.temperature_slope = static_cast<T>(slope * step.share);
}

// One thread block for all anchors, being few: a launch costs as much as a thousand on one
// processor.
template <int kBlock, class T, class State>
__global__ void __launch_bounds__(kBlock)
    few_kernel(StepAnchors<T, State> step, Phase phase, bool shared) {
  if (phase != Phase::kAfter) {
    for (int64_t a = threadIdx.x; a < step.anchors; a += kBlock) observe(step, a);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < step.call.batch; i += kBlock) settle(step, i);
    __syncthreads();
  }
  if (phase == Phase::kBefore) return;
  for (int64_t a = threadIdx.x; a < step.anchors; a += kBlock) apply_rule(step, shared, a);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < step.call.batch; i += kBlock) balance(step, i);
  evaluate<kBlock>(step);
}

// One thread block.
template <int kBlock, class T, class State>
__global__ void __launch_bounds__(kBlock) value_kernel(StepAnchors<T, State> step) {
  evaluate<kBlock>(step);
}

// A thread an anchor with a temperature: its slope, one modality having one for both views; what
// Adam observes. Where the slope is not finite nothing is, and nothing is stored.
template <class T, class State>
__global__ void slope_kernel(StepAnchors<T, State> step) {
  const ContrastiveStep<T, State>& call = step.call;
  const StepSpace<T>& space = step.space;
  const int64_t a = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t batch = call.batch;
  if (a >= (call.bimodal ? step.anchors : batch)) return;
  double slope = space.slopes[a];
  if (!call.bimodal) slope = 0.5 * (slope + space.slopes[batch + a]);
  space.slopes[a] = slope = limited(slope, call.slope_limit);
  if (!(call.second_beta > 0.0)) return;
  const int64_t sides = call.bimodal ? 2 : 1, side = a < batch ? 0 : 1, id = space.index[a];
  const bool known = id >= 0 && id < call.rows;
  const double before =
      known ? static_cast<double>(call.momenta[(2 * sides + side) * call.rows + id]) : 0.0;
  space.squares[a] = slope * slope;
  space.steps[a] = before + 1.0 + (slope - slope);
}

// A thread an anchor: from momenta (in totals) to the next temperatures (in values). Adam's second
// moments are in log_u, which nothing needs any more.
template <class T, class State>
__global__ void temperature_kernel(StepAnchors<T, State> step) {
  const ContrastiveStep<T, State>& call = step.call;
  const int64_t a = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (a >= (call.bimodal ? step.anchors : call.batch)) return;
  double direction = step.space.totals[a];
  if (call.second_beta > 0.0) {
    direction = adam_direction(direction, step.space.log_u[a], step.space.steps[a], call.beta,
                               call.second_beta);
  }
  step.space.values[a] = stepped_temperature(step.space.temperatures[a], direction, *call.eta,
                                             call.lowest, call.highest);
}

}  // namespace xrisk::cuda
