// The pair sums of one query: its relevant items as anchors against all its items, and against each
// other. Direct without a heap allocation; sorted where the lists are long enough for that.
#pragma once

#include <memory>

#include "cpu/direct.h"
#include "cpu/pairwise.h"

namespace xrisk::cpu {

template <class T>
class QueryPairs {
 public:
  using Number = T;

  QueryPairs(const PairwiseSpec& spec, const Items<T>& all, const Items<T>& anchors,
             Scratch& scratch, const Executor& executor)
      : spec_(spec), anchors_(anchors), scratch_(scratch), executor_(executor) {
    all_.items = all;
    own_.items = anchors;
    spec_.algorithm = choose_algorithm<T>(spec, anchors.count, all.count, 1);
    if (spec_.algorithm == Algorithm::kDirect) return;
    sorted_ =
        make_pairwise_sums(spec_, Anchors<T>{anchors.scores, anchors.count}, scratch_, executor_);
  }

  // sums, slopes [P]
  void rows_of_all(double* sums, double* slopes) { rows(all_, sums, slopes); }
  void rows_of_anchors(double* sums, double* slopes) { rows(own_, sums, slopes); }
  // out: of all items, or of the anchors as items
  void columns_of_all(const double* weights, T* out) { columns(all_, weights, out); }
  void columns_of_anchors(const double* weights, T* out) { columns(own_, weights, out); }

 private:
  void rows(ItemPass<T>& pass, double* sums, double* slopes) {
    if (sorted_ != nullptr) return sorted_->rows(pass, sums, slopes);
    DirectRows<T> call;
    call.term = {spec_.surrogate, spec_.params, 0.0};
    call.anchors = anchors_.scores;
    call.items = pass.items;
    call.sums = sums;
    call.slopes = slopes;
    direct_rows(call, anchors_.count, scratch_, executor_);
  }

  void columns(ItemPass<T>& pass, const double* weights, T* out) {
    if (sorted_ != nullptr) {
      // The ranks that the rows leave behind: the first pass kept none, to stay small.
      double* unused = scratch_.allocate<double>(2 * anchors_.count);
      sorted_->rows(pass, unused, unused + anchors_.count);
      return sorted_->columns(pass, weights, out);
    }
    DirectColumns<T> call;
    call.term = {spec_.surrogate, spec_.params, 0.0};
    call.anchors = anchors_.scores;
    call.anchor_weights = weights;
    call.anchor_count = anchors_.count;
    call.items = pass.items;
    call.out = out;
    direct_columns(call, executor_);
  }

  PairwiseSpec spec_;
  const Items<T> anchors_;
  ItemPass<T> all_, own_;
  std::unique_ptr<PairwiseSums<T>> sorted_;
  Scratch& scratch_;
  const Executor& executor_;
};

// The same items as doubles.
template <class T>
Items<double> widened(const Items<T>& items, Scratch& scratch) {
  Items<double> result;
  result.count = items.count;
  double* scores = scratch.allocate<double>(items.count);
  double* weights = items.weights == nullptr ? nullptr : scratch.allocate<double>(items.count);
  for (int64_t j = 0; j < items.count; ++j) {
    scores[j] = static_cast<double>(items.scores[j]);
    if (weights != nullptr) weights[j] = static_cast<double>(items.weights[j]);
  }
  result.scores = scores;
  result.weights = weights;
  return result;
}

}  // namespace xrisk::cpu
