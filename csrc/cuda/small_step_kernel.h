// The whole fused step of a small batch in one launch: one block a label.
//
//   compact the positives -> rows -> state -> rule -> columns -> gradient
//
// Mapping: rows, a warp an anchor, its lanes stride over the items in shared memory; state and
// rule, a thread an anchor; columns, a thread an item. What an anchor needs between the stages
// stands in the workspace, which the L1 cache keeps. Bytes: each input once; at 256 entries
// everything takes less time than one launch. Pairs: P x B on one SM, 1e6 pairs about 50 us: larger
// batches take cuda/score_step.cu's way. Hazard: the stages are apart by barriers alone; every
// thread reaches all of them.
#pragma once

#include "core/surrogate.h"
#include "cuda/moving_average_kernels.h"
#include "cuda/score_step_kernels.h"

namespace xrisk::cuda {

// The mean of the blends of all anchors that share the row of anchor i.
template <class T, class State>
__device__ double shared_blend(const StepAccess<T, State>& access, const StepBuffers<T>& buffers,
                               int label, int64_t first, int32_t anchors, int32_t i, int column) {
  const ScoreStep<T, State>& call = access.call;
  const int64_t row = buffers.ids[first + i];
  const bool inside = row >= 0 && row < call.rows;
  const double old =
      inside ? static_cast<double>(call.state[(label * call.rows + row) * 2 + column]) : NAN;
  const BlendFactors f = linear_factors(*call.gamma);
  BlendMean mean(false);
  for (int32_t k = inside ? 0 : i; k < (inside ? anchors : i + 1); ++k) {
    if (buffers.ids[first + k] != row) continue;
    mean.add(blend_linear(old, buffers.u[2 * (first + k) + column], f.keep, f.add));
  }
  const State narrow = static_cast<State>(mean.mean());
  const bool storable = is_storable(static_cast<double>(narrow), false);
  return storable ? static_cast<double>(narrow) : mean.mean();
}

template <int kThreads, int kMaxBatch, Surrogate kKind, class T, class State>
__global__ void __launch_bounds__(kThreads)
    small_step_kernel(StepAccess<T, State> access, StepBuffers<T> buffers, T share) {
  XRISK_SHARED(T, scores, [kMaxBatch]);
  XRISK_SHARED(T, weights, [kMaxBatch]);  // as items of the rule
  XRISK_SHARED(uint8_t, positive, [kMaxBatch]);
  const ScoreStep<T, State>& call = access.call;
  const int label = static_cast<int>(blockIdx.x), t = static_cast<int>(threadIdx.x);
  const int batch = static_cast<int>(call.batch);
  const int64_t first = static_cast<int64_t>(label) * batch;  // of the label in the workspace
  const bool two_classes = call.rule == Rule::kAveragePrecision;
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{call.margin, *call.scale});

  // ---- who takes part
  LabelTotals totals = {0.0, 0.0, 0, 0};
  for (int begin = 0; begin < batch; begin += kThreads) {
    const int b = begin + t;
    LabelTotals mine = {0.0, 0.0, 0, 0};
    if (b < batch) {
      const T score = access.score(b, label), weight = access.weight(b, label);
      scores[b] = score;
      positive[b] = access.anchor(b, label);
      weights[b] = access.item(b, label) ? weight : T(0);
      mine.item_weight = static_cast<double>(weights[b]);
      mine.anchor_weight = positive[b] ? static_cast<double>(weight) : 0.0;
      mine.positives = positive[b];
      mine.bad = weight > T(0) && !(score - score == T(0));
    }
    LabelTotals before, sum;
    block_scan<kThreads>(mine, LabelTotals{0.0, 0.0, 0, 0}, AddTotals(), before, sum);
    if (mine.positives) {
      const int64_t at = first + totals.positives + before.positives;
      buffers.anchors[at] = scores[b];
      buffers.anchor_weights[at] = access.weight(b, label);
      buffers.positions[at] = b;
      if (call.state != nullptr) buffers.ids[at] = call.index[b];
    }
    totals = AddTotals()(totals, sum);
  }
  const bool pairs = totals.positives > 0 && totals.item_weight > 0;
  const bool bad = pairs && totals.bad != 0;
  const int32_t anchors = pairs && !bad ? totals.positives : 0;
  const double mean = 1.0 / totals.item_weight;
  __syncthreads();

  // ---- rows
  for (int32_t i = warp_index(); i < anchors; i += kThreads / 32) {
    const T x = buffers.anchors[first + i];
    T sums[4] = {};  // at most kMaxBatch / 32 terms a lane
    for (int j = lane_index(); j < batch; j += 32) {
      if (weights[j] == T(0)) continue;
      T value, slope;
      phi(scores[j] - x, value, slope);
      value *= weights[j];
      slope *= weights[j];
      sums[0] += value;
      sums[1] += slope;
      if (two_classes && positive[j]) {
        sums[2] += value;
        sums[3] += slope;
      }
    }
    double totals_of_warp[4];
    for (int k = 0; k < 4; ++k) totals_of_warp[k] = warp_sum(static_cast<double>(sums[k]));
    if (lane_index() == 0) {
      buffers.u[2 * (first + i)] = totals_of_warp[0] * mean;
      buffers.slopes[first + i] = totals_of_warp[1];
      buffers.u[2 * (first + i) + 1] = totals_of_warp[2] * mean;
      buffers.own_slopes[first + i] = totals_of_warp[3];
    }
  }
  __syncthreads();

  // ---- state: all read it before any writes it
  const double* u = buffers.u;
  if (call.state != nullptr) {
    for (int32_t i = t; i < anchors; i += kThreads) {
      for (int column = 0; column < 2; ++column) {
        buffers.stored[2 * (first + i) + column] =
            shared_blend(access, buffers, label, first, anchors, i, column);
      }
    }
    u = buffers.stored;
    __syncthreads();
    for (int32_t i = t; call.write_state && i < anchors; i += kThreads) {
      const int64_t row = buffers.ids[first + i];
      bool writes = row >= 0 && row < call.rows;
      for (int32_t k = 0; writes && k < i; ++k) writes = buffers.ids[first + k] != row;
      for (int column = 0; writes && column < 2; ++column) {
        const State value = static_cast<State>(u[2 * (first + i) + column]);
        if (is_storable(static_cast<double>(value), false)) {
          call.state[(label * call.rows + row) * 2 + column] = value;
        }
      }
    }
  }

  // ---- rule
  double value = 0.0;
  for (int32_t i = t; i < anchors; i += kThreads) {
    const int64_t at = first + i;
    const double part = static_cast<double>(buffers.anchor_weights[at]) / totals.anchor_weight;
    const AnchorTerms terms = two_classes ? average_precision_rule(u[2 * at], u[2 * at + 1])
                                          : pairwise_auc_rule(u[2 * at]);
    value += part * terms.value;
    const double weight = part * terms.negative_weight * mean;
    const double own_weight = part * terms.positive_weight * mean;
    double own = weight * buffers.slopes[at];
    if (two_classes) own += (own_weight - weight) * buffers.own_slopes[at];
    buffers.weights[at] = weight;
    buffers.positive_weights[at] = own_weight;
    buffers.slopes[at] = own;
  }
  value = block_sum<kThreads>(value);  // a barrier, too: the weights are there
  if (t == 0) {
    const T result = static_cast<T>(bad ? NAN : value);
    call.values[label] = result;
    if (call.mean_value != nullptr && call.labels == 1) *call.mean_value = result;
  }
  if (call.gradient == nullptr) return;  // all threads
  __syncthreads();

  // ---- columns
  for (int j = t; j < batch; j += kThreads) {
    const double* anchor_weights =
        two_classes && positive[j] ? buffers.positive_weights : buffers.weights;
    double sum = 0.0;
    for (int32_t i = 0; weights[j] != T(0) && i < anchors; ++i) {
      T ignored, slope;
      phi(scores[j] - buffers.anchors[first + i], ignored, slope);
      sum += anchor_weights[first + i] * static_cast<double>(slope);
    }
    const T pull = static_cast<T>(sum * static_cast<double>(weights[j])) * share;
    call.gradient[access.at(j, label)] = bad ? static_cast<T>(NAN) : pull;
  }
  __syncthreads();  // an anchor's entry was written by another thread
  for (int32_t i = t; i < anchors; i += kThreads) {
    T& gradient = call.gradient[access.at(buffers.positions[first + i], label)];
    gradient -= static_cast<T>(buffers.slopes[first + i]) * share;
  }
}

}  // namespace xrisk::cuda
