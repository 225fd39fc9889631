#include "cpu/entropic_step.h"

#include <algorithm>
#include <cmath>

#include "cpu/flush_denormals.h"
#include "cpu/kernel_table.h"
#include "cpu/suspects.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kChunkBytes = int64_t{128} << 10;  // of logits; as much of the gradient
constexpr int64_t kMostRows = 64;

template <class T, class State>
class LogitStep {
 public:
  LogitStep(const EntropicStep<T, State>& call, const Executor& executor)
      : call_(call), executor_(executor) {
    const int64_t row_bytes = call.classes * static_cast<int64_t>(sizeof(T));
    grain_ = std::clamp<int64_t>(kChunkBytes / row_bytes, 1, kMostRows);
    peaks_ = scratch_.allocate<double>(call.batch);
    masses_ = scratch_.allocate<double>(call.batch);
    log_g_ = scratch_.allocate<double>(call.batch);
    nu_ = scratch_.allocate<double>(call.batch);
    factors_ = scratch_.allocate<T>(call.batch);
  }

  double run() {
    if (has_distinct_ids()) {
      const SerialExecutor serial;
      for_chunks([&](int64_t begin, int64_t end) {
        observe(begin, end);
        average(begin, end, serial);
        finish(begin, end);
      });
    } else {
      for_chunks([&](int64_t begin, int64_t end) { observe(begin, end); });
      average(0, call_.batch, executor_);
      for_chunks([&](int64_t begin, int64_t end) { finish(begin, end); });
    }
    double total = 0.0;
    for (int64_t i = 0; i < call_.batch; ++i) total += ratio(i);
    return total / static_cast<double>(call_.batch);
  }

 private:
  template <class F>
  void for_chunks(F&& f) const {
    executor_.for_range(call_.batch, grain_, [&](int64_t, int64_t begin, int64_t end) {
      const FlushDenormals flush;  // of classes far below the peak
      f(begin, end);
    });
  }

  bool has_distinct_ids() {
    if (call_.state.rows == nullptr) return true;
    Scratch scratch;
    return Suspects(call_.state.index, call_.batch, call_.state.count, scratch, executor_).empty();
  }

  double others() const { return static_cast<double>(std::max<int64_t>(call_.classes - 1, 1)); }
  double ratio(int64_t i) const { return std::exp(log_g_[i] - nu_[i]); }

  void observe(int64_t begin, int64_t end) {
    const int64_t at = begin * call_.classes;
    kernels<T>().row_exponentials(call_.logits + at, end - begin, call_.classes,
                                  call_.gradient == nullptr ? nullptr : call_.gradient + at,
                                  peaks_ + begin, masses_ + begin);
    for (int64_t i = begin; i < end; ++i) log_g_[i] = peaks_[i] + std::log(masses_[i] / others());
  }

  void average(int64_t begin, int64_t end, const Executor& executor) {
    call_.state.update(begin, end - begin, log_g_ + begin, nu_ + begin, executor);
  }

  void finish(int64_t begin, int64_t end) {
    if (call_.gradient == nullptr) return;
    const double share = 1.0 / static_cast<double>(call_.batch);
    for (int64_t i = begin; i < end; ++i) {
      factors_[i] = static_cast<T>(share * ratio(i) / masses_[i]);
    }
    kernels<T>().scale_rows(factors_ + begin, end - begin, call_.classes,
                            call_.gradient + begin * call_.classes);
  }

  const EntropicStep<T, State>& call_;
  const Executor& executor_;
  Scratch scratch_;
  int64_t grain_ = 1;
  double *peaks_, *masses_, *log_g_, *nu_;
  T* factors_;
};

}  // namespace

template <class T, class State>
double entropic_step(const EntropicStep<T, State>& call, const Executor& executor) {
  if (call.batch == 0) return 0.0;
  return LogitStep<T, State>(call, executor).run();
}

template double entropic_step(const EntropicStep<float, float>&, const Executor&);
template double entropic_step(const EntropicStep<float, double>&, const Executor&);
template double entropic_step(const EntropicStep<double, float>&, const Executor&);
template double entropic_step(const EntropicStep<double, double>&, const Executor&);

}  // namespace xrisk::cpu
