// Kernels of the contrastive step between the sums of similarities and their gradients: what
// happens per anchor.
//
// Mapping: a thread an anchor or an entry; one thread block, a
// thread an entry, for all of it if entries are few, a launch costing as much as these do. Hazard:
// one anchor that is not finite must leave every state alone, so that it turns all observations
// into NaN, which are never stored.
#pragma once

#include <cmath>

#include "cuda/block.h"
#include "cuda/chained_launch.h"
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
  double* partial;        // [2, thread blocks of entries] values and slopes
  int* not_finite;        // 1: an anchor
  unsigned* done;         // thread blocks of entries
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
  double log_count;
  double share;  // of an anchor in the objective
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
    const int64_t row = (call.bimodal && a >= batch ? call.rows : 0) + id;
    const bool known = id >= 0 && id < call.rows;
    if (call.state != nullptr && known) prefetch_to_l2(call.state + row);
    if (call.temperatures != nullptr && known) {
      tau = static_cast<double>(call.temperatures[row]);
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
    *space.done = 0;
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
  double log_mean, temperature;
  __device__ __forceinline__ bool finite() const { return log_mean - log_mean == 0.0; }
};

template <class T, class State>
__device__ __forceinline__ Observed observe(const StepAnchors<T, State>& step, int64_t a) {
  const StepSpace<T>& space = step.space;
  const int64_t batch = step.call.batch;
  const bool relative = step.call.bimodal || step.call.relative;
  const double offset = relative ? space.positives[a < batch ? a : a - batch] : 0.0;
  const double norm = space.norms[a], temperature = space.temperatures[a];
  const AnchorExponents seen =
      anchor_exponents(static_cast<double>(space.sums.peaks[a]), space.sums.masses[a],
                       space.sums.moments[a], offset, temperature, step.count);
  const double gap = (seen.mean - seen.mean) + (norm - norm);
  return {seen, seen.log_mean + gap + (seen.log_mean - seen.log_mean), temperature};
}

// A thread an anchor.
template <class T, class State>
__global__ void observe_kernel(StepAnchors<T, State> step) {
  follow_previous();
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
                                       double second, double gap, double (&log_u)[2]) {
  const StepSpace<T>& space = step.space;
  first += gap;
  second += gap;
  const bool apart = step.call.bimodal || step.call.per_view;
  const double shared = step.call.bimodal ? first : log_mean_exp(first, second) + gap;
  log_u[0] = apart ? first : shared;
  log_u[1] = apart ? second : shared;
  space.shared[i] = shared;
  const double log_means[2] = {first, second};
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    space.log_means[v * step.call.batch + i] = log_means[v];
    space.log_u[v * step.call.batch + i] = log_u[v];
  }
}

struct RuleTerms {
  double value, slope, total;
};

// The rule for an anchor; `poison` is 0 or NaN. Reads and writes nothing.
template <class T, class State>
__device__ __forceinline__ ContrastiveTerms apply_rule(const StepAnchors<T, State>& step,
                                                       const AnchorExponents& seen, double log_u,
                                                       double temperature, double poison) {
  ContrastiveTerms terms;
  if (step.call.stateless) {
    InfoNce info_nce = step.call.info_nce;
    info_nce.log_alpha = step.call.alpha != nullptr ? log(*step.call.alpha) : step.log_count;
    terms = info_nce_rule(seen, temperature, info_nce);
  } else {
    terms = contrastive_rule(seen, log_u, temperature, step.call.options);
  }
  terms.value += poison;
  terms.temperature_slope += poison;
  terms.total += poison;
  terms.weight = terms.weight * step.share / step.count + poison;
  return terms;
}

// The rule for both anchors of entry i, and the pull of its positive pair; the sums of their values
// and slopes. Everything is computed before anything is written, so that the two do not wait for
// each other.
template <class T, class State>
__device__ __forceinline__ RuleTerms apply_rules(const StepAnchors<T, State>& step, int64_t i,
                                                 const AnchorExponents (&seen)[2],
                                                 const double (&log_u)[2],
                                                 const double (&temperatures)[2], double poison) {
  const StepSpace<T>& space = step.space;
  const bool relative = step.call.bimodal || step.call.relative;
  const double positive = relative ? 0.0 : space.positives[i];
  ContrastiveTerms terms[2];
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    terms[v] = apply_rule(step, seen[v], log_u[v], temperatures[v], poison);
  }
  const double both = terms[0].total + terms[1].total;
  // `both` may only poison where the pair has the weight of one view each
  const double pull = -(relative ? both : 2.0 + (both - both)) * step.share;
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    const int64_t a = v * step.call.batch + i;
    space.shifts[a] = static_cast<T>(terms[v].shift);
    space.weights[a] = static_cast<T>(terms[v].weight);
    space.slopes[a] = terms[v].temperature_slope;
    space.pulls[a] = static_cast<T>(pull);
  }
  return {terms[0].value + terms[1].value - 2.0 * positive,
          terms[0].temperature_slope + terms[1].temperature_slope, both};
}

// What happens between the sums and the averages, after these, or both at once if there are none.
enum class Phase { kBefore, kAfter, kBoth };

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

// A thread an entry; `shared`: both views have the log u of the first. The last thread block to end
// has the value, in one fixed order.
template <int kBlock, class T, class State>
__global__ void __launch_bounds__(kBlock)
    entries_kernel(StepAnchors<T, State> step, Phase phase, bool shared) {
  follow_previous();
  const StepSpace<T>& space = step.space;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  const int64_t batch = step.call.batch;
  const bool mine = i < batch;
  if (phase != Phase::kAfter && mine) {
    const double gap = *space.not_finite != 0 ? static_cast<double>(NAN) : 0.0;
    double log_u[2];
    settle(step, i, space.log_means[i], space.log_means[batch + i], gap, log_u);
  }
  if (phase == Phase::kBefore) return;
  RuleTerms both{0.0, 0.0, 0.0};
  if (mine) {
    const int64_t second = batch + i;
    const AnchorExponents seen[2] = {space.seen[i], space.seen[second]};
    const double log_u[2] = {space.log_u[i], space.log_u[shared ? i : second]};
    const double temperatures[2] = {space.temperatures[i], space.temperatures[second]};
    both = apply_rules(step, i, seen, log_u, temperatures,
                       *space.not_finite != 0 ? static_cast<double>(NAN) : 0.0);
  }
  const double value = block_sum<kBlock>(both.value), slope = block_sum<kBlock>(both.slope);
  if (threadIdx.x == 0) {
    space.partial[blockIdx.x] = value;
    space.partial[gridDim.x + blockIdx.x] = slope;
  }
  if (!last_block_done(space.done, gridDim.x)) return;
  double all[2] = {};
  for (int side = 0; side < 2; ++side) {
    for (unsigned k = threadIdx.x; k < gridDim.x; k += kBlock) {
      all[side] += space.partial[side * gridDim.x + k];
    }
  }
  write_value<kBlock>(step, all[0], all[1]);
}

// One thread block, whose threads have an entry each: all between the sums and the gradients but
// individual temperatures. `average` updates the state by log g, or has none.
template <int kBlock, class T, class State>
__global__ void __launch_bounds__(kBlock, 1)
    few_kernel(StepAnchors<T, State> step, MovingAverage<State, double, double> average) {
  follow_previous();
  const StepSpace<T>& space = step.space;
  const ContrastiveStep<T, State>& call = step.call;
  const int64_t i = threadIdx.x, batch = call.batch;
  const bool mine = i < batch;
  Observed found[2] = {};
  if (mine) {
    found[0] = observe(step, i);
    found[1] = observe(step, batch + i);
  }
  const bool poisoned = __syncthreads_or(!found[0].finite() || !found[1].finite()) != 0;
  const double gap = poisoned ? static_cast<double>(NAN) : 0.0;
  double log_u[2] = {};
  if (mine) settle(step, i, found[0].log_mean, found[1].log_mean, gap, log_u);
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
  RuleTerms both{0.0, 0.0, 0.0};
  if (mine) {
    if (averages) {
      const bool shared = !call.bimodal && !call.per_view;
      log_u[0] = space.log_u[i];
      log_u[1] = space.log_u[shared ? i : batch + i];
    }
    const AnchorExponents seen[2] = {found[0].seen, found[1].seen};
    const double temperatures[2] = {found[0].temperature, found[1].temperature};
    both = apply_rules(step, i, seen, log_u, temperatures, gap);
  }
  write_value<kBlock>(step, both.value, both.slope);
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
