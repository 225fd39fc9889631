// The losses of soft ranks: ApproxNDCG, Smooth-AP and the recall@k surrogate.
//
//   r_i = 1/2 + sum_j w_j sigma((h_j - h_i) / T) over all items, i among them; value
//   sum_i f(r_i) over the items that are relevant
//
// Mapping: the pairwise engine, with the relevant items as anchors: rows, the rule per anchor,
// columns. Smooth-AP needs the ranks among the positives, too: the engine once more, with them as
// items. Bytes: linear in the list. Hazard: the pair of an item with itself is in both stages and
// cancels, but for its rounding, which is that of a pair at distance 0.
#include <algorithm>

#include "core/rules.h"
#include "cpu/listwise_step.h"
#include "cpu/pairwise.h"

namespace xrisk::cpu {
namespace {

template <class T>
class SoftRankList {
 public:
  SoftRankList(const ListwiseStep<T>& call, const RankedList<T>& list, const Executor& executor)
      : call_(call), list_(list), executor_(executor) {}

  ListResult run() {
    const bool retrieval = is_retrieval(call_.options.loss);
    make_anchors();
    if (anchors_.count == 0) return {0.0, retrieval ? 0.0 : 1.0};
    PairwiseSpec spec;
    spec.surrogate = Surrogate::kSigmoid;
    spec.params.margin = 0.0;
    spec.params.scale = 1.0 / call_.temperature;
    spec.algorithm = choose_algorithm<T>(spec, anchors_.count, list_.count, 1);
    const auto pairs = make_pairwise_sums(spec, anchors_, scratch_, executor_);

    // rows
    const int64_t anchors = anchors_.count;
    const bool two_classes = call_.options.loss == ListLoss::kSmoothAP;
    ItemPass<T> all, positive;
    all.items = {list_.scores, list_.weights, list_.count, 1};
    positive.items = {anchors_.scores, anchor_weights_, anchors, 1};
    double *ranks = numbers(), *slopes = numbers(), *weights = numbers();
    double *positive_ranks = nullptr, *positive_slopes = nullptr, *positive_weights = nullptr;
    pairs->rows(all, ranks, slopes);
    if (two_classes) {
      positive_ranks = numbers();
      positive_slopes = numbers();
      positive_weights = numbers();
      pairs->rows(positive, positive_ranks, positive_slopes);
    }

    // rule
    double value = retrieval ? 1.0 : 0.0;
    for (int64_t i = 0; i < anchors; ++i) {
      double& own = slopes[i];
      if (two_classes) {
        const AnchorTerms terms = average_precision_rule(0.5 + ranks[i], 0.5 + positive_ranks[i]);
        value += share(i) * terms.value;
        weights[i] = share(i) * terms.negative_weight;
        positive_weights[i] = share(i) * terms.positive_weight;
        own = weights[i] * own + (positive_weights[i] - weights[i]) * positive_slopes[i];
      } else {
        const RankTerms terms = rule(i, 0.5 + ranks[i]);
        value += terms.value;
        weights[i] = terms.weight;
        own *= weights[i];
      }
    }
    if (list_.gradient == nullptr) return {value, 1.0};

    // columns
    pairs->columns(all, weights, list_.gradient);
    T* anchor_gradient = scratch_.allocate<T>(anchors);
    if (two_classes) {
      pairs->columns(positive, positive_weights, anchor_gradient);
    } else {
      for (int64_t i = 0; i < anchors; ++i) anchor_gradient[i] = list_.gradient[places_[i]];
    }
    for (int64_t i = 0; i < anchors; ++i) {
      list_.gradient[places_[i]] =
          static_cast<T>(static_cast<double>(anchor_gradient[i]) - slopes[i]);
    }
    return {value, 1.0};
  }

 private:
  double* numbers() { return scratch_.allocate<double>(anchors_.count); }

  // The relevant items.
  void make_anchors() {
    const T* y = list_.relevance;
    const int64_t count = std::count_if(y, y + list_.count, [](T v) { return v > T(0); });
    int32_t* places = scratch_.allocate<int32_t>(count);
    T* scores = scratch_.allocate<T>(count);
    T* weights = list_.weights == nullptr ? nullptr : scratch_.allocate<T>(count);
    int64_t next = 0;
    for (int64_t k = 0; k < list_.count; ++k) {
      if (!(y[k] > T(0))) continue;
      places[next] = static_cast<int32_t>(k);
      scores[next] = list_.scores[k];
      if (weights != nullptr) weights[next] = list_.weights[k];
      anchor_weight_ += list_.weight(k);
      ++next;
    }
    anchors_ = {scores, count};
    anchor_weights_ = weights;
    places_ = places;
    if (count == 0 || call_.options.loss != ListLoss::kApproxNDCG) return;
    gains_ = scratch_.allocate<double>(list_.count);
    inverse_ideal_ = relative_gains(y, list_.count, 0, gains_, executor_);
  }

  double share(int64_t i) const { return list_.weight(places_[i]) / anchor_weight_; }

  RankTerms rule(int64_t i, double rank) const {
    if (call_.options.loss == ListLoss::kApproxNDCG) {
      return approx_ndcg_rule(gains_[places_[i]] * inverse_ideal_, rank);
    }
    RankTerms sum = {0.0, 0.0};
    for (int c = 0; c < call_.options.cutoff_count; ++c) {
      const double cutoff = static_cast<double>(call_.options.cutoffs[c]);
      const RankTerms terms = recall_rule(rank, cutoff, 1.0 / call_.rank_temperature);
      const double part = list_.weight(places_[i]) /
                          (std::min(cutoff, anchor_weight_) * call_.options.cutoff_count);
      sum.value += part * terms.value;
      sum.weight += part * terms.weight;
    }
    return sum;
  }

  const ListwiseStep<T>& call_;
  const RankedList<T>& list_;
  const Executor& executor_;
  Scratch scratch_;
  Anchors<T> anchors_;
  const T* anchor_weights_ = nullptr;
  const int32_t* places_ = nullptr;
  double anchor_weight_ = 0.0;
  double* gains_ = nullptr;
  double inverse_ideal_ = 0.0;
};

}  // namespace

template <class T>
ListResult soft_rank_list(const ListwiseStep<T>& call, const RankedList<T>& list,
                          const Executor& executor) {
  return SoftRankList<T>(call, list, executor).run();
}

template ListResult soft_rank_list(const ListwiseStep<float>&, const RankedList<float>&,
                                   const Executor&);
template ListResult soft_rank_list(const ListwiseStep<double>&, const RankedList<double>&,
                                   const Executor&);

}  // namespace xrisk::cpu
