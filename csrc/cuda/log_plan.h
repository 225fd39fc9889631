// What the near-linear log sums on CUDA start from: which segments they can serve, and where their
// items end. The device decides, as it alone knows scores, scale and temperature: the direct
// algorithm serves the other segments; its `live` counts are 0 for these.
#pragma once

#include <algorithm>

#include "core/log_sums.h"
#include "core/math.h"
#include "cuda/block.h"
#include "cuda/moments.h"
#include "cuda/pairs.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

// Threads of a block, entries of a chunk of the power sums; groups of the squared hinge, and bins
// of a group, at most.
template <int kBlockThreads, int kChunkEntries, int kMostGroups, int kMostBins>
struct LogShape {
  static constexpr int kBlock = kBlockThreads;
  static constexpr int64_t kChunk = kChunkEntries;
  static constexpr int kGroups = kMostGroups, kBins = kMostBins;
  static constexpr double kMostCut = (kBins - 1) / 1.6;  // group 1 has the most: 2 cut / 1.25
};

// Of a segment. Items are those that weigh something.
struct __align__(8) LogPlan {
  double inverse;           // 1 / temperature
  double highest, deepest;  // the highest item, and how far the lowest lies below it
  int32_t power;            // logistic: 1 / temperature, a whole number
  int32_t near;             // 0: direct
  int64_t items;            // how many
  double total;             // their weight
  // The squared hinge: the exponent beyond which items have no say, the top from which on the kink
  // lies beyond it, and the groups of anchors.
  double cut, layer;
  int64_t groups;

  // Tops below the layer make group 0, the octaves above it one each.
  __device__ __forceinline__ int group_of(double top) const {
    if (!(top >= layer)) return 0;
    int exponent;
    frexp(top / layer, &exponent);
    return exponent;
  }
};

struct __align__(8) LogRange {
  double low, high, high_weight, total;  // of the items; the largest weight of the highest
  double anchor_low, anchor_high;
  int64_t items, bad;  // how many; whether a score is not finite

  __device__ void join(const LogRange& other) {
    if (other.high >= high) {
      high_weight = other.high > high ? other.high_weight : fmax(high_weight, other.high_weight);
      high = other.high;
    }
    low = fmin(low, other.low);
    anchor_low = fmin(anchor_low, other.anchor_low);
    anchor_high = fmax(anchor_high, other.anchor_high);
    total += other.total;
    items += other.items;
    bad |= other.bad;
  }
};

constexpr LogRange kEmptyRange = {INFINITY, -INFINITY, 0.0, 0.0, INFINITY, -INFINITY, 0, 0};

// One range of many lanes', in a fixed order.
__device__ __forceinline__ LogRange warp_join(const LogRange& mine) {
  LogRange all;
  all.high = warp_max(mine.high);
  all.high_weight = warp_max(mine.high == all.high ? mine.high_weight : 0.0);
  all.low = -warp_max(-mine.low);
  all.anchor_low = -warp_max(-mine.anchor_low);
  all.anchor_high = warp_max(mine.anchor_high);
  all.total = warp_sum(mine.total);
  all.items = warp_sum(mine.items);
  all.bad = warp_max(mine.bad);
  return all;
}

template <class T>
__device__ __forceinline__ int64_t entries_of(const Side<T>& side, int64_t segment) {
  return side.live == nullptr ? side.capacity : side.live[segment];
}

template <class T>
__device__ __forceinline__ double item_weight(const Side<T>& items, int64_t at) {
  return items.weights == nullptr ? 1.0 : static_cast<double>(items.weights[at]);
}

// ranges [segments, blocks]. Mapping: blockIdx.y the segment, its blocks stride over the scores.
// Bytes: every score and weight once.
template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    log_range_kernel(Side<T> anchors, Side<T> items, LogRange* __restrict__ ranges) {
  const int64_t segment = blockIdx.y, step = int64_t{gridDim.x} * kBlock;
  const int64_t begin = int64_t{blockIdx.x} * kBlock + threadIdx.x;
  LogRange mine = kEmptyRange;
  const int64_t item_count = entries_of(items, segment);
  for (int64_t j = begin; j < item_count; j += step) {
    const int64_t at = segment * items.capacity + j;
    const double weight = item_weight(items, at);
    if (weight == 0.0) continue;
    const double y = static_cast<double>(items.scores[at]);
    mine.join({y, y, weight, weight, INFINITY, -INFINITY, 1, !is_finite(y)});
  }
  const int64_t anchor_count = entries_of(anchors, segment);
  for (int64_t i = begin; i < anchor_count; i += step) {
    const double x = static_cast<double>(anchors.scores[segment * anchors.capacity + i]);
    if (!is_finite(x)) mine.bad = 1;
    mine.anchor_low = fmin(mine.anchor_low, x);
    mine.anchor_high = fmax(mine.anchor_high, x);
  }
  constexpr double kNone = -double{INFINITY};
  LogRange all;
  all.high = block_max<kBlock>(mine.high, kNone);
  all.high_weight = block_max<kBlock>(mine.high == all.high ? mine.high_weight : 0.0, 0.0);
  all.low = -block_max<kBlock>(-mine.low, kNone);
  all.anchor_low = -block_max<kBlock>(-mine.anchor_low, kNone);
  all.anchor_high = block_max<kBlock>(mine.anchor_high, kNone);
  all.total = block_sum<kBlock>(mine.total);
  all.items = block_sum<kBlock>(mine.items);
  all.bad = block_sum<kBlock>(mine.bad);
  if (threadIdx.x == 0) ranges[segment * gridDim.x + blockIdx.x] = all;
}

// near_live, direct_live [segments]: the targets that either way is to serve. A warp, and
// a block, a segment.
template <class Shape, class T>
__global__ void log_plan_kernel(const LogRange* __restrict__ ranges, int blocks,
                                PairProblem<T> problem, Side<T> targets,
                                LogPlan* __restrict__ plans, int32_t* __restrict__ near_live,
                                int32_t* __restrict__ direct_live) {
  const int64_t segment = blockIdx.x;
  LogRange range = kEmptyRange;
  for (int k = lane_index(); k < blocks; k += 32) range.join(ranges[segment * blocks + k]);
  range = warp_join(range);
  if (lane_index() != 0) return;
  const bool any = range.items > 0 && range.anchor_low <= range.anchor_high;
  const double reach = fmax(fabs(range.anchor_low), fabs(range.anchor_high)) + fabs(range.low) +
                       fabs(range.high) + problem.margin;
  LogPlan plan;
  plan.inverse = 1.0 / *problem.temperature;
  plan.highest = range.high;
  plan.deepest = range.high - range.low;
  plan.power = whole_inverse<T>(plan.inverse);
  plan.items = range.items;
  plan.total = range.total;
  const bool unscaled =
      problem.surrogate == Surrogate::kHinge || problem.surrogate == Surrogate::kSquaredHinge;
  const double scale = unscaled ? 1.0 : *problem.scale;
  bool near = any && range.bad == 0 && fits_log_sums(reach, scale, plan.inverse);
  if (problem.surrogate == Surrogate::kLogistic) near = near && plan.power > 0;
  plan.cut = plan.layer = 0.0;
  plan.groups = 1;
  if (near && problem.surrogate == Surrogate::kSquaredHinge) {
    // what is left out, all items together, is below e^-kCut of the highest
    constexpr double kCut = sizeof(T) == sizeof(float) ? 20.0 : 34.0;
    plan.cut = kCut + log(range.total / range.high_weight);
    plan.layer = sqrt(plan.cut / plan.inverse);
    plan.groups = plan.group_of((range.high - range.anchor_low) + problem.margin) + 1;
    near = plan.cut <= Shape::kMostCut && plan.groups <= Shape::kGroups;
  }
  plan.near = near;
  plans[segment] = plan;
  const int32_t live = static_cast<int32_t>(entries_of(targets, segment));
  near_live[segment] = near ? live : 0;
  direct_live[segment] = near ? 0 : live;
}

constexpr int kLogRangeBlocks = 64;

// The plans, and what follows them in the workspace: the direct sums come first, so that the near
// ones may take the same memory.
struct LogPlans {
  int range_blocks;
  LogRange* ranges;
  LogPlan* plans;
  int32_t *near_live, *direct_live;

  template <class T>
  LogPlans(const PairProblem<T>& problem, Carver& carver, int block) {
    const int64_t most = std::max(problem.anchors.capacity, problem.items.capacity);
    range_blocks = static_cast<int>(
        std::clamp<int64_t>((most + 4 * block - 1) / (4 * block), 1, kLogRangeBlocks));
    ranges = carver.take<LogRange>(int64_t{problem.segments} * range_blocks);
    plans = carver.take<LogPlan>(problem.segments);
    near_live = carver.take<int32_t>(problem.segments);
    direct_live = carver.take<int32_t>(problem.segments);
  }

  template <class Shape, class T>
  cudaError_t launch(const PairProblem<T>& problem, const Side<T>& targets,
                     cudaStream_t stream) const {
    const unsigned segments = static_cast<unsigned>(problem.segments);
    const dim3 grid(static_cast<unsigned>(range_blocks), segments);
    XRISK_LAUNCH((log_range_kernel<Shape::kBlock, T>), grid, Shape::kBlock, 0, stream,
                 problem.anchors, problem.items, ranges);
    XRISK_LAUNCH((log_plan_kernel<Shape, T>), segments, 32, 0, stream,
                 static_cast<const LogRange*>(ranges), range_blocks, problem, targets, plans,
                 near_live, direct_live);
    return cudaGetLastError();
  }
};

}  // namespace xrisk::cuda
