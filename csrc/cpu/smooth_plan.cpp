// Prepares anchors and items for the smooth algorithm: which way, and the bins or the order.
//
//   bins       the range of the scores is short: every bin from the lowest to the highest
//   scattered  it is long and most of it empty (outliers, clusters): the occupied bins alone, found
//              through a table of pages of 64 bins
//   scan       almost every score has a bin of its own: sort, and scan (cpu/scan_inl.h)
//   direct     few pairs
//
// The choice needs the range of the scores, and only where that is long the number of bins in use.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "core/sort_key.h"
#include "cpu/radix_sort.h"
#include "cpu/smooth.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 16384;
constexpr double kMaxBins = 1 << 27;  // k * width_high is exact below
constexpr int64_t kPage = 64;         // bins

// Nanoseconds for rows and columns on one core, fitted like the costs in cpu/pairwise.cpp.
struct SmoothCosts {
  double fixed, score, pair_of_bins;    // bins
  double located, fixed_scan, scanned;  // a score of the scattered bins and of the scan, on top
  double pair;                          // direct, per float lane
};

template <class T>
SmoothCosts costs_of() {
  constexpr bool kWide = sizeof(T) == sizeof(double);
  const double lanes = kernel_table().lanes / 16.0;
  SmoothCosts costs;
  costs.fixed = 500.0;
  costs.score = (kWide ? 10.0 : 8.0) / std::sqrt(lanes);
  costs.pair_of_bins = (kWide ? 20.0 : 6.0) / lanes;
  costs.located = 6.0;
  costs.fixed_scan = 2000.0;
  costs.scanned = 100.0 / std::sqrt(lanes);
  costs.pair = kWide ? 40.0 : 26.0;
  return costs;
}

template <class T>
void range_of(const T* scores, int64_t count, const Executor& executor, double range[2]) {
  if (count == 0) return;
  const int64_t chunks = (count + kGrain - 1) / kGrain;
  std::vector<T> parts(static_cast<size_t>(2 * chunks));
  executor.for_range(count, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    kernels<T>().score_range(scores + begin, end - begin, parts.data() + 2 * chunk);
  });
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const size_t at = static_cast<size_t>(2 * chunk);
    range[0] = std::min(range[0], static_cast<double>(parts[at]));
    range[1] = std::max(range[1], static_cast<double>(parts[at + 1]));
  }
}

SmoothGrid grid_of(double width, double lowest) {
  SmoothGrid grid;
  grid.inverse_width = 1.0 / width;
  uint64_t bits;
  std::memcpy(&bits, &width, sizeof(bits));
  bits &= ~((uint64_t{1} << 27) - 1);
  std::memcpy(&grid.width_high, &bits, sizeof(bits));
  grid.width_low = width - grid.width_high;
  grid.first = std::floor(lowest * grid.inverse_width) - 1;
  return grid;
}

// The occupied bins, through pages: false if they are nearly as many as the scores.
template <class T>
class Scatter {
 public:
  Scatter(SmoothPlan& plan, Anchors<T> anchors, const Items<T>& items, Scratch& scratch,
          const Executor& executor)
      : plan_(plan), anchors_(anchors), items_(items), scratch_(scratch), executor_(executor) {}

  bool run(int64_t limit) {
    const int64_t pages = plan_.bins / kPage + 1;
    int32_t* page_places = zeroed(pages);
    int32_t* anchor_slots = scratch_.allocate<int32_t>(anchors_.count);
    int32_t* item_slots = scratch_.allocate<int32_t>(items_.count);
    mark(anchors_.scores, anchors_.count, anchor_slots, page_places);
    mark(items_.scores, items_.count, item_slots, page_places);
    int64_t used = 0;
    for (int64_t page = 0; page < pages; ++page) {
      if (page_places[page] != 0) page_places[page] = static_cast<int32_t>(++used);
    }
    if (used > limit / 8) return false;  // many pages, and how many bins in each is a long table
    int32_t* bin_places = zeroed((used + 1) * kPage);
    mark_bins(anchor_slots, anchors_.count, page_places, bin_places);
    mark_bins(item_slots, items_.count, page_places, bin_places);
    int64_t bins = 0;
    for (int64_t k = 0; k < (used + 1) * kPage; ++k) {
      if (bin_places[k] != 0) bin_places[k] = static_cast<int32_t>(++bins);
    }
    if (bins > limit) return false;
    double* positions = scratch_.allocate<double>(bins);
    for (int64_t page = 0; page < pages; ++page) {
      if (page_places[page] == 0) continue;
      const int32_t* row = bin_places + page_places[page] * kPage;
      for (int64_t k = 0; k < kPage; ++k) {
        if (row[k] != 0) positions[row[k] - 1] = static_cast<double>(page * kPage + k);
      }
    }
    place(anchor_slots, anchors_.count, page_places, bin_places);
    place(item_slots, items_.count, page_places, bin_places);
    plan_.bins = bins;
    plan_.positions = positions;
    plan_.anchor_slots = anchor_slots;
    plan_.item_slots = item_slots;
    return true;
  }

 private:
  int32_t* zeroed(int64_t count) {
    int32_t* table = scratch_.allocate<int32_t>(count);
    std::memset(table, 0, static_cast<size_t>(count) * sizeof(int32_t));
    return table;
  }

  static void set(int32_t& mark) {  // by several threads, all the same
    if (__atomic_load_n(&mark, __ATOMIC_RELAXED) == 0) __atomic_store_n(&mark, 1, __ATOMIC_RELAXED);
  }

  void mark(const T* scores, int64_t count, int32_t* bins, int32_t* pages) const {
    executor_.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      kernels<T>().smooth_bins(plan_.grid, scores, begin, end, bins);
      for (int64_t j = begin; j < end; ++j) set(pages[bins[j] / kPage]);
    });
  }
  void mark_bins(const int32_t* bins, int64_t count, const int32_t* pages, int32_t* places) const {
    executor_.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        set(places[pages[bins[j] / kPage] * kPage + bins[j] % kPage]);
      }
    });
  }
  void place(int32_t* bins, int64_t count, const int32_t* pages, const int32_t* places) const {
    executor_.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        bins[j] = places[pages[bins[j] / kPage] * kPage + bins[j] % kPage] - 1;
      }
    });
  }

  SmoothPlan& plan_;
  const Anchors<T> anchors_;
  const Items<T>& items_;
  Scratch& scratch_;
  const Executor& executor_;
};

// Ascending numbers of the scores, anchors first.
template <class T>
const uint32_t* sorted_order(Anchors<T> anchors, const Items<T>& items, Scratch& scratch,
                             const Executor& executor) {
  using Key = decltype(sort_key(T{}));
  const int64_t count = anchors.count + items.count;
  auto* records = scratch.allocate<SortRecord<Key>>(count);
  executor.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const T score = k < anchors.count ? anchors.scores[k] : items.scores[k - anchors.count];
      records[k] = {sort_key(score + T(0)), static_cast<uint32_t>(k)};  // -0 becomes 0
    }
  });
  const auto* sorted = radix_sort(records, count, scratch, executor);
  uint32_t* order = scratch.allocate<uint32_t>(count);
  executor.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) order[r] = sorted[r].payload;
  });
  return order;
}

template <class T>
void plan_scan(SmoothPlan& plan, Anchors<T> anchors, const Items<T>& items, const uint32_t* order,
               Scratch& scratch, const Executor& executor) {
  const int64_t count = anchors.count + items.count;
  const uint32_t first_item = static_cast<uint32_t>(anchors.count);
  if (order == nullptr) order = sorted_order(anchors, items, scratch, executor);
  uint8_t* is_anchor = scratch.allocate<uint8_t>(count);
  T* scores = scratch.allocate<T>(count);
  std::vector<int64_t> anchors_below(static_cast<size_t>((count + kGrain - 1) / kGrain));
  executor.for_range(count, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t found = 0;
    for (int64_t r = begin; r < end; ++r) {
      const uint32_t number = order[r];
      const bool is = number < first_item;
      scores[r] = *(is ? anchors.scores + number : items.scores + (number - first_item));
      is_anchor[r] = is;
      found += is;
    }
    anchors_below[static_cast<size_t>(chunk)] = found;
  });
  int64_t total = 0;
  for (int64_t& found : anchors_below) total += std::exchange(found, total);
  uint32_t* anchor_order = scratch.allocate<uint32_t>(anchors.count);
  uint32_t* item_order = scratch.allocate<uint32_t>(items.count);
  executor.for_range(count, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    uint32_t* anchor = anchor_order + anchors_below[static_cast<size_t>(chunk)];
    uint32_t* item = item_order + (begin - anchors_below[static_cast<size_t>(chunk)]);
    for (int64_t r = begin; r < end; ++r) {
      const bool is = is_anchor[r] != 0;
      uint32_t* place = is ? anchor : item;  // a choice, not a branch: they come in any order
      *place = order[r] - (is ? 0 : first_item);
      anchor += is;
      item += !is;
    }
  });
  plan.way = SmoothWay::kScan;
  plan.order = order;
  plan.is_anchor = is_anchor;
  plan.anchor_order = anchor_order;
  plan.item_order = item_order;
  plan.scores = scores;
}

}  // namespace

template <class T>
const SmoothPlan* make_smooth_plan(const PairwiseSpec& spec, Anchors<T> anchors,
                                   const Items<T>& items, const uint32_t* order, Scratch& scratch,
                                   const Executor& executor) {
  SmoothPlan& plan = *new (scratch.allocate<SmoothPlan>(1)) SmoothPlan();
  const double scale = spec.params.scale;
  if (order != nullptr) {
    plan_scan(plan, anchors, items, order, scratch, executor);
    return &plan;
  }
  const double p = static_cast<double>(anchors.count), m = static_cast<double>(items.count);
  const double n = p + m;
  double range[2] = {INFINITY, -INFINITY};
  range_of(anchors.scores, anchors.count, executor, range);
  range_of(items.scores, items.count, executor, range);
  const double width = SmoothFit<T>::kWidth / scale;
  plan.grid = grid_of(width, range[0]);
  const double highest = std::floor(range[1] * plan.grid.inverse_width) + 1;
  const double bins = highest - plan.grid.first + 1;
  // Numbers of bins must be exact.
  const bool countable = bins <= kMaxBins && -plan.grid.first <= kMaxBins && highest <= kMaxBins &&
                         width > 1e-290 && width < 1e290;

  const SmoothCosts costs = costs_of<T>();
  const double neighbours = std::min(bins, 2.0 * SmoothFit<T>::kReach + 1);
  const double translation_cost = bins * neighbours * costs.pair_of_bins;
  const double bins_cost = costs.fixed + n * costs.score + translation_cost;
  const bool few = n < 2048;
  const double scan_cost = costs.fixed_scan + n * costs.scanned;
  const double lanes = kernel_table().lanes * 4.0 / sizeof(T);
  // exp() of what is subnormal is slow.
  const double span = (range[1] - range[0]) * scale;
  const double slow = span > (sizeof(T) == sizeof(float) ? 87.0 : 708.0) ? 8.0 : 1.0;
  const double direct_cost = 4.0 * p + slow * p * m * costs.pair / lanes;
  SmoothWay way = spec.smooth_way;
  if (way == SmoothWay::kCheapest) {
    if (direct_cost < std::min(bins_cost, scan_cost)) {
      way = SmoothWay::kDirect;
    } else if (bins_cost <= scan_cost && (few || translation_cost <= n * costs.located)) {
      way = SmoothWay::kBins;
    } else {  // it pays to look which bins are in use
      way = few ? SmoothWay::kScan : SmoothWay::kScattered;
    }
  }
  if (way != SmoothWay::kDirect && !countable) way = SmoothWay::kScan;
  if (!(span < 1e150)) way = SmoothWay::kDirect;  // nor does it fit a sum
  plan.way = way;
  plan.bins = countable ? static_cast<int64_t>(bins) : 0;
  if (way == SmoothWay::kScattered) {
    // As many bins as cost what the scan costs.
    const double reach = 2.0 * SmoothFit<T>::kReach + 1;
    const double most =
        n * (costs.scanned - costs.score - costs.located) / (reach * costs.pair_of_bins);
    const int64_t limit = spec.smooth_way == SmoothWay::kCheapest
                              ? static_cast<int64_t>(most)
                              : 8 * (anchors.count + items.count);
    if (!Scatter<T>(plan, anchors, items, scratch, executor).run(limit)) {
      plan.way = SmoothWay::kScan;
    }
  }
  if (plan.way == SmoothWay::kScan) {
    plan_scan(plan, anchors, items, nullptr, scratch, executor);
  }
  return &plan;
}

#define XRISK_INSTANTIATE(T)                                                                    \
  template const SmoothPlan* make_smooth_plan(const PairwiseSpec&, Anchors<T>, const Items<T>&, \
                                              const uint32_t*, Scratch&, const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
