// The whole fused step of a small batch in one launch: one block a label, a thread an entry.
//
//   lists of the positives and of the other items -> rows -> state and rule -> columns
//
// Everything stands in shared memory; the inputs are read once, all at the start, and the rows of
// the state while the row sums are taken. Mapping: rows, a warp two anchors, its lanes stride over
// the items; state and rule, a thread an anchor; columns, a thread an item. Four barriers.
// Pairs: P x B on one SM, two passes of 7 and 6 instructions: 448 x 64 about 2 us, 1024 x 512 about
// 36 us. Larger batches take cuda/score_step.cu's way.
// Hazard: long float sums: a lane's are of 32 terms, joined over 4 lanes, then in double; a
// column's of 64, then in double.
#pragma once

#include "core/surrogate.h"
#include "cuda/moving_average_kernels.h"
#include "cuda/score_step_kernels.h"

namespace xrisk::cuda {

// Sums 8 values over the warp at once: lane l gets the sum of values[l / 4].
template <class T>
__device__ __forceinline__ double eight_sums(const T (&values)[8]) {
  const int lane = lane_index();
  T four[4], two[2];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const bool upper = (lane & 16) != 0;
    const T sent = upper ? values[k] : values[k + 4];
    four[k] = (upper ? values[k + 4] : values[k]) + __shfl_xor_sync(kWholeWarp, sent, 16);
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const bool upper = (lane & 8) != 0;
    const T sent = upper ? four[k] : four[k + 2];
    two[k] = (upper ? four[k + 2] : four[k]) + __shfl_xor_sync(kWholeWarp, sent, 8);
  }
  const double low = static_cast<double>(two[0]), high = static_cast<double>(two[1]);
  const bool upper = (lane & 4) != 0;
  double sum = (upper ? high : low) + __shfl_xor_sync(kWholeWarp, upper ? low : high, 4);
  sum += __shfl_xor_sync(kWholeWarp, sum, 2);
  return sum + __shfl_xor_sync(kWholeWarp, sum, 1);
}

template <class T>
struct SmallItem {
  T score, weight;
};

// What a label's entries add up to, and where this thread's entry stands in its list.
struct SmallTotals {
  int positives, others, rank;
  double positive_weight, other_weight;
  bool bad;
};

// The lists' sizes; `list` 0: positive, 1: other item, -1: neither. Two barriers of the block.
template <int kThreads>
__device__ __forceinline__ SmallTotals place(int list, double weight, bool weighted, bool bad) {
  constexpr int kWarps = kThreads / 32;
  XRISK_SHARED(int, counts, [kWarps]);  // positives, and 2^16 times the others
  XRISK_SHARED(double, weights, [2][kWarps]);
  const int lane = lane_index(), warp = warp_index();
  const unsigned below = (1u << lane) - 1;
  const unsigned positives = __ballot_sync(kWholeWarp, list == 0);
  const unsigned others = __ballot_sync(kWholeWarp, list == 1);
  if (lane == 0) counts[warp] = __popc(positives) + (__popc(others) << 16);
  if (weighted) {  // all threads alike
    const double positive_weight = warp_sum(list == 0 ? weight : 0.0);
    const double other_weight = warp_sum(list == 1 ? weight : 0.0);
    if (lane == 0) weights[0][warp] = positive_weight;
    if (lane == 0) weights[1][warp] = other_weight;
  }
  SmallTotals totals;
  totals.bad = __syncthreads_or(bad) != 0;
  const int upto = warp_inclusive_scan(lane < kWarps ? counts[lane] : 0, Sum());
  const int all = __shfl_sync(kWholeWarp, upto, 31);
  int before = __shfl_sync(kWholeWarp, upto, warp == 0 ? 0 : warp - 1);
  if (warp == 0) before = 0;
  totals.positives = all & 0xffff;
  totals.others = all >> 16;
  totals.rank = list == 0 ? (before & 0xffff) + __popc(positives & below)
                          : totals.positives + (before >> 16) + __popc(others & below);
  totals.positive_weight = totals.positives;
  totals.other_weight = totals.others;
  if (weighted) {
    totals.positive_weight = warp_sum(lane < kWarps ? weights[0][lane] : 0.0);
    totals.other_weight = warp_sum(lane < kWarps ? weights[1][lane] : 0.0);
  }
  return totals;
}

// Adds this lane's share of the items [begin, end) to the two anchors' sums.
template <class Phi, class T>
__device__ __forceinline__ void add_items(const Phi& phi, const SmallItem<T>* items, int begin,
                                          int end, T first, T second, T (&sums)[4]) {
#pragma unroll 4
  for (int j = begin + lane_index(); j < end; j += 32) {
    const SmallItem<T> item = items[j];
    T value, slope;
    phi(item.score - first, value, slope);
    sums[0] += item.weight * value;
    sums[1] += item.weight * slope;
    phi(item.score - second, value, slope);
    sums[2] += item.weight * value;
    sums[3] += item.weight * slope;
  }
}

template <int kThreads, Surrogate kKind, class T, class State>
__global__ void __launch_bounds__(kThreads)
    small_step_kernel(StepAccess<T, State> access, T share) {
  constexpr int kWarps = kThreads / 32, kMaxBatch = kThreads;
  // positives, then the other items
  XRISK_SHARED(SmallItem<T>, items, [kMaxBatch]);
  XRISK_SHARED(uint16_t, positions, [kMaxBatch]);
  // of the positives:
  XRISK_SHARED(int32_t, keys, [kMaxBatch]);  // low bits of the ids
  XRISK_SHARED(double,
               sums, [kMaxBatch][2]);  // over the positives and the others; then own slope, value
  XRISK_SHARED(T, slopes, [kMaxBatch][2]);  // the same; then the weights of the columns
  const ScoreStep<T, State>& call = access.call;
  const int label = static_cast<int>(blockIdx.x), t = static_cast<int>(threadIdx.x);
  const int batch = static_cast<int>(call.batch), lane = lane_index();
  const bool two_classes = call.rule == Rule::kAveragePrecision;
  const bool has_state = call.state != nullptr, weighted = call.weights != nullptr;

  // ---- who takes part
  T score = T(0), weight = T(0);
  bool labelled = false;
  int64_t id = 0;
  if (t < batch) {
    score = access.score(t, label);
    weight = access.weight(t, label);
    labelled = call.positive.positive(access.at(t, label));
    if (has_state) id = call.index[t];
  }
  const double scale = *call.scale, gamma = *call.gamma;
  const int list = !(weight > T(0)) ? -1 : labelled ? 0 : 1;
  const SmallTotals totals = place<kThreads>(list, static_cast<double>(weight), weighted,
                                             list >= 0 && !(score - score == T(0)));
  if (list >= 0) {
    items[totals.rank] = {score, weight};
    positions[totals.rank] = static_cast<uint16_t>(t);
    if (list == 0) keys[totals.rank] = static_cast<int32_t>(id);
  }
  const double item_weight = totals.other_weight + (two_classes ? totals.positive_weight : 0.0);
  const bool pairs = totals.positives > 0 && item_weight > 0;
  const bool bad = pairs && totals.bad;
  const int anchors = pairs && !bad ? totals.positives : 0;
  const int listed = totals.positives + totals.others;
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{call.margin, scale});
  __syncthreads();

  // ---- rows, the anchors' rows of the state on their way
  const bool is_anchor = t < anchors;
  double mean = 0.0, part = 0.0;
  int64_t row = -1;
  State* place_of_state = nullptr;
  State old[2] = {};
  if (is_anchor) {
    mean = 1.0 / item_weight;
    part = static_cast<double>(items[t].weight) / totals.positive_weight;
    if (has_state) row = call.index[positions[t]];
    if (row >= 0 && row < call.rows) place_of_state = call.state + (label * call.rows + row) * 2;
    if (place_of_state != nullptr) {
      old[0] = place_of_state[0];
      old[1] = place_of_state[1];
    }
  }
  for (int i = 2 * warp_index(); i < anchors; i += 2 * kWarps) {
    const T first = items[i].score, second = items[i + 1 < anchors ? i + 1 : i].score;
    T of_positives[4] = {}, of_others[4] = {};
    if (two_classes) add_items(phi, items, 0, totals.positives, first, second, of_positives);
    add_items(phi, items, totals.positives, listed, first, second, of_others);
    const T all[8] = {of_positives[0], of_others[0], of_positives[1], of_others[1],
                      of_positives[2], of_others[2], of_positives[3], of_others[3]};
    const double sum = eight_sums(all);
    const int anchor = i + lane / 16, kind = lane / 8 % 2, list_of_sum = lane / 4 % 2;
    if (lane % 4 != 0 || anchor >= anchors) continue;
    if (kind == 0) {
      sums[anchor][list_of_sum] = sum;
    } else {
      slopes[anchor][list_of_sum] = static_cast<T>(sum);
    }
  }
  const bool met = has_state && meets_equal<kThreads>(static_cast<const int32_t*>(keys), anchors);
  const bool shared_rows = __syncthreads_or(met) != 0;

  // ---- state and rule
  double u[2] = {};
  if (is_anchor) {
    u[0] = (sums[t][0] + sums[t][1]) * mean;
    u[1] = sums[t][0] * mean;
  }
  if (has_state) {
    const BlendFactors f = linear_factors(gamma);
    bool writes = place_of_state != nullptr && call.write_state;
    const double before[2] = {place_of_state != nullptr ? static_cast<double>(old[0]) : NAN,
                              place_of_state != nullptr ? static_cast<double>(old[1]) : NAN};
    if (shared_rows && place_of_state != nullptr) {  // the mean of the blends of the row's anchors
      double total[2] = {};
      int count = 0;
      for (int k = 0; k < anchors; ++k) {
        if (keys[k] != keys[t] || call.index[positions[k]] != row) continue;
        total[0] += blend_linear(before[0], (sums[k][0] + sums[k][1]) * mean, f.keep, f.add);
        total[1] += blend_linear(before[1], sums[k][0] * mean, f.keep, f.add);
        writes = writes && k >= t;
        ++count;
      }
      u[0] = count == 1 ? total[0] : total[0] / count;
      u[1] = count == 1 ? total[1] : total[1] / count;
    } else if (is_anchor) {
      u[0] = blend_linear(before[0], u[0], f.keep, f.add);
      u[1] = blend_linear(before[1], u[1], f.keep, f.add);
    }
    for (int column = 0; column < 2; ++column) {
      const State narrow = static_cast<State>(u[column]);
      if (!is_storable(static_cast<double>(narrow), false)) continue;
      u[column] = static_cast<double>(narrow);
      if (writes) place_of_state[column] = narrow;
    }
    if (shared_rows) __syncthreads();  // the sums are read
  }
  if (is_anchor) {
    const AnchorTerms terms =
        two_classes ? average_precision_rule(u[0], u[1]) : pairwise_auc_rule(u[0]);
    const double other = part * terms.negative_weight * mean;
    const double own = part * terms.positive_weight * mean;
    sums[t][0] =
        own * static_cast<double>(slopes[t][0]) + other * static_cast<double>(slopes[t][1]);
    sums[t][1] = part * terms.value;
    slopes[t][0] = static_cast<T>(own);
    slopes[t][1] = static_cast<T>(other);
  }
  __syncthreads();

  // ---- the value, by the warp that has the fewest items
  if (warp_index() == kWarps - 1) {
    double value = 0.0;
    for (int i = lane; i < anchors; i += 32) value += sums[i][1];
    value = warp_sum(value);
    if (lane == 0) {
      const T result = static_cast<T>(bad ? NAN : value);
      call.values[label] = result;
      if (call.mean_value != nullptr && call.labels == 1) *call.mean_value = result;
    }
  }
  if (call.gradient == nullptr) return;

  // ---- columns. Without anchors, and for entries in no list, the entry's own thread.
  if (anchors == 0 || list < 0) {
    if (t < batch) call.gradient[access.at(t, label)] = bad ? static_cast<T>(NAN) : T(0);
  }
  if (anchors == 0 || t >= listed) return;
  const bool positive = t < anchors;
  const SmallItem<T> item = items[t];
  const int list_of_item = positive ? 0 : 1;
  double sum = 0.0;
  const int others = positive && !two_classes ? 0 : anchors;  // positives that are no items
  for (int begin = 0; begin < others; begin += 64) {
    const int end = begin + 64 < others ? begin + 64 : others;
    T near = T(0);
#pragma unroll 4
    for (int i = begin; i < end; ++i) {
      T ignored, slope;
      phi(item.score - items[i].score, ignored, slope);
      near += slopes[i][list_of_item] * slope;
    }
    sum += static_cast<double>(near);
  }
  T pull = static_cast<T>(sum * static_cast<double>(item.weight)) * share;
  if (positive) pull -= static_cast<T>(sums[t][0]) * share;
  call.gradient[access.at(positions[t], label)] = pull;
}

}  // namespace xrisk::cuda
