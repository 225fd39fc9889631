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
constexpr double kFewScores = 2048;   // too few to look which bins are in use
constexpr double kCache = 2 << 20;

// Nanoseconds for rows and columns on one core, fitted like the costs in cpu/pairwise.cpp to 16 ..
// 10^6 anchors and as many items, in ranges of 10 .. 10^9 temperatures.
struct SmoothCosts {
  double fixed, score, pair_of_bins;    // bins
  double cold_score, cold_pair;         // more of both where the bins have left the cache
  double located, scattered_pair;       // scattered bins: a score on top; a pair of them
  double fixed_scan, scanned, doubled;  // scan: a score of few, and more for each doubling
  double fixed_direct, anchor, pair;    // direct; a pair per float lane
};

template <class T>
SmoothCosts costs_of() {
  constexpr bool kWide = sizeof(T) == sizeof(double);
  const double lanes = kernel_table().lanes / 16.0;
  SmoothCosts costs;
  costs.fixed = 1000.0;
  costs.score = (kWide ? 7.0 : 4.0) / std::sqrt(lanes);
  costs.pair_of_bins = (kWide ? 19.0 : 9.5) / lanes;
  costs.cold_score = 6.0;
  costs.cold_pair = kWide ? 30.0 : 4.0;
  costs.located = 15.0;
  costs.scattered_pair = (kWide ? 130.0 : 22.0) / std::sqrt(lanes);
  costs.fixed_scan = kWide ? 7000.0 : 4000.0;
  costs.scanned = (kWide ? 66.0 : 45.0) / std::sqrt(lanes);
  costs.doubled = kWide ? 18.0 : 4.7;
  costs.fixed_direct = 700.0;
  costs.anchor = 4.0;
  costs.pair = kWide ? 34.0 : 23.0;
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

  // Over the limit it gives up, as soon as a sample says so unless it is forced.
  bool run(int64_t limit, bool forced) {
    const int64_t pages = plan_.bins / kPage + 1;
    int32_t* page_places = zeroed(pages);
    if (!forced && !is_sparse(page_places, pages, limit / 8)) return false;
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

  // False if a sample of the items says that most of the range is in use, or many more than `limit`
  // pages. It meets a page again n^2 / 2 sum p^2 times, and by Cauchy and Schwarz there are at
  // least 1 / sum p^2 of them. Leaves the sample's pages marked.
  bool is_sparse(int32_t* page_places, int64_t pages, int64_t limit) const {
    constexpr int64_t kMost = 32768, kEnough = 32;
    const int64_t sample = std::min(kMost, items_.count / 8), step = items_.count / (sample + 1);
    int64_t again = 0;
    for (int64_t k = 0; k < sample; ++k) {
      int32_t bin;
      kernels<T>().smooth_bins(plan_.grid, items_.scores + k * step, 0, 1, &bin);
      again += page_places[bin / kPage] != 0;
      page_places[bin / kPage] = 1;
    }
    if (pages > 2 && 2 * (sample - again) > pages) return false;
    const double draws = static_cast<double>(sample);
    const double likely = 0.5 * draws * draws / static_cast<double>(std::max(again, kEnough));
    return likely < 1.5 * static_cast<double>(limit);
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

// order: of an earlier plan for the same scores; null: none.
template <class T>
void plan_scan(SmoothPlan& plan, Anchors<T> anchors, const Items<T>& items, const uint32_t* order,
               Scratch& scratch, const Executor& executor) {
  using Key = decltype(sort_key(T{}));
  constexpr int64_t kScanGrain = SmoothPlan::kScanGrain;
  const int64_t count = anchors.count + items.count;
  const int64_t chunks = (count + kScanGrain - 1) / kScanGrain;
  const uint32_t first_item = static_cast<uint32_t>(anchors.count);
  uint8_t* is_anchor = scratch.allocate<uint8_t>(count);
  int64_t* anchors_below = scratch.allocate<int64_t>(chunks);
  T* scores;
  const auto mark = [&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t found = 0;
    for (int64_t r = begin; r < end; ++r) {
      is_anchor[r] = order[r] < first_item;
      found += is_anchor[r];
    }
    anchors_below[chunk] = found;
  };
  if (order != nullptr) {
    scores = scratch.allocate<T>(count);
    executor.for_range(count, kScanGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const uint32_t number = order[r];
        const bool is = number < first_item;  // a choice, not a branch: they come in any order
        scores[r] = (is ? anchors.scores : items.scores)[number - (is ? 0 : first_item)];
      }
      mark(chunk, begin, end);
    });
  } else {
    auto* records = scratch.allocate<SortRecord<Key>>(count);
    auto* other = scratch.allocate<SortRecord<Key>>(count);
    executor.for_range(count, kScanGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const T score = k < anchors.count ? anchors.scores[k] : items.scores[k - anchors.count];
        records[k] = {sort_key(score + T(0)), static_cast<uint32_t>(k)};  // -0 becomes 0
      }
    });
    auto* sorted = radix_sort(records, other, count, scratch, executor);
    // Fresh pages are dear: the memory of the sort takes what follows.
    void* free = sorted == records ? other : records;
    scores = static_cast<T*>(free);
    uint32_t* numbers = reinterpret_cast<uint32_t*>(scores + count);
    order = numbers;
    executor.for_range(count, kScanGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        numbers[r] = sorted[r].payload;
        scores[r] = score_of_key(sorted[r].key);
      }
      mark(chunk, begin, end);
    });
    plan.spare = sorted;
    plan.spare_bytes = count * static_cast<int64_t>(sizeof(*sorted));
  }
  int64_t total = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    total += std::exchange(anchors_below[chunk], total);
  }
  plan.way = SmoothWay::kScan;
  plan.order = order;
  plan.is_anchor = is_anchor;
  plan.anchors_below = anchors_below;
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
  const double bytes = bins * SmoothFit<T>::kTerms * (sizeof(double) + 2.0 * sizeof(T));
  const double cold = std::min(1.0, bytes / kCache);
  const double translation_cost = bins * neighbours * (costs.pair_of_bins + cold * costs.cold_pair);
  const double bins_cost =
      costs.fixed + n * (costs.score + cold * costs.cold_score) + translation_cost;
  const bool few = n < kFewScores;
  const double scanned = costs.scanned + costs.doubled * std::max(0.0, std::log2(n / 8192.0));
  const double scan_cost = costs.fixed_scan + n * scanned;
  const double lanes = kernel_table().lanes * 4.0 / sizeof(T);
  const double rounded_items = std::ceil(m / lanes) * lanes;
  const double direct_cost =
      costs.fixed_direct + p * costs.anchor + p * rounded_items * costs.pair / lanes;
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
  const double span = (range[1] - range[0]) * scale;
  if (!(span < 1e150)) way = SmoothWay::kDirect;  // nor does it fit a sum
  plan.way = way;
  plan.bins = countable ? static_cast<int64_t>(bins) : 0;
  if (way == SmoothWay::kScattered) {
    // As many bins as cost what the cheaper of the others costs.
    const double left = std::min(bins_cost, scan_cost) - n * (costs.score + costs.located);
    const double most = left / ((2.0 * SmoothFit<T>::kReach + 1) * costs.scattered_pair);
    const bool forced = spec.smooth_way != SmoothWay::kCheapest;
    const int64_t limit = forced ? 8 * (anchors.count + items.count) : static_cast<int64_t>(most);
    if (!Scatter<T>(plan, anchors, items, scratch, executor).run(limit, forced)) {
      plan.way = !forced && bins_cost <= scan_cost ? SmoothWay::kBins : SmoothWay::kScan;
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
