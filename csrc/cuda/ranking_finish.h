// The kernels between the rows of a ranking step and its end: the anchors of all queries gathered
// for the state update, then rule, columns and gradient, a block a query.
//
// Mapping: rule, a thread an anchor; columns, a thread an item against the anchors of its query,
// which stand in the cache. Hazard: an anchor's entry of the gradient is written twice, as an item
// and by itself, with a barrier between.
#pragma once

#include "core/rules.h"
#include "cuda/ranking_rows.h"

namespace xrisk::cuda {

// One block: where each query's anchors begin among all, how many they are, and the shift.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    ranking_scan_kernel(RankingBuffers<T> buffers, int64_t count, bool batch_shift) {
  int32_t before = 0;
  double largest = -INFINITY;
  for (int64_t begin = 0; begin < count; begin += kThreads) {
    const int64_t q = begin + threadIdx.x;
    const int32_t mine = q < count ? buffers.queries[q].anchors : 0;
    if (mine > 0) largest = fmax(largest, buffers.queries[q].largest_gap);
    int32_t earlier, total;
    block_scan<kThreads>(mine, int32_t(0), Sum(), earlier, total);
    if (q < count) buffers.queries[q].first = before + earlier;
    before += total;
  }
  largest = block_max<kThreads>(largest, kLowest);
  if (threadIdx.x != 0) return;
  *buffers.live = before;
  *buffers.one = 1.0;
  *buffers.shift = batch_shift && before > 0 ? largest : 0.0;
}

// ids, observed and (stale) before of every anchor, in the order of the queries.
template <class T, class State>
__global__ void ranking_gather_kernel(RankingAccess<T, State> access, RankingBuffers<T> buffers) {
  const RankingStep<T, State>& call = access.call;
  const int64_t q = blockIdx.x, begin = access.begin(q);
  const RankingQuery& query = buffers.queries[q];
  const int columns = access.columns();
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < query.anchors;
       i += static_cast<int32_t>(blockDim.x)) {
    const int64_t to = query.first + i, position = buffers.positions[begin + i];
    if (call.state != nullptr) {
      int64_t id = call.pair_index[access.two_classes() ? position : begin + position];
      if (id < 0 || id >= call.rows) {
        id = -1;
      } else if (access.two_classes()) {
        id += q * call.rows;
      }
      buffers.ids[to] = id;
    }
    for (int c = 0; c < columns; ++c) {
      double u = buffers.u[columns * (begin + i) + c];
      if (call.rule == RankingRule::kListwise) u -= *buffers.shift;
      buffers.observed[columns * to + c] = u;
      if (call.state == nullptr || !call.has(kStaleState)) continue;
      const int64_t id = buffers.ids[to];
      const double missing = call.rule == RankingRule::kListwise ? -INFINITY : NAN;
      buffers.before[columns * to + c] =
          id < 0 ? missing : static_cast<double>(call.state[id * columns + c]);
    }
  }
}

// Column c of anchor `at`, as the weights use it.
template <class T, class State>
__device__ double used_average(const RankingAccess<T, State>& access,
                               const RankingBuffers<T>& buffers, int64_t at, int c) {
  const RankingStep<T, State>& call = access.call;
  const int64_t place = access.columns() * at + c;
  if (call.state == nullptr) return buffers.observed[place];
  if (call.has(kStaleState)) {
    const double old = buffers.before[place];
    const bool untouched = call.rule == RankingRule::kListwise ? old == -INFINITY : is_nan(old);
    if (!untouched) return old;
  }
  return buffers.stored[place];
}

// The rule for anchor i: weights and `own` into the buffers; returns its value, adds to `pull`.
template <class T, class State>
__device__ double anchor_rule(const RankingAccess<T, State>& access,
                              const RankingBuffers<T>& buffers, const RankingQuery& query,
                              int64_t begin, int32_t i, double factor, double& pull) {
  const RankingStep<T, State>& call = access.call;
  const int64_t entry = begin + buffers.positions[begin + i], at = query.first + i;
  const bool top_k = call.top_k.k > 0;
  const double mean = 1.0 / query.item_weight, x = static_cast<double>(call.scores[entry]);
  double share = query.anchor_share * static_cast<double>(access.weight(entry));
  OuterTerms psi{1.0, 0.0};
  if (top_k) psi = top_k_rule(x - query.lambda, *call.top_k.alpha, call.has(kPublishedTopK));
  double f, weight, own_weight = 0.0, own;
  if (call.rule == RankingRule::kNDCG) {
    share *= ndcg_gain(call.relevance[entry]) / query.ideal_dcg;
    const OuterTerms terms = ndcg_rule(used_average(access, buffers, at, 0), query.num_items);
    f = terms.value;
    weight = factor * share * psi.value * terms.slope * mean;
    own = -weight * buffers.slopes[begin + i];
  } else if (call.rule == RankingRule::kListwise) {
    share *= call.relevance[entry];
    const double u = used_average(access, buffers, at, 0);
    f = u + log(query.num_items);
    weight = factor * share * exp(buffers.observed[at] - u);
    own = -weight;
  } else {
    const AnchorTerms terms = average_precision_rule(used_average(access, buffers, at, 0),
                                                     used_average(access, buffers, at, 1));
    f = terms.value;
    weight = factor * share * psi.value * terms.negative_weight * mean;
    own_weight = factor * share * psi.value * terms.positive_weight * mean;
    own =
        -weight * buffers.slopes[begin + i] - (own_weight - weight) * buffers.own_slopes[begin + i];
  }
  if (top_k && !call.has(kPracticalTopK)) {
    const double c = factor * share * psi.slope * f;
    own += c;
    pull += c;
  }
  buffers.weights[begin + i] = weight;
  if (access.two_classes()) buffers.own_weights[begin + i] = own_weight;
  buffers.own[begin + i] = own;
  return share * psi.value * f;
}

template <int kThreads, Surrogate kKind, class T, class State>
__global__ void __launch_bounds__(kThreads)
    ranking_finish_kernel(RankingAccess<T, State> access, RankingBuffers<T> buffers) {
  const RankingStep<T, State>& call = access.call;
  const int64_t q = blockIdx.x, begin = access.begin(q), length = access.length(q);
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{call.margin, *call.scale});
  const double factor = call.mean_reduction ? 1.0 / static_cast<double>(call.lists.count) : 1.0;
  RankingQuery query = buffers.queries[q];
  const bool live = query.fate == QueryFate::kLive, bad = query.fate == QueryFate::kBad;
  if (live && buffers.threshold_rows != nullptr && buffers.threshold_rows[q] >= 0) {
    query.curvature = buffers.stored_curvatures[q];
  }

  double value = 0.0, pull = 0.0, total = 0.0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < query.anchors; i += kThreads) {
    value += anchor_rule(access, buffers, query, begin, i, factor, pull);
    total += buffers.weights[begin + i];
  }
  value = block_sum<kThreads>(value);
  pull = block_sum<kThreads>(pull);
  total = block_sum<kThreads>(total);
  if (threadIdx.x == 0) call.values[q] = static_cast<T>(bad ? NAN : value);
  if (call.gradient == nullptr) return;  // all threads
  __syncthreads();                       // the weights of all anchors are there

  const bool pulls = live && pull != 0.0 && query.lambda > -INFINITY;
  for (int64_t j = threadIdx.x; j < length; j += kThreads) {
    const T weight = live ? access.item_weight(begin + j) : T(0), score = call.scores[begin + j];
    double sum = 0.0;
    if (weight > T(0) && call.rule == RankingRule::kListwise) {
      sum = total * static_cast<double>(weight) * exp(static_cast<double>(score) - query.log_sum);
    } else if (weight > T(0)) {
      const bool own = access.two_classes() && access.relevant(begin + j);
      const double* weights = (own ? buffers.own_weights : buffers.weights) + begin;
      for (int32_t i = 0; i < query.anchors; ++i) {
        T ignored, slope;
        phi(score - call.scores[begin + buffers.positions[begin + i]], ignored, slope);
        sum += weights[i] * static_cast<double>(slope);
      }
      sum *= static_cast<double>(weight);
    }
    if (pulls && weight > T(0)) {
      const double tau1 = *call.top_k.tau1;
      double above, steepness;
      soft_indicator((static_cast<double>(score) - query.lambda) / tau1, above, steepness);
      const double part = static_cast<double>(weight) * steepness / (tau1 * query.item_weight);
      sum -= pull * implicit_weight(part, query.curvature, call.has(kPublishedTopK));
    }
    call.gradient[begin + j] = static_cast<T>(bad ? NAN : sum);
  }
  __syncthreads();  // an anchor's entry was written by another thread
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < query.anchors; i += kThreads) {
    T& at = call.gradient[begin + buffers.positions[begin + i]];
    at = static_cast<T>(static_cast<double>(at) + buffers.own[begin + i]);
  }
}

// The mean of the queries' values, in an order that their number decides.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    ranking_mean_kernel(const T* values, int64_t count, T* mean) {
  double sum = 0.0;
  for (int64_t q = threadIdx.x; q < count; q += kThreads) sum += static_cast<double>(values[q]);
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *mean = count == 0 ? T(0) : static_cast<T>(total / count);
}

}  // namespace xrisk::cuda
