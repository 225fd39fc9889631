// The first kernels of a ranking step, a block a query: who is relevant, the rows, the threshold.
//
// Mapping: a thread an entry for the sums of the query; a warp an anchor for the rows, its lanes
// stride over the items. What a query's anchors need stands in the workspace from the query's first
// entry on, until the anchors of all queries are gathered. Bytes: scores, relevance, mask and
// weights once from memory, the rows from the cache. Hazard: stages are apart by barriers alone;
// every thread reaches all of them, and what decides a branch is the same in all.
#pragma once

#include "core/moving_average.h"
#include "core/ranking_rules.h"
#include "core/sort_key.h"
#include "core/surrogate.h"
#include "core/topk.h"
#include "cuda/block.h"
#include "cuda/ranking_step.h"

namespace xrisk::cuda {

enum class QueryFate : int32_t { kEmpty, kBad, kLive };

struct RankingQuery {
  int64_t first;    // of its anchors among those of all queries
  int32_t anchors;  // relevant items that take part; 0 unless live, once counted
  QueryFate fate;
  double num_items, item_weight;
  double anchor_share;  // times an anchor's weight: its part of the query's value
  double ideal_dcg;
  double log_sum;  // listwise
  double largest_gap;
  double lambda, curvature, next;  // lambda -inf: no threshold
};

// All [entries] unless said otherwise. Anchors: from their query's first entry on.
template <class T>
struct RankingBuffers {
  RankingQuery* queries;  // [Q]
  int32_t* positions;     // of the anchors, relative to the query's first entry
  double *u, *slopes;     // u [entries, C]
  double* own_slopes;
  double *weights, *own_weights;  // for the columns
  double* own;                    // what an anchor's entry gets besides its part as an item
  // of all anchors, gathered
  int64_t* ids;
  double *observed, *before, *stored;                                 // [entries, C]
  int32_t* live;                                                      // [1] anchors of all queries
  double* shift;                                                      // [1] of the log sums
  int64_t* threshold_rows;                                            // [Q], -1: none
  double *next, *curvatures, *stored_thresholds, *stored_curvatures;  // [Q]
  double* one;                                                        // [1] 1.0, a gamma
};

template <class T, class State>
struct RankingAccess {
  RankingStep<T, State> call;

  __device__ int64_t begin(int64_t q) const { return within(call.lists.begin(q)); }
  __device__ int64_t length(int64_t q) const {
    const int64_t length = within(call.lists.end(q)) - begin(q);
    return length > 0 ? length : 0;
  }
  __device__ int64_t within(int64_t entry) const {
    return entry < 0 ? 0 : entry > call.entries ? call.entries : entry;
  }
  __device__ T weight(int64_t entry) const {
    if (call.mask != nullptr && call.mask[entry] == 0) return T(0);
    return call.weights == nullptr ? T(1) : call.weights[entry];
  }
  __device__ bool relevant(int64_t entry) const { return call.relevance[entry] > 0.0; }
  // As an item of the sums.
  __device__ T item_weight(int64_t entry) const {
    return call.has(kIrrelevantItems) && relevant(entry) ? T(0) : weight(entry);
  }
  __device__ bool two_classes() const { return call.rule == RankingRule::kAveragePrecision; }
  __device__ int columns() const { return two_classes() ? 2 : 1; }
  __device__ double size(int which, const double* sizes, int64_t q, double otherwise) const {
    return sizes == nullptr ? otherwise : sizes[call.sizes_per_query[which] ? q : 0];
  }
  __device__ bool keeps_thresholds() const {
    return call.top_k.k > 0 && call.top_k.thresholds != nullptr && !call.has(kSolvedThreshold);
  }
};

// sum over the block's entries of the ideal order's gains: an anchor's place is its rank by gain,
// ties by position.
template <int kThreads, class T, class State>
__device__ double block_ideal_dcg(const RankingAccess<T, State>& access, int64_t begin,
                                  const int32_t* positions, int32_t anchors) {
  double total = 0.0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < anchors; i += kThreads) {
    const double mine = access.call.relevance[begin + positions[i]];
    int64_t rank = 1;
    for (int32_t k = 0; k < anchors; ++k) {
      const double other = access.call.relevance[begin + positions[k]];
      rank += other > mine || (other == mine && k < i);
    }
    if (access.call.top_k.k > 0 && rank > access.call.top_k.k) continue;
    total += ndcg_gain(mine) / log2(static_cast<double>(rank + 1));
  }
  return block_sum<kThreads>(total);
}

// Fills `query`, the same in every thread, and the positions of its anchors.
template <int kThreads, class T, class State>
__device__ void survey_query(const RankingAccess<T, State>& access, int64_t q, int32_t* positions,
                             RankingQuery& query) {
  const RankingStep<T, State>& call = access.call;
  const int64_t begin = access.begin(q), length = access.length(q);
  double items = 0.0, present = 0.0, anchor_weight = 0.0;
  int32_t bad = 0, anchors = 0;
  for (int64_t first = 0; first < length; first += kThreads) {
    const int64_t j = first + threadIdx.x;
    int32_t anchor = 0;
    if (j < length) {
      const T weight = access.weight(begin + j), score = call.scores[begin + j];
      anchor = weight > T(0) && access.relevant(begin + j);
      items += static_cast<double>(access.item_weight(begin + j));
      present += weight > T(0) ? 1.0 : 0.0;
      anchor_weight += anchor ? static_cast<double>(weight) : 0.0;
      bad |= weight > T(0) && !(score - score == T(0));
    }
    int32_t before, total;
    block_scan<kThreads>(anchor, int32_t(0), Sum(), before, total);
    if (anchor) positions[anchors + before] = static_cast<int32_t>(j);
    anchors += total;
  }
  query.item_weight = block_sum<kThreads>(items);
  const double count = block_sum<kThreads>(present);
  anchor_weight = block_sum<kThreads>(anchor_weight);
  bad = block_sum<kThreads>(bad);  // a barrier, too: the positions are there
  __syncthreads();
  query.num_items = access.size(0, call.num_items, q, count);
  query.anchor_share = anchor_weight > 0.0 ? 1.0 / anchor_weight : 0.0;
  if (!access.two_classes()) {
    query.anchor_share *= access.size(1, call.num_relevant, q, static_cast<double>(anchors));
  }
  if (call.rule == RankingRule::kListwise) query.anchor_share /= query.num_items;
  query.ideal_dcg = 1.0;
  if (call.rule == RankingRule::kNDCG) {
    query.ideal_dcg = call.ideal_dcg == nullptr
                          ? block_ideal_dcg<kThreads>(access, begin, positions, anchors)
                          : access.size(2, call.ideal_dcg, q, 0.0);
  }
  const bool pairs = anchors > 0 && query.item_weight > 0.0 && query.ideal_dcg != 0.0;
  query.fate = !pairs ? QueryFate::kEmpty : bad > 0 ? QueryFate::kBad : QueryFate::kLive;
  query.anchors = query.fate == QueryFate::kLive ? anchors : 0;
  query.first = 0;
  query.log_sum = 0.0;
  query.largest_gap = -INFINITY;
  query.lambda = -INFINITY;
  query.curvature = 1.0;
  query.next = 0.0;
}

constexpr double kLowest = -INFINITY;
constexpr int kFloatTerms = 32;  // terms that a lane adds up in T before it widens them

// sums[0..1]: of the pair term and its slope over all items; sums[2..3]: over the relevant ones.
template <class Phi, class T, class State>
__device__ void warp_rows(const RankingAccess<T, State>& access, const Phi& phi, int64_t begin,
                          int64_t length, T x, double sums[4]) {
  const bool two_classes = access.two_classes();
  double wide[4] = {};
  for (int64_t first = lane_index(); first < length; first += 32 * kFloatTerms) {
    T part[4] = {};
    for (int k = 0; k < kFloatTerms; ++k) {
      const int64_t j = first + 32 * k;
      if (j >= length) break;
      const T weight = access.item_weight(begin + j);
      if (!(weight > T(0))) continue;
      T value, slope;
      phi(access.call.scores[begin + j] - x, value, slope);
      part[0] += weight * value;
      part[1] += weight * slope;
      if (two_classes && access.relevant(begin + j)) {
        part[2] += weight * value;
        part[3] += weight * slope;
      }
    }
    for (int k = 0; k < 4; ++k) wide[k] += static_cast<double>(part[k]);
  }
  for (int k = 0; k < 4; ++k) sums[k] = warp_sum(wide[k]);
}

// log sum_j w_j exp(h_j), in every thread; `peak` the largest score of an item.
template <int kThreads, class T, class State>
__device__ double block_log_sum(const RankingAccess<T, State>& access, int64_t begin,
                                int64_t length, double& peak) {
  double highest = -INFINITY;
  for (int64_t j = threadIdx.x; j < length; j += kThreads) {
    if (!(access.item_weight(begin + j) > T(0))) continue;
    highest = fmax(highest, static_cast<double>(access.call.scores[begin + j]));
  }
  peak = block_max<kThreads>(highest, kLowest);
  double mass = 0.0;
  for (int64_t j = threadIdx.x; j < length; j += kThreads) {
    const double weight = static_cast<double>(access.item_weight(begin + j));
    if (weight > 0.0) {
      mass += weight * exp(static_cast<double>(access.call.scores[begin + j]) - peak);
    }
  }
  return peak + log(block_sum<kThreads>(mass));
}

// queries[q], positions, and the observations u and slopes of its anchors.
template <int kThreads, Surrogate kKind, class T, class State>
__global__ void __launch_bounds__(kThreads)
    ranking_rows_kernel(RankingAccess<T, State> access, RankingBuffers<T> buffers) {
  const RankingStep<T, State>& call = access.call;
  const int64_t q = blockIdx.x, begin = access.begin(q), length = access.length(q);
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{call.margin, *call.scale});
  int32_t* positions = buffers.positions + begin;
  RankingQuery query;
  survey_query<kThreads>(access, q, positions, query);
  if (call.rule == RankingRule::kListwise && query.fate == QueryFate::kLive) {
    double peak, lowest = INFINITY;
    query.log_sum = block_log_sum<kThreads>(access, begin, length, peak);
    const double mean = query.log_sum - log(query.item_weight);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < query.anchors; i += kThreads) {
      const double x = static_cast<double>(call.scores[begin + positions[i]]);
      buffers.u[begin + i] = mean - x;
      lowest = fmin(lowest, x);
    }
    query.largest_gap = peak + block_max<kThreads>(-lowest, kLowest);
  } else if (query.fate == QueryFate::kLive) {
    const double mean = 1.0 / query.item_weight;
    for (int32_t i = warp_index(); i < query.anchors; i += kThreads / 32) {
      double sums[4];
      warp_rows(access, phi, begin, length, call.scores[begin + positions[i]], sums);
      if (lane_index() != 0) continue;
      const int columns = access.columns();
      buffers.u[columns * (begin + i)] = sums[0] * mean;
      buffers.slopes[begin + i] = sums[1];
      if (columns == 2) {
        buffers.u[columns * (begin + i) + 1] = sums[2] * mean;
        buffers.own_slopes[begin + i] = sums[3];
      }
    }
  }
  if (threadIdx.x == 0) buffers.queries[q] = query;
}

// The highest score that more than `share` of the items' weight reaches: bit by bit of its key.
template <int kThreads, class T, class State>
__device__ double block_first_threshold(const RankingAccess<T, State>& access, int64_t begin,
                                        int64_t length, double total, double share) {
  using Key = decltype(sort_key(T(0)));
  share = fmin(share, 1.0 - 1e-12);  // the lowest item at least
  Key key = 0;
  for (int bit = static_cast<int>(8 * sizeof(Key)) - 1; bit >= 0; --bit) {
    const Key higher = key | (Key(1) << bit);
    double reached = 0.0;
    for (int64_t j = threadIdx.x; j < length; j += kThreads) {
      const T weight = access.item_weight(begin + j);
      if (weight > T(0) && sort_key(access.call.scores[begin + j]) >= higher) {
        reached += static_cast<double>(weight);
      }
    }
    if (block_sum<kThreads>(reached) > share * total) key = higher;
  }
  return static_cast<double>(score_of_key(key));
}

// L' and H at `at`, in every thread.
template <int kThreads, class T, class State>
__device__ void block_soft_derivatives(const RankingAccess<T, State>& access, int64_t begin,
                                       int64_t length, double total, const SmoothTopK& problem,
                                       double at, double& derivative, double& curvature) {
  double above = 0.0, slope = 0.0;
  for (int64_t j = threadIdx.x; j < length; j += kThreads) {
    const double weight = static_cast<double>(access.item_weight(begin + j));
    if (!(weight > 0.0)) continue;
    double share, steepness;
    soft_indicator((static_cast<double>(access.call.scores[begin + j]) - at) / problem.tau1, share,
                   steepness);
    above += weight * share;
    slope += weight * steepness;
  }
  derivative = problem.derivative(at, block_sum<kThreads>(above) / total);
  curvature = problem.curvature(block_sum<kThreads>(slope) / total);
}

// lambda, H and the step of every query; threshold_rows[q]: the row of its state, or -1.
template <int kThreads, class T, class State>
__global__ void __launch_bounds__(kThreads)
    ranking_threshold_kernel(RankingAccess<T, State> access, RankingBuffers<T> buffers) {
  constexpr int kMostNewtonSteps = 200;
  const TopKTerms<State>& top_k = access.call.top_k;
  const int64_t q = blockIdx.x, begin = access.begin(q), length = access.length(q);
  const RankingQuery query = buffers.queries[q];
  const bool cuts =
      query.fate == QueryFate::kLive && query.num_items > static_cast<double>(top_k.k);
  int64_t row = -1;
  double lambda = -INFINITY, curvature = 1.0, next = 0.0;
  if (cuts) {  // the same in every thread
    const SmoothTopK problem{(static_cast<double>(top_k.k) + top_k.epsilon) / query.num_items,
                             *top_k.tau1, *top_k.tau2};
    double derivative;
    if (access.keeps_thresholds()) {
      row = top_k.query_index == nullptr ? q : top_k.query_index[q];
      if (row < 0 || row >= top_k.rows) row = -1;
      lambda = row < 0 ? static_cast<double>(NAN) : static_cast<double>(top_k.thresholds[row]);
    }
    if (!access.keeps_thresholds() || is_nan(lambda)) {
      lambda =
          block_first_threshold<kThreads>(access, begin, length, query.item_weight, problem.kappa);
    }
    if (!access.keeps_thresholds()) {
      NewtonSearch search(lambda, 4.0 * problem.tau1);
      for (int step = 0; step < kMostNewtonSteps; ++step) {
        block_soft_derivatives<kThreads>(access, begin, length, query.item_weight, problem,
                                         search.at, derivative, curvature);
        if (search.advance(derivative, curvature, newton_tolerance<T>(search.at, problem.tau1))) {
          break;
        }
      }
      lambda = search.at;
    }
    block_soft_derivatives<kThreads>(access, begin, length, query.item_weight, problem, lambda,
                                     derivative, curvature);
    next = lambda - *top_k.eta0 * derivative;
  }
  __syncthreads();  // all have read the query
  if (threadIdx.x != 0) return;
  buffers.queries[q].lambda = lambda;
  buffers.queries[q].curvature = curvature;
  buffers.queries[q].next = next;
  buffers.threshold_rows[q] = row;
  buffers.next[q] = next;
  buffers.curvatures[q] = curvature;
}

}  // namespace xrisk::cuda
