// Log sums of exp(squared hinge / T), near-linear, with the error of cpu/binned_log_sums.cpp, whose
// expansion this is (docs/algorithms.md). Relative to the peak top^2 / T a pair above the kink is
//
//   f(top, depth) = exp(-depth (2 top - depth) / T),
//
// and items beyond a layer, below e^-cut, have no say. Anchors of tops from L to 2 L make a group;
// its layer is cut into bins; an item at s half-widths h from the centre C of its bin counts by
// moments, f = f(top, C) exp((s h)^2 / T) exp(t s), t = -2 h (top - C) / T, |t| <= kReach, a power
// series. Here groups are the octaves above the kink's layer, anchors are evaluated one by one, and
// the bin with an anchor's kink takes running sums along the sorted items: LineSums from the
// highest item (columns: the highest top) down, of which none exceeds what it is relative to, since
// f rises with q.
//   Hazard: exponents are products of distances from the highest item, in doubles, never positive.
#pragma once

#include "cuda/binned_fit.h"

namespace xrisk::cuda {

template <class Shape>
constexpr int64_t kCells = int64_t{Shape::kGroups} * Shape::kBins;

// f(bins, group, bin, cell) for the bins in use, one after the other, that are the block's.
template <class Shape, class F>
__device__ __forceinline__ void each_bin(const LogPlan& plan, F&& f) {
  int64_t bin = blockIdx.x;
  for (int group = 0; group < plan.groups; ++group) {
    const GroupBins bins(plan, group);
    for (; bin < bins.bins; bin += gridDim.x) {
      f(bins, group, static_cast<int>(bin), int64_t{group} * Shape::kBins + bin);
    }
    bin -= bins.bins;
  }
}
// moments [segments, kGroups, kBins, kMoments]: sums of w exp((s h)^2 / T) s^n / n! over the
// items of a bin. starts [segments, kBins + 1]: where the bins of group 0 begin among the items.
//   Mapping: a block a bin, in strides; blockIdx.y the segment. Bytes: a key, a payload and a
//   scattered weight an item and group that has it in its layer.
template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    binned_moments_kernel(const LogPlan* plans, SortedTable<T, T> table, const T* weights,
                          double* __restrict__ moments, int64_t* __restrict__ starts) {
  constexpr int kMoments = BinnedFit<T>::kMoments;
  const int64_t segment = blockIdx.y;
  const LogPlan plan = plans[segment];
  if (plan.near == 0) return;  // the whole block
  const DeepItems<T> items(table, plan, segment);
  each_bin<Shape>(plan, [&](const GroupBins& bins, int group, int bin, int64_t cell) {
    const int64_t begin = items.before_bin(bins, bin), end = items.before_bin(bins, bin + 1);
    if (group == 0 && threadIdx.x == 0) {
      int64_t* mine = starts + segment * (Shape::kBins + 1);
      mine[bin] = begin;
      if (bin == bins.bins - 1) mine[bins.bins] = end;
    }
    double sums[kMoments] = {};
    for (int64_t k = begin + threadIdx.x; k < end; k += Shape::kBlock) {
      const BinnedItem item(bins, bin, items.depth(k), plan.inverse);
      const double weight =
          weights == nullptr ? 1.0 : static_cast<double>(weights[items.payloads[items.entry(k)]]);
      double term = weight * item.bump;
#pragma unroll
      for (int n = 0; n < kMoments; ++n) {
        sums[n] += term;
        term *= item.s * factorial_step(n);
      }
    }
    const double total = block_sums<Shape::kBlock>(sums);
    if (threadIdx.x < kMoments) {
      moments[(segment * kCells<Shape> + cell) * kMoments + threadIdx.x] = total;
    }
  });
}

// partial [segments, shares, kGroups, kBins, kTerms + 2]: sums of a_i / mass_i f t^n / n! over a
// share of the anchors of a group that have the bin above their kink as a whole. starts
// [segments, kBins + 1]: how many anchors have their kink in a bin of group 0 or beyond.
//   Mapping: as above, blockIdx.z the share. Bytes: a key, a payload and two scattered numbers an
//   anchor and bin.
template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    binned_series_kernel(const LogPlan* plans, SortedTable<T, double> table, Side<T> side,
                         double margin, const double* weights, const double* masses,
                         double* __restrict__ partial, int64_t* __restrict__ starts) {
  constexpr int kSums = BinnedFit<T>::kTerms + 2;
  const int64_t segment = blockIdx.y;
  const LogPlan plan = plans[segment];
  if (plan.near == 0) return;  // the whole block
  const TallAnchors<T> anchors(table, plan, margin, side, segment);
  each_bin<Shape>(plan, [&](const GroupBins& bins, int group, int bin, int64_t cell) {
    const int64_t begin = anchors.from([&](double top) { return plan.group_of(top) > group; });
    const int64_t end = anchors.from([&](double top) {
      return plan.group_of(top) > group ||
             (plan.group_of(top) == group && (group > 0 || bins.kink_of(top) > bin));
    });
    if (group == 0 && blockIdx.z == 0) {
      int64_t* mine = starts + segment * (Shape::kBins + 1);
      const int64_t positive =
          bin == 0 ? anchors.from([&](double top) { return top > 0.0; }) : int64_t{0};
      if (threadIdx.x == 0) {
        mine[bin + 1] = end;
        if (bin == 0) mine[0] = positive;
      }
    }
    double sums[kSums] = {};
    for (int64_t k = begin + int64_t{blockIdx.z} * Shape::kBlock + threadIdx.x; k < end;
         k += int64_t{gridDim.z} * Shape::kBlock) {
      const BinnedAnchor anchor(bins, bin, anchors.top(k), plan.inverse);
      const uint32_t at = anchors.payloads[k];
      double term = weights[at] / masses[at] * anchor.f;
#pragma unroll
      for (int n = 0; n < kSums; ++n) {
        sums[n] += term;
        term *= anchor.t * factorial_step(n);
      }
    }
    const double total = block_sums<Shape::kBlock>(sums);
    if (threadIdx.x < kSums) {
      partial[((segment * gridDim.z + blockIdx.z) * kCells<Shape> + cell) * kSums + threadIdx.x] =
          total;
    }
  });
}

// series [segments, kGroups, kBins, kMoments]: of sum_i a_i / mass_i f q, in powers of s, from the
// sums of all shares. A warp, and a block, a bin, in strides; blockIdx.y the segment.
template <class Shape, class T>
__global__ void binned_join_kernel(const LogPlan* plans, const double* __restrict__ partial,
                                   int shares, double* __restrict__ series) {
  constexpr int kTerms = BinnedFit<T>::kTerms, kSums = kTerms + 2;
  static_assert(kSums <= 32);
  const int64_t segment = blockIdx.y;
  const LogPlan plan = plans[segment];
  if (plan.near == 0) return;  // the whole block
  const int n = lane_index();
  each_bin<Shape>(plan, [&](const GroupBins& bins, int /*group*/, int /*bin*/, int64_t cell) {
    double sum = 0.0;
    for (int share = 0; n < kSums && share < shares; ++share) {
      sum += partial[((segment * shares + share) * kCells<Shape> + cell) * kSums + n];
    }
    const double below = __shfl_up_sync(kWholeWarp, sum, 1);
    const double above = __shfl_down_sync(kWholeWarp, sum, 1);
    double term = -(n + 1) * above / (bins.width * plan.inverse);
    if (n > 0) term -= 0.5 * bins.width * below;
    if (n <= kTerms) series[(segment * kCells<Shape> + cell) * (kTerms + 1) + n] = term;
  });
}

// Terms of the running sums of the bins of the kink, of the items: w exp((s h)^2 / T) s^n / n!, and
// of their weights from the lowest item up. Lines [segments, kLines].
template <class T>
struct KinkItemTerms {
  SortedTable<T, T> table;
  const T* weights;
  const LogPlan* plans;

  __device__ bool backwards(int64_t line) const {
    return line % BinnedFit<T>::kLines != BinnedFit<T>::kWeightLine;
  }
  __device__ double operator()(int64_t line, int64_t entry) const {
    const int64_t segment = line / BinnedFit<T>::kLines;
    const int n = static_cast<int>(line % BinnedFit<T>::kLines);
    const int64_t sorted = segment * table.capacity + entry;
    const LogPlan plan = plans[segment];
    if (plan.near == 0 || entry >= plan.items) return 0.0;
    double term = weights == nullptr ? 1.0 : static_cast<double>(weights[table.payloads[sorted]]);
    if (n == BinnedFit<T>::kWeightLine) return term;
    const double depth = plan.highest - static_cast<double>(score_of_key(table.keys[sorted]));
    const GroupBins bins(plan, 0);
    const int bin = bins.bin_of(depth);
    if (bin == bins.bins) return 0.0;
    const BinnedItem item(bins, bin, depth, plan.inverse);
    term *= item.bump;
    for (int k = 0; k < n; ++k) term *= item.s * factorial_step(k);
    return term;
  }
};

// The same of the anchors with their kink in the layer: a / mass f t^n / n!, from the highest top.
template <class T>
struct KinkAnchorTerms {
  SortedTable<T, double> table;
  Side<T> side;
  double margin;
  const double *weights, *masses;
  const LogPlan* plans;

  __device__ bool backwards(int64_t /*line*/) const { return false; }
  __device__ double operator()(int64_t line, int64_t entry) const {
    const int64_t segment = line / BinnedFit<T>::kLines;
    const int n = static_cast<int>(line % BinnedFit<T>::kLines);
    const LogPlan plan = plans[segment];
    const TallAnchors<T> anchors(table, plan, margin, side, segment);
    if (plan.near == 0 || entry >= anchors.count) return 0.0;
    const double top = anchors.top(entry);
    if (!(top > 0.0) || plan.group_of(top) > 0) return 0.0;
    const GroupBins bins(plan, 0);
    const BinnedAnchor anchor(bins, bins.kink_of(top), top, plan.inverse);
    const uint32_t at = anchors.payloads[entry];
    double term = weights[at] / masses[at] * anchor.f;
    for (int k = 0; k < n; ++k) term *= anchor.t * factorial_step(k);
    return term;
  }
};

// Log sums, slopes and masses [segments, P]. Mapping: kRowLanes lanes an anchor, which share the
// bins of its group; blockIdx.y the segment. Bytes: up to 1.6 cut times kMoments numbers from L1
// and L2, 24 out.
constexpr int kRowLanes = 8;

template <class Shape, class T>
__global__ void __launch_bounds__(kHeavyBlock)
    binned_rows_kernel(const LogPlan* plans, const double* __restrict__ moments,
                       const int64_t* __restrict__ starts, SortedTable<T, T> table, LineSums lines,
                       const int32_t* live, double margin, Side<T> anchors,
                       double* __restrict__ log_sums, double* __restrict__ slopes,
                       double* __restrict__ masses) {
  using Fit = BinnedFit<T>;
  const int64_t segment = blockIdx.y, thread = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  const int64_t i = thread / kRowLanes, at = segment * anchors.capacity + i;
  const int lane = static_cast<int>(thread % kRowLanes);
  const LogPlan plan = plans[segment];
  const bool alive = i < live[segment];
  const double top =
      alive ? (plan.highest - static_cast<double>(anchors.scores[at])) + margin : 0.0;
  double mass = 0.0, slope = 0.0;
  if (top > 0.0) {
    const int group = plan.group_of(top);
    const GroupBins bins(plan, group);
    const int above = group > 0 ? bins.bins : bins.kink_of(top);  // bins, as a whole
    const double half = 0.5 * bins.width;
    const double* of_bin =
        moments + (segment * Shape::kGroups + group) * Shape::kBins * Fit::kMoments;
    double value, derivative;
    for (int bin = lane; bin < above; bin += kRowLanes) {
      const BinnedAnchor anchor(bins, bin, top, plan.inverse);
      evaluate<Fit::kTerms>(of_bin + bin * Fit::kMoments, anchor.t, value, derivative);
      mass += anchor.f * value;
      slope += anchor.f * ((top - bins.centre(bin)) * value - half * derivative);
    }
    if (group == 0 && lane == above % kRowLanes) {
      const DeepItems<T> items(table, plan, segment);
      const int64_t* start = starts + segment * (Shape::kBins + 1) + above;
      const int64_t first = start[0], last = start[1];
      const int64_t split =
          partition_of(first, last, [&](int64_t k) { return items.depth(k) < top; });
      const int64_t line = segment * Fit::kLines, dead = table.capacity - items.count;
      double sums[Fit::kKinkTerms + 1];
      for (int n = 0; n <= Fit::kKinkTerms; ++n) {
        sums[n] = lines.first(line + n, dead + split) - lines.first(line + n, dead + first);
      }
      const BinnedAnchor anchor(bins, above, top, plan.inverse);
      evaluate<Fit::kKinkTerms>(sums, anchor.t, value, derivative);
      const double rest = lines.first(line + Fit::kWeightLine, items.count - split);
      mass += anchor.f * value + rest * exp(-top * top * plan.inverse);
      slope += anchor.f * ((top - bins.centre(above)) * value - half * derivative);
    }
  }
#pragma unroll
  for (int distance = kRowLanes / 2; distance > 0; distance /= 2) {
    mass += __shfl_xor_sync(kWholeWarp, mass, distance);
    slope += __shfl_xor_sync(kWholeWarp, slope, distance);
  }
  if (!alive || lane != 0) return;
  if (!(top > 0.0)) mass = plan.total;
  const double peak = top > 0.0 ? top * top * plan.inverse : 0.0;
  masses[at] = mass;
  slopes[at] = 2.0 * plan.inverse * slope / mass;
  log_sums[at] = peak + log(mass);
}

// out [segments, M]. Mapping: a thread an item, blockIdx.y the segment, over the groups whose layer
// it is in. Bytes: kMoments numbers of each from L2, sizeof(T) out.
template <class Shape, class T>
__global__ void __launch_bounds__(kHeavyBlock)
    binned_columns_kernel(const LogPlan* plans, const double* __restrict__ series,
                          const int64_t* __restrict__ starts, SortedTable<T, double> table,
                          LineSums lines, const int32_t* live, double margin, Side<T> side,
                          Side<T> items, T* __restrict__ out) {
  using Fit = BinnedFit<T>;
  const int64_t segment = blockIdx.y, j = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  if (j >= live[segment]) return;
  const LogPlan plan = plans[segment];
  const int64_t at = segment * items.capacity + j;
  const double weight = item_weight(items, at);
  double sum = 0.0;
  if (weight != 0.0) {  // else its score may be anything
    const double depth = plan.highest - static_cast<double>(items.scores[at]);
    for (int group = 0; group < plan.groups; ++group) {
      const GroupBins bins(plan, group);
      const int bin = bins.bin_of(depth);
      if (bin == bins.bins) {
        if (group > 1) break;  // from there on layers only shrink
        continue;
      }
      const BinnedItem item(bins, bin, depth, plan.inverse);
      double value, ignored;
      evaluate<Fit::kTerms>(
          series + ((segment * Shape::kGroups + group) * Shape::kBins + bin) * Fit::kMoments,
          item.s, value, ignored);
      sum += item.bump * value;
      if (group > 0) continue;
      const TallAnchors<T> anchors(table, plan, margin, side, segment);
      const int64_t* start = starts + segment * (Shape::kBins + 1) + bin;
      const int64_t first = start[1];
      const int64_t split =
          partition_of(first, start[0], [&](int64_t k) { return anchors.top(k) > depth; });
      double sums[Fit::kKinkTerms + 2], own[Fit::kKinkTerms + 1];
      for (int n = 0; n < Fit::kKinkTerms + 2; ++n) {
        const int64_t line = segment * Fit::kLines + n;
        sums[n] = lines.first(line, split) - lines.first(line, first);
      }
      series_of<Fit::kKinkTerms>(sums, bins.width, plan.inverse, own);
      evaluate<Fit::kKinkTerms>(own, item.s, value, ignored);
      sum += item.bump * value;
    }
  }
  out[at] = static_cast<T>(2.0 * plan.inverse * weight * sum);
}

// One side sorted, its running sums, and what it makes of the bins: the items' moments, or, in
// `shares`, the anchors' series.
template <class T, class W>
struct BinnedMemory {
  TableMemory<T, W> table;
  LineSums lines;
  double *bins, *partial;
  int64_t* starts;
  unsigned shares;

  template <class Shape>
  BinnedMemory(Carver& carver, int64_t capacity, int segments, unsigned series_shares, Shape)
      : table(sorted_memory<T, W, Shape>(carver, capacity, segments)),
        lines(carver, segments * BinnedFit<T>::kLines, capacity, Shape::kBlock),
        shares(series_shares) {
    const int64_t cells = segments * kCells<Shape>;
    bins = carver.take<double>(cells * BinnedFit<T>::kMoments);
    partial = carver.take<double>(cells * shares * (BinnedFit<T>::kTerms + 2));
    starts = carver.take<int64_t>(int64_t{segments} * (Shape::kBins + 1));
  }
};

template <class Shape, class T>
cudaError_t binned_log_rows(const PairRows<T>& call, const LogPlans& plans, Carver& carver,
                            cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  const unsigned segments = static_cast<unsigned>(problem.segments);
  BinnedMemory<T, T> memory(carver, problem.items.capacity, problem.segments, 0, Shape());
  XRISK_RETURN_IF_ERROR(
      sort_entries(memory.table, problem.items, problem.items.weights, false, stream));
  const SortedTable<T, T>& table = memory.table.table;
  const KinkItemTerms<T> terms{table, problem.items.weights, plans.plans};
  XRISK_RETURN_IF_ERROR(launch_line_sums<Shape::kBlock>(terms, memory.lines,
                                                        segments * BinnedFit<T>::kLines, stream));
  const dim3 bins(bin_blocks(problem.items.capacity), segments);
  XRISK_LAUNCH((binned_moments_kernel<Shape, T>), bins, Shape::kBlock, 0, stream, plans.plans,
               table, problem.items.weights, memory.bins, memory.starts);
  const dim3 grid(blocks_for(problem.anchors.capacity * kRowLanes, kHeavyBlock), segments);
  XRISK_LAUNCH((binned_rows_kernel<Shape, T>), grid, kHeavyBlock, 0, stream, plans.plans,
               static_cast<const double*>(memory.bins), static_cast<const int64_t*>(memory.starts),
               table, memory.lines, plans.near_live, problem.margin, problem.anchors, call.sums,
               call.slopes, call.masses);
  return cudaGetLastError();
}

template <class Shape, class T>
cudaError_t binned_log_columns(const PairColumns<T>& call, const LogPlans& plans, Carver& carver,
                               cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  const unsigned segments = static_cast<unsigned>(problem.segments);
  BinnedMemory<T, double> memory(carver, problem.anchors.capacity, problem.segments,
                                 series_shares(problem.anchors.capacity, problem.segments),
                                 Shape());
  const double* no_weights = nullptr;  // all live anchors stay
  XRISK_RETURN_IF_ERROR(sort_entries(memory.table, problem.anchors, no_weights, false, stream));
  const SortedTable<T, double>& table = memory.table.table;
  const KinkAnchorTerms<T> terms{table,       problem.anchors, problem.margin, call.anchor_weights,
                                 call.masses, plans.plans};
  XRISK_RETURN_IF_ERROR(launch_line_sums<Shape::kBlock>(terms, memory.lines,
                                                        segments * BinnedFit<T>::kLines, stream));
  const dim3 bins(bin_blocks(problem.anchors.capacity), segments);
  const dim3 shares(bins.x, segments, memory.shares);
  XRISK_LAUNCH((binned_series_kernel<Shape, T>), shares, Shape::kBlock, 0, stream, plans.plans,
               table, problem.anchors, problem.margin, call.anchor_weights, call.masses,
               memory.partial, memory.starts);
  XRISK_LAUNCH((binned_join_kernel<Shape, T>), bins, 32, 0, stream, plans.plans,
               static_cast<const double*>(memory.partial), static_cast<int>(memory.shares),
               memory.bins);
  const dim3 grid(blocks_for(problem.items.capacity, kHeavyBlock), segments);
  XRISK_LAUNCH((binned_columns_kernel<Shape, T>), grid, kHeavyBlock, 0, stream, plans.plans,
               static_cast<const double*>(memory.bins), static_cast<const int64_t*>(memory.starts),
               table, memory.lines, plans.near_live, problem.margin, problem.anchors, problem.items,
               call.out);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
