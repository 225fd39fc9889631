#include "cpu/topk.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "cpu/chunked_split.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"
#include "cpu/selection.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kSumGrain = 16384;  // scores a task of a sum

template <class T>
T select_on_one_thread(const T* x, int64_t count, int64_t rank) {
  Scratch scratch;
  T* buffers = scratch.allocate<T>(2 * (count + ChunkedSplit<T>::kSpare));
  return kernels<T>().select_in_row(x, count, rank, buffers);
}

template <class T>
int64_t take_sample(const T* x, int64_t count, int pass, T* sample, int64_t most) {
  const int64_t size = std::min<int64_t>(most, count < 1000000   ? 2048
                                               : count < 8000000 ? 4096
                                                                 : 16384);
  for (int64_t k = 0; k < size; ++k) sample[k] = x[sample_place(k, size, count, pass)];
  return size;
}

// A long row, for select_largest.
template <class T>
class LongRow {
 public:
  static constexpr int64_t kFew = kLongRow;

  LongRow(const T* x, int64_t count, const Executor& executor) : split_(x, count, executor) {}

  int64_t count() const { return split_.count(); }
  Bracket<T> bracket(int64_t rank, int pass) {
    Scratch scratch;
    T* sample = scratch.allocate<T>(kSample);
    const int64_t size = take_sample(split_.values(), count(), pass, sample, kSample);
    const SampleRanks ranks = sample_ranks(count(), rank, size, 3.5);
    share_ = static_cast<double>(ranks.low - ranks.high) / static_cast<double>(size);
    const auto edge = [&](int64_t place) {
      return edge_of(select_on_one_thread(sample, size, place));
    };
    return {ranks.low >= size ? static_cast<T>(-INFINITY) : edge(ranks.low),
            ranks.high < 0 ? static_cast<T>(INFINITY) : edge(ranks.high)};
  }
  SplitCounts split(Bracket<T> bracket) {
    const double share = share_;
    share_ = 0;  // a second split asks for ties: most often nothing inside is wanted
    return split_.split(bracket, share);
  }
  void keep_inside() { split_.keep_inside(); }
  int64_t nans() const {
    int64_t result = 0;
    for (int64_t k = 0; k < count(); ++k) result += split_.values()[k] != split_.values()[k];
    return result;
  }
  T finish(int64_t rank) const { return select_on_one_thread(split_.values(), count(), rank); }

 private:
  static constexpr int64_t kSample = 16384;
  ChunkedSplit<T> split_;
  double share_ = 0;
};

// L' and H of the smoothed problem. Only the scores within reach of the sigmoid are kept: those
// above count as one, those below as nothing.
template <class T>
class SoftMeans {
 public:
  SoftMeans(const T* scores, const T* weights, int64_t count, const SmoothTopK& problem,
            const Executor& executor)
      : scores_(scores), weights_(weights), count_(count), problem_(problem), executor_(executor) {}

  // The threshold is expected within `slack` of `centre`.
  void look_around(double centre, double slack) {
    if (takes_all()) return;
    centre_ = centre;
    slack_ = slack;
    const double reach = slack + soft_reach<T>() * problem_.tau1;
    constexpr T kInfinity = static_cast<T>(INFINITY);
    const Bracket<T> bracket{std::nextafter(static_cast<T>(centre - reach), -kInfinity),
                             std::nextafter(static_cast<T>(centre + reach), kInfinity)};
    near_.emplace(scores_, count_, executor_);
    above_ = near_->split(bracket, count_ <= kLongRow ? 1.0 : 0.1).above;
    near_->keep_inside();
  }

  SoftDerivatives at(double threshold) {
    if (!takes_all() && !(std::fabs(threshold - centre_) <= slack_)) {
      look_around(threshold, 2.0 * std::max(slack_, std::fabs(threshold - centre_)));
    }
    double sums[3];
    add_up(threshold, sums);
    const double mass = takes_all() ? sums[2] : static_cast<double>(count_);
    const double above = sums[0] + static_cast<double>(above_);
    return {problem_.derivative(threshold, above / mass), problem_.curvature(sums[1] / mass)};
  }

 private:
  static constexpr int64_t kAll = 128;  // so few that a split saves nothing

  bool takes_all() const { return weights_ != nullptr || count_ <= kAll; }

  void add_up(double threshold, double sums[3]) {
    const T* x = near_ ? near_->values() : scores_;
    const int64_t count = near_ ? near_->count() : count_;
    if (count <= kSumGrain) {
      kernels<T>().soft_sums(x, weights_, count, threshold, problem_.tau1, sums);
      return;
    }
    const int64_t tasks = (count + kSumGrain - 1) / kSumGrain;
    Scratch scratch;
    double* parts = scratch.allocate<double>(3 * tasks);
    executor_.for_range(count, kSumGrain, [&](int64_t task, int64_t begin, int64_t end) {
      kernels<T>().soft_sums(x + begin, weights_ == nullptr ? nullptr : weights_ + begin,
                             end - begin, threshold, problem_.tau1, parts + 3 * task);
    });
    sums[0] = sums[1] = sums[2] = 0.0;
    for (int64_t k = 0; k < 3 * tasks; ++k) sums[k % 3] += parts[k];
  }

  const T* scores_;
  const T* weights_;
  const int64_t count_;
  const SmoothTopK problem_;
  const Executor& executor_;
  std::optional<ChunkedSplit<T>> near_;
  int64_t above_ = 0;
  double centre_ = 0.0, slack_ = 0.0;
};

// From `start`, where the root is expected within `slack`.
template <class T>
double solve(SoftMeans<T>& means, const SmoothTopK& problem, double start, double slack) {
  constexpr int kMostSteps = 200;
  if (!is_finite(start)) start = 0.0;
  means.look_around(start, slack);
  NewtonSearch search(start, 4.0 * problem.tau1);
  for (int step = 0; step < kMostSteps; ++step) {
    const SoftDerivatives here = means.at(search.at);
    const double tolerance = newton_tolerance<T>(search.at, problem.tau1);
    if (search.advance(here.derivative, here.curvature, tolerance)) break;
  }
  return search.at;
}

}  // namespace

template <class T>
T kth_largest(const T* scores, int64_t count, int64_t k, const Executor& executor) {
  if (k >= count) return static_cast<T>(-INFINITY);
  if (count <= kLongRow) return select_on_one_thread(scores, count, k);
  LongRow<T> row(scores, count, executor);
  return select_largest<T>(row, k);
}

template <class T>
double smooth_threshold(const T* scores, const T* weights, int64_t count, const SmoothTopK& problem,
                        double* curvature, const Executor& executor) {
  if (count == 0) return -INFINITY;
  const double share = std::clamp(problem.kappa, 0.0, 1.0);
  double start, slack = 8.0 * problem.tau1;
  if (count <= kLongRow) {
    const auto rank = static_cast<int64_t>(share * static_cast<double>(count));
    start = kth_largest(scores, count, std::min(rank, count - 1));
  } else {
    // The same problem on a sample, and how far the root of all may lie from it.
    constexpr int64_t kSample = 4096;
    Scratch scratch;
    T* sample = scratch.allocate<T>(kSample);
    const int64_t size = take_sample(scores, count, 0, sample, kSample);
    double bend;
    start = smooth_threshold<T>(sample, nullptr, size, problem, &bend);
    const double mass = std::clamp(problem.kappa + problem.tau2 * start, 0.0, 1.0);
    slack += 4.0 * std::sqrt(mass * (1.0 - mass) / static_cast<double>(size)) / bend;
  }
  SoftMeans<T> means(scores, weights, count, problem, executor);
  const double root = solve(means, problem, start, slack);
  if (curvature != nullptr) *curvature = means.at(root).curvature;
  return root;
}

template <class T>
SoftDerivatives soft_derivatives(const T* scores, const T* weights, int64_t count,
                                 const SmoothTopK& problem, double threshold) {
  double sums[3];
  kernels<T>().soft_sums(scores, weights, count, threshold, problem.tau1, sums);
  return {problem.derivative(threshold, sums[0] / sums[2]), problem.curvature(sums[1] / sums[2])};
}

namespace {

template <class T>
SmoothTopK problem_of(const TopK<T>& call, int64_t count) {
  const double wanted = static_cast<double>(call.k) + call.epsilon;
  return {wanted / static_cast<double>(count), call.tau1, call.tau2};
}

// f(row, begin, count, executor): short rows in batches, then long ones one after the other.
template <class F>
void for_each_row(const Lists& rows, const Executor& executor, F&& f) {
  if (rows.count == 0) return;
  const int64_t mean = std::max<int64_t>(1, rows.end(rows.count - 1) / rows.count);
  const SerialExecutor serial;
  const auto visit = [&](int64_t row, bool lengthy, const Executor& on) {
    const int64_t begin = rows.begin(row), count = rows.end(row) - begin;
    if ((count > kLongRow) == lengthy) f(row, begin, count, on);
  };
  executor.for_range(rows.count, std::max<int64_t>(1, kSumGrain / mean),
                     [&](int64_t, int64_t begin, int64_t end) {
                       for (int64_t row = begin; row < end; ++row) visit(row, false, serial);
                     });
  for (int64_t row = 0; row < rows.count; ++row) visit(row, true, executor);
}

}  // namespace

template <class T>
void topk_thresholds(const TopK<T>& call, double* roots, const Executor& executor) {
  for_each_row(
      call.rows, executor, [&](int64_t row, int64_t begin, int64_t count, const Executor& on) {
        const T* scores = call.scores + begin;
        if (call.smooth && count > call.k) {
          roots[row] =
              smooth_threshold<T>(scores, nullptr, count, problem_of(call, count), nullptr, on);
        } else {
          roots[row] = static_cast<double>(kth_largest(scores, count, call.k, on));
        }
      });
}

template <class T>
void topk_gradient(const TopK<T>& call, const double* roots, const T* upstream, T* gradient,
                   const Executor& executor) {
  for_each_row(
      call.rows, executor, [&](int64_t row, int64_t begin, int64_t count, const Executor& on) {
        const T* x = call.scores + begin;
        T* out = gradient + begin;
        const bool slopes = call.smooth && count > call.k;
        double factor = 0.0;
        if (slopes) {
          const SmoothTopK problem = problem_of(call, count);
          SoftMeans<T> means(x, nullptr, count, problem, on);
          means.look_around(roots[row], 0.0);
          const double scale =
              static_cast<double>(count) * call.tau1 * means.at(roots[row]).curvature;
          factor = scale > 0.0 ? static_cast<double>(upstream[row]) / scale : 0.0;
        }
        on.for_range(count, ChunkedSplit<T>::kChunk, [&](int64_t, int64_t first, int64_t last) {
          if (slopes) {
            kernels<T>().soft_slopes(x + first, last - first, roots[row], call.tau1, factor,
                                     out + first);
          } else {
            std::memset(out + first, 0, static_cast<size_t>(last - first) * sizeof(T));
          }
        });
        if (slopes || count <= call.k) return;
        const int64_t place = kernels<T>().find_first(x, count, static_cast<T>(roots[row]));
        if (place < count) out[place] = upstream[row];
      });
}

template float kth_largest(const float*, int64_t, int64_t, const Executor&);
template double kth_largest(const double*, int64_t, int64_t, const Executor&);
template double smooth_threshold(const float*, const float*, int64_t, const SmoothTopK&, double*,
                                 const Executor&);
template double smooth_threshold(const double*, const double*, int64_t, const SmoothTopK&, double*,
                                 const Executor&);
template void topk_thresholds(const TopK<float>&, double*, const Executor&);
template void topk_thresholds(const TopK<double>&, double*, const Executor&);
template void topk_gradient(const TopK<float>&, const double*, const float*, float*,
                            const Executor&);
template void topk_gradient(const TopK<double>&, const double*, const double*, double*,
                            const Executor&);
template SoftDerivatives soft_derivatives(const float*, const float*, int64_t, const SmoothTopK&,
                                          double);
template SoftDerivatives soft_derivatives(const double*, const double*, int64_t, const SmoothTopK&,
                                          double);

}  // namespace xrisk::cpu
