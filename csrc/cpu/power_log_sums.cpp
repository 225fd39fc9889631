// Log sums of exp(logistic / T) where 1 / T is a whole number k: exact, O((P + M) k).
//
//   (1 + q)^k = sum_a binom(k, a) q^a,  q = exp(s (y - x)) = Q r,  Q of the highest item, r <= 1
//
// so that a row is a polynomial in Q over the sums of w r^a, and a column one in r over the sums of
// the anchors' Q^a. All terms are positive. Hazard: where Q > 1 the polynomial is taken in 1 / Q
// from the other end; everything is relative to (1 + Q)^k, so that no number exceeds 2^k times the
// sum of the weights.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/flush_denormals.h"
#include "cpu/log_sums.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 8192;
constexpr int64_t kBlock = 8;  // loops over it are vectorised

template <class T>
class PowerLogSums final : public LogPairs<T> {
 public:
  PowerLogSums(const LogSums<T>& call, Scratch& scratch, const Executor& executor)
      : call_(call),
        scratch_(scratch),
        executor_(executor),
        power_(static_cast<int>(std::lround(call.term.inverse_temperature))),
        scale_(call.term.params.scale),
        binomials_(static_cast<size_t>(power_ + 1), 1.0) {
    for (int a = 1; a <= power_; ++a) {
      binomials_[at(a)] = binomials_[at(a - 1)] * (power_ - a + 1) / a;
    }
    const T *y = call.items.scores, *w = call.items.weights;
    highest_ = -INFINITY;
    for (int64_t j = 0; j < call.items.count; ++j) {
      if (w == nullptr || w[j] != 0) highest_ = std::max(highest_, static_cast<double>(y[j]));
    }
    ratios_ = scratch.allocate<double>(call.items.count + kBlock);
    // an item of weight 0 may be anything: it takes the place of the highest
    executor.for_range(call.items.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const bool there = w == nullptr || w[j] != 0;
        ratios_[j] = there ? static_cast<double>(y[j]) - highest_ : 0.0;
      }
      kernels<double>().scaled_exponentials(ratios_ + begin, end - begin, scale_, 0.0, 1.0,
                                            ratios_ + begin);
    });
  }

  void rows(double* log_sums, double* slopes, double* masses) override {
    const std::vector<double> sums = item_sums();
    // of the polynomials in Q and, from the other end, in 1 / Q: values, and a times them
    std::vector<double> low(sums.size()), high(sums.size());
    for (int a = 0; a <= power_; ++a) {
      low[at(a)] = binomials_[at(a)] * sums[at(a)];
      high[at(a)] = binomials_[at(a)] * sums[at(power_ - a)];
    }
    const double inverse = call_.term.inverse_temperature;
    each_block([&](int64_t begin, int64_t count, const Block& b) {
      double value[kBlock] = {}, moment[kBlock] = {};
      for (int a = power_; a >= 0; --a) {
        const double from_low = low[at(a)], from_high = high[at(a)];
        for (int64_t q = 0; q < kBlock; ++q) {
          const double term = b.reversed[q] * from_high + (1.0 - b.reversed[q]) * from_low;
          const double degree = b.reversed[q] * (power_ - a) + (1.0 - b.reversed[q]) * a;
          value[q] = value[q] * b.ratio[q] + term;
          moment[q] = moment[q] * b.ratio[q] + degree * term;
        }
      }
      for (int64_t q = 0; q < count; ++q) {
        const int64_t i = begin + q;
        masses[i] = value[q] * b.share[q];
        slopes[i] = scale_ * inverse / power_ * moment[q] / value[q];
        log_sums[i] = b.peak[q] * inverse + std::log(masses[i]);
      }
    });
  }

  void columns(const double* anchor_weights, const double* masses, T* out) override {
    // a binom(k, a) sum_i weight_i Q_i^a / (1 + Q_i)^k
    const std::vector<double> sums = anchor_sums(anchor_weights, masses);
    const double factor = scale_ * call_.term.inverse_temperature / power_;
    const T* w = call_.items.weights;
    executor_.for_range(call_.items.count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; j += kBlock) {
        double value[kBlock] = {};
        for (int a = power_; a >= 0; --a) {
          const double term = a * binomials_[at(a)] * sums[at(a)];
          for (int64_t q = 0; q < kBlock; ++q) value[q] = value[q] * ratios_[j + q] + term;
        }
        for (int64_t q = 0; q < std::min(kBlock, end - j); ++q) {
          const double weight = w == nullptr ? 1.0 : static_cast<double>(w[j + q]);
          out[j + q] = static_cast<T>(factor * weight * value[q]);
        }
      }
    });
  }

 private:
  // Of kBlock anchors; past the end, of the last one.
  struct Block {
    double peak[kBlock];      // phi at the highest item
    double ratio[kBlock];     // Q or 1 / Q
    double reversed[kBlock];  // 1 where it is 1 / Q
    double share[kBlock];     // (1 + ratio)^-k
  };

  static size_t at(int64_t k) { return static_cast<size_t>(k); }

  template <class F>
  void each_block(F&& f) const {
    const int64_t anchors = call_.anchor_count;
    executor_.for_range(anchors, kGrain, [&](int64_t, int64_t first, int64_t last) {
      for (int64_t begin = first; begin < last; begin += kBlock) {
        const int64_t count = std::min(kBlock, last - begin);
        Block b;
        for (int64_t q = 0; q < kBlock; ++q) {
          const double x = static_cast<double>(call_.anchors[begin + std::min(q, count - 1)]);
          const double z = scale_ * (highest_ - x);
          b.reversed[q] = z > 0.0 ? 1.0 : 0.0;
          b.ratio[q] = -std::abs(z);
          b.peak[q] = std::max(z, 0.0);
        }
        kernels<double>().scaled_exponentials(b.ratio, kBlock, 1.0, 0.0, 1.0, b.ratio);
        for (int64_t q = 0; q < kBlock; ++q) {
          b.share[q] = std::log1p(b.ratio[q]);
          b.peak[q] += b.share[q];
        }
        kernels<double>().scaled_exponentials(b.share, kBlock, -power_, 0.0, 1.0, b.share);
        f(begin, count, b);
      }
    });
  }

  // Chunks by size alone, added up in order.
  template <class F>
  std::vector<double> in_chunks(int64_t count, int64_t width, F&& f) const {
    const int64_t grain = std::max<int64_t>(kGrain, (count + 15) / 16 / kBlock * kBlock + kBlock);
    const int64_t chunks = (count + grain - 1) / grain;
    std::vector<double> parts(at(std::max<int64_t>(1, chunks) * width), 0.0);
    executor_.for_range(count, grain, [&](int64_t chunk, int64_t begin, int64_t end) {
      f(begin, end, parts.data() + chunk * width);
    });
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      for (int64_t k = 0; k < width; ++k) parts[at(k)] += parts[at(chunk * width + k)];
    }
    parts.resize(at(width));
    return parts;
  }

  // sum_j w_j r_j^a, a = 0 .. k
  std::vector<double> item_sums() const {
    const T* w = call_.items.weights;
    return in_chunks(call_.items.count, power_ + 1, [&](int64_t begin, int64_t end, double* sums) {
      const FlushDenormals flush;  // high powers of what is far below the highest
      std::vector<double> lanes(at((power_ + 1) * kBlock), 0.0);
      for (int64_t j = begin; j < end; j += kBlock) {
        double term[kBlock] = {}, ratio[kBlock] = {};
        for (int64_t q = 0; q < std::min(kBlock, end - j); ++q) {
          term[q] = w == nullptr ? 1.0 : static_cast<double>(w[j + q]);
          ratio[q] = ratios_[j + q];
        }
        for (int64_t a = 0; a <= power_; ++a) {
          double* lane = lanes.data() + a * kBlock;
          for (int64_t q = 0; q < kBlock; ++q) {
            lane[q] += term[q];
            term[q] *= ratio[q];
          }
        }
      }
      for (int64_t a = 0; a <= power_; ++a) {
        for (int64_t q = 0; q < kBlock; ++q) sums[a] += lanes[at(a * kBlock + q)];
      }
    });
  }

  // sum_i weight_i Q_i^a / (1 + Q_i)^k
  std::vector<double> anchor_sums(const double* anchor_weights, const double* masses) const {
    const int64_t width = power_ + 1, anchors = call_.anchor_count;
    double* weights = scratch_.allocate<double>(anchors);
    double* ratios = scratch_.allocate<double>(anchors);
    uint8_t* reversed = scratch_.allocate<uint8_t>(anchors);
    each_block([&](int64_t begin, int64_t count, const Block& b) {
      for (int64_t q = 0; q < count; ++q) {
        weights[begin + q] = anchor_weights[begin + q] / masses[begin + q] * b.share[q];
        ratios[begin + q] = b.ratio[q];
        reversed[begin + q] = b.reversed[q] > 0.0;
      }
    });
    const std::vector<double> both =
        in_chunks(anchors, 2 * width, [&](int64_t begin, int64_t end, double* sums) {
          const FlushDenormals flush;
          std::vector<double> lanes(at(2 * width * kBlock), 0.0);
          for (int64_t i = begin; i < end; i += kBlock) {
            double term[2][kBlock] = {}, ratio[kBlock] = {};
            for (int64_t q = 0; q < std::min(kBlock, end - i); ++q) {
              term[reversed[i + q]][q] = weights[i + q];
              ratio[q] = ratios[i + q];
            }
            for (int64_t a = 0; a < width; ++a) {
              for (int64_t side = 0; side < 2; ++side) {
                double* lane = lanes.data() + (side * width + a) * kBlock;
                for (int64_t q = 0; q < kBlock; ++q) {
                  lane[q] += term[side][q];
                  term[side][q] *= ratio[q];
                }
              }
            }
          }
          for (int64_t a = 0; a < 2 * width; ++a) {
            for (int64_t q = 0; q < kBlock; ++q) sums[a] += lanes[at(a * kBlock + q)];
          }
        });
    std::vector<double> sums(at(width));
    for (int64_t a = 0; a < width; ++a) sums[at(a)] = both[at(a)] + both[at(width + power_ - a)];
    return sums;
  }

  const LogSums<T> call_;
  Scratch& scratch_;
  const Executor& executor_;
  const int power_;  // k
  const double scale_;
  double highest_ = 0.0;
  double* ratios_ = nullptr;       // r
  std::vector<double> binomials_;  // binom(k, a)
};

}  // namespace

template <class T>
std::unique_ptr<LogPairs<T>> make_power_log_sums(const LogSums<T>& call, Scratch& scratch,
                                                 const Executor& executor) {
  return std::make_unique<PowerLogSums<T>>(call, scratch, executor);
}
template std::unique_ptr<LogPairs<float>> make_power_log_sums(const LogSums<float>&, Scratch&,
                                                              const Executor&);
template std::unique_ptr<LogPairs<double>> make_power_log_sums(const LogSums<double>&, Scratch&,
                                                               const Executor&);

}  // namespace xrisk::cpu
