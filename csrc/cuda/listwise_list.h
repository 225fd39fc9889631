// One list in the hands of one block: who takes part, where their numbers stand, and the loops that
// the losses share.
//
// Mapping: a warp an item where something is summed over the other items, its lanes stride over
// them; a thread an item elsewhere. Items stand without gaps in the workspace, in cache for all but
// long lists. Hazard: the stages are apart by barriers alone; every thread reaches all of them.
#pragma once

#include "core/surrogate.h"
#include "cuda/block.h"
#include "cuda/listwise_step.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

constexpr int kListNumbers = 7;  // doubles of an item

// The workspace of one block.
template <class T>
struct ListSpace {
  T *scores = nullptr, *relevance = nullptr, *weights = nullptr;  // [S], of who takes part
  int32_t* places = nullptr;                                      // [S], their entries
  double* numbers[kListNumbers] = {};                             // [S] each
  double* edges = nullptr;                                        // FastAP: [4, bins + 1]
  T* matrix = nullptr;                                            // NeuralNDCG: [S, S]
  T* vectors = nullptr;  // NeuralNDCG: [4 (iterations + 1), S]
};

// What all threads of the block know of the list.
template <class T>
struct BlockList {
  const ListwiseStep<T>& call;
  ListSpace<T> space;
  int32_t count = 0;
  bool bad = false;         // a score that is not finite
  bool two_levels = false;  // of relevance
  double top = 0.0;         // the largest relevance
  int32_t relevant = 0;     // items of relevance > 0
  double relevant_weight = 0.0;
  T* gradient = nullptr;  // [S], zero; null: not wanted
};

// kEntries: of a thread at a time, one behind the other; more for longer lists.
template <int kThreads, int kEntries, class T>
__device__ void gather_list(BlockList<T>& list, int64_t q) {
  const ListwiseStep<T>& call = list.call;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = q * call.length;
  const bool pads = !is_retrieval(call.options.loss);
  if (call.gradient != nullptr) list.gradient = call.gradient + first;
  int32_t count = 0, relevant_items = 0;
  bool any_bad = false;
  double low = INFINITY, high = -INFINITY, relevant_weight = 0.0;
  for (int64_t begin = 0; begin < call.length; begin += kThreads * kEntries) {
    T scores[kEntries], relevances[kEntries], weights[kEntries];
    bool present[kEntries];
    int32_t found = 0;
#pragma unroll
    for (int u = 0; u < kEntries; ++u) {
      const int64_t k = begin + t * kEntries + u;
      present[u] = false;
      scores[u] = relevances[u] = weights[u] = T(0);
      if (k >= call.length) continue;
      scores[u] = call.scores[first + k];
      relevances[u] = call.relevance[first + k];
      weights[u] = call.weights == nullptr ? T(1) : call.weights[first + k];
      present[u] = (call.mask == nullptr || call.mask[first + k]) && weights[u] > T(0) &&
                   (!pads || !(relevances[u] < T(0)));
      if (list.gradient != nullptr) list.gradient[k] = T(0);
    }
#pragma unroll
    for (int u = 0; u < kEntries; ++u) {
      if (!present[u]) continue;
      ++found;
      const bool relevant = relevances[u] > T(0);
      relevant_items += relevant;
      relevant_weight += relevant ? static_cast<double>(weights[u]) : 0.0;
      // relevance that is not finite makes the list NaN
      any_bad |= scores[u] - scores[u] != T(0) || (pads && relevances[u] - relevances[u] != T(0));
      low = fmin(low, static_cast<double>(relevances[u]));
      high = fmax(high, static_cast<double>(relevances[u]));
    }
    int32_t before, sum;
    block_scan<kThreads>(found, 0, Sum(), before, sum);
    int32_t at = count + before;
#pragma unroll
    for (int u = 0; u < kEntries; ++u) {
      if (!present[u]) continue;
      list.space.scores[at] = scores[u];
      list.space.relevance[at] = relevances[u];
      list.space.weights[at] = weights[u];
      list.space.places[at] = static_cast<int32_t>(begin + t * kEntries + u);
      ++at;
    }
    count += sum;
  }
  list.count = count;
  list.relevant = block_sum<kThreads>(relevant_items);
  list.relevant_weight = block_sum<kThreads>(relevant_weight);
  list.bad = __syncthreads_or(any_bad) != 0;
  list.top = block_max<kThreads>(high, -static_cast<double>(INFINITY));
  list.two_levels = -block_max<kThreads>(-low, -static_cast<double>(INFINITY)) < list.top;
  __syncthreads();
}

// f(i) for every item, by the warp or by the thread that has it.
template <int kThreads, class F>
__device__ __forceinline__ void each_by_warp(int32_t count, F&& f) {
  for (int32_t i = warp_index(); i < count; i += kThreads / 32) f(i);
}
template <int kThreads, class F>
__device__ __forceinline__ void each_by_thread(int32_t count, F&& f) {
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += kThreads) f(i);
}

// Sum over j of f(j), in every lane.
template <class F>
__device__ __forceinline__ double warp_sum_over(int32_t count, F&& f) {
  double sum = 0.0;
  for (int32_t j = lane_index(); j < count; j += 32) sum += f(j);
  return warp_sum(sum);
}

// Sums of f(j, terms) over j, which adds to its terms, in every lane: in T over the few items that
// a lane has of a tile, in double beyond.
template <int kTerms, class T, class F>
__device__ __forceinline__ void warp_sums_by_tile(int32_t count, double (&sums)[kTerms], F&& f) {
  constexpr int kTile = 8;
  for (int32_t begin = lane_index(); begin < count; begin += 32 * kTile) {
    T terms[kTerms] = {};
#pragma unroll
    for (int u = 0; u < kTile; ++u) {
      if (begin + 32 * u < count) f(begin + 32 * u, terms);
    }
#pragma unroll
    for (int k = 0; k < kTerms; ++k) sums[k] += static_cast<double>(terms[k]);
  }
#pragma unroll
  for (int k = 0; k < kTerms; ++k) sums[k] = warp_sum(sums[k]);
}

// Place of item i from 0, in every lane: how many stand above it in descending order, ties as they
// stand.
template <class T>
__device__ __forceinline__ int32_t place_of(const T* values, int32_t count, int32_t i) {
  const T mine = values[i];
  int32_t above = 0;
  for (int32_t j = lane_index(); j < count; j += 32) {
    above += values[j] > mine || (values[j] == mine && j < i);
  }
  return warp_sum(above);
}

// gains[i] relative to each other; returns 1 / max DCG of the first top_k ranks (0: all) in every
// thread. Ends with a barrier.
template <int kThreads, class T>
__device__ double list_gains(const BlockList<T>& list, int64_t top_k, double* gains) {
  const double shift = gain_shift(list.top);
  double ideal = 0.0;
  each_by_warp<kThreads>(list.count, [&](int32_t i) {
    const double y = static_cast<double>(list.space.relevance[i]);
    const double gain = y > 0.0 ? relative_gain(y, shift) : 0.0;
    const int32_t place = y > 0.0 ? place_of(list.space.relevance, list.count, i) : 0;
    if (lane_index() != 0) return;
    gains[i] = gain;
    if (top_k == 0 || place < top_k) ideal += gain * rank_discount(static_cast<double>(place + 1));
  });
  ideal = block_sum<kThreads>(ideal);
  __syncthreads();
  return ideal > 0.0 ? 1.0 / ideal : 0.0;
}

// Recall@k over the cutoffs, of an anchor and its rank.
__device__ __forceinline__ RankTerms recall_terms(const ListOptions& options, double rank,
                                                  double weight, double relevant_weight,
                                                  double inverse_temperature) {
  RankTerms terms = {0.0, 0.0};
  for (int c = 0; c < options.cutoff_count; ++c) {
    const double cutoff = static_cast<double>(options.cutoffs[c]);
    const RankTerms of_cutoff = recall_rule(rank, cutoff, inverse_temperature);
    const double part = weight / (fmin(cutoff, relevant_weight) * options.cutoff_count);
    terms.value += part * of_cutoff.value;
    terms.weight += part * of_cutoff.weight;
  }
  return terms;
}

template <int kThreads, class T>
__device__ void write_gradient(const BlockList<T>& list, const double* gradient) {
  if (list.gradient == nullptr) return;
  each_by_thread<kThreads>(list.count, [&](int32_t i) {
    list.gradient[list.space.places[i]] = static_cast<T>(gradient[i]);
  });
}

}  // namespace xrisk::cuda
