// The queries of a ranking step: who is relevant, what a query is worth, and its rule.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/ranking_rules.h"
#include "core/rules.h"
#include "cpu/kernel_table.h"
#include "cpu/query_items.h"
#include "cpu/query_threshold.h"

namespace xrisk::cpu {

enum class Fate : uint8_t { kEmpty, kBad, kLive };

struct Query {
  int64_t begin = 0, length = 0;
  int64_t first = 0, anchors = 0;  // its anchors among those of all queries
  Fate fate = Fate::kEmpty;
  bool alone = false;  // large: not in a chunk
  bool wide = false;   // squares of its scores leave the range of float
  double num_items = 0.0;
  double anchor_share = 0.0;  // times an anchor's weight: its part of the query's value
  double item_weight = 0.0;
  double ideal_dcg = 1.0;
  double log_sum = 0.0;      // listwise: log sum_j w_j exp(h_j)
  double largest_gap = 0.0;  // of an item over an anchor
  QueryThreshold threshold;
};

// Of all anchors. Until they are compacted, those of a chunk begin where its entries do.
struct AnchorArrays {
  int32_t* positions = nullptr;  // relative to the query's first entry
  int64_t* ids = nullptr;
  double* u = nullptr;           // [A, C]: observed, then blended
  double* slopes = nullptr;      // over all items
  double* own_slopes = nullptr;  // over the relevant ones (average precision)
};

// Reads the arguments of a step.
template <class T, class State>
class RankingQueries {
 public:
  explicit RankingQueries(const RankingStep<T, State>& call) : call_(call) {}

 protected:
  bool two_classes() const { return call_.rule == RankingRule::kAveragePrecision; }

  double weight_at(int64_t entry) const {
    return call_.weights == nullptr ? 1.0 : static_cast<double>(call_.weights[entry]);
  }

  double relevance_at(int64_t entry) const {
    return visit_relevance(call_.relevance_type, call_.relevance,
                           [&](const auto* y) { return static_cast<double>(y[entry]); });
  }

  // `sizes`: [Q], one number, or null where `otherwise` counts.
  double size_of(int which, const double* sizes, int64_t q, double otherwise) const {
    return sizes == nullptr ? otherwise : sizes[call_.sizes_per_query[which] ? q : 0];
  }

  // Fills `anchors` from its start: positions and ids.
  RankingError find_anchors(Query& query, int64_t q, const AnchorArrays& anchors) const {
    RankingError error;
    double weight = 0.0;
    const int64_t relevant = kernel_table().relevant_items(
        call_.relevance_type, call_.relevance, query.begin, query.length, anchors.positions);
    for (int64_t k = 0; k < relevant; ++k) {  // what stays moves down
      const int32_t position = anchors.positions[k];
      const int64_t entry = query.begin + position;
      if (call_.mask != nullptr && call_.mask[entry] == 0) continue;
      if (!(weight_at(entry) > 0)) continue;
      if (!two_classes() && !(relevance_at(entry) < 1024.0) && error.kind == RankingError::kNone) {
        error = {RankingError::kRelevance, entry};
      }
      if (call_.state != nullptr) {
        const int64_t id = anchors.ids[query.anchors] = call_.pair_index[id_position(entry, q)];
        if ((id < 0 || id >= call_.rows) && error.kind == RankingError::kNone) {
          error = {RankingError::kPairIndex, entry};
        }
        if (two_classes()) anchors.ids[query.anchors] += q * call_.rows;
      }
      anchors.positions[query.anchors++] = position;
      weight += weight_at(entry);
    }
    query.anchor_share = weight > 0 ? 1.0 / weight : 0.0;
    if (query.anchors > 0 && keeps_thresholds()) {
      const int64_t row = threshold_row(q);
      if (row < 0 || row >= call_.top_k.rows) return {RankingError::kQueryIndex, q};
    }
    return error;
  }

  bool keeps_thresholds() const {
    return call_.top_k.k > 0 && call_.top_k.thresholds != nullptr && !call_.has(kSolvedThreshold);
  }

  int64_t threshold_row(int64_t q) const {
    if (!keeps_thresholds()) return -1;
    return call_.top_k.query_index == nullptr ? q : call_.top_k.query_index[q];
  }

  // The labels of average precision share one list of ids.
  int64_t id_position(int64_t entry, int64_t q) const {
    return two_classes() ? entry - call_.lists.begin(q) : entry;
  }

  double ideal_dcg(const Query& query, const AnchorArrays& anchors, Scratch& scratch) const {
    double* gains = scratch.allocate<double>(query.anchors);
    for (int64_t i = 0; i < query.anchors; ++i) {
      gains[i] = ndcg_gain(relevance_at(query.begin + anchors.positions[i]));
    }
    std::sort(gains, gains + query.anchors, std::greater<double>());
    const int64_t cut = call_.top_k.k > 0 ? call_.top_k.k : query.anchors;
    double total = 0.0;
    for (int64_t i = 0; i < std::min(cut, query.anchors); ++i) {
      total += gains[i] * rank_discount(i + 1);
    }
    return total;
  }

  // The value, and what the gradient is made of; returns sum_i c_i, the pull on the threshold.
  double apply_rule(const Query& query, int64_t q, const AnchorArrays& anchors, double* own,
                    double* weights, double* own_weights) const {
    const double mean = 1.0 / query.item_weight;
    const bool top_k = call_.top_k.k > 0, published = call_.has(kPublishedTopK);
    const bool theoretical = top_k && !call_.has(kPracticalTopK);
    double value = 0.0, pull = 0.0;
    for (int64_t i = 0; i < query.anchors; ++i) {
      const int64_t entry = query.begin + anchors.positions[i];
      double share = query.anchor_share * weight_at(entry);
      OuterTerms psi{1.0, 0.0};
      if (top_k) {
        psi = top_k_rule(static_cast<double>(call_.scores[entry]) - query.threshold.lambda,
                         call_.top_k.alpha, published);
      }
      double f = 0.0;
      const double factor = call_.gradient_factor;
      if (call_.rule == RankingRule::kNDCG) {
        share *= ndcg_gain(relevance_at(entry)) / query.ideal_dcg;
        const OuterTerms terms = ndcg_rule(anchors.u[i], query.num_items);
        f = terms.value;
        weights[i] = factor * share * psi.value * terms.slope * mean;
        own[i] = -weights[i] * anchors.slopes[i];
      } else if (call_.rule == RankingRule::kListwise) {
        share *= relevance_at(entry);
        f = anchors.u[i] + std::log(query.num_items);
        const double observed =
            query.log_sum - std::log(query.item_weight) - static_cast<double>(call_.scores[entry]);
        weights[i] = factor * share * std::exp(observed - anchors.u[i]);
        own[i] = -weights[i];
      } else {
        const AnchorTerms terms = average_precision_rule(anchors.u[2 * i], anchors.u[2 * i + 1]);
        f = terms.value;
        weights[i] = factor * share * psi.value * terms.negative_weight * mean;
        own_weights[i] = factor * share * psi.value * terms.positive_weight * mean;
        own[i] =
            -weights[i] * anchors.slopes[i] - (own_weights[i] - weights[i]) * anchors.own_slopes[i];
      }
      value += share * psi.value * f;
      if (theoretical) {
        const double c = factor * share * psi.slope * f;
        own[i] += c;
        pull += c;
      }
    }
    call_.values[q] = value;
    return pull;
  }

  const RankingStep<T, State>& call_;
};

}  // namespace xrisk::cpu
