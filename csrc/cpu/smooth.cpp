// The smooth algorithm for logistic and sigmoid: near-linear, with a stated error.
//
//   sum_j w_j phi(z_ij), z_ij = scale (y_j - x_i), phi = log(1 + e^z), sigma(z) or sigma'(z)
//
// Cut the line into bins of about a temperature (1 / scale). In a pair of bins phi is a polynomial
// of both local coordinates, to the error that cpu/smooth_grid.h names; the items of a bin count by
// moments, the anchors of a bin share a polynomial, a matrix leads from the ones to the other
// (cpu/smooth_table.h). Bins further apart than the reach interact by their weight and their mean.
// Where nearly every score has a bin of its own, a scan over the sorted scores takes over.
//
// Bytes: the scores once per stage and channel. Hazard: the error is relative to phi in the pair of
// bins, not to its maximum, so that sums of tiny terms keep their digits.
#include "cpu/smooth.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "cpu/flush_denormals.h"
#include "cpu/smooth_table.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 8192;
constexpr int64_t kMomentBytes = int64_t{8} << 20;

template <class T>
class SmoothSums final : public PairwiseSums<T> {
 public:
  SmoothSums(const PairwiseSpec& spec, Anchors<T> anchors, Scratch& scratch,
             const Executor& executor)
      : spec_(spec), anchors_(anchors), scratch_(scratch), executor_(executor) {}

  void rows(ItemPass<T>& pass, double* sums, double* slopes) override {
    rows_of(pass, sums, slopes);
  }
  void columns(ItemPass<T>& pass, const double* anchor_weights, T* out) override {
    columns_of(pass, anchor_weights, out);
  }
  bool narrow_rows(ItemPass<T>& pass, T* sums, T* slopes) override {
    if (pass.items.count > 0 && plan_of(pass).way == SmoothWay::kDirect) return false;
    rows_of(pass, sums, slopes);
    return true;
  }
  bool narrow_columns(ItemPass<T>& pass, const T* anchor_weights, T* out) override {
    if (pass.items.count > 0 && plan_of(pass).way == SmoothWay::kDirect) return false;
    columns_of(pass, anchor_weights, out);
    return true;
  }

 private:
  // Sums: double or T.
  template <class Out>
  void rows_of(ItemPass<T>& pass, Out* sums, Out* slopes) {
    const Items<T>& items = pass.items;
    if (items.count == 0) {
      std::fill(sums, sums + items.channels * anchors_.count, Out(0));
      std::fill(slopes, slopes + items.channels * anchors_.count, Out(0));
      return;
    }
    const SmoothPlan& plan = plan_of(pass);
    if constexpr (sizeof(Out) == sizeof(double)) {
      if (plan.way == SmoothWay::kDirect) return direct().rows(pass, sums, slopes);
    }
    for (int64_t c = 0; c < items.channels; ++c) {
      const T* weights = items.weights == nullptr ? nullptr : items.weights + c * items.count;
      Out* sum = sums + c * anchors_.count;
      Out* slope = slopes + c * anchors_.count;
      if (plan.way == SmoothWay::kScan) {
        scan_rows(plan, items.count, weights, sum, slope);
        continue;
      }
      const T* local =
          local_polynomials(plan, items.scores, weights, items.count, plan.item_slots, true);
      executor_.for_range(anchors_.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
        const FlushDenormals flush;  // powers of scores next to the centre of a bin
        evaluate_rows(plan, local, begin, end, sum, slope);
      });
    }
  }

  template <class Out>
  void evaluate_rows(const SmoothPlan& plan, const T* local, int64_t begin, int64_t end, Out* sums,
                     Out* slopes) const {
    const auto evaluate = [&](int64_t first, int64_t last, T* values, T* derivatives) {
      kernels<T>().smooth_rows(plan.grid, local, plan.bins, anchors_.scores, plan.anchor_slots,
                               spec_.params.scale, first, last, values, derivatives);
    };
    if constexpr (std::is_same_v<Out, T>) {
      evaluate(begin, end, sums + begin, slopes + begin);
    } else {
      constexpr int64_t kBlock = 1024;
      T values[kBlock], derivatives[kBlock];
      for (int64_t i = begin; i < end; i += kBlock) {
        const int64_t size = std::min(kBlock, end - i);
        evaluate(i, i + size, values, derivatives);
        std::copy_n(values, size, sums + i);
        std::copy_n(derivatives, size, slopes + i);
      }
    }
  }

  // Weights: double or T.
  template <class Weight>
  void columns_of(ItemPass<T>& pass, const Weight* anchor_weights, T* out) {
    const Items<T>& items = pass.items;
    if (items.count == 0) return;
    const SmoothPlan& plan = plan_of(pass);
    if constexpr (sizeof(Weight) == sizeof(double)) {
      if (plan.way == SmoothWay::kDirect) return direct().columns(pass, anchor_weights, out);
    }
    for (int64_t c = 0; c < items.channels; ++c) {
      const T* weights = items.weights == nullptr ? nullptr : items.weights + c * items.count;
      const T* sources = as_scores(anchor_weights + c * anchors_.count);
      if (plan.way == SmoothWay::kScan) {
        scan_columns(plan, items.count, sources, weights, c > 0, out);
        continue;
      }
      const T* local = local_polynomials(plan, anchors_.scores, sources, anchors_.count,
                                         plan.anchor_slots, false);
      executor_.for_range(items.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
        const FlushDenormals flush;
        kernels<T>().smooth_columns(plan.grid, local, plan.bins, items.scores, weights,
                                    plan.item_slots, spec_.params.scale, c > 0, begin, end, out);
      });
    }
  }

  bool logistic() const { return spec_.surrogate == Surrogate::kLogistic; }

  const SmoothPlan& plan_of(ItemPass<T>& pass) {
    if (pass.plan == nullptr) {
      pass.plan = make_smooth_plan(spec_, anchors_, pass.items, pass.order, scratch_, executor_);
    }
    return *pass.plan;
  }

  PairwiseSums<T>& direct() {
    if (direct_ == nullptr) direct_ = make_direct_sums(spec_, anchors_, scratch_, executor_);
    return *direct_;
  }

  // The weights of the anchors in the type of the kernels.
  template <class Weight>
  const T* as_scores(const Weight* weights) {
    if constexpr (std::is_same_v<Weight, T>) {
      return weights;
    } else {
      if (source_weights_ == nullptr) source_weights_ = scratch_.allocate<T>(anchors_.count);
      executor_.for_range(anchors_.count, 65536, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) source_weights_[i] = static_cast<T>(weights[i]);
      });
      return source_weights_;
    }
  }

  template <class U>
  static U* grown(U*& array, int64_t& capacity, int64_t count, Scratch& scratch) {
    if (capacity < count) {
      capacity = count;
      array = scratch.allocate<U>(count);
    }
    return array;
  }

  double* moments_of(const SmoothPlan& plan, const T* scores, const T* weights, int64_t count,
                     const int32_t* slots) {
    const int64_t size = plan.bins * SmoothFit<T>::kTerms;
    const int64_t bytes = size * static_cast<int64_t>(sizeof(double));
    // By size alone, so that the result does not depend on the number of threads.
    const int64_t wanted = std::min<int64_t>({8, kMomentBytes / bytes, count / kGrain});
    const int64_t chunks = std::max<int64_t>(1, wanted);
    const int64_t grain = (count + chunks - 1) / chunks;
    double* moments = grown(moments_, moments_capacity_, chunks * size, scratch_);
    executor_.for_each(chunks, [&](int64_t chunk) {
      double* mine = moments + chunk * size;
      std::memset(mine, 0, static_cast<size_t>(bytes));
      const int64_t begin = std::min(chunk * grain, count);
      const int64_t end = std::min(begin + grain, count);
      kernels<T>().smooth_moments(plan.grid, scores, weights, slots, begin, end, plan.bins, mine);
    });
    if (chunks > 1) {
      executor_.for_range(size, 65536, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t chunk = 1; chunk < chunks; ++chunk) {
          const double* other = moments + chunk * size;
          for (int64_t k = begin; k < end; ++k) moments[k] += other[k];
        }
      });
    }
    return moments;
  }

  // Weight and weighted distance of the sources beyond the reach: above the bin in the rows, below
  // it in the columns. Running sums, whose terms all have the sign of their weights.
  void sum_far(const SmoothPlan& plan, const double* moments, bool to_anchors, double* weight,
               double* distance) const {
    constexpr int kTerms = SmoothFit<T>::kTerms;
    constexpr double kReach = SmoothFit<T>::kReach;
    const int64_t bins = plan.bins;
    const double side = to_anchors ? 1.0 : -1.0;
    const auto at = [&](int64_t step) { return to_anchors ? bins - 1 - step : step; };
    const auto position = [&](int64_t k) {
      return plan.positions == nullptr ? static_cast<double>(k) : plan.positions[k];
    };
    double total = 0.0, moment = 0.0;
    int64_t next = 0;  // the next source bin to fall behind
    for (int64_t step = 0; step < bins; ++step) {
      const int64_t k = at(step);
      const double here = position(k);
      if (step > 0) moment += total * std::abs(position(at(step - 1)) - here);
      for (; next < step && std::abs(position(at(next)) - here) > kReach; ++next) {
        const double* m = moments + at(next) * kTerms;
        moment += m[0] * std::abs(position(at(next)) - here) + side * 0.5 * m[1];
        total += m[0];
      }
      weight[k] = total;
      distance[k] = moment;
    }
  }

  // [bins, 2, terms]: of value and slope at the targets, the anchors or the items.
  const T* local_polynomials(const SmoothPlan& plan, const T* scores, const T* weights,
                             int64_t count, const int32_t* slots, bool to_anchors) {
    constexpr int kTerms = SmoothFit<T>::kTerms;
    const int64_t bins = plan.bins;
    const double* moments = moments_of(plan, scores, weights, count, slots);
    if (per_bin_capacity_ < bins) {
      per_bin_capacity_ = bins;
      filled_ = scratch_.allocate<uint8_t>(bins);
      far_weight_ = scratch_.allocate<double>(bins);
      far_distance_ = scratch_.allocate<double>(bins);
      local_ = scratch_.allocate<T>(bins * 2 * kTerms);
    }
    for (int64_t k = 0; k < bins; ++k) {
      bool any = false;
      for (int l = 0; l < kTerms; ++l) any |= moments[k * kTerms + l] != 0.0;
      filled_[k] = any;
    }
    const SmoothTables<T>& tables = smooth_tables<T>();
    SmoothTranslation call;
    call.moments = moments;
    call.filled = filled_;
    call.positions = plan.positions;
    call.bins = bins;
    const auto& slope = !logistic()  ? tables.sigma_slope
                        : to_anchors ? tables.sigma
                                     : tables.sigma_of_columns;
    call.slope_table = &slope[0][0][0];
    if (to_anchors) call.value_table = &(logistic() ? tables.softplus : tables.sigma)[0][0][0];
    call.value_is_linear = logistic();
    call.slope_is_constant = logistic();
    const bool long_range = plan.positions != nullptr || bins > SmoothFit<T>::kReach + 1;
    if (long_range && (to_anchors || logistic())) {
      sum_far(plan, moments, to_anchors, far_weight_, far_distance_);
      call.far_weight = far_weight_;
      call.far_distance = far_distance_;
    }
    const int sign = to_anchors ? 1 : -1;
    executor_.for_range(bins, 64, [&](int64_t, int64_t begin, int64_t end) {
      kernels<T>().smooth_translate(call, sign, begin, end, local_);
    });
    return local_;
  }

  // f(numbers, count, place) of the anchors or the items in ascending order, `place` that of the
  // first of them, a piece at a time.
  template <class F>
  void for_sorted(const SmoothPlan& plan, int64_t items, bool anchors, F&& f) const {
    constexpr int64_t kPiece = 512;
    const uint32_t first = anchors ? 0 : static_cast<uint32_t>(anchors_.count);
    executor_.for_range(anchors_.count + items, SmoothPlan::kScanGrain,
                        [&](int64_t chunk, int64_t begin, int64_t end) {
                          const int64_t below = plan.anchors_below[chunk];
                          int64_t place = anchors ? below : begin - below;
                          for (int64_t r = begin; r < end; r += kPiece) {
                            uint32_t numbers[kPiece];
                            int64_t count = 0;  // no branch: they come in any order
                            for (int64_t k = r; k < std::min(r + kPiece, end); ++k) {
                              numbers[count] = plan.order[k] - first;
                              count += (plan.is_anchor[k] != 0) == anchors;
                            }
                            f(numbers, count, place);
                            place += count;
                          }
                        });
  }

  // Both directions of the scan; values (if wanted) and slopes in ascending order of the targets.
  void scan(const SmoothPlan& plan, int64_t items, bool to_anchors, const T* weights,
            T* const values[2], T* const slopes[2]) {
    const int64_t sources = to_anchors ? items : anchors_.count;
    T* sorted = nullptr;
    if (weights != nullptr) {
      sorted = grown(sorted_weights_, sorted_capacity_, sources, scratch_);
      for_sorted(plan, items, !to_anchors,
                 [&](const uint32_t* numbers, int64_t count, int64_t place) {
                   for (int64_t k = 0; k < count; ++k) sorted[place + k] = weights[numbers[k]];
                 });
    }
    // Powers of what decays are flushed, unless scores or weights that are would count.
    const T least = sizeof(T) == sizeof(float) ? T(1e-20) : T(1e-200);
    const bool flushes =
        spec_.params.scale < 1e20 &&
        (sorted == nullptr || largest_magnitude(sorted, sources, executor_) > least);
    executor_.for_each(2, [&](int64_t direction) {
      const FlushDenormals flush(flushes);
      ScanPass pass;
      pass.is_anchor = plan.is_anchor;
      pass.scale = spec_.params.scale;
      pass.count = anchors_.count + items;
      pass.sources = sources;
      pass.targets = pass.count - sources;
      pass.to_anchors = to_anchors;
      pass.logistic = logistic();
      pass.descending = direction == 1;
      kernels<T>().smooth_scan(pass, static_cast<const T*>(plan.scores), sorted, values[direction],
                               slopes[direction]);
    });
  }

  template <class Out>
  void scan_rows(const SmoothPlan& plan, int64_t items, const T* weights, Out* sums, Out* slopes) {
    T* all = scanned(plan, 4 * anchors_.count);
    T* const values[2] = {all, all + anchors_.count};
    T* const derivatives[2] = {all + 2 * anchors_.count, all + 3 * anchors_.count};
    scan(plan, items, true, weights, values, derivatives);
    const double scale = spec_.params.scale;
    for_sorted(plan, items, true, [&](const uint32_t* numbers, int64_t count, int64_t place) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t i = numbers[k], at = place + k;
        sums[i] = static_cast<Out>(values[0][at] + values[1][at]);
        const double slope = static_cast<double>(derivatives[0][at] + derivatives[1][at]);
        slopes[i] = static_cast<Out>(scale * slope);
      }
    });
  }

  void scan_columns(const SmoothPlan& plan, int64_t items, const T* sources, const T* weights,
                    bool add, T* out) {
    T* all = scanned(plan, 2 * items);
    T* const none[2] = {nullptr, nullptr};
    T* const derivatives[2] = {all, all + items};
    scan(plan, items, false, sources, none, derivatives);
    const double scale = spec_.params.scale;
    for_sorted(plan, items, false, [&](const uint32_t* numbers, int64_t count, int64_t place) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t j = numbers[k], at = place + k;
        double slope = scale * static_cast<double>(derivatives[0][at] + derivatives[1][at]);
        if (weights != nullptr) slope *= static_cast<double>(weights[j]);
        out[j] = static_cast<T>(add ? static_cast<double>(out[j]) + slope : slope);
      }
    });
  }

  T* scanned(const SmoothPlan& plan, int64_t count) {
    if (count * static_cast<int64_t>(sizeof(T)) <= plan.spare_bytes) {
      return static_cast<T*>(plan.spare);
    }
    return grown(scanned_, scanned_capacity_, count, scratch_);
  }

  PairwiseSpec spec_;
  Anchors<T> anchors_;
  Scratch& scratch_;
  const Executor& executor_;
  std::unique_ptr<PairwiseSums<T>> direct_;
  T* source_weights_ = nullptr;
  double* moments_ = nullptr;
  int64_t moments_capacity_ = 0;
  int64_t per_bin_capacity_ = 0;
  uint8_t* filled_ = nullptr;
  double* far_weight_ = nullptr;
  double* far_distance_ = nullptr;
  T* local_ = nullptr;
  T* scanned_ = nullptr;
  int64_t scanned_capacity_ = 0;
  T* sorted_weights_ = nullptr;
  int64_t sorted_capacity_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<PairwiseSums<T>> make_smooth_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                  Scratch& scratch, const Executor& executor) {
  return std::make_unique<SmoothSums<T>>(spec, anchors, scratch, executor);
}
template std::unique_ptr<PairwiseSums<float>> make_smooth_sums(const PairwiseSpec&, Anchors<float>,
                                                               Scratch&, const Executor&);
template std::unique_ptr<PairwiseSums<double>> make_smooth_sums(const PairwiseSpec&,
                                                                Anchors<double>, Scratch&,
                                                                const Executor&);

}  // namespace xrisk::cpu
