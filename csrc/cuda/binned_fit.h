// The parts of cuda/binned_log_sums.h: groups and bins, an item or an anchor in a bin, series, and
// the two sorted sides.
#pragma once

#include "cuda/line_sums.h"
#include "cuda/log_plan.h"
#include "cuda/sorted_table.h"

namespace xrisk::cuda {

template <class T>
struct BinnedFit {
  static constexpr bool kWide = sizeof(T) == sizeof(double);
  static constexpr int kTerms = kWide ? 20 : 12;    // degree of the power series
  static constexpr int kKinkTerms = kWide ? 8 : 5;  // about the kink: exponents below 0.04
  static constexpr int kMoments = kTerms + 1;
  // of each side: powers, and of the items their weights; of the anchors one power more
  static constexpr int64_t kLines = kKinkTerms + 2;
  static constexpr int64_t kWeightLine = kKinkTerms + 1;
};

// The bins of a group: equal widths from the highest item down.
struct GroupBins {
  double width;
  int bins;

  __device__ __forceinline__ GroupBins(const LogPlan& plan, int group) {
    constexpr double kReach = 1.25;
    double layer = plan.layer, wanted = plan.cut / kReach;
    if (group > 0) {
      const double low = ldexp(plan.layer, group - 1), squared = plan.cut / plan.inverse;
      layer = squared / (low + sqrt(fmax(0.0, low * low - squared)));
      wanted = 2.0 * low * layer * plan.inverse / kReach;
    }
    bins = static_cast<int>(fmax(ceil(wanted), 1.0));
    width = layer / bins;
  }
  // Of an item; past the layer: `bins`.
  __device__ __forceinline__ int bin_of(double depth) const {
    return static_cast<int>(fmin(depth / width, 1.0 * bins));
  }
  // With the kink of an anchor of the lowest group.
  __device__ __forceinline__ int kink_of(double top) const {
    return static_cast<int>(fmin(fmax(top / width, 0.0), bins - 1.0));
  }
  __device__ __forceinline__ double centre(int bin) const { return (bin + 0.5) * width; }
};

__device__ __forceinline__ double factorial_step(int n) { return 1.0 / (n + 1); }

// An item in its bin: s, and its weight times exp((s h)^2 / T).
struct BinnedItem {
  double s, bump;
  __device__ __forceinline__ BinnedItem(const GroupBins& bins, int bin, double depth,
                                        double inverse) {
    const double distance = depth - bins.centre(bin);
    s = 2.0 * distance / bins.width;
    bump = exp(distance * distance * inverse);
  }
};

// An anchor against a bin: f(top, C), and t.
struct BinnedAnchor {
  double f, t;
  __device__ __forceinline__ BinnedAnchor(const GroupBins& bins, int bin, double top,
                                          double inverse) {
    const double centre = bins.centre(bin);
    t = -bins.width * inverse * (top - centre);
    f = exp(-centre * (2.0 * top - centre) * inverse);
  }
};

// sum_n series[n] x^n, and its derivative.
template <int kDegree>
__device__ __forceinline__ void evaluate(const double* series, double x, double& value,
                                         double& derivative) {
  value = derivative = 0.0;
#pragma unroll
  for (int n = kDegree; n >= 0; --n) {
    derivative = derivative * x + value;
    value = value * x + series[n];
  }
}

// From sums_n of weight f t^n / n!, n <= kDegree + 1, to the series in s of sum weight f q exp(t
// s): q = -t T / (2 h) - s h.
template <int kDegree>
__device__ __forceinline__ void series_of(const double* sums, double width, double inverse,
                                          double* series) {
#pragma unroll
  for (int n = 0; n <= kDegree; ++n) {
    series[n] = -(n + 1) * sums[n + 1] / (width * inverse);
    if (n > 0) series[n] -= 0.5 * width * sums[n - 1];
  }
}

// The first of the numbers from `low` on, before `high`, that `before` denies; else `high`.
template <class F>
__device__ __forceinline__ int64_t partition_of(int64_t low, int64_t high, F&& before) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (before(middle)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The same by a whole warp, whose lanes probe at once.
template <class F>
__device__ __forceinline__ int64_t warp_partition_of(int64_t count, F&& before) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t step = (high - low + 31) / 32, probe = low + lane_index() * step;
    const int passed = __popc(__ballot_sync(kWholeWarp, probe < high && before(probe) ? 1 : 0));
    high = passed < 32 && low + passed * step < high ? low + passed * step : high;
    low = passed > 0 ? low + (passed - 1) * step + 1 : low;
  }
  return low;
}

// Totals of the block's threads: number n is thread n's.
template <int kBlock, int kCount>
__device__ __forceinline__ double block_sums(const double (&mine)[kCount]) {
  static_assert(kCount <= 32 && kBlock % 32 == 0);
  constexpr int kWarps = kBlock / 32;
  XRISK_SHARED(double, of_warps, [kWarps * kCount]);
  __syncthreads();  // an earlier call may still be reading
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    const double sum = warp_sum(mine[n]);
    if (lane_index() == 0) of_warps[warp_index() * kCount + n] = sum;
  }
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x < kCount) {
    for (int w = 0; w < kWarps; ++w) total += of_warps[w * kCount + threadIdx.x];
  }
  return total;
}

// The sorted items from the highest down: entry k has depth(k).
template <class T>
struct DeepItems {
  const SortKey<T>* keys;  // of the segment
  const uint32_t* payloads;
  int64_t count;  // alive, first among the keys, which ascend
  double highest;

  __device__ __forceinline__ DeepItems(const SortedTable<T, T>& table, const LogPlan& plan,
                                       int64_t segment)
      : keys(table.keys + segment * table.capacity),
        payloads(table.payloads + segment * table.capacity),
        count(plan.items),
        highest(plan.highest) {}
  __device__ __forceinline__ int64_t entry(int64_t k) const { return count - 1 - k; }
  __device__ __forceinline__ double depth(int64_t k) const {
    return highest - static_cast<double>(score_of_key(keys[entry(k)]));
  }
  // By a whole warp.
  __device__ __forceinline__ int64_t before_bin(const GroupBins& bins, int bin) const {
    return warp_partition_of(count, [&](int64_t k) { return bins.bin_of(depth(k)) < bin; });
  }
};

// The sorted anchors from the highest top down: as their keys ascend.
template <class T>
struct TallAnchors {
  const SortKey<T>* keys;
  const uint32_t* payloads;
  int64_t count;
  double highest, margin;

  __device__ __forceinline__ TallAnchors(const SortedTable<T, double>& table, const LogPlan& plan,
                                         double margin_, const Side<T>& anchors, int64_t segment)
      : keys(table.keys + segment * table.capacity),
        payloads(table.payloads + segment * table.capacity),
        count(entries_of(anchors, segment)),
        highest(plan.highest),
        margin(margin_) {}
  __device__ __forceinline__ double top(int64_t k) const {
    return (highest - static_cast<double>(score_of_key(keys[k]))) + margin;
  }
  // How many are tall. By a whole warp.
  template <class F>
  __device__ __forceinline__ int64_t from(F&& tall) const {
    return warp_partition_of(count, [&](int64_t k) { return tall(top(k)); });
  }
};

// Blocks that share the bins, and that share the anchors of one: chosen, not measured.
inline unsigned bin_blocks(int64_t entries) {
  return static_cast<unsigned>(std::clamp<int64_t>(entries / 8, 1, 256));
}
inline unsigned series_shares(int64_t anchors, int segments) {
  return static_cast<unsigned>(std::clamp<int64_t>(
      std::min<int64_t>((anchors + 1023) / 1024, 16 / std::max(1, segments)), 1, 16));
}

}  // namespace xrisk::cuda
