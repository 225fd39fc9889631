// What one block does for a label between the pair sums of a partial AUC step. The step of a small
// batch runs the phases in one kernel, with barriers between them; a larger one each in a kernel of
// its own, a block a label, between kernels that take all blocks.
//
//   prepare: selection (exact modes), the anchors' shifts
//   propose: from the sums to what is blended with the state
//   settle:  from the blends to value, weights of the columns, the anchors' own slopes
//
// Mapping: a thread an anchor, in strides. Sums over anchors are in one order.
#pragma once

#include "core/moving_average.h"
#include "core/rules.h"
#include "cuda/direct_kernels.h"
#include "cuda/partial_auc_step.h"
#include "cuda/partial_pairs.h"
#include "cuda/score_step_kernels.h"
#include "cuda/take_first.h"

namespace xrisk::cuda {

// What the two sides of the block share; names of StepBuffers as the phases use them.
template <class T>
struct PartialBuffers {
  StepBuffers<T> step;  // u: what is proposed, stored: the blends [L, B]
  double* above;        // [L, B]
  double* shifts;       // [L, B]
  double* next;         // [L, B] thresholds after the step
  double* factor;       // [L] of the columns and the own slopes
  double* one;          // 1: the gamma of an assignment
  bool log_sums;        // KL: the rows leave log sums in `above`, their slopes, and masses in sums
};

XRISK_HD bool keeps_thresholds(PartialRule rule) {
  return rule == PartialRule::kCVaR || rule == PartialRule::kTwoWayCVaR;
}
XRISK_HD bool is_log_sum(PartialRule rule) {
  return rule == PartialRule::kKL || rule == PartialRule::kTwoWayKL;
}
// Without thresholds to move CVaR takes the best ones, by selection.
XRISK_HD bool selects(PartialRule rule, bool has_state) {
  return rule == PartialRule::kExact || rule == PartialRule::kTopPush ||
         (keeps_thresholds(rule) && !has_state);
}
XRISK_HD PairKind kind_of(PartialRule rule, bool has_state) {
  if (is_log_sum(rule)) return PairKind::kExponential;
  return keeps_thresholds(rule) && has_state ? PairKind::kThreshold : PairKind::kPlain;
}

// One label's part of the arrays.
template <class T, class State>
struct PartialLabel {
  PartialAUCStep<T, State> call;
  PartialBuffers<T> buffers;
  int label;

  __device__ int64_t first() const { return label * call.batch.batch; }
  __device__ int32_t live() const { return buffers.step.live[label]; }
  __device__ LabelTotals& totals() const { return buffers.step.totals[label]; }
  __device__ double share(int64_t at) const {
    return static_cast<double>(buffers.step.anchor_weights[at]) / totals().anchor_weight;
  }
  __device__ State* row(State* state, int64_t at) const {
    const int64_t id = buffers.step.ids[at];
    const bool inside = id >= 0 && id < call.batch.rows;
    return inside ? state + label * call.batch.rows + id : nullptr;
  }
};

// Before the rows. A barrier at its end.
template <int kThreads, Surrogate kKind, class T, class State>
__device__ void prepare(const PartialLabel<T, State>& work) {
  const PartialAUCStep<T, State>& call = work.call;
  const StepBuffers<T>& step = work.buffers.step;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = work.first(), batch = call.batch.batch;
  const int32_t live = work.live();
  const bool has_state = call.batch.state != nullptr;
  LabelTotals totals = work.totals();
  if (live > 0 && selects(call.rule, has_state)) {
    const double highest =
        call.rule == PartialRule::kTopPush ? 1.0 : call.params.max_fpr * totals.item_weight;
    totals.item_weight = take_first<kThreads>(step.items + first, step.item_weights + first, batch,
                                              T(1), totals.item_weight, highest);
    const double lowest = (1.0 - call.params.min_tpr) * totals.anchor_weight;
    totals.anchor_weight = take_first<kThreads>(step.anchors + first, step.anchor_weights + first,
                                                int64_t(live), T(-1), totals.anchor_weight, lowest);
  }
  T low = static_cast<T>(INFINITY), high = static_cast<T>(-INFINITY);
  if (live > 0 && is_log_sum(call.rule)) {
    for (int64_t j = t; j < batch; j += kThreads) {
      if (step.item_weights[first + j] == T(0)) continue;
      const T y = step.items[first + j];
      low = y < low ? y : low;
      high = y > high ? y : high;
    }
    low = -block_max<kThreads>(-low, static_cast<T>(-INFINITY));
    high = block_max<kThreads>(high, static_cast<T>(-INFINITY));
  }
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{call.batch.margin, *call.batch.scale});
  for (int32_t i = t; i < live; i += kThreads) {
    double shift = 0.0;
    if (is_log_sum(call.rule)) {
      shift = static_cast<double>(peak_of(phi, step.anchors[first + i], low, high));
    } else if (keeps_thresholds(call.rule) && has_state) {
      const State* row = work.row(call.batch.state, first + i);
      shift = row == nullptr ? 0.0 : static_cast<double>(*row);
    }
    work.buffers.shifts[first + i] = shift;
  }
  __syncthreads();  // all have read the totals
  if (t == 0) {
    work.totals() = totals;
    if (work.label == 0) *work.buffers.one = 1.0;
  }
  __syncthreads();
}

// From the rows' sums to step.u, which is blended with the state of `proposed_state`.
template <int kThreads, class T, class State>
__device__ void propose(const PartialLabel<T, State>& work) {
  const PartialAUCStep<T, State>& call = work.call;
  const StepBuffers<T>& step = work.buffers.step;
  const int64_t first = work.first();
  const double mean = 1.0 / work.totals().item_weight, rate = call.params.max_fpr;
  const bool thresholds = kind_of(call.rule, call.batch.state != nullptr) == PairKind::kThreshold;
  const double outer = call.rule == PartialRule::kTwoWayCVaR && thresholds
                           ? static_cast<double>(call.outer[work.label])
                           : 0.0;
  const double log_weight = log(work.totals().item_weight);
  for (int32_t i = static_cast<int>(threadIdx.x); i < work.live(); i += kThreads) {
    const int64_t at = first + i;
    const double shift = work.buffers.shifts[at];
    double value = 0.0;
    if (work.buffers.log_sums) {
      value = work.buffers.above[at] - log_weight;
      work.buffers.above[at] = value;
    } else if (is_log_sum(call.rule)) {
      const double mass = step.sums[at];
      value = shift / *call.schedules.kl_weight + log(mass) - log_weight;
      step.slopes[at] /= mass;
      work.buffers.above[at] = value;  // the batch's own log mean; sums stays the mass
    } else if (thresholds) {
      const double g = cvar_value(shift, step.sums[at] * mean, rate);
      const double above = work.buffers.above[at] * mean;
      step.sums[at] = g;
      work.buffers.above[at] = above;
      if (call.rule == PartialRule::kCVaR) {
        value = cvar_next(shift, above, rate, *call.schedules.eta);
      } else {
        const State* row = work.row(call.dual, at);
        const double dual = row == nullptr ? 1.0 : static_cast<double>(*row);
        value = cvar_dual_next(dual, g, outer, 1.0 - call.params.min_tpr, *call.schedules.dual_eta);
      }
    } else if (call.rule == PartialRule::kPNormPush) {
      value = log(step.sums[at] * mean);
    }
    step.u[at] = value;
  }
}

template <class T, class State>
__device__ void write_outer(const PartialLabel<T, State>& work, double blend, bool log_domain) {
  const State narrow = static_cast<State>(blend);
  const bool storable = is_storable(static_cast<double>(narrow), log_domain);
  if (threadIdx.x == 0 && work.call.batch.write_state && storable) {
    work.call.outer[work.label] = narrow;
  }
}

// log v: the log mean of the anchors' powers, blended with the label's own. Barriers inside.
template <int kThreads, class T, class State>
__device__ double outer_log_mean(const PartialLabel<T, State>& work, const double* log_u) {
  const PartialSchedules<const double*>& now = work.call.schedules;
  const int64_t first = work.first();
  const auto power = [&](int32_t i) {
    return two_way_power(log_u[first + i], *now.kl_weight, *now.positive_kl_weight);
  };
  double peak = -INFINITY, mean = 0.0;
  for (int32_t i = static_cast<int>(threadIdx.x); i < work.live(); i += kThreads) {
    peak = fmax(peak, power(i));
  }
  peak = block_max<kThreads>(peak, static_cast<double>(-INFINITY));
  for (int32_t i = static_cast<int>(threadIdx.x); i < work.live(); i += kThreads) {
    mean += work.share(first + i) * exp(power(i) - peak);
  }
  const double observed = peak + log(block_sum<kThreads>(mean));
  if (work.call.outer == nullptr) return observed;
  const BlendFactors f = log_factors(*now.outer_gamma);
  const double old = static_cast<double>(work.call.outer[work.label]);
  const double blend = blend_log(old, observed, f.keep, f.add);
  __syncthreads();  // all have read it
  write_outer(work, blend, /*log_domain=*/true);
  return blend;
}

// `blends` [L, B]: of what was proposed. Leaves the value, step.weights for the columns,
// step.slopes as the anchors' own, and next thresholds. Barriers inside.
template <int kThreads, class T, class State>
__device__ void settle(const PartialLabel<T, State>& work, const double* blends) {
  const PartialAUCStep<T, State>& call = work.call;
  const StepBuffers<T>& step = work.buffers.step;
  const PartialSchedules<const double*>& now = call.schedules;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = work.first();
  const int32_t live = work.live();
  const PairKind kind = kind_of(call.rule, call.batch.state != nullptr);
  const double mean = 1.0 / work.totals().item_weight;
  const double rate = call.params.max_fpr, left = 1.0 - call.params.min_tpr;
  const bool two_way_cvar = call.rule == PartialRule::kTwoWayCVaR && kind == PairKind::kThreshold;
  double log_v = 0.0, peak = 0.0, outer = 0.0, value = 0.0, mean_dual = 0.0;
  if (live > 0 && call.rule == PartialRule::kTwoWayKL) {
    log_v = outer_log_mean<kThreads>(work, blends);
  }
  if (live > 0 && call.rule == PartialRule::kPNormPush) {
    peak = -INFINITY;
    for (int32_t i = t; i < live; i += kThreads) {
      peak = fmax(peak, p_norm_rule(blends[first + i], call.params.power).weight);
    }
    peak = block_max<kThreads>(peak, static_cast<double>(-INFINITY));
    if (peak == -INFINITY) peak = 0.0;  // no pair has a loss
  }
  if (live > 0 && two_way_cvar) outer = static_cast<double>(call.outer[work.label]);
  for (int32_t i = t; i < live; i += kThreads) {
    const int64_t at = first + i;
    const double share = work.share(at), blend = blends[at];
    double weight = share * mean, column = 0.0;
    if (call.rule == PartialRule::kKL) {
      const TopTerms terms = kl_rule(work.buffers.above[at], blend, *now.kl_weight);
      value += share * terms.value;
      weight = share * terms.weight;
    } else if (call.rule == PartialRule::kTwoWayKL) {
      weight = share * two_way_kl_weight(work.buffers.above[at], blend, log_v, *now.kl_weight,
                                         *now.positive_kl_weight);
    } else if (call.rule == PartialRule::kPNormPush) {
      const LogTerms terms = p_norm_rule(blend, call.params.power);
      value += share * exp(terms.value);
      weight *= exp(terms.weight - peak);
    } else if (kind == PairKind::kThreshold) {
      weight /= rate;
      if (two_way_cvar) {
        mean_dual += share * blend;
        value += share * blend * (step.sums[at] - outer) / left;
        weight *= blend / left;
        work.buffers.next[at] = cvar_next(work.buffers.shifts[at], work.buffers.above[at], rate,
                                          *now.eta * blend / left);
      } else {
        value += share * step.sums[at];
      }
    } else {
      value += weight * step.sums[at];
    }
    const bool over_mass = kind == PairKind::kExponential && !work.buffers.log_sums;
    column = over_mass ? weight / step.sums[at] : weight;
    step.slopes[at] *= weight;
    step.weights[at] = column;
  }
  value = block_sum<kThreads>(value);
  if (call.rule == PartialRule::kTwoWayKL) {
    value = live > 0 ? *now.positive_kl_weight * log_v : 0.0;
  }
  if (two_way_cvar) {
    mean_dual = block_sum<kThreads>(mean_dual);
    if (live > 0) {
      value += outer;
      write_outer(work, cvar_outer_next(outer, mean_dual, left, *now.outer_eta), false);
    }
  }
  if (t == 0) {
    constexpr double kLargestExponent = 700.0;
    work.buffers.factor[work.label] = exp(fmin(peak, kLargestExponent));
    call.batch.values[work.label] = static_cast<T>(work.totals().bad != 0 ? NAN : value);
  }
}

}  // namespace xrisk::cuda
