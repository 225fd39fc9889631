// The whole partial AUC step of a small batch in one launch: one block a label.
//
//   compact -> prepare -> rows -> propose -> state -> settle -> columns -> gradient
//
// Mapping: rows, a warp four anchors, its lanes stride over the items; the phases of
// cuda/partial_phases.h, a thread an anchor; columns, a thread an item. What the pairs need stands
// in shared memory, the rest in the workspace, which the L1 cache keeps. Bytes: each input once.
// Pairs: P x B on one SM. Hazard: the stages are apart by barriers alone; every thread reaches all
// of them.
#pragma once

#include "cuda/moving_average_kernels.h"
#include "cuda/partial_pairs_kernels.h"
#include "cuda/partial_phases.h"
#include "cuda/small_partial.h"

namespace xrisk::cuda {

// Who takes part, as count, scan and compact leave it. Ends with a barrier.
template <int kThreads, class T, class State>
__device__ void compact_label(const PartialLabel<T, State>& work) {
  const StepAccess<T, State> access{work.call.batch};
  const StepBuffers<T>& step = work.buffers.step;
  const int t = static_cast<int>(threadIdx.x), label = work.label;
  const int64_t first = work.first(), batch = work.call.batch.batch;
  LabelTotals totals = {0.0, 0.0, 0, 0};
  for (int64_t begin = 0; begin < batch; begin += kThreads) {
    const int64_t b = begin + t;
    LabelTotals mine = {0.0, 0.0, 0, 0};
    if (b < batch) {
      const T score = access.score(b, label), weight = access.weight(b, label);
      const T as_item = access.item(b, label) ? weight : T(0);
      step.items[first + b] = score;
      step.item_weights[first + b] = as_item;
      mine.item_weight = static_cast<double>(as_item);
      mine.positives = access.anchor(b, label);
      mine.anchor_weight = mine.positives ? static_cast<double>(weight) : 0.0;
      mine.bad = weight > T(0) && !(score - score == T(0));
    }
    LabelTotals before, sum;
    block_scan<kThreads>(mine, LabelTotals{0.0, 0.0, 0, 0}, AddTotals(), before, sum);
    if (mine.positives) {
      const int64_t at = first + totals.positives + before.positives;
      step.anchors[at] = access.score(b, label);
      step.anchor_weights[at] = access.weight(b, label);
      step.positions[at] = static_cast<int32_t>(b);
      if (work.call.batch.state != nullptr) step.ids[at] = work.call.batch.index[b];
    }
    totals = AddTotals()(totals, sum);
  }
  if (t == 0) {
    const bool pairs = totals.positives > 0 && totals.item_weight > 0;
    totals.bad = totals.bad != 0 && pairs;
    step.totals[label] = totals;
    step.live[label] = pairs && totals.bad == 0 ? totals.positives : 0;
  }
  __syncthreads();
}

// step.stored: the mean of the blends of `values` over the anchors of a row. Then the rows are
// written. All read before any writes; barriers inside.
template <int kThreads, class T, class State>
__device__ void blend_rows(const PartialLabel<T, State>& work, State* state, const double* values,
                           BlendFactors f, bool log_domain) {
  const StepBuffers<T>& step = work.buffers.step;
  const int64_t first = work.first();
  const int32_t live = work.live();
  const bool met = meets_equal<kThreads>(static_cast<const int64_t*>(step.ids + first), live);
  const bool shared = __syncthreads_or(met) != 0;  // rows; a barrier, too: the values are there
  for (int32_t i = static_cast<int>(threadIdx.x); i < live; i += kThreads) {
    const State* row = work.row(state, first + i);
    const double untouched = log_domain ? -INFINITY : NAN;
    const double old = row == nullptr ? untouched : static_cast<double>(*row);
    BlendMean mean(log_domain);
    const bool alone = !shared || row == nullptr;
    for (int32_t k = alone ? i : 0; k < (alone ? i + 1 : live); ++k) {
      if (step.ids[first + k] != step.ids[first + i]) continue;
      mean.add(log_domain ? blend_log(old, values[first + k], f.keep, f.add)
                          : blend_linear(old, values[first + k], f.keep, f.add));
    }
    step.stored[first + i] = mean.mean();
  }
  __syncthreads();
  for (int32_t i = static_cast<int>(threadIdx.x); work.call.batch.write_state && i < live;
       i += kThreads) {
    State* row = work.row(state, first + i);
    bool writes = row != nullptr;
    for (int32_t k = 0; shared && writes && k < i; ++k)
      writes = step.ids[first + k] != step.ids[first + i];
    const State narrow = static_cast<State>(step.stored[first + i]);
    if (writes && is_storable(static_cast<double>(narrow), log_domain)) *row = narrow;
  }
}

template <int kThreads, Surrogate kKind, class T, class State>
__global__ void __launch_bounds__(kThreads)
    small_partial_kernel(PartialAUCStep<T, State> call, PartialBuffers<T> buffers, T share) {
  const PartialLabel<T, State> work{call, buffers, static_cast<int>(blockIdx.x)};
  const StepBuffers<T>& step = buffers.step;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = work.first();
  const int batch = static_cast<int>(call.batch.batch);
  const bool has_state = call.batch.state != nullptr;
  const auto term = make_partial_term<kKind, T>(
      call.batch.margin, call.batch.scale, kind_of(call.rule, has_state), call.schedules.kl_weight);

  // Items, for the rows, and anchors, for the columns, in shared memory.
  XRISK_SHARED(T, scores, [kSmallPartialBatch]);
  XRISK_SHARED(T, weights, [kSmallPartialBatch]);
  XRISK_SHARED(T, anchors, [kSmallPartialBatch]);
  XRISK_SHARED(T, shifts, [kSmallPartialBatch]);

  compact_label<kThreads>(work);
  prepare<kThreads, kKind>(work);
  const int32_t live = work.live();
  for (int j = t; j < batch; j += kThreads) {
    scores[j] = step.items[first + j];
    weights[j] = step.item_weights[first + j];
    if (j >= live) continue;
    anchors[j] = step.anchors[first + j];
    shifts[j] = static_cast<T>(buffers.shifts[first + j]);
  }
  __syncthreads();

  // ---- rows
  for (int32_t i = warp_index() * kRowAnchors; i < live; i += kThreads / 32 * kRowAnchors) {
    T x[kRowAnchors], shift[kRowAnchors];
    double out[kRowAnchors][3] = {};
    for (int a = 0; a < kRowAnchors; ++a) {
      const int32_t at = i + a < live ? i + a : i;
      x[a] = anchors[at];
      shift[a] = shifts[at];
    }
    add_rows<kRowAnchors>(term, x, shift, static_cast<const T*>(scores),
                          static_cast<const T*>(weights), batch, out);
    for (int a = 0; a < kRowAnchors; ++a) {
      double total[3];
      for (int k = 0; k < 3; ++k) total[k] = warp_sum(out[a][k]);
      if (lane_index() != 0 || i + a >= live) continue;
      step.sums[first + i + a] = total[0];
      step.slopes[first + i + a] = total[1];
      buffers.above[first + i + a] = total[2];
    }
  }
  __syncthreads();

  // ---- state and rule
  propose<kThreads>(work);
  const double* blends = step.u;
  const bool two_way_cvar = has_state && call.rule == PartialRule::kTwoWayCVaR;
  if (has_state) {
    const bool log_domain = !keeps_thresholds(call.rule);
    const BlendFactors f = log_domain ? log_factors(*call.schedules.gamma) : linear_factors(1.0);
    blend_rows<kThreads>(work, two_way_cvar ? call.dual : call.batch.state, step.u, f, log_domain);
    blends = step.stored;
  }
  __syncthreads();
  settle<kThreads>(work, blends);
  if (two_way_cvar) {
    blend_rows<kThreads>(work, call.batch.state, buffers.next, linear_factors(1.0), false);
  }
  if (call.batch.gradient == nullptr) return;  // all threads
  __syncthreads();

  // ---- columns. An anchor's entry has no weight as an item.
  const bool bad = work.totals().bad != 0;
  const double factor = buffers.factor[work.label] * static_cast<double>(share);
  const StepAccess<T, State> access{call.batch};
  XRISK_SHARED(T, anchor_weights, [kSmallPartialBatch]);
  for (int32_t i = t; i < live; i += kThreads) {
    anchor_weights[i] = static_cast<T>(step.weights[first + i]);
  }
  __syncthreads();
  for (int j = t; j < batch; j += kThreads) {
    constexpr int kTerms = 64;  // of a sum in T
    const T weight = weights[j];
    double sum = 0.0;
    for (int32_t i = 0; weight != T(0) && i < live; i += kTerms) {
      sum += column_of(term, scores[j], static_cast<const T*>(anchors + i),
                       static_cast<const T*>(shifts + i), static_cast<const T*>(anchor_weights + i),
                       0, 1, live - i < kTerms ? live - i : kTerms);
    }
    const double pull = factor * sum * static_cast<double>(weight);
    call.batch.gradient[access.at(j, work.label)] = static_cast<T>(bad ? NAN : pull);
  }
  __syncthreads();  // an anchor's entry was written by another thread
  for (int32_t i = t; i < live; i += kThreads) {
    call.batch.gradient[access.at(step.positions[first + i], work.label)] =
        static_cast<T>(-factor * step.slopes[first + i]);
  }
}

}  // namespace xrisk::cuda
