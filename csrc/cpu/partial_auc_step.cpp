#include "cpu/partial_auc_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/moving_average.h"
#include "core/rules.h"
#include "core/surrogate.h"
#include "cpu/first_entries.h"
#include "cpu/log_sums.h"
#include "cpu/moving_average.h"
#include "cpu/threshold_sums.h"

namespace xrisk::cpu {
namespace {

// The step of one label, computed in U: rows -> rule -> columns.
template <class T, class State, class U>
class LabelStep {
 public:
  LabelStep(const PartialAUCStep<T, State>& call, int64_t label, const Entries<U>& anchors,
            const Entries<U>& items, Scratch& scratch, const Executor& executor)
      : call_(call),
        label_(label),
        anchors_(anchors),
        items_(items),
        scratch_(scratch),
        executor_(executor),
        sums_(scratch.allocate<double>(anchors.count)),
        slopes_(scratch.allocate<double>(anchors.count)),
        weights_(scratch.allocate<double>(anchors.count)) {}

  void run() {
    switch (call_.rule) {
      case PartialRule::kKL:
      case PartialRule::kTwoWayKL:
        return kl();
      case PartialRule::kCVaR:
      case PartialRule::kTwoWayCVaR:
        return call_.state == nullptr ? exact() : cvar();
      case PartialRule::kExact:
      case PartialRule::kTopPush:
        return exact();
      case PartialRule::kPNormPush:
        return push();
    }
  }

 private:
  Anchors<U> anchor_scores() const { return {anchors_.scores, anchors_.count}; }
  Items<U> items() const { return {items_.scores, items_.weights, items_.count, 1}; }
  double* doubles() { return scratch_.allocate<double>(anchors_.count); }

  // ---- exponentials: the log of the mean, its moving average, and a weight of its slope
  void kl() {
    const PartialSchedules<double>& now = call_.schedules;
    LogSums<U> pairs;
    pairs.term = {call_.spec.surrogate, call_.spec.params, 1.0 / now.kl_weight};
    pairs.anchors = anchors_.scores;
    pairs.anchor_count = anchors_.count;
    pairs.items = items();
    double* masses = doubles();
    const Algorithm algorithm = choose_log_algorithm(pairs, call_.spec.algorithm);
    const auto log_sums = make_log_sums(pairs, algorithm, scratch_, executor_);
    log_sums->rows(sums_, slopes_, masses);
    const double log_weight = std::log(items_.weight);
    for (int64_t i = 0; i < anchors_.count; ++i) sums_[i] -= log_weight;
    const double* log_u = moved(call_.state, sums_, now.gamma, /*log=*/true);

    double value = 0.0;
    if (call_.rule == PartialRule::kKL) {
      for (int64_t i = 0; i < anchors_.count; ++i) {
        const TopTerms terms = kl_rule(sums_[i], log_u[i], now.kl_weight);
        value += anchors_.share(i) * terms.value;
        weights_[i] = anchors_.share(i) * terms.weight;
      }
    } else {
      const double log_v = outer_log_mean(log_u);
      value = now.positive_kl_weight * log_v;
      for (int64_t i = 0; i < anchors_.count; ++i) {
        weights_[i] = anchors_.share(i) * two_way_kl_weight(sums_[i], log_u[i], log_v,
                                                            now.kl_weight, now.positive_kl_weight);
      }
    }
    finish(value, 1.0, items_, [&](U* out) { log_sums->columns(weights_, masses, out); });
  }

  // log v: the log mean of the anchors' powers, blended with the label's own.
  double outer_log_mean(const double* log_u) {
    const PartialSchedules<double>& now = call_.schedules;
    const auto power = [&](int64_t i) {
      return two_way_power(log_u[i], now.kl_weight, now.positive_kl_weight);
    };
    double peak = power(0);
    for (int64_t i = 1; i < anchors_.count; ++i) peak = std::max(peak, power(i));
    double mean = 0.0;
    for (int64_t i = 0; i < anchors_.count; ++i) {
      mean += anchors_.share(i) * std::exp(power(i) - peak);
    }
    const double observed = peak + std::log(mean);
    if (call_.outer == nullptr) return observed;
    State& stored = call_.outer[label_];
    const BlendFactors f = log_factors(now.outer_gamma);
    const double blend = blend_log(static_cast<double>(stored), observed, f.keep, f.add);
    write(stored, blend, /*log=*/true);
    return blend;
  }

  // ---- thresholds: the mean above them, and a subgradient step
  void cvar() {
    const bool two_way = call_.rule == PartialRule::kTwoWayCVaR;
    const double rate = call_.params.max_fpr, share = 1.0 - call_.params.min_tpr;
    const PartialSchedules<double>& now = call_.schedules;
    const int64_t count = anchors_.count;
    double* thresholds = gathered(call_.state);
    double *above = doubles(), *next = doubles();
    ThresholdSums<U> pairs(call_.spec, anchor_scores(), thresholds, items(), items_.weight,
                           scratch_, executor_);
    pairs.rows(sums_, slopes_, above);
    const double mean = 1.0 / items_.weight;
    for (int64_t i = 0; i < count; ++i) {
      sums_[i] = cvar_value(thresholds[i], sums_[i] * mean, rate);
      above[i] *= mean;
      weights_[i] = anchors_.share(i) * mean / rate;
    }

    double value = 0.0;
    if (two_way) {
      State& stored = call_.outer[label_];
      const double outer = static_cast<double>(stored);
      double* duals = gathered(call_.dual);
      for (int64_t i = 0; i < count; ++i) {
        next[i] = cvar_dual_next(duals[i], sums_[i], outer, share, now.dual_eta);
      }
      const double* dual = moved(call_.dual, next, 1.0, /*log=*/false);
      double mean_dual = 0.0;
      for (int64_t i = 0; i < count; ++i) {
        mean_dual += anchors_.share(i) * dual[i];
        value += anchors_.share(i) * dual[i] * (sums_[i] - outer) / share;
        weights_[i] *= dual[i] / share;
        next[i] = cvar_next(thresholds[i], above[i], rate, now.eta * dual[i] / share);
      }
      value += outer;
      write(stored, cvar_outer_next(outer, mean_dual, share, now.outer_eta), /*log=*/false);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        value += anchors_.share(i) * sums_[i];
        next[i] = cvar_next(thresholds[i], above[i], rate, now.eta);
      }
    }
    moved(call_.state, next, 1.0, /*log=*/false);
    finish(value, 1.0, items_, [&](U* out) { pairs.columns(weights_, out); });
  }

  // ---- selection: the highest items with the lowest anchors
  void exact() {
    const double highest = call_.rule == PartialRule::kTopPush
                               ? 1.0  // one negative; less where all of them weigh less
                               : call_.params.max_fpr * items_.weight;
    const Entries<U> top = first_entries(items_, highest, true, scratch_);
    if (call_.params.min_tpr > 0.0) {
      const double lowest = (1.0 - call_.params.min_tpr) * anchors_.weight;
      anchors_ = first_entries(anchors_, lowest, false, scratch_);
    }
    const auto pairs = plain_sums(top.count);
    ItemPass<U> pass{{top.scores, top.weights, top.count, 1}};
    pairs->rows(pass, sums_, slopes_);
    double value = 0.0;
    for (int64_t i = 0; i < anchors_.count; ++i) {
      weights_[i] = anchors_.share(i) / top.weight;
      value += weights_[i] * sums_[i];
    }
    finish(value, 1.0, top, [&](U* out) { pairs->columns(pass, weights_, out); });
  }

  // ---- the power of the mean. Its weights span any range: relative to the largest.
  void push() {
    const auto pairs = plain_sums(items_.count);
    ItemPass<U> pass{items()};
    pairs->rows(pass, sums_, slopes_);
    double* log_means = doubles();
    for (int64_t i = 0; i < anchors_.count; ++i) log_means[i] = std::log(sums_[i] / items_.weight);
    const double* log_u = moved(call_.state, log_means, call_.schedules.gamma, /*log=*/true);
    double value = 0.0, peak = -INFINITY;
    for (int64_t i = 0; i < anchors_.count; ++i) {
      const LogTerms terms = p_norm_rule(log_u[i], call_.params.power);
      value += anchors_.share(i) * std::exp(terms.value);
      weights_[i] = terms.weight;
      peak = std::max(peak, terms.weight);
    }
    if (peak == -INFINITY) peak = 0.0;  // no pair has a loss
    for (int64_t i = 0; i < anchors_.count; ++i) {
      weights_[i] = anchors_.share(i) / items_.weight * std::exp(weights_[i] - peak);
    }
    constexpr double kLargestExponent = 700.0;
    finish(value, std::exp(std::min(peak, kLargestExponent)), items_,
           [&](U* out) { pairs->columns(pass, weights_, out); });
  }

  std::unique_ptr<PairwiseSums<U>> plain_sums(int64_t item_count) {
    PairwiseSpec spec = call_.spec;
    spec.algorithm = choose_algorithm<U>(spec, anchors_.count, item_count, 1);
    return make_pairwise_sums(spec, anchor_scores(), scratch_, executor_);
  }

  // ---- state
  const int64_t* ids() {
    if (ids_ == nullptr) {
      int64_t* ids = scratch_.allocate<int64_t>(anchors_.count);
      for (int64_t i = 0; i < anchors_.count; ++i) ids[i] = call_.index[anchors_.positions[i]];
      ids_ = ids;
    }
    return ids_;
  }

  double* gathered(const State* state) {
    double* old = doubles();
    for (int64_t i = 0; i < anchors_.count; ++i) {
      old[i] = static_cast<double>(state[label_ * call_.rows + ids()[i]]);
    }
    return old;
  }

  // The blends with the anchors' rows, written there; without state the values themselves.
  const double* moved(State* state, const double* values, double gamma, bool log) {
    if (state == nullptr) return values;
    MovingAverage<State, double, double> update;
    update.state = state + label_ * call_.rows;
    update.rows = call_.rows;
    update.index = ids();
    update.values = values;
    update.entries = anchors_.count;
    update.gamma = &gamma;
    update.log_domain = log;
    update.write = call_.write_state;
    update.rounded = false;
    update.stored = doubles();
    moving_average_update(update, scratch_, executor_);
    return update.stored;
  }

  void write(State& stored, double blend, bool log) const {
    const State rounded = static_cast<State>(blend);
    const bool storable = is_storable(static_cast<double>(rounded), log);
    if (call_.write_state && storable) stored = rounded;
  }

  // The value, and the gradient from the columns and the anchors' own slopes, both times `factor`.
  template <class Columns>
  void finish(double value, double factor, const Entries<U>& items, Columns&& columns) {
    call_.values[label_] = value;
    if (call_.gradient == nullptr) return;
    if (call_.rule == PartialRule::kPNormPush) factor = -factor;  // their scores are reversed
    for (int64_t b = 0; b < call_.batch; ++b) call_.gradient[call_.offset(b, label_)] = T(0);
    U* out = scratch_.allocate<U>(items.count);
    columns(out);
    for (int64_t j = 0; j < items.count; ++j) {
      call_.gradient[call_.offset(items.positions[j], label_)] =
          static_cast<T>(factor * static_cast<double>(out[j]));
    }
    for (int64_t i = 0; i < anchors_.count; ++i) {
      call_.gradient[call_.offset(anchors_.positions[i], label_)] =
          static_cast<T>(-factor * weights_[i] * slopes_[i]);
    }
  }

  const PartialAUCStep<T, State>& call_;
  const int64_t label_;
  Entries<U> anchors_;
  const Entries<U>& items_;
  Scratch& scratch_;
  const Executor& executor_;
  double *sums_, *slopes_, *weights_;  // [P]
  const int64_t* ids_ = nullptr;
};

template <class T, class State>
void fill(const PartialAUCStep<T, State>& call, int64_t label, double value) {
  call.values[label] = value;
  for (int64_t b = 0; call.gradient != nullptr && b < call.batch; ++b) {
    call.gradient[call.offset(b, label)] = static_cast<T>(value);
  }
}

// Exponents are differences of pair terms over the temperature: to float32 one of 1e5 is off by
// 0.01, and its exponential by as much.
template <class T, class State>
bool exponents_leave_float(const PartialAUCStep<T, State>& call, double largest) {
  constexpr double kLargestExponent = 2e4;
  if (call.rule != PartialRule::kKL && call.rule != PartialRule::kTwoWayKL) return false;
  double reach = 0.0;
  visit_surrogate<double>(call.spec.surrogate, call.spec.params, [&](auto phi) {
    for (const double d : {-2.0 * largest, 2.0 * largest}) {
      double value, slope;
      phi(d, value, slope);
      reach = std::max(reach, value);
    }
  });
  return !(reach <= kLargestExponent * call.schedules.kl_weight);
}

template <class U, class T, class State>
void step_in(const PartialAUCStep<T, State>& call, int64_t label, const Executor& executor) {
  Scratch scratch;
  const bool push = call.rule == PartialRule::kPNormPush;
  const U sign = push ? U(-1) : U(1);
  const Entries<U> anchors = entries_of<U>(call, label, !push, sign, scratch);
  const Entries<U> items = entries_of<U>(call, label, push, sign, scratch);
  if (anchors.count == 0 || items.count == 0) return fill(call, label, 0.0);
  const U largest = std::max(largest_magnitude(anchors.scores, anchors.count, executor),
                             largest_magnitude(items.scores, items.count, executor));
  // A score that is NaN or infinite: the loss says so, the state stays as it was.
  if (!std::isfinite(largest)) return fill(call, label, std::numeric_limits<double>::quiet_NaN());
  if constexpr (sizeof(U) == sizeof(float)) {
    if (leaves_float(call.spec, static_cast<double>(largest)) ||
        exponents_leave_float(call, static_cast<double>(largest))) {
      return step_in<double>(call, label, executor);
    }
  }
  LabelStep<T, State, U>(call, label, anchors, items, scratch, executor).run();
}

}  // namespace

template <class T, class State>
int64_t partial_auc_step(const PartialAUCStep<T, State>& call, const Executor& executor) {
  const bool positive_anchors = call.rule != PartialRule::kPNormPush;
  for (int64_t b = 0; call.state != nullptr && b < call.batch; ++b) {
    if (static_cast<uint64_t>(call.index[b]) < static_cast<uint64_t>(call.rows)) continue;
    for (int64_t label = 0; label < call.labels; ++label) {
      if (call.belongs(b, label, positive_anchors)) return b;
    }
  }
  if (call.labels == 1) {
    step_in<T>(call, 0, executor);
    return -1;
  }
  // Labels in parallel, each of them serial: chunks depend on sizes only, so the result is the
  // same.
  const SerialExecutor serial;
  executor.for_each(call.labels, [&](int64_t label) { step_in<T>(call, label, serial); });
  return -1;
}

template int64_t partial_auc_step(const PartialAUCStep<float, float>&, const Executor&);
template int64_t partial_auc_step(const PartialAUCStep<float, double>&, const Executor&);
template int64_t partial_auc_step(const PartialAUCStep<double, float>&, const Executor&);
template int64_t partial_auc_step(const PartialAUCStep<double, double>&, const Executor&);

}  // namespace xrisk::cpu
