// One step of a ranking loss over a batch of queries.
//
//   first pass   per query: who is relevant, what is wrong, rows, threshold: reads no state but
//                lambda, writes none
//   between      moving averages of all relevant (query, item) pairs at once, then lambda and s: a
//                pair or query that occurs twice has one result, wherever its occurrences stand
//   second pass  per query: rule, columns, gradient
//
// Queries run in parallel, in chunks of a fixed number of entries; one that is a large part of the
// batch runs alone, its pair sums in parallel. Bytes: scores, relevance and gradient once a pass,
// ids and state of the relevant items. Hazard: arrays that belong to a chunk stand where its
// entries do, so that no chunk needs to know of another.
#include "cpu/ranking_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/moving_average.h"
#include "cpu/moving_average.h"
#include "cpu/query_pairs.h"
#include "cpu/ranking_queries.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kChunkEntries = 8192;
constexpr int64_t kAloneEntries = 32768;

template <class T, class State>
class Run : private RankingQueries<T, State> {
  using Base = RankingQueries<T, State>;
  using Base::call_;
  using Base::two_classes;

 public:
  Run(const RankingStep<T, State>& call, const Executor& executor)
      : Base(call), executor_(executor), columns_(two_classes() ? 2 : 1) {}

  RankingError run() {
    plan();
    executor_.for_each(chunks_, [&](int64_t chunk) { first_pass(chunk); });
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      if (errors_[chunk].kind != RankingError::kNone) return errors_[chunk];
    }
    for (int64_t q = 0; q < call_.lists.count; ++q) {
      if (queries_[q].alone) observe(queries_[q], anchors_at(queries_[q].begin), executor_);
    }
    compact();
    if (call_.rule == RankingRule::kListwise && call_.has(kBatchShift)) shift_log_sums();
    update_state();
    update_thresholds();
    executor_.for_each(chunks_, [&](int64_t chunk) {
      const SerialExecutor serial;
      for (int64_t q = starts_[chunk]; q < starts_[chunk + 1]; ++q) {
        if (!queries_[q].alone) finish(q, serial);
      }
    });
    for (int64_t q = 0; q < call_.lists.count; ++q) {
      if (queries_[q].alone) finish(q, executor_);
    }
    return {};
  }

 private:
  // Chunks of whole queries.
  void plan() {
    const int64_t count = call_.lists.count;
    const int64_t entries = count == 0 ? 0 : call_.lists.end(count - 1);
    queries_ = scratch_.allocate<Query>(count);
    starts_ = scratch_.allocate<int64_t>(count + 1);
    int64_t inside = kChunkEntries;
    chunks_ = 0;
    for (int64_t q = 0; q < count; ++q) {
      Query& query = *new (queries_ + q) Query;
      query.begin = call_.lists.begin(q);
      query.length = call_.lists.end(q) - query.begin;
      query.alone = query.length >= kAloneEntries && 4 * query.length >= entries;
      if (inside >= kChunkEntries || query.alone) {
        starts_[chunks_++] = q;
        inside = 0;
      }
      inside += query.alone ? kChunkEntries : query.length;
    }
    starts_[chunks_] = count;
    errors_ = scratch_.allocate<RankingError>(chunks_);
    std::fill(errors_, errors_ + chunks_, RankingError());
    all_.positions = scratch_.allocate<int32_t>(entries);
    all_.ids = scratch_.allocate<int64_t>(call_.state == nullptr ? 0 : entries);
    all_.u = scratch_.allocate<double>(columns_ * entries);
    all_.slopes = scratch_.allocate<double>(entries);
    all_.own_slopes = scratch_.allocate<double>(two_classes() ? entries : 0);
    const int64_t near = call_.top_k.k > 0 ? entries : 0;
    near_ = {scratch_.allocate<int32_t>(near), scratch_.allocate<T>(near)};
  }

  AnchorArrays anchors_at(int64_t first) const {
    AnchorArrays result = all_;
    result.positions += first;
    result.ids += call_.state == nullptr ? 0 : first;
    result.u += columns_ * first;
    result.slopes += first;
    result.own_slopes += two_classes() ? first : 0;
    return result;
  }

  // ------------------------------------------------------------------------------- first pass

  void first_pass(int64_t chunk) {
    const SerialExecutor serial;
    int64_t next = queries_[starts_[chunk]].begin;
    for (int64_t q = starts_[chunk]; q < starts_[chunk + 1]; ++q) {
      Query& query = queries_[q];
      query.first = next;
      errors_[chunk] = this->find_anchors(query, q, anchors_at(next));
      if (errors_[chunk].kind != RankingError::kNone) return;
      if (!query.alone) observe(query, anchors_at(next), serial);
      next += query.anchors;
    }
  }

  void observe(Query& query, const AnchorArrays& anchors, const Executor& executor) {
    const int64_t q = &query - queries_;
    if (query.anchors == 0) return;
    Scratch scratch;
    const ItemList<T> list =
        list_items(call_, query.begin, query.length, anchors.positions, query.anchors, scratch);
    if (list.items.count == 0) return;
    query.num_items = this->size_of(0, call_.num_items, q, static_cast<double>(list.present));
    query.item_weight = list.weight;
    if (call_.rule != RankingRule::kAveragePrecision) {
      query.anchor_share *=
          this->size_of(1, call_.num_relevant, q, static_cast<double>(query.anchors));
    }
    if (call_.rule == RankingRule::kListwise) query.anchor_share /= query.num_items;
    if (call_.rule == RankingRule::kNDCG) {
      query.ideal_dcg = call_.ideal_dcg == nullptr ? this->ideal_dcg(query, anchors, scratch)
                                                   : this->size_of(2, call_.ideal_dcg, q, 0.0);
      if (query.ideal_dcg == 0) return;
    }
    T* anchor_scores = scratch.allocate<T>(query.anchors);
    T largest = largest_magnitude(list.items.scores, list.items.count, executor);
    for (int64_t i = 0; i < query.anchors; ++i) {
      anchor_scores[i] = call_.scores[query.begin + anchors.positions[i]];
      // they are items, too, except where only the irrelevant ones are
      if (!std::isfinite(anchor_scores[i])) largest = std::numeric_limits<T>::infinity();
    }
    query.fate = std::isfinite(largest) ? Fate::kLive : Fate::kBad;
    if (query.fate == Fate::kBad) return;
    query.wide = sizeof(T) == sizeof(float) && leaves_float(call_.spec, largest);
    if (call_.rule == RankingRule::kListwise) {
      observe_log_sum(query, list, anchor_scores, anchors);
    } else {
      observe_pairs(query, list, anchor_scores, anchors, scratch, executor);
    }
    if (call_.top_k.k > 0) {
      const NearItems<T> near{near_.positions + query.begin, near_.slopes + query.begin};
      query.threshold = observe_threshold(call_.top_k, this->threshold_row(q), query.num_items,
                                          list, near, scratch, executor);
    }
  }

  void observe_log_sum(Query& query, const ItemList<T>& list, const T* anchor_scores,
                       const AnchorArrays& anchors) {
    const Items<T>& items = list.items;
    const double peak =
        static_cast<double>(*std::max_element(items.scores, items.scores + items.count));
    query.log_sum = peak + std::log(kernels<T>().exponential_sum(items.scores, items.weights,
                                                                 items.count, 1.0, peak));
    const double mean = query.log_sum - std::log(list.weight);
    for (int64_t i = 0; i < query.anchors; ++i) {
      anchors.u[i] = mean - static_cast<double>(anchor_scores[i]);
    }
    if (!call_.has(kBatchShift)) return;
    const T lowest = *std::min_element(anchor_scores, anchor_scores + query.anchors);
    query.largest_gap = peak - static_cast<double>(lowest);
  }

  void observe_pairs(Query& query, const ItemList<T>& list, const T* anchor_scores,
                     const AnchorArrays& anchors, Scratch& scratch, const Executor& executor) {
    with_pairs(query, list, anchor_scores, anchors, scratch, executor, [&](auto& pairs) {
      const int64_t count = query.anchors;
      const double mean = 1.0 / query.item_weight;
      if (!two_classes()) {
        pairs.rows_of_all(anchors.u, anchors.slopes);
        for (int64_t i = 0; i < count; ++i) anchors.u[i] *= mean;
        return;
      }
      double* sums = scratch.allocate<double>(2 * count);
      pairs.rows_of_all(sums, anchors.slopes);
      pairs.rows_of_anchors(sums + count, anchors.own_slopes);
      for (int64_t i = 0; i < count; ++i) {
        anchors.u[2 * i] = sums[i] * mean;
        anchors.u[2 * i + 1] = sums[count + i] * mean;
      }
    });
  }

  // Calls f with the pair sums of the query, in the type that its scores need.
  template <class F>
  void with_pairs(const Query& query, const ItemList<T>& list, const T* anchor_scores,
                  const AnchorArrays& anchors, Scratch& scratch, const Executor& executor, F&& f) {
    const T* anchor_weights = nullptr;
    if (call_.weights != nullptr && two_classes()) {
      T* own = scratch.allocate<T>(query.anchors);
      for (int64_t i = 0; i < query.anchors; ++i) {
        own[i] = call_.weights[query.begin + anchors.positions[i]];
      }
      anchor_weights = own;
    }
    const Items<T> own_items{anchor_scores, anchor_weights, query.anchors, 1};
    if constexpr (sizeof(T) == sizeof(float)) {
      if (query.wide) {
        QueryPairs<double> pairs(call_.spec, widened(list.items, scratch),
                                 widened(own_items, scratch), scratch, executor);
        return f(pairs);
      }
    }
    QueryPairs<T> pairs(call_.spec, list.items, own_items, scratch, executor);
    f(pairs);
  }

  // ------------------------------------------------------------------------------------- state

  // The anchors of all chunks, one behind the other. They move down only.
  void compact() {
    int64_t next = 0;
    for (int64_t q = 0; q < call_.lists.count; ++q) {
      Query& query = queries_[q];
      if (query.fate != Fate::kLive) query.anchors = 0;
      const AnchorArrays from = anchors_at(query.first), to = anchors_at(next);
      const int64_t count = query.anchors;
      if (query.first != next && count > 0) {
        std::copy(from.positions, from.positions + count, to.positions);
        if (call_.state != nullptr) std::copy(from.ids, from.ids + count, to.ids);
        std::copy(from.u, from.u + columns_ * count, to.u);
        std::copy(from.slopes, from.slopes + count, to.slopes);
        if (two_classes()) std::copy(from.own_slopes, from.own_slopes + count, to.own_slopes);
      }
      query.first = next;
      next += count;
    }
    total_ = next;
  }

  // LibAUC's: every log sum relative to the largest difference of the batch.
  void shift_log_sums() {
    double shift = -std::numeric_limits<double>::infinity();
    for (int64_t q = 0; q < call_.lists.count; ++q) {
      if (queries_[q].fate == Fate::kLive) shift = std::max(shift, queries_[q].largest_gap);
    }
    for (int64_t i = 0; i < total_; ++i) all_.u[i] -= shift;
    for (int64_t q = 0; q < call_.lists.count; ++q) queries_[q].log_sum -= shift;
    shift_ = shift;
  }

  void update_state() {
    if (call_.state == nullptr || total_ == 0) return;
    const bool log_domain = call_.rule == RankingRule::kListwise;
    double* before = nullptr;
    if (call_.has(kStaleState)) {
      before = scratch_.allocate<double>(columns_ * total_);
      for (int64_t i = 0; i < total_; ++i) {
        for (int64_t c = 0; c < columns_; ++c) {
          before[columns_ * i + c] = static_cast<double>(call_.state[all_.ids[i] * columns_ + c]);
        }
      }
    }
    MovingAverage<State, double, double> update;
    update.state = call_.state;
    update.rows = call_.rows * (two_classes() ? call_.lists.count : 1);
    update.columns = columns_;
    update.index = all_.ids;
    update.values = all_.u;
    update.entries = total_;
    update.gamma = &call_.gamma;
    update.log_domain = log_domain;
    update.rounded =
        !log_domain;  // exp(x - log u) is bounded by what is observed, not by a rounded log
    update.write = call_.write_state;
    double* stored = scratch_.allocate<double>(columns_ * total_);
    update.stored = stored;
    moving_average_update(update, scratch_, executor_);
    all_.u = stored;
    for (int64_t k = 0; before != nullptr && k < columns_ * total_; ++k) {
      const bool untouched = log_domain ? before[k] == -INFINITY : is_nan(before[k]);
      if (!untouched) stored[k] = before[k];
    }
  }

  void update_thresholds() {
    if (!this->keeps_thresholds()) return;
    ThresholdUpdate<State> update(call_.top_k, call_.lists.count, scratch_);
    for (int64_t q = 0; q < call_.lists.count; ++q) {
      if (queries_[q].fate == Fate::kLive) update.add(queries_[q].threshold);
    }
    update.run(call_.write_state, scratch_, executor_);
  }

  // ------------------------------------------------------------------------------- second pass

  void finish(int64_t q, const Executor& executor) {
    const Query& query = queries_[q];
    T* gradient = call_.gradient == nullptr ? nullptr : call_.gradient + query.begin;
    call_.values[q] = 0.0;
    if (query.fate != Fate::kLive) {
      const bool bad = query.fate == Fate::kBad;
      if (bad) call_.values[q] = std::numeric_limits<double>::quiet_NaN();
      const T fill = bad ? std::numeric_limits<T>::quiet_NaN() : T(0);
      if (gradient != nullptr) std::fill(gradient, gradient + query.length, fill);
      return;
    }
    Scratch scratch;
    const AnchorArrays anchors = anchors_at(query.first);
    const int64_t count = query.anchors;
    // what an anchor's entry gets by itself, besides its part as an item
    double* own = scratch.allocate<double>(count);
    double* weights = scratch.allocate<double>(count);
    double* own_weights = scratch.allocate<double>(two_classes() ? count : 0);
    const double pull = this->apply_rule(query, q, anchors, own, weights, own_weights);
    if (gradient == nullptr) return;

    const ItemList<T> list =
        list_items(call_, query.begin, query.length, anchors.positions, count, scratch);
    if (list.positions != nullptr) std::fill(gradient, gradient + query.length, T(0));
    if (call_.rule == RankingRule::kListwise) {
      const double* exponentials = softmax(query, list, scratch);
      double total = 0.0;
      for (int64_t i = 0; i < count; ++i) total += weights[i];
      for (int64_t j = 0; j < list.items.count; ++j) {
        gradient[list.positions == nullptr ? j : list.positions[j]] =
            static_cast<T>(total * exponentials[j]);
      }
    } else {
      columns(query, list, anchors, weights, own_weights, gradient, scratch, executor);
    }
    for (int64_t i = 0; i < count; ++i) {
      T& at = gradient[anchors.positions[i]];
      at = static_cast<T>(static_cast<double>(at) + own[i]);
    }
    for (int64_t k = query.begin; pull != 0 && k < query.begin + query.threshold.near; ++k) {
      const int32_t item = near_.positions[k];
      T& at = gradient[list.positions == nullptr ? item : list.positions[item]];
      const double share = implicit_weight(static_cast<double>(near_.slopes[k]),
                                           query.threshold.curvature, call_.has(kPublishedTopK));
      at = static_cast<T>(static_cast<double>(at) - pull * share);
    }
  }

  // w_j exp(h_j) over the sum of all.
  const double* softmax(const Query& query, const ItemList<T>& list, Scratch& scratch) const {
    double* result = scratch.allocate<double>(list.items.count);
    kernels<T>().scaled_exponentials(list.items.scores, list.items.count, 1.0,
                                     query.log_sum + shift_, 1.0, result);
    for (int64_t j = 0; list.items.weights != nullptr && j < list.items.count; ++j) {
      result[j] *= static_cast<double>(list.items.weights[j]);
    }
    return result;
  }

  void columns(const Query& query, const ItemList<T>& list, const AnchorArrays& anchors,
               const double* weights, const double* own_weights, T* gradient, Scratch& scratch,
               const Executor& executor) {
    T* anchor_scores = scratch.allocate<T>(query.anchors);
    for (int64_t i = 0; i < query.anchors; ++i) {
      anchor_scores[i] = call_.scores[query.begin + anchors.positions[i]];
    }
    with_pairs(query, list, anchor_scores, anchors, scratch, executor, [&](auto& pairs) {
      using U = typename std::decay_t<decltype(pairs)>::Number;
      const bool in_place = list.positions == nullptr && sizeof(U) == sizeof(T);
      U* out = in_place ? reinterpret_cast<U*>(gradient) : scratch.allocate<U>(list.items.count);
      pairs.columns_of_all(weights, out);
      for (int64_t j = 0; !in_place && j < list.items.count; ++j) {
        gradient[list.positions == nullptr ? j : list.positions[j]] = static_cast<T>(out[j]);
      }
      if (!two_classes()) return;
      U* own = scratch.allocate<U>(query.anchors);
      pairs.columns_of_anchors(own_weights, own);
      for (int64_t i = 0; i < query.anchors; ++i) {
        gradient[anchors.positions[i]] = static_cast<T>(own[i]);
      }
    });
  }

  const Executor& executor_;
  const int64_t columns_;
  Scratch scratch_;
  Query* queries_ = nullptr;
  int64_t* starts_ = nullptr;  // first query of each chunk
  RankingError* errors_ = nullptr;
  int64_t chunks_ = 0, total_ = 0;
  double shift_ = 0.0;
  AnchorArrays all_;
  NearItems<T> near_;
};

}  // namespace

template <class T, class State>
RankingError ranking_step(const RankingStep<T, State>& call, const Executor& executor) {
  return Run<T, State>(call, executor).run();
}

#define XRISK_INSTANTIATE(T, State) \
  template RankingError ranking_step(const RankingStep<T, State>&, const Executor&);
XRISK_INSTANTIATE(float, float)
XRISK_INSTANTIATE(float, double)
XRISK_INSTANTIATE(double, float)
XRISK_INSTANTIATE(double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
