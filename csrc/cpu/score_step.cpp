#include "cpu/score_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/rules.h"
#include "cpu/moving_average.h"

namespace xrisk::cpu {
namespace {

// Where the anchors of a label stand: the positive entries of positive weight.
struct PositiveList {
  const int32_t* positions = nullptr;
  int64_t count = 0;
};

// Calls f(position) for every set byte; eight unset ones are skipped at once.
template <class F>
void for_each_set(const uint8_t* mask, int64_t count, int64_t stride, F&& f) {
  int64_t b = 0;
  if (stride == 1) {
    for (; b + 8 <= count; b += 8) {
      uint64_t eight;
      std::memcpy(&eight, mask + b, sizeof(eight));
      if (eight == 0) continue;
      for (int64_t k = b; k < b + 8; ++k) {
        if (mask[k]) f(k);
      }
    }
  }
  for (; b < count; ++b) {
    if (mask[b * stride]) f(b);
  }
}

// The entries of one label that take part.
template <class T>
struct Segment {
  Items<T> items;                      // every entry of positive weight
  const int32_t* positions = nullptr;  // entry of each item; null: the same
  double item_weight = 0.0;            // their total
  Anchors<T> anchors;                  // the positives among them
  const T* anchor_weights = nullptr;   // null: ones
  const int32_t* anchor_positions = nullptr;
  double anchor_weight = 0.0;
};

template <class T, class State>
class LabelStep {
 public:
  LabelStep(const ScoreStep<T, State>& call, int64_t label, const PositiveList& positives,
            const Executor& executor)
      : call_(call), label_(label), positives_(positives), executor_(executor) {}

  void run() {
    call_.values[label_] = 0.0;
    make_anchors();
    if (segment_.anchors.count == 0) return fill_gradient(T(0));
    make_items();
    const bool pairs_with_negatives = call_.rule == Rule::kPairwiseAUC;
    if (pairs_with_negatives && segment_.items.count == segment_.anchors.count) {
      return fill_gradient(T(0));
    }
    const T largest = largest_magnitude(segment_.items.scores, segment_.items.count, executor_);
    if (!std::isfinite(largest)) return fail();
    if constexpr (sizeof(T) == sizeof(float)) {
      if (leaves_float(call_.spec, largest)) return run_in_double();
    }
    ItemPass<T> items{segment_.items};
    double item_weight = segment_.item_weight;
    const int32_t* positions = segment_.positions;
    if (pairs_with_negatives) {
      positions = keep_negatives(items.items);
      item_weight -= segment_.anchor_weight;
    }
    if (call_.weights != nullptr) fill_gradient(T(0));  // the removed entries
    step(items, positions, item_weight);
  }

 private:
  int64_t entry_offset(int64_t entry) const { return entry * call_.labels + label_; }

  T weight_of(int64_t entry) const { return call_.weight(entry, label_); }

  // Squares of such scores leave the range of float: the same step on doubles.
  void run_in_double() {
    const int64_t batch = call_.batch;
    double* scores = scratch_.allocate<double>(batch);
    double* weights = call_.weights == nullptr ? nullptr : scratch_.allocate<double>(batch);
    double* gradient = call_.gradient == nullptr ? nullptr : scratch_.allocate<double>(batch);
    for (int64_t b = 0; b < batch; ++b) {
      scores[b] = static_cast<double>(call_.scores[entry_offset(b)]);
      if (weights != nullptr) weights[b] = static_cast<double>(weight_of(b));
    }
    ScoreStep<double, State> wide;
    wide.rule = call_.rule;
    wide.spec = call_.spec;
    wide.batch = batch;
    wide.scores = scores;
    wide.weights = weights;
    wide.index = call_.index;
    if (call_.state != nullptr) wide.state = call_.state + label_ * call_.rows * 2;
    wide.rows = call_.rows;
    wide.gamma = call_.gamma;
    wide.write_state = call_.write_state;
    wide.values = call_.values + label_;
    wide.gradient = gradient;
    LabelStep<double, State>(wide, 0, positives_, executor_).run();
    for (int64_t b = 0; gradient != nullptr && b < batch; ++b) {
      call_.gradient[entry_offset(b)] = static_cast<T>(gradient[b]);
    }
  }

  void make_anchors() {
    const int64_t count = positives_.count;
    T* scores = scratch_.allocate<T>(count);
    T* weights = call_.weights == nullptr ? nullptr : scratch_.allocate<T>(count);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t entry = positives_.positions[k];
      scores[k] = call_.scores[entry_offset(entry)];
      if (weights != nullptr) weights[k] = weight_of(entry);
      segment_.anchor_weight += static_cast<double>(weight_of(entry));
    }
    segment_.anchors = {scores, count};
    segment_.anchor_positions = positives_.positions;
    segment_.anchor_weights = weights;
  }

  void make_items() {
    const int64_t batch = call_.batch;
    Items<T>& items = segment_.items;
    if (call_.weights == nullptr) {
      items.count = batch;
      items.scores = call_.scores;
      segment_.item_weight = static_cast<double>(batch);
      if (call_.labels == 1) return;
      T* scores = scratch_.allocate<T>(batch);
      for (int64_t b = 0; b < batch; ++b) scores[b] = call_.scores[entry_offset(b)];
      items.scores = scores;
      return;
    }
    T* scores = scratch_.allocate<T>(batch);
    T* weights = scratch_.allocate<T>(batch);
    int32_t* positions = scratch_.allocate<int32_t>(batch);
    int64_t count = 0;
    for (int64_t b = 0; b < batch; ++b) {
      const T weight = weight_of(b);
      if (!(weight > 0)) continue;
      scores[count] = call_.scores[entry_offset(b)];
      weights[count] = weight;
      positions[count] = static_cast<int32_t>(b);
      segment_.item_weight += static_cast<double>(weight);
      ++count;
    }
    items.scores = scores;
    items.weights = weights;
    items.count = count;
    segment_.positions = positions;
  }

  // Leaves the entries that are not anchors; returns their positions.
  const int32_t* keep_negatives(Items<T>& items) {
    const int64_t count = items.count - segment_.anchors.count;
    T* scores = scratch_.allocate<T>(count);
    T* weights = items.weights == nullptr ? nullptr : scratch_.allocate<T>(count);
    int32_t* positions = scratch_.allocate<int32_t>(count);
    int64_t next = 0, anchor = 0;
    for (int64_t j = 0; j < items.count; ++j) {
      const int32_t entry =
          segment_.positions == nullptr ? static_cast<int32_t>(j) : segment_.positions[j];
      if (anchor < segment_.anchors.count && segment_.anchor_positions[anchor] == entry) {
        ++anchor;
        continue;
      }
      scores[next] = items.scores[j];
      if (weights != nullptr) weights[next] = items.weights[j];
      positions[next++] = entry;
    }
    items.scores = scores;
    items.weights = weights;
    items.count = count;
    return positions;
  }

  void fill_gradient(T value) {
    if (call_.gradient == nullptr) return;
    for (int64_t b = 0; b < call_.batch; ++b) call_.gradient[entry_offset(b)] = value;
  }

  // A score that is NaN or infinite: the loss says so, the state stays as it was.
  void fail() {
    call_.values[label_] = std::numeric_limits<double>::quiet_NaN();
    fill_gradient(std::numeric_limits<T>::quiet_NaN());
  }

  void step(ItemPass<T>& all, const int32_t* positions, double item_weight) {
    const int64_t anchors = segment_.anchors.count;
    const bool two_classes = call_.rule == Rule::kAveragePrecision;
    PairwiseSpec spec = call_.spec;
    spec.algorithm = choose_algorithm<T>(spec, anchors, all.items.count, 1);
    const auto pairs = make_pairwise_sums(spec, segment_.anchors, scratch_, executor_);

    // rows: the mean pair term over all items of the rule, and over the positive ones
    ItemPass<T> positive;
    positive.items = {segment_.anchors.scores, segment_.anchor_weights, anchors, 1};
    double* sums = scratch_.allocate<double>(anchors);
    double* slopes = scratch_.allocate<double>(anchors);
    double* positive_sums = scratch_.allocate<double>(anchors);
    double* positive_slopes = scratch_.allocate<double>(anchors);
    pairs->rows(all, sums, slopes);
    if (two_classes) pairs->rows(positive, positive_sums, positive_slopes);

    // rule
    const double mean = 1.0 / item_weight, anchor_mean = 1.0 / segment_.anchor_weight;
    double* u = scratch_.allocate<double>(2 * anchors);
    for (int64_t i = 0; i < anchors; ++i) {
      u[2 * i] = sums[i] * mean;
      u[2 * i + 1] = two_classes ? positive_sums[i] * mean : 0.0;
    }
    if (call_.state != nullptr) blend_state(u);
    double* weights = scratch_.allocate<double>(anchors);
    double* positive_weights = scratch_.allocate<double>(anchors);
    double* own_slopes = scratch_.allocate<double>(anchors);
    double value = 0.0;
    for (int64_t i = 0; i < anchors; ++i) {
      const double share = segment_.anchor_weights == nullptr
                               ? anchor_mean
                               : static_cast<double>(segment_.anchor_weights[i]) * anchor_mean;
      const AnchorTerms terms = two_classes ? average_precision_rule(u[2 * i], u[2 * i + 1])
                                            : pairwise_auc_rule(u[2 * i]);
      value += share * terms.value;
      weights[i] = share * terms.negative_weight * mean;
      positive_weights[i] = share * terms.positive_weight * mean;
      own_slopes[i] = weights[i] * slopes[i];
      if (two_classes) {
        own_slopes[i] += (positive_weights[i] - weights[i]) * positive_slopes[i];
      }
    }
    call_.values[label_] = value;
    if (call_.gradient == nullptr) return;

    // columns: items of class 0 with one weight of the anchors, those of class 1 with the other
    const bool in_place = positions == nullptr && call_.labels == 1;
    T* out = in_place ? call_.gradient : scratch_.allocate<T>(all.items.count);
    pairs->columns(all, weights, out);
    if (!in_place) {
      for (int64_t j = 0; j < all.items.count; ++j) {
        call_.gradient[entry_offset(positions == nullptr ? j : positions[j])] = out[j];
      }
    }
    T* anchor_out = scratch_.allocate<T>(anchors);
    std::fill(anchor_out, anchor_out + anchors, T(0));
    if (two_classes) pairs->columns(positive, positive_weights, anchor_out);
    for (int64_t i = 0; i < anchors; ++i) {
      call_.gradient[entry_offset(segment_.anchor_positions[i])] =
          static_cast<T>(static_cast<double>(anchor_out[i]) - own_slopes[i]);
    }
  }

  // u [P, 2]: the batch's observation in, the blend with the state out.
  void blend_state(double* u) {
    const int64_t anchors = segment_.anchors.count;
    int64_t* index = scratch_.allocate<int64_t>(anchors);
    for (int64_t i = 0; i < anchors; ++i) index[i] = call_.index[segment_.anchor_positions[i]];
    MovingAverage<State, double, double> update;
    update.state = call_.state + label_ * call_.rows * 2;
    update.rows = call_.rows;
    update.columns = 2;
    update.index = index;
    update.values = u;
    update.entries = anchors;
    update.gamma = &call_.gamma;
    update.write = call_.write_state;
    double* stored = scratch_.allocate<double>(2 * anchors);
    update.stored = stored;
    moving_average_update(update, scratch_, executor_);
    std::copy(stored, stored + 2 * anchors, u);
  }

  const ScoreStep<T, State>& call_;
  const int64_t label_;
  const PositiveList positives_;
  const Executor& executor_;
  Scratch scratch_;
  Segment<T> segment_;
};

}  // namespace

template <class T, class State>
int64_t score_step(const ScoreStep<T, State>& call, const Executor& executor) {
  Scratch scratch;
  auto* positives = scratch.allocate<PositiveList>(call.labels);
  for (int64_t label = 0; label < call.labels; ++label) {
    const uint8_t* mask = call.positive + label;
    int64_t count = 0;
    if (call.labels == 1) {  // apart, so that the compiler can vectorise it
      for (int64_t b = 0; b < call.batch; ++b) count += mask[b] != 0;
    } else {
      for (int64_t b = 0; b < call.batch; ++b) count += mask[b * call.labels] != 0;
    }
    int32_t* positions = scratch.allocate<int32_t>(count);
    count = 0;
    for_each_set(mask, call.batch, call.labels, [&](int64_t b) {
      if (call.weight(b, label) > 0) positions[count++] = static_cast<int32_t>(b);
    });
    positives[label] = {positions, count};
    if (call.state == nullptr) continue;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t entry = positions[k];
      if (static_cast<uint64_t>(call.index[entry]) >= static_cast<uint64_t>(call.rows)) {
        return entry;
      }
    }
  }
  if (call.labels == 1) {
    LabelStep<T, State>(call, 0, positives[0], executor).run();
    return -1;
  }
  // Labels in parallel, each of them serial: chunks depend on sizes only, so the result is the
  // same.
  const SerialExecutor serial;
  executor.for_each(call.labels, [&](int64_t label) {
    LabelStep<T, State>(call, label, positives[label], serial).run();
  });
  return -1;
}

template int64_t score_step(const ScoreStep<float, float>&, const Executor&);
template int64_t score_step(const ScoreStep<float, double>&, const Executor&);
template int64_t score_step(const ScoreStep<double, float>&, const Executor&);
template int64_t score_step(const ScoreStep<double, double>&, const Executor&);

}  // namespace xrisk::cpu
