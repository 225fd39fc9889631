// LambdaRank of long lists with a few levels of relevance, in O(n log n): the exponential sums of
// cpu/lambda_scan_inl.h in parallel.
//
//   gather -> levels, ideal order -> order of the scores -> sums of chunks -> scan -> targets
//
// A chunk of the ranks counts by the sums over its items of q^k and of the differences of their
// discounts times q^k, q = exp(-distance to the chunk's edge), for each level by itself; a scan
// over the chunks carries them to the edge of every chunk, where all levels become those of a
// target's level: |G_t - G_m| times the sums of level m. Pairs within a chunk are visited one by
// one. Of pairs in the wrong order, the sums of the weights (k = 0) and of weighted distances come
// on top.
//
// Lists that this cannot serve (too many levels, nothing to rank, a score that is not finite, a
// range beyond 1e150 temperatures) have no live items; the kernel of short lists takes them.
#pragma once

#include "core/scan_fit.h"
#include "cuda/list_surrogates.h"
#include "cuda/listwise_near.h"

namespace xrisk::cuda {

template <class T>
struct LambdaFit {
  static constexpr int kTerms = SmoothFit<T>::kScanTerms;
  static constexpr int kRows = kTerms + 2;  // k = 0 .. kTerms, and the distances
  static_assert(kRows <= 32, "a lane each");
  double sigma[kTerms], softplus[kTerms];
};

struct __align__(16) ChunkEdges {
  double top_score, top_discount, bottom_score, bottom_discount;
};

template <class T>
struct LambdaLists {
  NearLists<T> near;
  const uint32_t* order;  // [Q, S], items (of all lists) by rank
  int32_t* live;          // [Q], ranks that count; 0: not a list for this
  ChunkEdges* edges;      // [Q, chunks]
  double* sums;           // [Q, chunks, 2 (from above, from below), levels, 2, rows]
  int64_t chunks;

  __device__ double* sums_of(int64_t q, int64_t chunk, bool above, int level) const {
    constexpr int kRows = LambdaFit<T>::kRows;
    return sums + (((q * chunks + chunk) * 2 + !above) * kNearLevels + level) * 2 * kRows;
  }
};

// How many ranks count. A thread a list.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    lambda_live_kernel(ListwiseStep<T> call, LambdaLists<T> lists) {
  const int64_t q = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (q >= call.lists) return;
  int32_t live = lists.near.item_live[q];
  if (live > 0) {
    const uint32_t* order = lists.order + q * call.length;
    const double span = static_cast<double>(lists.near.space.scores[order[0]]) -
                        static_cast<double>(lists.near.space.scores[order[live - 1]]);
    if (!(span * *lists.near.scale < 1e150)) live = 0;
    if (call.options.top_k > 0 && call.options.top_k < live) {
      live = static_cast<int32_t>(call.options.top_k);
    }
  }
  lists.live[q] = live;
}

// What a block knows of its chunk.
struct LambdaChunk {
  int64_t first;  // rank, from 0
  int32_t count;
};
template <int kChunk, class T>
__device__ LambdaChunk chunk_of_block(const LambdaLists<T>& lists) {
  const int64_t first = int64_t{blockIdx.x} * kChunk, left = lists.live[blockIdx.y] - first;
  return {first, static_cast<int32_t>(left < 0 ? 0 : left < kChunk ? left : kChunk)};
}

// Sums of a chunk at both its edges.
//   Mapping: a warp a level and edge, a lane a power. Bytes: 16 an item in, scattered; 4.6 KB
//   (6.7 KB in double) a chunk out. Hazard: none; a sum is of what is not negative.
template <int kChunk, class T>
__global__ void __launch_bounds__(kChunk)
    lambda_chunk_kernel(ListwiseStep<T> call, LambdaLists<T> lists) {
  constexpr int kTerms = LambdaFit<T>::kTerms, kRows = LambdaFit<T>::kRows;
  XRISK_SHARED(double, scores, [kChunk]);
  XRISK_SHARED(double, discounts, [kChunk]);
  XRISK_SHARED(int32_t, levels, [kChunk]);
  const int64_t q = blockIdx.y;
  const LambdaChunk chunk = chunk_of_block<kChunk>(lists);
  if (chunk.count == 0) return;  // the whole block
  const int32_t t = static_cast<int32_t>(threadIdx.x), last = chunk.count - 1;
  if (t < chunk.count) {
    const uint32_t item = lists.order[q * call.length + chunk.first + t];
    scores[t] = static_cast<double>(lists.near.space.scores[item]);
    discounts[t] = rank_discount(static_cast<double>(chunk.first + t + 1));
    levels[t] = lists.near.level_of[item];
  }
  __syncthreads();
  if (t == 0) {
    lists.edges[q * lists.chunks + blockIdx.x] = {scores[0], discounts[0], scores[last],
                                                  discounts[last]};
  }
  const double scale = *lists.near.scale;
  const int k = lane_index();
  const auto level_count = static_cast<int>(lists.near.lists[q].level_count);
  for (int task = warp_index(); task < 2 * level_count; task += kChunk / 32) {
    const bool above = task % 2 == 0;  // for targets below: at the lower edge
    const int level = task / 2;
    const int32_t edge = above ? last : 0;
    double plain = 0.0, weighted = 0.0;
    for (int32_t j = 0; j < chunk.count; ++j) {
      if (levels[j] != level) continue;  // the whole warp
      const double distance = scale * fabs(scores[j] - scores[edge]);
      const double power = k > kTerms ? distance : exp(-k * distance);
      plain += power;
      weighted += power * fabs(discounts[j] - discounts[edge]);
    }
    if (k >= kRows) continue;
    double* sums = lists.sums_of(q, blockIdx.x, above, level);
    sums[k] = plain;
    sums[kRows + k] = weighted;
  }
}

// Replaces the sums of each chunk by those of all chunks on its far side, at their last edge.
//   Mapping: a warp a list, level and direction, a lane a power. Bytes: the sums in and out.
//   Hazard: one chunk after the other, so what a chunk needs is read ahead of it.
template <int kChunk, class T>
__global__ void __launch_bounds__(32) lambda_scan_kernel(LambdaLists<T> lists) {
  constexpr int kTerms = LambdaFit<T>::kTerms, kRows = LambdaFit<T>::kRows;
  const int64_t q = blockIdx.y;
  const bool above = blockIdx.x % 2 == 0;
  const int level = static_cast<int>(blockIdx.x / 2);
  const int64_t count = (lists.live[q] + kChunk - 1) / kChunk;
  if (count == 0 || level >= lists.near.lists[q].level_count) return;  // the whole warp
  const int k = lane_index();
  const double scale = *lists.near.scale;
  const ChunkEdges* edges = lists.edges + q * lists.chunks;
  const auto sums_at = [&](int64_t n) {
    return lists.sums_of(q, above ? n : count - 1 - n, above, level);
  };
  const auto sum_at = [&](int64_t n, int of) {
    return k < kRows ? sums_at(n)[of * kRows + k] : 0.0;
  };
  const auto score_at = [&](int64_t n) {
    return above ? edges[n].bottom_score : edges[count - 1 - n].top_score;
  };
  const auto discount_at = [&](int64_t n) {
    return above ? edges[n].bottom_discount : edges[count - 1 - n].top_discount;
  };
  double plain = 0.0, weighted = 0.0;  // at the edge of the chunk before
  double score = score_at(0), discount = discount_at(0);
  double next_plain = sum_at(0, 0), next_weighted = sum_at(0, 1);
  double next_score = score, next_discount = discount;
  for (int64_t n = 0; n < count; ++n) {
    const double its_plain = next_plain, its_weighted = next_weighted;
    const double gap = scale * fabs(next_score - score);
    const double step = fabs(next_discount - discount);
    score = next_score;
    discount = next_discount;
    if (n + 1 < count) {
      next_plain = sum_at(n + 1, 0);
      next_weighted = sum_at(n + 1, 1);
      next_score = score_at(n + 1);
      next_discount = discount_at(n + 1);
    }
    const double count_of_all = __shfl_sync(kWholeWarp, plain, 0);
    const double weight_of_all = __shfl_sync(kWholeWarp, weighted, 0);
    double* sums = sums_at(n);
    if (k < kRows) {
      sums[k] = plain;
      sums[kRows + k] = weighted;
    }
    if (k > kTerms) {  // the distances
      const double further = plain + gap * count_of_all;
      weighted += gap * weight_of_all + step * further;
      plain = further;
    } else {
      const double decay = exp(-k * gap);
      weighted = (weighted + step * plain) * decay;
      plain *= decay;
    }
    plain += its_plain;
    weighted += its_weighted;
  }
}

// Gradient of the chunk's items, and its share of the value, which counts a pair at its lower rank.
//   Mapping: a thread an item. Bytes: 16 an item in, scattered, and the sums of the chunk.
//   Work: a polynomial an item and direction, and kChunk pairs. Hazard: in T are only the pairs
//   within the chunk, whose discounts are near each other: they are taken relative to its first.
template <int kChunk, class T>
__global__ void __launch_bounds__(kChunk)
    lambda_target_kernel(ListwiseStep<T> call, LambdaLists<T> lists, LambdaFit<T> fit,
                         int64_t ideal_parts) {
  constexpr int kTerms = LambdaFit<T>::kTerms, kRows = LambdaFit<T>::kRows;
  XRISK_SHARED(T, scores, [kChunk]);
  XRISK_SHARED(T, gains, [kChunk]);
  XRISK_SHARED(T, discounts, [kChunk]);
  XRISK_SHARED(double, level_gains, [kNearLevels]);
  XRISK_SHARED(double, sums, [2 * kNearLevels * 2 * kRows]);
  const int64_t q = blockIdx.y;
  const LambdaChunk chunk = chunk_of_block<kChunk>(lists);
  if (chunk.count == 0) return;  // the whole block
  const NearList& list = lists.near.lists[q];
  const int32_t t = static_cast<int32_t>(threadIdx.x);
  const auto level_count = static_cast<int>(list.level_count);
  if (t < level_count) level_gains[t] = relative_gain(list.levels[t], gain_shift(list.top));
  __syncthreads();
  // The sums for targets of each level; the last row and the first only of the wrong order.
  for (int at = t; at < 2 * level_count * kRows; at += kChunk) {
    const int k = at % kRows, of = at / kRows, level = of / 2;
    const bool above = of % 2 == 0, any = k > 0 && k <= kTerms;
    double plain = 0.0, weighted = 0.0;
    for (int m = 0; m < level_count; ++m) {
      if (m == level || (!any && (m < level) != above)) continue;
      const double weight = fabs(level_gains[level] - level_gains[m]);
      const double* of_level = lists.sums_of(q, blockIdx.x, above, m);
      plain += weight * of_level[k];
      weighted += weight * of_level[kRows + k];
    }
    sums[2 * of * kRows + k] = plain;
    sums[(2 * of + 1) * kRows + k] = weighted;
  }
  uint32_t item = 0;
  int level = 0;
  double score = 0.0, discount = 0.0;
  if (t < chunk.count) {
    item = lists.order[q * call.length + chunk.first + t];
    level = lists.near.level_of[item];
    discount = rank_discount(static_cast<double>(chunk.first + t + 1));
    scores[t] = lists.near.space.scores[item];
    score = static_cast<double>(scores[t]);
    gains[t] = static_cast<T>(level_gains[level]);
    discounts[t] = static_cast<T>(rank_discount(static_cast<double>(chunk.first + 1)) - discount);
  }
  const double scale = *lists.near.scale;
  const double factor = inverse_ideal_of<kChunk>(lists.near, q, ideal_parts) * kInverseLn2;
  __syncthreads();
  double value = 0.0;
  if (t < chunk.count) {
    double pull = 0.0;  // d value / d (scale * score)
    const ChunkEdges* edges = lists.edges + q * lists.chunks + blockIdx.x;
    for (int side = 0; side < 2; ++side) {
      const bool above = side == 0;
      if (above ? blockIdx.x == 0 : chunk.first + kChunk >= lists.live[q]) continue;
      const double gap =
          scale * fabs(score - (above ? edges[-1].bottom_score : edges[1].top_score));
      const double step =
          fabs(discount - (above ? edges[-1].bottom_discount : edges[1].top_discount));
      const double* plain = sums + 2 * (2 * level + side) * kRows;
      const double* weighted = plain + kRows;
      const double q_of_gap = exp(-gap);
      double slope = 0.0, term = 0.0;
      for (int k = kTerms; k > 0; --k) {
        const double sum = weighted[k] + step * plain[k];
        slope = (slope + fit.sigma[k - 1] * sum) * q_of_gap;
        term = (term + fit.softplus[k - 1] * sum) * q_of_gap;
      }
      const double wrong = weighted[0] + step * plain[0];
      pull += above ? slope - wrong : wrong - slope;
      if (!above) continue;
      constexpr int kDistances = kTerms + 1;
      value += term + gap * wrong + weighted[kDistances] + step * plain[kDistances];
    }
    // Within the chunk.
    const ListLogistic<T> phi{static_cast<T>(scale)};
    const T mine = gains[t], own_score = scores[t], own_discount = discounts[t];
    double near_pull = 0.0, near_value = 0.0;
    constexpr int32_t kTile = 8;  // pairs whose sums stay in T
    for (int32_t begin = 0; begin < chunk.count; begin += kTile) {
      const int32_t end = begin + kTile < chunk.count ? begin + kTile : chunk.count;
      T slopes = T(0), terms = T(0);
      for (int32_t j = begin; j < end; ++j) {
        const T weight = absolute((mine - gains[j]) * (own_discount - discounts[j]));
        if (weight == T(0)) continue;
        const T direction = mine > gains[j] ? T(-1) : T(1);  // of the slope at this end
        T term, slope;
        phi(direction * (own_score - scores[j]), term, slope);
        slopes += direction * weight * slope;
        if (j < t) terms += weight * term;
      }
      near_pull += static_cast<double>(slopes);
      near_value += static_cast<double>(terms);
    }
    value += near_value;
    if (call.gradient != nullptr) {
      call.gradient[q * call.length + lists.near.space.places[item]] =
          static_cast<T>(factor * (scale * pull + near_pull));
    }
  }
  value = block_sum<kChunk>(factor * value);
  if (t == 0) lists.near.partial[q * lists.chunks + blockIdx.x] = value;
}

// Value and mass of the lists. A block a list.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    lambda_value_kernel(ListwiseStep<T> call, LambdaLists<T> lists, int64_t chunk_size,
                        double* __restrict__ masses) {
  const int64_t q = blockIdx.x, live = lists.live[q];
  if (live == 0) return;  // the whole block
  const int64_t count = (live + chunk_size - 1) / chunk_size;
  const double value = sum_of_parts<kThreads>(lists.near.partial + q * lists.chunks, count);
  if (threadIdx.x != 0) return;
  call.values[q] = static_cast<T>(value);
  masses[q] = 1.0;
}

}  // namespace xrisk::cuda
