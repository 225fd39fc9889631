// The kernels around the pair sums of a fused step: who takes part, the rule, the gradient's
// layout.
//
// Positives are compacted in their order (count a tile, scan the tiles, write), so that the result
// does not depend on the order of the blocks. How many there are stays on the device; grids are
// sized by the batch and blocks beyond the positives leave at once.
#pragma once

#include "core/rules.h"
#include "cuda/block.h"
#include "cuda/score_step.h"

namespace xrisk::cuda {

constexpr int kStepThreads = 256;

// What a label's tiles add up to.
struct LabelTotals {
  double item_weight, anchor_weight;
  int32_t positives, bad;  // bad: a score that is NaN or infinite
};

struct AddTotals {
  __device__ LabelTotals operator()(const LabelTotals& a, const LabelTotals& b) const {
    return {a.item_weight + b.item_weight, a.anchor_weight + b.anchor_weight,
            a.positives + b.positives, a.bad | b.bad};
  }
};

template <class T, class State>
struct StepAccess {
  ScoreStep<T, State> call;

  __device__ int64_t at(int64_t entry, int label) const { return entry * call.labels + label; }
  __device__ T score(int64_t entry, int label) const { return call.scores[at(entry, label)]; }
  __device__ T weight(int64_t entry, int label) const {
    if (call.weights == nullptr) return T(1);
    return call.weights[call.weights_per_label ? at(entry, label) : entry];
  }
  __device__ bool anchor(int64_t entry, int label) const {
    return call.positive.positive(at(entry, label)) && weight(entry, label) > T(0);
  }
  __device__ bool item(int64_t entry, int label) const {
    if (!(weight(entry, label) > T(0))) return false;
    return call.rule == Rule::kAveragePrecision || !call.positive.positive(at(entry, label));
  }
  // A tile's thread t has the kEntries entries from here on.
  template <int kEntries>
  __device__ int64_t first_of_thread() const {
    return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kEntries;
  }
};

template <class T>
struct StepBuffers {
  LabelTotals* tiles;     // [L, tiles]: totals, then (after the scan) offsets in `positives`
  LabelTotals* totals;    // [L]
  int32_t* live;          // [L] positives, or 0 where the rule has nothing to do
  T* items;               // [L, B] scores
  T* item_weights;        // [L, B]
  T* anchors;             // [L, B]
  T* anchor_weights;      // [L, B]
  int32_t* positions;     // [L, B] entries of the anchors
  int64_t* ids;           // [L, B]
  double *sums, *slopes;  // [L, B]: over all items of the rule
  double *own_sums, *own_slopes;       // [L, B]: over the positive ones
  double* u;                           // [L, B, 2]
  double* stored;                      // [L, B, 2]
  double *weights, *positive_weights;  // [L, B]
  T* columns;                          // [L, B] gradient of the items
  T* own_columns;                      // [L, B] of the anchors as items
};

// tiles[l, tile]: what the tile's entries add up to. blockIdx.y the label.
template <int kThreads, int kEntries, class T, class State>
__global__ void __launch_bounds__(kThreads)
    count_kernel(StepAccess<T, State> access, LabelTotals* tiles) {
  const int label = static_cast<int>(blockIdx.y);
  LabelTotals mine = {0.0, 0.0, 0, 0};
  const int64_t first = access.template first_of_thread<kEntries>();
  for (int64_t b = first; b < first + kEntries && b < access.call.batch; ++b) {
    const T weight = access.weight(b, label), score = access.score(b, label);
    const bool anchor = access.anchor(b, label);
    if (weight > T(0) && !(score - score == T(0))) mine.bad = 1;
    if (access.item(b, label)) mine.item_weight += static_cast<double>(weight);
    if (anchor) mine.anchor_weight += static_cast<double>(weight);
    mine.positives += anchor;
  }
  LabelTotals before, total;
  block_scan<kThreads>(mine, LabelTotals{0.0, 0.0, 0, 0}, AddTotals(), before, total);
  if (threadIdx.x == 0) tiles[static_cast<int64_t>(label) * gridDim.x + blockIdx.x] = total;
}

// One block a label: the totals, and in tiles[..].positives the positives before the tile. Nothing
// is live where the rule has nothing to do: no positive, no item, a bad score.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    scan_tiles_kernel(LabelTotals* tiles, int64_t count, LabelTotals* totals, int32_t* live) {
  const int label = static_cast<int>(blockIdx.x), t = static_cast<int>(threadIdx.x);
  LabelTotals* mine = tiles + static_cast<int64_t>(label) * count;
  LabelTotals before = {0.0, 0.0, 0, 0};
  for (int64_t first = 0; first < count; first += kThreads) {
    LabelTotals tile = {0.0, 0.0, 0, 0};
    if (first + t < count) tile = mine[first + t];
    LabelTotals earlier, sum;
    block_scan<kThreads>(tile, LabelTotals{0.0, 0.0, 0, 0}, AddTotals(), earlier, sum);
    if (first + t < count) mine[first + t].positives = before.positives + earlier.positives;
    before = AddTotals()(before, sum);
  }
  if (t == 0) {
    const bool pairs = before.positives > 0 && before.item_weight > 0;
    before.bad = before.bad != 0 && pairs;
    totals[label] = before;
    live[label] = pairs && before.bad == 0 ? before.positives : 0;
  }
}

// Scores and weights by label, and the positives of each, in order.
template <int kThreads, int kEntries, class T, class State>
__global__ void __launch_bounds__(kThreads)
    compact_kernel(StepAccess<T, State> access, StepBuffers<T> out) {
  const ScoreStep<T, State>& call = access.call;
  const int label = static_cast<int>(blockIdx.y);
  const int64_t row = static_cast<int64_t>(label) * call.batch;
  const int64_t first = access.template first_of_thread<kEntries>();
  int32_t count = 0;
  for (int64_t b = first; b < first + kEntries && b < call.batch; ++b) {
    count += access.anchor(b, label);
    const T weight = access.weight(b, label);
    out.items[row + b] = access.score(b, label);
    out.item_weights[row + b] = access.item(b, label) ? weight : T(0);
  }
  int32_t next = out.tiles[static_cast<int64_t>(label) * gridDim.x + blockIdx.x].positives +
                 block_exclusive_scan<kThreads>(count, int32_t(0), Sum());
  for (int64_t b = first; b < first + kEntries && b < call.batch; ++b) {
    if (!access.anchor(b, label)) continue;
    out.anchors[row + next] = access.score(b, label);
    out.anchor_weights[row + next] = access.weight(b, label);
    out.positions[row + next] = static_cast<int32_t>(b);
    if (call.state != nullptr) out.ids[row + next] = call.index[b];
    ++next;
  }
}

// u_i = sums_i / weight of the items. A thread an anchor, blockIdx.y the label.
template <class T>
__global__ void observe_kernel(StepBuffers<T> buffers, int64_t batch, bool two_classes) {
  const int label = static_cast<int>(blockIdx.y);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= buffers.live[label]) return;
  const int64_t at = label * batch + i;
  const double mean = 1.0 / buffers.totals[label].item_weight;
  buffers.u[2 * at] = buffers.sums[at] * mean;
  buffers.u[2 * at + 1] = two_classes ? buffers.own_sums[at] * mean : 0.0;
}

// The rule: weights of the anchors for the columns, and their share of the value (into sums).
template <class T>
__global__ void rule_kernel(StepBuffers<T> buffers, int64_t batch, Rule rule, const double* u) {
  const int label = static_cast<int>(blockIdx.y);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= buffers.live[label]) return;
  const int64_t at = label * batch + i;
  const LabelTotals& totals = buffers.totals[label];
  const double mean = 1.0 / totals.item_weight;
  const double share = static_cast<double>(buffers.anchor_weights[at]) / totals.anchor_weight;
  const bool two_classes = rule == Rule::kAveragePrecision;
  const AnchorTerms terms =
      two_classes ? average_precision_rule(u[2 * at], u[2 * at + 1]) : pairwise_auc_rule(u[2 * at]);
  const double weight = share * terms.negative_weight * mean;
  const double positive_weight = share * terms.positive_weight * mean;
  double own = weight * buffers.slopes[at];
  if (two_classes) own += (positive_weight - weight) * buffers.own_slopes[at];
  buffers.weights[at] = weight;
  buffers.positive_weights[at] = positive_weight;
  buffers.slopes[at] = own;
  buffers.sums[at] = share * terms.value;
}

// values[l], one block a label, in an order that the sizes decide.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    value_kernel(StepBuffers<T> buffers, int64_t batch, T* values) {
  const int label = static_cast<int>(blockIdx.x);
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < buffers.live[label]; i += kThreads) {
    sum += buffers.sums[label * batch + i];
  }
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x != 0) return;
  values[label] = static_cast<T>(buffers.totals[label].bad != 0 ? NAN : total);
}

// The mean of the labels' values, in order: few of them, one thread.
template <class T>
__global__ void mean_value_kernel(const T* values, int labels, T* mean) {
  double total = 0.0;
  for (int l = 0; l < labels; ++l) total += static_cast<double>(values[l]);
  *mean = labels == 0 ? T(0) : static_cast<T>(total / labels);
}

// gradient[b, l] of all entries as items. A thread an entry.
template <class T>
__global__ void item_gradient_kernel(StepBuffers<T> buffers, int64_t batch, int labels, T share,
                                     T* gradient) {
  const int label = static_cast<int>(blockIdx.y);
  const int64_t b = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (b >= batch) return;
  T value = T(0);
  if (buffers.totals[label].bad != 0) {
    value = static_cast<T>(NAN);
  } else if (buffers.live[label] > 0) {
    value = buffers.columns[label * batch + b] * share;
  }
  gradient[b * labels + label] = value;
}

// The anchors' entries: as items of the positive class, less their own slopes. A thread an anchor.
template <class T>
__global__ void anchor_gradient_kernel(StepBuffers<T> buffers, int64_t batch, int labels,
                                       bool two_classes, T share, T* gradient) {
  const int label = static_cast<int>(blockIdx.y);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= buffers.live[label]) return;
  const int64_t at = label * batch + i;
  const double as_item = two_classes ? static_cast<double>(buffers.own_columns[at]) : 0.0;
  gradient[buffers.positions[at] * static_cast<int64_t>(labels) + label] =
      static_cast<T>(as_item - buffers.slopes[at]) * share;
}

}  // namespace xrisk::cuda
