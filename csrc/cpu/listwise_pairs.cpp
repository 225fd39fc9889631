// RankNet and LambdaRank: logistic pairs of a higher with a lower relevance.
//
//   RankNet:    mean over y_i > y_j of w_ij log(1 + exp((h_j - h_i) / T))
//   LambdaRank: sum over the same pairs among the top_k ranks, W_ij = |G_i - G_j| |1/D_i - 1/D_j|,
//               log base 2; G and D are constants
//
// Mapping: the items in descending order of relevance, so that the pairs of a level of relevance
// are its anchors times everything behind the level: each pair once, whatever the number of levels.
// The weights are known beforehand, so one pass yields value and slopes to both ends; where the
// pairwise engine has a faster algorithm than visiting every pair, RankNet's levels take it, and
// LambdaRank has one of its own (cpu/listwise_splits.cpp). Bytes: linear in the list. Hazard: the
// pulls of an item add up in T, so they are flushed into doubles every hundred anchors.
#include "cpu/listwise_splits.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kMaxChunks = 8;  // of a long list
constexpr double kChunkPairs = 4'194'304.0;

template <class T>
class PairwiseList {
 public:
  PairwiseList(const ListwiseStep<T>& call, const RankedList<T>& list, const Executor& executor)
      : call_(call), list_(list), executor_(executor) {}

  ListResult run() {
    const bool lambda = call_.options.loss == ListLoss::kLambdaRank;
    sorted_.scale = 1.0 / call_.temperature;
    sorted_.weighting = call_.options.pair_weight;
    sort(lambda ? call_.options.top_k : 0);
    const double mass = call_.options.pool_pairs ? sorted_.pairs : 1.0;
    if (sorted_.pairs == 0.0) return {0.0, mass};
    double factor = 1.0 / sorted_.pairs;
    if (lambda) {
      const double inverse_ideal = weigh();
      factor = inverse_ideal * kInverseLn2;
    }
    columns_ = scratch_.allocate<double>(sorted_.count);
    sorted_.own_slopes = scratch_.allocate<double>(sorted_.count);
    std::fill(columns_, columns_ + sorted_.count, 0.0);
    std::fill(sorted_.own_slopes, sorted_.own_slopes + sorted_.count, 0.0);
    const double value = lambda && splits_are_faster(sorted_)
                             ? split_pairs(sorted_, list_.gradient != nullptr, columns_, executor_)
                         : !lambda && engine_is_faster() ? by_engine()
                                                         : directly();
    for (int64_t k = 0; list_.gradient != nullptr && k < sorted_.count; ++k) {
      list_.gradient[sorted_.places[k]] =
          static_cast<T>(factor * (columns_[k] - sorted_.own_slopes[k]));
    }
    return {factor * value, mass};
  }

 private:
  void sort(int64_t top_k) {
    const int32_t* places = descending_places(list_.relevance, list_.count, scratch_, executor_);
    sorted_.count = list_.count;
    if (call_.options.loss == ListLoss::kLambdaRank) {
      // Ranks by the scores; who is beyond the top_k is in no pair.
      const int32_t* by_score = descending_places(list_.scores, list_.count, scratch_, executor_);
      int32_t* ranks = scratch_.allocate<int32_t>(list_.count);
      for (int64_t r = 0; r < list_.count; ++r) ranks[by_score[r]] = static_cast<int32_t>(r);
      const int64_t limit = top_k > 0 ? std::min(top_k, list_.count) : list_.count;
      int32_t* kept = scratch_.allocate<int32_t>(limit);
      sorted_.discounts = scratch_.allocate<T>(limit);
      sorted_.exact_discounts = scratch_.allocate<double>(limit);
      sorted_.by_rank = scratch_.allocate<int32_t>(limit);
      int64_t count = 0;
      for (int64_t k = 0; k < list_.count; ++k) {
        const int32_t rank = ranks[places[k]];
        if (rank >= limit) continue;
        const double discount = rank_discount(static_cast<double>(rank + 1));
        sorted_.exact_discounts[count] = discount;
        sorted_.discounts[count] = static_cast<T>(discount);
        sorted_.by_rank[rank] = static_cast<int32_t>(count);
        kept[count++] = places[k];
      }
      places = kept;
      sorted_.count = count;
    }
    const int64_t count = sorted_.count;
    sorted_.places = places;
    sorted_.scores = scratch_.allocate<T>(count);
    sorted_.relevance = scratch_.allocate<T>(count);
    for (int64_t k = 0; k < count; ++k) {
      sorted_.scores[k] = list_.scores[places[k]];
      sorted_.relevance[k] = list_.relevance[places[k]];
    }
    int64_t* level_end = scratch_.allocate<int64_t>(count);
    int64_t end = count;
    for (int64_t k = count - 1; k >= 0; --k) {
      if (k + 1 < count && sorted_.relevance[k] != sorted_.relevance[k + 1]) end = k + 1;
      level_end[k] = end;
      sorted_.pairs += static_cast<double>(count - end);
    }
    sorted_.level_end = level_end;
    if (call_.options.pair_weight != PairWeight::kNone)
      sorted_.weights = scratch_.allocate<T>(count);
  }

  // LambdaRank: the gains, in units of the ideal DCG, whose inverse is returned.
  double weigh() {
    double* gains = scratch_.allocate<double>(list_.count);
    const double inverse =
        relative_gains(list_.relevance, list_.count, call_.options.top_k, gains, executor_);
    sorted_.gains = scratch_.allocate<T>(sorted_.count);
    sorted_.exact_gains = scratch_.allocate<double>(sorted_.count);
    for (int64_t k = 0; k < sorted_.count; ++k) {
      sorted_.exact_gains[k] = gains[sorted_.places[k]];
      sorted_.gains[k] = static_cast<T>(sorted_.exact_gains[k]);
    }
    return inverse;
  }

  PairwiseSpec spec() const {
    PairwiseSpec spec;
    spec.surrogate = Surrogate::kLogistic;
    spec.params.margin = 0.0;
    spec.params.scale = sorted_.scale;
    return spec;
  }

  // By the level with the most pairs.
  bool engine_is_faster() const {
    int64_t anchors = 0, items = 0;
    for (int64_t k = 0; k < sorted_.count; k = sorted_.level_end[k]) {
      const int64_t end = sorted_.level_end[k];
      if ((end - k) * (sorted_.count - end) <= anchors * items) continue;
      anchors = end - k;
      items = sorted_.count - end;
    }
    return choose_algorithm<T>(spec(), anchors, items, 1) != Algorithm::kDirect;
  }

  double by_engine() {
    double value = 0.0;
    T* out = scratch_.allocate<T>(sorted_.count);
    double* ones = scratch_.allocate<double>(sorted_.count);
    double* sums = scratch_.allocate<double>(sorted_.count);
    std::fill(ones, ones + sorted_.count, 1.0);
    for (int64_t first = 0; first < sorted_.count; first = sorted_.level_end[first]) {
      const int64_t end = sorted_.level_end[first];
      if (end == sorted_.count) break;
      Scratch scratch;
      PairwiseSpec of_level = spec();
      const Anchors<T> anchors{sorted_.scores + first, end - first};
      ItemPass<T> pass;
      pass.items.scores = sorted_.scores + end;
      pass.items.count = sorted_.count - end;
      if (const T* weights = weights_of_level(sorted_, first, end, sorted_.weights)) {
        pass.items.weights = weights + end;
      }
      of_level.algorithm = choose_algorithm<T>(of_level, anchors.count, pass.items.count, 1);
      const auto pairs = make_pairwise_sums(of_level, anchors, scratch, executor_);
      pairs->rows(pass, sums, sorted_.own_slopes + first);
      for (int64_t i = 0; i < anchors.count; ++i) value += sums[i];
      if (list_.gradient == nullptr) continue;
      pairs->columns(pass, ones, out);
      for (int64_t j = 0; j < pass.items.count; ++j) {
        columns_[end + j] += static_cast<double>(out[j]);
      }
    }
    return value;
  }

  double directly() {
    const double wanted = sorted_.pairs / kChunkPairs + 1.0;
    const int64_t chunks =
        wanted < static_cast<double>(kMaxChunks) ? static_cast<int64_t>(wanted) : kMaxChunks;
    const int64_t count = sorted_.count;
    if (chunks == 1) return direct_pairs(sorted_, 0, count, count, sorted_.weights, columns_);
    // Anchors cut so that every chunk has its share of the pairs.
    int64_t bounds[kMaxChunks + 1] = {};
    double seen = 0.0;
    int64_t chunk = 1;
    for (int64_t k = 0; k < sorted_.count && chunk < chunks; ++k) {
      seen += static_cast<double>(sorted_.count - sorted_.level_end[k]);
      const double share = static_cast<double>(chunk) / static_cast<double>(chunks);
      if (seen >= share * sorted_.pairs) bounds[chunk++] = k + 1;
    }
    for (; chunk <= chunks; ++chunk) bounds[chunk] = sorted_.count;
    double values[kMaxChunks];
    double* columns = scratch_.allocate<double>(chunks * sorted_.count);
    executor_.for_each(chunks, [&](int64_t c) {
      Scratch scratch;
      double* mine = columns + c * sorted_.count;
      std::fill(mine, mine + sorted_.count, 0.0);
      T* weights =
          sorted_.weights == nullptr ? nullptr : scratch.template allocate<T>(sorted_.count);
      values[c] = direct_pairs(sorted_, bounds[c], bounds[c + 1], count, weights, mine);
    });
    double value = 0.0;
    for (int64_t c = 0; c < chunks; ++c) {
      value += values[c];
      for (int64_t j = 0; j < sorted_.count; ++j) columns_[j] += columns[c * sorted_.count + j];
    }
    return value;
  }

  const ListwiseStep<T>& call_;
  const RankedList<T>& list_;
  const Executor& executor_;
  Scratch scratch_;
  SortedList<T> sorted_;
  double* columns_ = nullptr;
};

}  // namespace

template <class T>
ListResult pairwise_list(const ListwiseStep<T>& call, const RankedList<T>& list,
                         const Executor& executor) {
  return PairwiseList<T>(call, list, executor).run();
}

template ListResult pairwise_list(const ListwiseStep<float>&, const RankedList<float>&,
                                  const Executor&);
template ListResult pairwise_list(const ListwiseStep<double>&, const RankedList<double>&,
                                  const Executor&);

}  // namespace xrisk::cpu
