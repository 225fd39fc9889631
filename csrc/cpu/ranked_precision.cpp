#include "cpu/ranked_precision.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace xrisk::cpu {
namespace {

// One label, in U: float, or double where squares of the scores leave it.
template <class U, class T, class State>
class RankedLabel {
 public:
  RankedLabel(const RankedPrecision<T, State>& call, int64_t label, const Executor& executor)
      : call_(call), label_(label), batch_(call.batch.batch), executor_(executor) {}

  void run() {
    scores_ = scratch_.allocate<U>(batch_);
    for (int64_t b = 0; b < batch_; ++b) scores_[b] = static_cast<U>(call_.batch.scores[at(b)]);
    positives_ = entries_of<U>(call_.batch, label_, true, U(1), scratch_);
    if (positives_.count == 0) return fill(T(0));
    const U largest = largest_magnitude(scores_, batch_, executor_);
    if (!std::isfinite(largest)) return fill(std::numeric_limits<T>::quiet_NaN());
    if constexpr (std::is_same_v<U, float>) {
      if (leaves_float(call_.spec, largest)) {
        return RankedLabel<double, T, State>(call_, label_, executor_).run();
      }
    }
    add_pairs();
  }

 private:
  int64_t at(int64_t entry) const { return call_.batch.offset(entry, label_); }
  void fill(T value) {
    for (int64_t b = 0; b < batch_; ++b) call_.batch.gradient[at(b)] = value;
  }

  std::unique_ptr<PairwiseSums<U>> sums_of(const U* anchors, int64_t count, int64_t items) {
    PairwiseSpec spec = call_.spec;
    spec.algorithm = choose_algorithm<U>(spec, count, items, 1);
    return make_pairwise_sums<U>(spec, {anchors, count}, scratch_, executor_);
  }

  // [B]: how many positives an item stands above, counted by the surrogate.
  const double* outranked() {
    const int64_t count = positives_.count;
    U *all = scratch_.allocate<U>(batch_), *items = scratch_.allocate<U>(count);
    for (int64_t b = 0; b < batch_; ++b) all[b] = -scores_[b];
    for (int64_t k = 0; k < count; ++k) items[k] = -positives_.scores[k];
    double* sums = scratch_.allocate<double>(batch_);
    double* slopes = scratch_.allocate<double>(batch_);
    ItemPass<U> pass{{items, nullptr, count, 1}};
    sums_of(all, batch_, count)->rows(pass, sums, slopes);
    return sums;
  }

  // Of every positive: weights of the pair terms of all items, and of the positive ones.
  void weigh(PairwiseSums<U>& pairs, double* of_all, double* of_positives) {
    const int64_t count = positives_.count;
    const double share = call_.factor / (static_cast<double>(count) * static_cast<double>(batch_));
    double* u_all = scratch_.allocate<double>(count);
    double* u_pos = scratch_.allocate<double>(count);
    if (call_.state == nullptr) {
      double* slopes = scratch_.allocate<double>(count);
      ItemPass<U> all{{scores_, nullptr, batch_, 1}};
      ItemPass<U> positive{{positives_.scores, nullptr, count, 1}};
      pairs.rows(all, u_all, slopes);
      pairs.rows(positive, u_pos, slopes);
      for (int64_t k = 0; k < count; ++k) {
        u_all[k] /= static_cast<double>(batch_);
        u_pos[k] /= static_cast<double>(batch_);
      }
    } else {
      const State* rows = call_.state + label_ * call_.batch.rows * 2;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t id = call_.batch.index[positives_.positions[k]];
        u_all[k] = static_cast<double>(rows[2 * id]);
        u_pos[k] = static_cast<double>(rows[2 * id + 1]);
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      const bool some = u_all[k] > 0.0;
      of_all[k] = some ? share * u_pos[k] / (u_all[k] * u_all[k]) : 0.0;
      of_positives[k] = some ? -share / u_all[k] : 0.0;
    }
  }

  void add_pairs() {
    const int64_t count = positives_.count;
    const double* ranks = outranked();
    U* selectors = scratch_.allocate<U>(batch_);
    for (int64_t b = 0; b < batch_; ++b) {
      selectors[b] = static_cast<U>(1.0 / (1.0 + std::exp(ranks[b] - call_.top_k)));
    }
    U* of_positive = scratch_.allocate<U>(count);
    for (int64_t k = 0; k < count; ++k) of_positive[k] = selectors[positives_.positions[k]];

    const auto pairs = sums_of(positives_.scores, count, batch_);
    double* weights[2] = {scratch_.allocate<double>(count), scratch_.allocate<double>(count)};
    weigh(*pairs, weights[0], weights[1]);
    ItemPass<U> passes[2] = {{{scores_, selectors, batch_, 1}},
                             {{positives_.scores, of_positive, count, 1}}};
    U* out[2] = {scratch_.allocate<U>(batch_), scratch_.allocate<U>(count)};
    double* own = scratch_.allocate<double>(count);  // of a positive as an anchor
    double* sums = scratch_.allocate<double>(count);
    double* slopes = scratch_.allocate<double>(count);
    std::fill(own, own + count, 0.0);
    for (int side = 0; side < 2; ++side) {
      pairs->rows(passes[side], sums, slopes);
      pairs->columns(passes[side], weights[side], out[side]);
      for (int64_t k = 0; k < count; ++k) own[k] += weights[side][k] * slopes[k];
    }
    for (int64_t b = 0; b < batch_; ++b) call_.batch.gradient[at(b)] = static_cast<T>(out[0][b]);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t b = positives_.positions[k];
      const double both = static_cast<double>(out[0][b]) + static_cast<double>(out[1][k]);
      call_.batch.gradient[at(b)] = static_cast<T>(both - own[k]);
    }
  }

  const RankedPrecision<T, State>& call_;
  const int64_t label_, batch_;
  const Executor& executor_;
  Scratch scratch_;
  U* scores_ = nullptr;
  Entries<U> positives_;
};

}  // namespace

template <class T, class State>
void ranked_precision_gradient(const RankedPrecision<T, State>& call, const Executor& executor) {
  const SerialExecutor serial;
  const bool alone = call.batch.labels == 1;
  executor.for_each(call.batch.labels, [&](int64_t label) {
    if (call.chosen != nullptr && !call.chosen[label]) {
      for (int64_t b = 0; b < call.batch.batch; ++b) {
        call.batch.gradient[call.batch.offset(b, label)] = T(0);
      }
      return;
    }
    const Executor& mine = alone ? executor : static_cast<const Executor&>(serial);
    RankedLabel<T, T, State>(call, label, mine).run();
  });
}

template void ranked_precision_gradient(const RankedPrecision<float, float>&, const Executor&);
template void ranked_precision_gradient(const RankedPrecision<float, double>&, const Executor&);
template void ranked_precision_gradient(const RankedPrecision<double, float>&, const Executor&);
template void ranked_precision_gradient(const RankedPrecision<double, double>&, const Executor&);

}  // namespace xrisk::cpu
