// Kernels of the contrastive step between the sums of similarities and their gradients: what
// happens per anchor.
//
// Mapping: a thread an anchor or an entry, one thread block for the value; one thread block, a
// thread an entry, for all of it if entries are few, a launch costing as much as these do. Hazard:
// one anchor that is not finite must leave every state alone, so that it turns all observations
// into NaN, which are never stored.
#pragma once

#include <cmath>

#include "cuda/block.h"
#include "cuda/contrastive_step.h"
#include "cuda/few_averages.h"
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
  double* totals;         // [2B] momenta
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

// `log_mean`: NaN if anything of the anchor is not finite.
struct Observed {
  AnchorExponents seen;
  double log_mean;
  __device__ __forceinline__ bool finite() const { return log_mean - log_mean == 0.0; }
};

template <class T, class State>
__device__ __forceinline__ Observed observe(const StepAnchors<T, State>& step, int64_t a) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch;
  const bool relative = step.call.bimodal || step.call.relative;
  const double offset = relative ? space.positives[a < batch ? a : a - batch] : 0.0;
  const AnchorExponents seen =
      anchor_exponents(static_cast<double>(space.sums.peaks[a]), space.sums.masses[a],
                       space.sums.moments[a], offset, space.temperatures[a], step.count);
  const double gap = (seen.mean - seen.mean) + (space.norms[a] - space.norms[a]);
  return {seen, seen.log_mean + gap + (seen.log_mean - seen.log_mean)};
}

// A thread an anchor.
template <class T, class State>
__global__ void observe_kernel(StepAnchors<T, State> step) {
  const int64_t a = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (a >= step.anchors) return;
  const Observed found = observe(step, a);
  step.space.seen[a] = found.seen;
  step.space.log_means[a] = found.log_mean;
  if (!found.finite()) atomicOr(step.space.not_finite, 1);
}

// Entry i, of which all anchors were observed: if one of all is not finite, none is (`gap`: 0, or
// NaN); log u starts as log g.
template <class T, class State>
__device__ __forceinline__ void settle(const StepAnchors<T, State>& step, int64_t i, double first,
                                       double second, double gap) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch;
  first += gap;
  second += gap;
  const bool apart = step.call.bimodal || step.call.per_view;
  const double shared = step.call.bimodal ? first : log_mean_exp(first, second) + gap;
  space.log_means[i] = first;
  space.log_means[batch + i] = second;
  space.shared[i] = shared;
  space.log_u[i] = apart ? first : shared;
  space.log_u[batch + i] = apart ? second : shared;
}

struct AnchorTerms {
  double value, slope, total;
};

// `shared`: both views have the log u of the first.
template <class T, class State>
__device__ __forceinline__ AnchorTerms apply_rule(const StepAnchors<T, State>& step, bool shared,
                                                  int64_t a, const AnchorExponents& seen) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch, i = a < batch ? a : a - batch;
  const double log_u = space.log_u[shared ? i : a];
  const double poison = space.log_means[a] - space.log_means[a];  // 0 or NaN
  InfoNce info_nce = step.call.info_nce;
  info_nce.log_alpha = log(step.call.alpha != nullptr ? *step.call.alpha : step.count);
  const ContrastiveTerms terms =
      step.call.stateless ? info_nce_rule(seen, space.temperatures[a], info_nce)
                          : contrastive_rule(seen, log_u, space.temperatures[a], step.call.options);
  const bool relative = step.call.bimodal || step.call.relative;
  space.shifts[a] = static_cast<T>(terms.shift);
  space.weights[a] = static_cast<T>(terms.weight * step.share / step.count + poison);
  const AnchorTerms found{terms.value - (relative ? 0.0 : space.positives[i]) + poison,
                          terms.temperature_slope + poison, terms.total + poison};
  space.values[a] = found.value;
  space.slopes[a] = found.slope;
  return found;
}

// The rule for both anchors of entry i, and the pull of its positive pair; the sums of their values
// and slopes.
template <class T, class State>
__device__ __forceinline__ AnchorTerms apply_rules(const StepAnchors<T, State>& step, bool shared,
                                                   int64_t i, const AnchorExponents& first_seen,
                                                   const AnchorExponents& second_seen) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch;
  const AnchorTerms first = apply_rule(step, shared, i, first_seen);
  const AnchorTerms second = apply_rule(step, shared, batch + i, second_seen);
  const bool relative = step.call.bimodal || step.call.relative;
  const double both = first.total + second.total;
  // `both` may only poison where the pair has the weight of one view each
  const double pull = relative ? both : 2.0 + (both - both);
  space.pulls[i] = space.pulls[batch + i] = static_cast<T>(-pull * step.share);
  return {first.value + second.value, first.slope + second.slope, both};
}

// What happens between the sums and the averages, after these, or both at once if there are none.
enum class Phase { kBefore, kAfter, kBoth };

// A thread an entry.
template <class T, class State>
__global__ void entries_kernel(StepAnchors<T, State> step, Phase phase, bool shared) {
  const StepSpace<T>& space = step.space;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t batch = step.call.batch;
  if (i >= batch) return;
  if (phase != Phase::kAfter) {
    const double gap = *space.not_finite != 0 ? static_cast<double>(NAN) : 0.0;
    settle(step, i, space.log_means[i], space.log_means[batch + i], gap);
  }
  if (phase == Phase::kBefore) return;
  apply_rules(step, shared, i, space.seen[i], space.seen[batch + i]);
}

// By one thread block: writes the value and its slope by a global temperature, of which each thread
// has a part.
template <int kBlock, class T, class State>
__device__ __forceinline__ void write_value(const StepAnchors<T, State>& step, double value,
                                            double slope) {
  value = block_sum<kBlock>(value);
  slope = block_sum<kBlock>(slope);
  if (threadIdx.x != 0) return;
  *step.call.value = static_cast<T>(value * step.share);
  *step.call.temperature_slope = static_cast<T>(slope * step.share);
}

// One thread block, whose threads have an entry each: all between the sums and the gradients but
// individual temperatures. `average` updates the state by log g, or has none.
template <int kBlock, class T, class State>
__global__ void __launch_bounds__(kBlock)
    few_kernel(StepAnchors<T, State> step, MovingAverage<State, double, double> average) {
  const StepSpace<T>& space = step.space;
  const ContrastiveStep<T, State>& call = step.call;
  const int64_t i = threadIdx.x, batch = call.batch;
  const bool mine = i < batch;
  Observed first{{}, 0.0}, second{{}, 0.0};
  if (mine) {
    first = observe(step, i);
    second = observe(step, batch + i);
  }
  const bool poisoned = __syncthreads_or(!first.finite() || !second.finite()) != 0;
  const double gap = poisoned ? static_cast<double>(NAN) : 0.0;
  if (mine) settle(step, i, first.log_mean, second.log_mean, gap);
  const bool averages = average.state != nullptr;
  if (averages) {
    FewAverages<kBlock> averaged(average.index, average.entries, average.rows);
    const auto update = [&](const double* values, double* stored, bool write) {
      average.values = values;
      average.stored = stored;
      average.write = write && call.write_state;
      averaged.update(average);
    };
    if (call.bimodal) {
      update(space.log_means, space.log_u, true);
    } else {
      // the mean over the views of the blends is the blend of their mean
      for (int64_t view = 0; view < 2 && call.per_view; ++view) {
        update(space.log_means + view * batch, space.log_u + view * batch, false);
      }
      update(space.shared, call.per_view ? space.slopes : space.log_u, true);
    }
  }
  AnchorTerms both{0.0, 0.0, 0.0};
  if (mine) {
    const bool shared = averages && !call.bimodal && !call.per_view;
    both = apply_rules(step, shared, i, first.seen, second.seen);
  }
  write_value<kBlock>(step, both.value, both.slope);
}

// One thread block: the value, in one fixed order.
template <int kBlock, class T, class State>
__global__ void __launch_bounds__(kBlock) value_kernel(StepAnchors<T, State> step) {
  double value = 0.0, slope = 0.0;
#pragma unroll 4
  for (int64_t a = threadIdx.x; a < step.anchors; a += kBlock) {
    value += step.space.values[a];
    slope += step.space.slopes[a];
  }
  write_value<kBlock>(step, value, slope);
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
