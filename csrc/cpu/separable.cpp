// The surrogates whose pair sums fall apart into sums over the items alone, O(P + M).
//
//   squared:     sum_j w (m + y_j - x_i)^2 = B2 - 2 k B1 + k^2 B0, k = x_i - m - centre, B_p the
//                moments of the items about their centre
//   exponential: sum_j w exp(s (y_j - x_i)) = exp(s (top - x_i)) sum_j w exp(s (y_j - top))
//
// Hazard: about the mean by absolute weight all terms are of the size of the sum of |w| (m + d)^2,
// and an item of weight zero, whatever its score, has no say; with the largest score taken out no
// exponential overflows that the sum itself would not.
#include <algorithm>
#include <cmath>

#include "cpu/pairwise.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 16384;

template <class T>
class SquaredSums final : public PairwiseSums<T> {
 public:
  SquaredSums(const PairwiseSpec& spec, Anchors<T> anchors, Scratch& scratch,
              const Executor& executor)
      : margin_(spec.params.margin), anchors_(anchors), scratch_(scratch), executor_(executor) {}

  void rows(ItemPass<T>& pass, double* sums, double* slopes) override {
    const Items<T>& items = pass.items;
    for (int64_t c = 0; c < items.channels; ++c) {
      const T* weights = items.weights == nullptr ? nullptr : items.weights + c * items.count;
      const double centre = centre_of(items.scores, weights, items.count);
      double b[3];
      moments(items.scores, weights, items.count, centre, b);
      double* sum = sums + c * anchors_.count;
      double* slope = slopes + c * anchors_.count;
      executor_.for_range(anchors_.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const double k = (static_cast<double>(anchors_.scores[i]) - centre) - margin_;
          sum[i] = b[2] - 2 * k * b[1] + k * k * b[0];
          slope[i] = 2 * (b[1] - k * b[0]);
        }
      });
    }
  }

  void columns(ItemPass<T>& pass, const double* anchor_weights, T* out) override {
    const Items<T>& items = pass.items;
    for (int64_t c = 0; c < items.channels; ++c) {
      const double* a = anchor_weights + c * anchors_.count;
      const double centre = centre_of(anchors_.scores, a, anchors_.count);
      double a0 = 0, a1 = 0;  // in order: serial, so that it is deterministic
      for (int64_t i = 0; i < anchors_.count; ++i) {
        a0 += a[i];
        a1 += a[i] * (static_cast<double>(anchors_.scores[i]) - centre);
      }
      executor_.for_range(items.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; ++j) {
          const double d = (static_cast<double>(items.scores[j]) - centre) + margin_;
          double value = 2 * (a0 * d - a1);
          if (items.weights != nullptr) value *= items.weights[c * items.count + j];
          out[j] = static_cast<T>(c == 0 ? value : static_cast<double>(out[j]) + value);
        }
      });
    }
  }

 private:
  void moments(const T* x, const T* weights, int64_t count, double centre, double out[3]) const {
    const int64_t chunks = (count + kGrain - 1) / kGrain;
    double* parts = scratch_.allocate<double>(3 * chunks);
    executor_.for_range(count, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
      kernels<T>().power_sums(x + begin, weights == nullptr ? nullptr : weights + begin,
                              end - begin, centre, parts + 3 * chunk);
    });
    out[0] = out[1] = out[2] = 0;
    for (int64_t k = 0; k < 3 * chunks; ++k) out[k % 3] += parts[k];
  }

  // The mean by absolute weight (null: ones), summed in order relative to a score that counts.
  template <class Weight>
  double centre_of(const T* x, const Weight* weights, int64_t count) const {
    int64_t first = 0;
    while (weights != nullptr && first < count && weights[first] == 0) ++first;
    if (first >= count) return 0.0;
    const double origin = static_cast<double>(x[first]);
    if (weights == nullptr) {
      double m[3];
      moments(x, nullptr, count, origin, m);
      return origin + m[1] / m[0];
    }
    const int64_t chunks = (count + kGrain - 1) / kGrain;
    double* parts = scratch_.allocate<double>(2 * chunks);
    executor_.for_range(count, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
      constexpr int64_t kLanes = 4;  // or every addition waits for the one before
      double totals[kLanes] = {}, shifts[kLanes] = {};
      for (int64_t j = begin; j < end; j += kLanes) {
        for (int64_t k = 0; k < std::min(kLanes, end - j); ++k) {
          const double w = std::abs(static_cast<double>(weights[j + k]));
          totals[k] += w;
          shifts[k] += w * (static_cast<double>(x[j + k]) - origin);
        }
      }
      parts[2 * chunk] = (totals[0] + totals[1]) + (totals[2] + totals[3]);
      parts[2 * chunk + 1] = (shifts[0] + shifts[1]) + (shifts[2] + shifts[3]);
    });
    double total = 0, shift = 0;
    for (int64_t k = 0; k < chunks; ++k) {
      total += parts[2 * k];
      shift += parts[2 * k + 1];
    }
    return origin + shift / total;
  }

  double margin_;
  Anchors<T> anchors_;
  Scratch& scratch_;
  const Executor& executor_;
};

template <class T>
class ExponentialSums final : public PairwiseSums<T> {
 public:
  ExponentialSums(const PairwiseSpec& spec, Anchors<T> anchors, Scratch& scratch,
                  const Executor& executor)
      : scale_(spec.params.scale), anchors_(anchors), scratch_(scratch), executor_(executor) {}

  void rows(ItemPass<T>& pass, double* sums, double* slopes) override {
    const Items<T>& items = pass.items;
    for (int64_t c = 0; c < items.channels; ++c) {
      const T* weights = items.weights == nullptr ? nullptr : items.weights + c * items.count;
      double top = -INFINITY;
      for (int64_t j = 0; j < items.count; ++j) {
        if (weights == nullptr || weights[j] != 0) {
          top = std::max(top, static_cast<double>(items.scores[j]));
        }
      }
      double* sum = sums + c * anchors_.count;
      double* slope = slopes + c * anchors_.count;
      if (top == -INFINITY) {  // no item
        std::fill(sum, sum + anchors_.count, 0.0);
        std::fill(slope, slope + anchors_.count, 0.0);
        continue;
      }
      const double total = exponential_sum(items.scores, weights, items.count, top);
      executor_.for_range(anchors_.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
        kernels<T>().scaled_exponentials(anchors_.scores + begin, end - begin, -scale_, top, total,
                                         sum + begin);
        for (int64_t i = begin; i < end; ++i) {
          if (total == 0) sum[i] = 0;  // not 0 * inf
          slope[i] = scale_ * sum[i];
        }
      });
    }
  }

  void columns(ItemPass<T>& pass, const double* anchor_weights, T* out) override {
    const Items<T>& items = pass.items;
    double* weighted = scratch_.allocate<double>(anchors_.count);
    double* value = scratch_.allocate<double>(items.count);
    for (int64_t c = 0; c < items.channels; ++c) {
      const double* a = anchor_weights + c * anchors_.count;
      double bottom = INFINITY;
      for (int64_t i = 0; i < anchors_.count; ++i) {
        if (a[i] != 0) bottom = std::min(bottom, static_cast<double>(anchors_.scores[i]));
      }
      if (bottom == INFINITY) bottom = 0;
      kernels<T>().scaled_exponentials(anchors_.scores, anchors_.count, -scale_, bottom, 1.0,
                                       weighted);
      double total = 0;
      for (int64_t i = 0; i < anchors_.count; ++i) total += a[i] == 0 ? 0.0 : a[i] * weighted[i];
      executor_.for_range(items.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
        kernels<T>().scaled_exponentials(items.scores + begin, end - begin, scale_, bottom,
                                         scale_ * total, value + begin);
        for (int64_t j = begin; j < end; ++j) {
          double slope = total == 0 ? 0.0 : value[j];
          if (items.weights != nullptr) {
            const double w = items.weights[c * items.count + j];
            slope = w == 0 ? 0.0 : w * slope;
          }
          out[j] = static_cast<T>(c == 0 ? slope : static_cast<double>(out[j]) + slope);
        }
      });
    }
  }

 private:
  double exponential_sum(const T* x, const T* weights, int64_t count, double top) const {
    const int64_t chunks = (count + kGrain - 1) / kGrain;
    double* parts = scratch_.allocate<double>(chunks);
    executor_.for_range(count, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
      parts[chunk] = kernels<T>().exponential_sum(
          x + begin, weights == nullptr ? nullptr : weights + begin, end - begin, scale_, top);
    });
    double total = 0;
    for (int64_t k = 0; k < chunks; ++k) total += parts[k];
    return total;
  }

  double scale_;
  Anchors<T> anchors_;
  Scratch& scratch_;
  const Executor& executor_;
};

}  // namespace

template <class T>
std::unique_ptr<PairwiseSums<T>> make_squared_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                   Scratch& scratch, const Executor& executor) {
  return std::make_unique<SquaredSums<T>>(spec, anchors, scratch, executor);
}
template <class T>
std::unique_ptr<PairwiseSums<T>> make_exponential_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                       Scratch& scratch, const Executor& executor) {
  return std::make_unique<ExponentialSums<T>>(spec, anchors, scratch, executor);
}

#define XRISK_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<PairwiseSums<T>> make_squared_sums(const PairwiseSpec&, Anchors<T>,     \
                                                              Scratch&, const Executor&);          \
  template std::unique_ptr<PairwiseSums<T>> make_exponential_sums(const PairwiseSpec&, Anchors<T>, \
                                                                  Scratch&, const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
