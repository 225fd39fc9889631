// LambdaRank without visiting every pair: levels of relevance are split in two, again and again.
//
//   all pairs = pairs of the higher with the lower half of the levels, and the pairs in each half
//
// The weight |G_i - G_j| |D_i - D_j| of a pair of the two halves falls apart into sums over the
// items in the order of their ranks (cpu/lambda_scan_inl.h), so a split costs its items and not its
// pairs. A list of L levels takes about log2 L splits of each item; a part with few pairs is left
// to visiting them. Which, a model of both costs says from the sizes of the levels.
//
// Mapping: the parts of a depth of the tree together, each side of the ranks and each half a task.
// The items of a part keep the order of their ranks from one split to the next. Bytes: about 60 an
// item and depth. Hazard: ties of the scores are ranked all the same, by where they stand in the
// list; distances beyond 1e150 temperatures do not fit the sums and are left to the direct pairs.
#include "cpu/listwise_splits.h"

#include <utility>
#include <vector>

namespace xrisk::cpu {
namespace {

// Nanoseconds on one core, fitted like the costs in cpu/pairwise.cpp.
struct SplitCosts {
  double fixed = 2000.0;  // of a split
  double item, pair;      // of a split, direct
};

template <class T>
SplitCosts split_costs() {
  constexpr bool kWide = sizeof(T) == sizeof(double);
  const double lanes = kernel_table().lanes / 16.0;
  SplitCosts costs;
  costs.item = (kWide ? 110.0 : 100.0) / lanes;
  costs.pair = (kWide ? 4.0 : 1.3) / lanes;
  return costs;
}

// Items [begin, end) of the list in the order of relevance: those before `middle` against the
// others, or, if that is where they begin, all its pairs one by one.
struct Part {
  int64_t begin, middle, end;
  bool upper_graded, lower_graded;  // of several levels
  int depth;
  bool direct() const { return middle == begin; }
};

template <class T>
class SplitTree {
 public:
  explicit SplitTree(const SortedList<T>& sorted) : costs_(split_costs<T>()) {
    starts_.push_back(0);
    squares_.push_back(0.0);
    while (starts_.back() < sorted.count) {
      const int64_t first = starts_.back(), end = sorted.level_end[first];
      starts_.push_back(end);
      squares_.push_back(squares_.back() +
                         static_cast<double>(end - first) * static_cast<double>(end));
    }
  }

  // The cheapest parts, in the order of their depths.
  std::vector<Part> grow() {
    grow(0, starts_.size() - 1, 0);
    std::stable_sort(parts_.begin(), parts_.end(),
                     [](const Part& a, const Part& b) { return a.depth < b.depth; });
    return std::move(parts_);
  }

 private:
  // Of levels [low, high); returns what they cost.
  double grow(size_t low, size_t high, int depth) {
    if (high - low < 2) return 0.0;
    const int64_t begin = starts_[low], end = starts_[high];
    const auto items = static_cast<double>(end - begin);
    const double pairs = static_cast<double>(end) * items - (squares_[high] - squares_[low]);
    const double direct_cost = costs_.pair * pairs, split_cost = costs_.fixed + costs_.item * items;
    const size_t mark = parts_.size();
    double cost = split_cost;
    if (split_cost < direct_cost) {
      const int64_t half = begin + (end - begin) / 2;
      const auto at = std::lower_bound(starts_.begin() + static_cast<int64_t>(low + 1),
                                       starts_.begin() + static_cast<int64_t>(high - 1), half);
      auto middle = static_cast<size_t>(at - starts_.begin());
      if (middle > low + 1 && half - starts_[middle - 1] < starts_[middle] - half) --middle;
      parts_.push_back({begin, starts_[middle], end, middle - low > 1, high - middle > 1, depth});
      cost += grow(low, middle, depth + 1) + grow(middle, high, depth + 1);
    }
    if (cost < direct_cost) return cost;
    parts_.resize(mark);
    parts_.push_back({begin, begin, end, false, false, depth});
    return direct_cost;
  }

  const SplitCosts costs_;
  std::vector<int64_t> starts_;  // of the levels, and the end
  std::vector<double> squares_;  // sums over the levels before of their size times their end
  std::vector<Part> parts_;
};

template <class T>
class SplitPairs {
 public:
  SplitPairs(const SortedList<T>& sorted, bool needs_gradient, double* columns,
             const Executor& executor)
      : sorted_(sorted),
        passes_(needs_gradient ? 4 : 2),
        columns_(columns),
        executor_(executor),
        parts_(SplitTree<T>(sorted).grow()) {}

  double run() {
    const int64_t count = sorted_.count;
    order_ = scratch_.allocate<int32_t>(count);
    next_order_ = scratch_.allocate<int32_t>(count);
    std::copy(sorted_.by_rank, sorted_.by_rank + count, order_);
    scores_ = scratch_.allocate<T>(count);
    is_higher_ = scratch_.allocate<uint8_t>(count);
    for (double** numbers : {&discounts_, &gains_, &from_above_, &from_below_}) {
      *numbers = scratch_.allocate<double>(count);
    }
    double value = 0.0;
    for (size_t first = 0; first < parts_.size();) {
      size_t after = first;
      while (after < parts_.size() && parts_[after].depth == parts_[first].depth) ++after;
      value += parts_of_depth(parts_.data() + first, static_cast<int64_t>(after - first));
      first = after;
    }
    return value;
  }

 private:
  double parts_of_depth(const Part* parts, int64_t count) {
    executor_.for_each(count, [&](int64_t p) {
      if (!parts[p].direct()) gather(parts[p]);
    });
    std::vector<double> values(static_cast<size_t>(passes_ * count), 0.0);
    executor_.for_each(passes_ * count, [&](int64_t task) {
      const Part& part = parts[task / passes_];
      const int64_t pass = task % passes_;
      double& value = values[static_cast<size_t>(task)];
      if (!part.direct()) {
        value = scan(part, pass % 2 == 0, pass < 2);
      } else if (pass == 0) {
        value = direct_pairs<T>(sorted_, part.begin, part.end, part.end, nullptr, columns_);
      }
    });
    executor_.for_each(count, [&](int64_t p) {
      if (!parts[p].direct()) finish(parts[p]);
    });
    std::swap(order_, next_order_);
    double sum = 0.0;
    for (const double value : values) sum += value;
    return sum;
  }

  void gather(const Part& part) const {
    for (int64_t r = part.begin; r < part.end; ++r) {
      const int32_t k = order_[r];
      scores_[r] = sorted_.scores[k];
      discounts_[r] = sorted_.exact_discounts[k];
      gains_[r] = sorted_.exact_gains[k];
      is_higher_[r] = k < part.middle;
    }
  }

  double scan(const Part& part, bool from_above, bool to_higher) const {
    const FlushDenormals flush;
    LambdaScan<T> call;
    call.scores = scores_ + part.begin;
    call.discounts = discounts_ + part.begin;
    call.gains = gains_ + part.begin;
    call.is_higher = is_higher_ + part.begin;
    call.count = part.end - part.begin;
    call.scale = sorted_.scale;
    call.base = sorted_.exact_gains[to_higher ? part.middle : part.middle - 1];
    call.graded = to_higher ? part.lower_graded : part.upper_graded;
    call.from_above = from_above;
    call.to_higher = to_higher;
    call.slopes = (from_above ? from_above_ : from_below_) + part.begin;
    return kernels<T>().lists.lambda_scan(call);
  }

  // Adds the slopes, and hands each half its items in the order of their ranks.
  void finish(const Part& part) {
    int64_t next[2] = {part.middle, part.begin};  // of the lower half, of the higher
    for (int64_t r = part.begin; r < part.end; ++r) {
      const int32_t k = order_[r];
      const bool higher = is_higher_[r] != 0;
      next_order_[next[higher]++] = k;
      if (passes_ == 2 && !higher) continue;  // its slopes are not there
      columns_[k] += sorted_.scale * (from_above_[r] + from_below_[r]);
    }
  }

  const SortedList<T>& sorted_;
  const int64_t passes_;  // of a split: from above, from below; to the lower half, too
  double* const columns_;
  const Executor& executor_;
  const std::vector<Part> parts_;
  Scratch scratch_;
  int32_t *order_, *next_order_;  // [count], of the parts one behind the other
  // In that order.
  T* scores_;
  uint8_t* is_higher_;
  double *discounts_, *gains_, *from_above_, *from_below_;
};

}  // namespace

template <class T>
bool splits_are_faster(const SortedList<T>& sorted) {
  const double span = static_cast<double>(sorted.scores[sorted.by_rank[0]]) -
                      static_cast<double>(sorted.scores[sorted.by_rank[sorted.count - 1]]);
  const SplitCosts costs = split_costs<T>();
  const double split = costs.fixed + costs.item * static_cast<double>(sorted.count);
  if (!(span * sorted.scale < 1e150) || costs.pair * sorted.pairs <= split) return false;
  return !SplitTree<T>(sorted).grow().front().direct();
}

template <class T>
double split_pairs(const SortedList<T>& sorted, bool needs_gradient, double* columns,
                   const Executor& executor) {
  return SplitPairs<T>(sorted, needs_gradient, columns, executor).run();
}

#define XRISK_INSTANTIATE(T)                             \
  template bool splits_are_faster(const SortedList<T>&); \
  template double split_pairs(const SortedList<T>&, bool, double*, const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
