#include "cpu/pooled_margin_step.h"

#include <algorithm>
#include <cmath>

#include "cpu/entrywise.h"
#include "cpu/moving_average.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 4096;  // bags

template <class T, class State>
class Bags {
 public:
  Bags(const PooledMarginStep<T, State>& call, const Executor& executor)
      : call_(call), executor_(executor) {}

  PooledMarginResult run() {
    const int64_t batch = call_.batch;
    const bool attention = call_.denominators != nullptr;
    const double* numerators = averages(call_.values, call_.state);
    const double* denominators =
        attention ? averages(call_.denominators, call_.state_denominators) : nullptr;
    double* pooled = scratch_.allocate<double>(batch);
    double* slopes = scratch_.allocate<double>(batch);  // of the pooled score by the values
    double* ratios = scratch_.allocate<double>(batch);
    executor_.for_range(batch, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (!attention) {
          pooled[i] = call_.tau * std::log(numerators[i]);
          slopes[i] = call_.tau / numerators[i];
          continue;
        }
        const double q = denominators[i] < kFloor ? kFloor : denominators[i];  // keeps a NaN
        ratios[i] = numerators[i] / q;
        pooled[i] = 1.0 / (1.0 + std::exp(-ratios[i]));
        slopes[i] = pooled[i] * (1.0 - pooled[i]) / q;
      }
    });
    double* by_pooled = scratch_.allocate<double>(batch);
    PooledMarginResult result = objective(pooled, by_pooled);
    for (int64_t i = 0; i < batch; ++i) {
      const double by_value = by_pooled[i] * slopes[i];
      result.value += by_value * static_cast<double>(call_.values[i]);
      if (call_.by_values != nullptr) call_.by_values[i] = static_cast<T>(by_value);
      if (!attention) continue;
      const double by_denominator = -by_value * ratios[i];
      result.value += by_denominator * static_cast<double>(call_.denominators[i]);
      if (call_.by_values != nullptr) call_.by_denominators[i] = static_cast<T>(by_denominator);
    }
    return result;
  }

 private:
  static constexpr double kFloor = 1e-8;

  const double* averages(const T* observed, State* state) {
    double* values = scratch_.allocate<double>(call_.batch);
    std::copy(observed, observed + call_.batch, values);
    if (state == nullptr) return values;
    MovingAverage<State, double, double> average;
    average.state = state;
    average.rows = call_.rows;
    average.index = call_.index;
    average.values = values;
    average.entries = call_.batch;
    average.gamma = &call_.gamma;
    average.stored = scratch_.allocate<double>(call_.batch);
    Scratch scratch;
    moving_average_update(average, scratch, executor_);
    return average.stored;
  }

  // The objective less its terms with alpha, of which LibAUC's has half as much.
  PooledMarginResult objective(const double* pooled, double* by_pooled) {
    const double half = 0.5 * std::max(call_.alpha, 0.0);
    const double parameters[3] = {call_.a, call_.b, half};
    double value = 0.0, by[3] = {};
    AucMarginStep<double> step;
    step.entries = {pooled, call_.positive, nullptr, call_.batch, 1};
    step.kind = AucMargin::kV2;
    step.margin = 0.0;
    step.parameters = parameters;
    step.values = &value;
    step.by_parameters = by;
    step.gradient = by_pooled;
    auc_margin_step(step, executor_);
    // a batch of one class has no objective, nor these terms
    const bool both_classes = by[2] != 0.0 || value != 0.0;
    return {both_classes ? value - half * (by[2] + half) : value, by[0], by[1]};
  }

  const PooledMarginStep<T, State>& call_;
  const Executor& executor_;
  Scratch scratch_;
};

}  // namespace

template <class T, class State>
PooledMarginResult pooled_margin_step(const PooledMarginStep<T, State>& call,
                                      const Executor& executor) {
  return Bags<T, State>(call, executor).run();
}

template PooledMarginResult pooled_margin_step(const PooledMarginStep<float, float>&,
                                               const Executor&);
template PooledMarginResult pooled_margin_step(const PooledMarginStep<float, double>&,
                                               const Executor&);
template PooledMarginResult pooled_margin_step(const PooledMarginStep<double, float>&,
                                               const Executor&);
template PooledMarginResult pooled_margin_step(const PooledMarginStep<double, double>&,
                                               const Executor&);

}  // namespace xrisk::cpu
