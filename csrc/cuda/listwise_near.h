// Long lists by the smooth bins: the losses of soft ranks (ApproxNDCG, Smooth-AP, recall@k), and
// RankNet with a few levels of relevance, in O(n log n). The formulas are those of
// cuda/listwise_kernels.h, the stages those of cpu/listwise_ranks.cpp and cpu/listwise_pairs.cpp:
//
//   gather -> (levels or ideal order) -> bins -> rows -> rule -> columns -> gradient
//
// Lists that the bins cannot serve (too many of them, too many levels, nothing to rank, a score
// that is not finite) have no bins in their plan; the kernel of short lists takes them.
#pragma once

#include "core/rules.h"
#include "cuda/listwise_list.h"
#include "cuda/smooth_launch.h"
#include "cuda/sorted_table.h"

namespace xrisk::cuda {

constexpr int kNearLevels = 8;               // of relevance, with the lowest
constexpr int kNearPairs = kNearLevels - 1;  // of a level with all below it

// What is known of a list.
struct __align__(8) NearList {
  double relevant_weight, top, pairs;
  double levels[kNearLevels];  // their relevance, ascending
  int64_t level_count;
};

template <class T>
struct NearLists {
  NearList* lists;         // [Q]
  double* scale;           // 1 / temperature
  ListSpace<T> space;      // [Q, S]; its numbers are not used
  int32_t* item_live;      // [Q]
  T* anchors;              // [Q, S], the relevant items; RankNet, LambdaRank: all items
  T* anchor_weights;       // [Q, S]
  int32_t* anchor_places;  // [Q, S], among the items
  int32_t* anchor_live;    // [Q]
  int32_t* level_of;       // [Q, S], RankNet, LambdaRank: of the items
  T* pair_weights;         // [Q, kNearPairs, S], RankNet: of items below a level
  double *sums, *slopes, *own_sums, *own_slopes;  // [Q, S]
  double* weights;                                // [Q, S]; RankNet: [Q, kNearPairs, S]
  double* positive_weights;                       // [Q, S], Smooth-AP
  T *columns, *own_columns;                       // [Q, S]
  double* partial;                                // [Q, blocks], sums over anchors
  double* ideal;                                  // [Q, blocks], of the ideal DCG
};

// Lists that the kernel of short lists leaves out.
struct NearlyLinear {
  const SmoothBins* plans = nullptr;  // those with bins
  const int32_t* live = nullptr;      // those with items
  __device__ bool has(int64_t q) const {
    return (plans != nullptr && plans[q].bins > 0) || (live != nullptr && live[q] > 0);
  }
};

constexpr int kNearListThreads = 512;  // of a block that has a list to itself
constexpr int kNearEntries = 4;        // of each of those at a time
constexpr int64_t kMostNearEntries = int64_t{1} << 26;

// Orders each list's `values` ascending.
template <class T>
cudaError_t sort_lists(TableMemory<T, T>& order, const T* values, int64_t length,
                       const int32_t* live, cudaStream_t stream) {
  const T* no_weights = nullptr;
  return sort_entries(order, Side<T>{values, nullptr, length, live}, no_weights, false, stream);
}

inline bool is_near_list_loss(ListLoss loss) {
  return loss == ListLoss::kRankNet || loss == ListLoss::kApproxNDCG ||
         loss == ListLoss::kSmoothAP || loss == ListLoss::kRecallAtK;
}

// Items and anchors without gaps. A block a list, a thread kEntries neighbours.
//   Bytes: each input once, 16 an item out. Hazard: none but the order, which is kept.
template <int kThreads, int kEntries, class T>
__global__ void __launch_bounds__(kThreads)
    near_gather_kernel(ListwiseStep<T> call, NearLists<T> near) {
  const int64_t q = blockIdx.x, first = q * call.length;
  BlockList<T> list{call, near.space};
  list.space.scores += first;
  list.space.relevance += first;
  list.space.weights += first;
  list.space.places += first;
  gather_list<kThreads, kEntries>(list, q);
  const bool lambda = call.options.loss == ListLoss::kLambdaRank;
  const bool pairs = call.options.loss == ListLoss::kRankNet || lambda;
  const bool good = !list.bad && (pairs ? list.two_levels : list.relevant > 0);
  int32_t anchors = 0;
  for (int32_t begin = 0; good && begin < list.count; begin += kThreads * kEntries) {
    const int32_t mine = begin + static_cast<int32_t>(threadIdx.x) * kEntries;
    const auto is_anchor = [&](int32_t j) {
      return j < list.count && (pairs || list.space.relevance[j] > T(0));
    };
    int32_t found = 0;
#pragma unroll
    for (int u = 0; u < kEntries; ++u) found += is_anchor(mine + u);
    int32_t before, total;
    block_scan<kThreads>(found, 0, Sum(), before, total);
    int64_t at = first + anchors + before;
#pragma unroll
    for (int u = 0; u < kEntries; ++u) {
      const int32_t j = mine + u;
      if (!is_anchor(j)) continue;
      // LambdaRank: negated, as their ascending order is that of the ranks
      near.anchors[at] = lambda ? -list.space.scores[j] : list.space.scores[j];
      near.anchor_weights[at] = list.space.weights[j];
      near.anchor_places[at] = j;
      ++at;
    }
    anchors += total;
  }
  if (threadIdx.x == 0) {
    NearList& known = near.lists[q];
    known.relevant_weight = list.relevant_weight;
    known.top = list.top;
    near.item_live[q] = good ? list.count : 0;
    near.anchor_live[q] = anchors;
    if (q == 0) *near.scale = 1.0 / *call.temperature;
  }
}

// RankNet, LambdaRank: levels of the items from their order by relevance, and how many pairs they
// make. A list of more than kNearLevels is given up: no item and no anchor live. A block a list.
//   Bytes: a key and a payload an item in, a level out, scattered.
template <int kThreads, int kEntries, class T>
__global__ void __launch_bounds__(kThreads)
    near_levels_kernel(SortedTable<T, T> by_relevance, NearLists<T> near) {
  XRISK_SHARED(int32_t, starts, [kNearLevels + 1]);
  const int64_t q = blockIdx.x, first = q * by_relevance.capacity;
  const int32_t live = near.item_live[q];
  const auto* keys = by_relevance.keys + first;
  int32_t levels = 0;
  for (int32_t begin = 0; begin < live && levels <= kNearLevels; begin += kThreads * kEntries) {
    const int32_t mine = begin + static_cast<int32_t>(threadIdx.x) * kEntries;
    bool opens[kEntries];
    int32_t found = 0;
#pragma unroll
    for (int u = 0; u < kEntries; ++u) {
      const int32_t k = mine + u;
      opens[u] = k < live && (k == 0 || keys[k] != keys[k - 1]);
      found += opens[u];
    }
    int32_t before, total;
    block_scan<kThreads>(found, 0, Sum(), before, total);
    int32_t level = levels + before - 1;
#pragma unroll
    for (int u = 0; u < kEntries; ++u) {
      const int32_t k = mine + u;
      level += opens[u];
      if (opens[u] && level < kNearLevels) {
        starts[level] = k;
        near.lists[q].levels[level] = static_cast<double>(score_of_key(keys[k]));
      }
      if (k < live) near.level_of[by_relevance.payloads[first + k]] = level;
    }
    levels += total;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double pairs = 0.0;
  for (int32_t l = 1; l < levels && levels <= kNearLevels; ++l) {
    const int32_t end = l + 1 < levels ? starts[l + 1] : live;
    pairs += static_cast<double>(end - starts[l]) * static_cast<double>(starts[l]);
  }
  near.lists[q].pairs = pairs;
  near.lists[q].level_count = levels;
  if (levels > kNearLevels) near.item_live[q] = near.anchor_live[q] = 0;
}

// RankNet: weights of the items against the anchors of each level, and which anchors those are. A
// thread an item, blockIdx.y the list. Bytes: 12 an item and level out.
template <class T>
__global__ void near_level_weights_kernel(ListwiseStep<T> call, NearLists<T> near) {
  const int64_t q = blockIdx.y, j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= near.item_live[q]) return;
  const NearList& list = near.lists[q];
  const int32_t mine = near.level_of[q * call.length + j];
  for (int l = 1; l < kNearLevels; ++l) {
    const int64_t at = (q * kNearPairs + l - 1) * call.length + j;
    const bool below = mine < l && l < list.level_count;
    near.pair_weights[at] = static_cast<T>(
        below ? pair_weight(call.options.pair_weight, list.levels[l], list.levels[mine]) : 0.0);
    near.weights[at] = mine == l ? 1.0 : 0.0;
  }
}

// RankNet's rows: of an item, against those below its level. sums, slopes [Q, S].
//   Mapping: a thread an item, blockIdx.y the list. Bytes: as smooth_rows_kernel.
template <class T>
__global__ void near_level_rows_kernel(const SmoothBins* __restrict__ plans,
                                       const double* __restrict__ local, int64_t max_bins,
                                       int64_t length, NearLists<T> near) {
  constexpr int kTerms = SmoothFit<T>::kTerms;
  const int64_t q = blockIdx.y, i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (plans[q].bins == 0 || i >= near.item_live[q]) return;
  const int64_t at = q * length + i;
  const int32_t level = near.level_of[at];
  double sum = 0.0, slope = 0.0;
  if (level > 0) {
    double t;
    const int64_t bin = locate(plans[q], static_cast<double>(near.space.scores[at]), t);
    const double* both = local + ((q * kNearPairs + level - 1) * max_bins + bin) * 2 * kTerms;
    sum = polynomial<kTerms>(both, t);
    slope = *near.scale * polynomial<kTerms>(both + kTerms, t);
  }
  near.sums[at] = sum;
  near.slopes[at] = slope;
}

// ApproxNDCG, LambdaRank: partial sums of the ideal DCG of the first top_k ranks (0: all), from the
// order by relevance. A thread an item.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    near_ideal_kernel(SortedTable<T, T> by_relevance, int64_t top_k, NearLists<T> near) {
  const int64_t q = blockIdx.y, k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t live = near.item_live[q];
  double ideal = 0.0;
  if (k < live && (top_k == 0 || live - k <= top_k)) {
    const double y =
        static_cast<double>(score_of_key(by_relevance.keys[q * by_relevance.capacity + k]));
    const double shift = gain_shift(near.lists[q].top);
    if (y > 0.0) ideal = relative_gain(y, shift) * rank_discount(static_cast<double>(live - k));
  }
  ideal = block_sum<kThreads>(ideal);
  if (threadIdx.x == 0) near.ideal[q * gridDim.x + blockIdx.x] = ideal;
}

// Sums of a list's blocks, added by one block. The total is in every thread.
template <int kThreads>
__device__ __forceinline__ double sum_of_parts(const double* parts, int64_t count) {
  double sum = 0.0;
  for (int64_t k = threadIdx.x; k < count; k += kThreads) sum += parts[k];
  return block_sum<kThreads>(sum);
}

// 1 / max DCG from what near_ideal_kernel left, in every thread.
template <int kThreads, class T>
__device__ __forceinline__ double inverse_ideal_of(const NearLists<T>& near, int64_t q,
                                                   int64_t parts) {
  const double ideal = sum_of_parts<kThreads>(near.ideal + q * parts, parts);
  return ideal > 0.0 ? 1.0 / ideal : 0.0;
}

// From ranks to the anchors' terms: partial sums of the value, weights of the columns, and in
// `slopes` the anchors' own slopes. A thread an anchor, blockIdx.y the list.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    near_rule_kernel(ListwiseStep<T> call, const SmoothBins* __restrict__ plans,
                     NearLists<T> near) {
  const int64_t q = blockIdx.y, i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (plans[q].bins == 0) return;  // the whole block
  const ListOptions& options = call.options;
  const NearList& list = near.lists[q];
  double inverse_ideal = 0.0, value = 0.0;
  if (options.loss == ListLoss::kApproxNDCG) {
    inverse_ideal = inverse_ideal_of<kThreads>(near, q, gridDim.x);
  }
  if (i < near.anchor_live[q]) {
    const int64_t at = q * call.length + i;
    const double rank = 0.5 + near.sums[at], weight = static_cast<double>(near.anchor_weights[at]);
    if (options.loss == ListLoss::kRankNet) {
      value = near.sums[at];
    } else if (options.loss == ListLoss::kSmoothAP) {
      const double share = weight / list.relevant_weight;
      const AnchorTerms terms = average_precision_rule(rank, 0.5 + near.own_sums[at]);
      value = share * terms.value;
      const double all = share * terms.negative_weight, own = share * terms.positive_weight;
      near.weights[at] = all;
      near.positive_weights[at] = own;
      near.slopes[at] = all * near.slopes[at] + (own - all) * near.own_slopes[at];
    } else {
      RankTerms terms = {0.0, 0.0};
      if (options.loss == ListLoss::kApproxNDCG) {
        const int64_t item = q * call.length + near.anchor_places[at];
        const double gain =
            relative_gain(static_cast<double>(near.space.relevance[item]), gain_shift(list.top));
        terms = approx_ndcg_rule(gain * inverse_ideal, rank);
      } else {
        terms =
            recall_terms(options, rank, weight, list.relevant_weight, 1.0 / *call.rank_temperature);
      }
      value = terms.value;
      near.weights[at] = terms.weight;
      near.slopes[at] *= terms.weight;
    }
  }
  value = block_sum<kThreads>(value);
  if (threadIdx.x == 0) near.partial[q * gridDim.x + blockIdx.x] = value;
}

// Value and mass of the lists with bins. A block a list.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    near_value_kernel(ListwiseStep<T> call, const SmoothBins* __restrict__ plans, NearLists<T> near,
                      int64_t blocks, double* __restrict__ masses) {
  const int64_t q = blockIdx.x;
  if (plans[q].bins == 0) return;  // the whole block
  double value = sum_of_parts<kThreads>(near.partial + q * blocks, blocks);
  if (threadIdx.x != 0) return;
  double mass = 1.0;
  if (call.options.loss == ListLoss::kRankNet) {
    value /= near.lists[q].pairs;
    if (call.options.pool_pairs) mass = near.lists[q].pairs;
  } else if (call.options.loss != ListLoss::kApproxNDCG) {
    value += 1.0;
  }
  call.values[q] = static_cast<T>(value);
  masses[q] = mass;
}

// The gradient of the lists with bins, first of the items, then of the anchors, whose own slope
// is theirs, too. A thread an entry, blockIdx.y the list.
template <class T>
__global__ void near_item_gradient_kernel(ListwiseStep<T> call,
                                          const SmoothBins* __restrict__ plans, NearLists<T> near) {
  const int64_t q = blockIdx.y, j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (plans[q].bins == 0 || j >= near.item_live[q]) return;
  const int64_t first = q * call.length;
  call.gradient[first + near.space.places[first + j]] = near.columns[first + j];
}

template <class T>
__global__ void near_anchor_gradient_kernel(ListwiseStep<T> call,
                                            const SmoothBins* __restrict__ plans,
                                            NearLists<T> near) {
  const int64_t q = blockIdx.y, i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (plans[q].bins == 0 || i >= near.anchor_live[q]) return;
  const int64_t first = q * call.length, item = first + near.anchor_places[first + i];
  const bool apart = call.options.loss == ListLoss::kSmoothAP;
  const double pull = static_cast<double>(apart ? near.own_columns[first + i] : near.columns[item]);
  const double factor = call.options.loss == ListLoss::kRankNet ? 1.0 / near.lists[q].pairs : 1.0;
  call.gradient[first + near.space.places[item]] =
      static_cast<T>(factor * (pull - near.slopes[first + i]));
}

}  // namespace xrisk::cuda
