#include "cpu/binned_log_sums.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace xrisk::cpu {
namespace {

// Numbers in a block: loops over them are vectorised. Arrays are padded to whole blocks.
constexpr int64_t kBlock = 8;

int64_t padded(int64_t count) { return (count + kBlock - 1) / kBlock * kBlock + kBlock; }

// sums[n] = sum_k terms[k] x[k]^n / n!, n = 0 .. most. Both arrays end in a block of zeros.
template <int kMost>
void power_series(const double* terms, const double* x, int64_t count, double* sums) {
  double lanes[kMost + 1][kBlock] = {};
  for (int64_t k = 0; k < count; k += kBlock) {
    double power[kBlock];
    for (int64_t q = 0; q < kBlock; ++q) power[q] = terms[k + q];
    for (int n = 0; n <= kMost; ++n) {
      for (int64_t q = 0; q < kBlock; ++q) {
        lanes[n][q] += power[q];
        power[q] *= x[k + q];
      }
    }
  }
  double factorial = 1.0;
  for (int n = 0; n <= kMost; ++n) {
    double sum = 0.0;
    for (int64_t q = 0; q < kBlock; ++q) sum += lanes[n][q];
    sums[n] = sum / factorial;
    factorial *= n + 1;
  }
}

}  // namespace

template <class T>
std::unique_ptr<BinnedLogSums<T>> BinnedLogSums<T>::make(const LogSums<T>& call, Scratch& scratch,
                                                         const Executor& executor) {
  constexpr int64_t kMostBins = 1024;
  const int64_t anchors = call.anchor_count, items = call.items.count;
  if (call.term.surrogate != Surrogate::kSquaredHinge || anchors == 0 || items < 64) return nullptr;
  const auto [low, high] = std::minmax_element(call.items.scores, call.items.scores + items);
  const double lowest = static_cast<double>(*low), highest = static_cast<double>(*high);
  const double first =
      static_cast<double>(*std::min_element(call.anchors, call.anchors + anchors)) -
      call.term.params.margin;
  const double temperature = 1.0 / call.term.inverse_temperature;
  const double range = highest - lowest, farthest = highest - first;
  if (!(range > 0 && farthest > 0)) return nullptr;
  const double widest = std::min(kReach * temperature / farthest, 2.0 * std::sqrt(temperature));
  const double needed = std::ceil(range / widest);
  if (!(needed <= static_cast<double>(kMostBins))) return nullptr;
  // nanoseconds of one core: a bin of an anchor, a pair near the kink, an entry; a pair, direct
  // (bins about the middle, where the kinks are, hold twice their share)
  constexpr double kBin = 12.0, kPair = 30.0, kEntry = 40.0;
  const double p = static_cast<double>(anchors), m = static_cast<double>(items);
  const double bins = std::max(needed, std::ceil(std::sqrt(m * kPair / kBin)));
  const double lanes = kernel_table().lanes * 4.0 / sizeof(T);
  const double direct = 20.0 / lanes * p * m;
  if (direct < kBin * p * bins + kPair * p * m / bins + kEntry * (p + m)) return nullptr;

  auto sums = std::unique_ptr<BinnedLogSums>(new BinnedLogSums(call, scratch, executor));
  sums->inverse_ = call.term.inverse_temperature;
  sums->low_ = lowest;
  sums->high_ = highest;
  sums->bins_ = static_cast<int64_t>(bins);
  sums->width_ = range / bins;
  sums->sort_anchors();
  sums->fill_bins();
  return sums;
}

template <class T>
void BinnedLogSums<T>::sort_anchors() {
  const int64_t count = call_.anchor_count;
  order_ = scratch_.allocate<int32_t>(count);
  keys_ = scratch_.allocate<double>(count);
  peaks_ = scratch_.allocate<double>(count);
  kink_bins_ = scratch_.allocate<int32_t>(count);
  std::iota(order_, order_ + count, 0);
  std::sort(order_, order_ + count, [&](int32_t a, int32_t b) {
    const T x = call_.anchors[a], y = call_.anchors[b];
    return x == y ? a < b : x < y;
  });
  for (int64_t i = 0; i < count; ++i) {
    keys_[i] = static_cast<double>(call_.anchors[order_[i]]) - call_.term.params.margin;
    const double top = std::max(high_ - keys_[i], 0.0);
    peaks_[i] = top * top;
    const double bin = std::floor((keys_[i] - low_) / width_);
    const double last = static_cast<double>(bins_ - 1);
    kink_bins_[i] = keys_[i] >= high_ ? static_cast<int32_t>(bins_)
                                      : static_cast<int32_t>(std::min(std::max(bin, -1.0), last));
  }
}

template <class T>
void BinnedLogSums<T>::fill_bins() {
  const int64_t count = call_.items.count;
  int32_t* bin_of = scratch_.allocate<int32_t>(count);
  starts_ = scratch_.allocate<int64_t>(bins_ + 1);
  std::fill(starts_, starts_ + bins_ + 1, int64_t{0});
  const double inverse_width = 1.0 / width_;
  for (int64_t j = 0; j < count; ++j) {
    const double at = (static_cast<double>(call_.items.scores[j]) - low_) * inverse_width;
    bin_of[j] = static_cast<int32_t>(std::min(at, static_cast<double>(bins_ - 1)));
    ++starts_[bin_of[j] + 1];
  }
  for (int64_t b = 0; b < bins_; ++b) {
    widest_ = std::max(widest_, starts_[b + 1]);
    starts_[b + 1] += starts_[b];
  }
  positions_ = scratch_.allocate<int32_t>(count);
  for (double** array : {&items_, &weights_, &offsets_, &bumps_}) {
    *array = scratch_.allocate<double>(count + kBlock);
    std::fill(*array + count, *array + count + kBlock, 0.0);
  }
  int64_t* next = scratch_.allocate<int64_t>(bins_);
  std::copy(starts_, starts_ + bins_, next);
  double* squares = scratch_.allocate<double>(count);
  const double half = 0.5 * width_;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t at = next[bin_of[j]]++;
    positions_[at] = static_cast<int32_t>(j);
    items_[at] = static_cast<double>(call_.items.scores[j]);
    weights_[at] =
        call_.items.weights == nullptr ? 1.0 : static_cast<double>(call_.items.weights[j]);
    const double distance = items_[at] - centre(bin_of[j]);
    offsets_[at] = distance / half;
    squares[at] = distance * distance;
  }
  kernels<double>().scaled_exponentials(squares, count, inverse_, 0.0, 1.0, bumps_);
  stride_ = padded(bins_);
  moments_ = scratch_.allocate<double>((kTerms + 1) * stride_);
  std::fill(moments_, moments_ + (kTerms + 1) * stride_, 0.0);
  below_ = scratch_.allocate<double>(bins_ + 1);
  below_[0] = 0.0;
  executor_.for_range(bins_, 16, [&](int64_t, int64_t begin, int64_t end) {
    Scratch own;
    double* terms = own.allocate<double>(2 * padded(widest_));
    double* x = terms + padded(widest_);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = starts_[b], size = starts_[b + 1] - first;
      double weight = 0.0;
      for (int64_t k = 0; k < size; ++k) {
        weight += weights_[first + k];
        terms[k] = bumps_[first + k] *= weights_[first + k];
        x[k] = offsets_[first + k];
      }
      std::fill(terms + size, terms + padded(size), 0.0);
      std::fill(x + size, x + padded(size), 0.0);
      double sums[kTerms + 1];
      power_series<kTerms>(terms, x, size, sums);
      for (int n = 0; n <= kTerms; ++n) moments_[n * stride_ + b] = sums[n];
      below_[b + 1] = weight;
    }
  });
  for (int64_t b = 0; b < bins_; ++b) below_[b + 1] += below_[b];
}

template <class T>
void BinnedLogSums<T>::kink(int64_t bin, int64_t sorted, double* __restrict z,
                            double* __restrict e) const {
  const double* items = items_ + starts_[bin];
  const double key = keys_[sorted];
  const int64_t count = starts_[bin + 1] - starts_[bin];
  for (int64_t k = 0; k < count; ++k) {
    const double distance = items[k] - key;
    z[k] = distance > 0.0 ? distance : 0.0;
    e[k] = z[k] * z[k];
  }
  kernels<double>().scaled_exponentials(e, count, inverse_, peaks_[sorted], 1.0, e);
}

template <class T>
void BinnedLogSums<T>::row_of(int64_t sorted, double* log_sums, double* slopes,
                              double* masses) const {
  Scratch scratch;
  const int64_t first = std::min<int64_t>(kink_bins_[sorted] + 1, bins_), count = bins_ - first;
  const double key = keys_[sorted], peak = peaks_[sorted];
  const double ratio = width_ * inverse_, half = 0.5 * width_;
  double* zeta = scratch.allocate<double>(3 * stride_ + 2 * padded(widest_));
  double *t = zeta + stride_, *e = t + stride_, *z = e + stride_, *near = z + padded(widest_);
  for (int64_t k = 0; k < count; ++k) {
    zeta[k] = centre(first + k) - key;
    t[k] = zeta[k] * ratio;
    e[k] = zeta[k] * zeta[k];
  }
  kernels<double>().scaled_exponentials(e, count, inverse_, peak, 1.0, e);
  for (double* array : {zeta, t, e}) std::fill(array + count, array + count + kBlock, 0.0);
  double masses_of[kBlock] = {}, slopes_of[kBlock] = {};
  for (int64_t k = 0; k < count; k += kBlock) {
    double value[kBlock] = {}, derivative[kBlock] = {};
    for (int n = kTerms; n >= 0; --n) {  // Horner, and its derivative
      const double* moment = moments_ + n * stride_ + first + k;
      for (int64_t q = 0; q < kBlock; ++q) {
        derivative[q] = derivative[q] * t[k + q] + value[q];
        value[q] = value[q] * t[k + q] + moment[q];
      }
    }
    for (int64_t q = 0; q < kBlock; ++q) {
      masses_of[q] += e[k + q] * value[q];
      slopes_of[q] += e[k + q] * (zeta[k + q] * value[q] + half * derivative[q]);
    }
  }
  double mass = 0.0, slope = 0.0;
  for (int64_t q = 0; q < kBlock; ++q) {
    mass += masses_of[q];
    slope += slopes_of[q];
  }
  const int64_t bin = kink_bins_[sorted];
  if (bin == bins_) {
    mass += below_[bins_];
  } else if (bin >= 0) {
    kink(bin, sorted, z, near);
    const double* own = weights_ + starts_[bin];
    double lanes[2][kBlock] = {};
    const int64_t size = starts_[bin + 1] - starts_[bin];
    std::fill(near + size, near + padded(size), 0.0);
    std::fill(z + size, z + padded(size), 0.0);
    for (int64_t k = 0; k < size; k += kBlock) {  // weights past the end meet zeros
      for (int64_t q = 0; q < kBlock; ++q) {
        const double term = own[k + q] * near[k + q];
        lanes[0][q] += term;
        lanes[1][q] += term * z[k + q];
      }
    }
    for (int64_t q = 0; q < kBlock; ++q) {
      mass += lanes[0][q];
      slope += lanes[1][q];
    }
    mass += below_[bin] * std::exp(-peak * inverse_);
  }
  const int64_t anchor = order_[sorted];
  masses[anchor] = mass;
  slopes[anchor] = 2.0 * inverse_ * slope / mass;
  log_sums[anchor] = peak * inverse_ + std::log(mass);
}

template <class T>
void BinnedLogSums<T>::rows(double* log_sums, double* slopes, double* masses) {
  executor_.for_range(call_.anchor_count, 64, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row_of(i, log_sums, slopes, masses);
  });
}

template <class T>
void BinnedLogSums<T>::columns_of(int64_t bin, const double* weights, T* out) const {
  Scratch scratch;
  const int64_t begin = starts_[bin], end = starts_[bin + 1], count = call_.anchor_count;
  if (begin == end) return;
  // sorted by key: those whose kink lies below the bin, then those who have it in the bin
  const auto above = std::lower_bound(kink_bins_, kink_bins_ + count, static_cast<int32_t>(bin));
  const auto inside = std::upper_bound(above, kink_bins_ + count, static_cast<int32_t>(bin));
  const int64_t active = above - kink_bins_;
  double* power = scratch.allocate<double>(2 * padded(active) + 3 * padded(widest_));
  double *t = power + padded(active), *z = t + padded(active);
  double *near = z + padded(widest_), *sums = near + padded(widest_);
  const double ratio = width_ * inverse_;
  for (int64_t i = 0; i < active; ++i) {
    const double zeta = centre(bin) - keys_[i];
    t[i] = zeta * ratio;
    power[i] = zeta * zeta - peaks_[i];
  }
  kernels<double>().scaled_exponentials(power, active, inverse_, 0.0, 1.0, power);
  for (int64_t i = 0; i < active; ++i) power[i] *= weights[i];
  std::fill(power + active, power + padded(active), 0.0);
  std::fill(t + active, t + padded(active), 0.0);
  double series[kTerms + 2];  // sum_i b_i exp(..) t_i^n / n!
  power_series<kTerms>(power, t, active, series);
  series[kTerms + 1] = 0.0;
  double coefficients[kTerms + 1];  // of sum_i b_i exp(..) z_i exp(t_i s), in powers of s
  for (int n = 0; n <= kTerms; ++n) {
    coefficients[n] = (n + 1) * series[n + 1] / ratio;
    if (n > 0) coefficients[n] += 0.5 * width_ * series[n - 1];
  }
  for (int64_t k = begin; k < end; k += kBlock) {  // past the end: what is not used
    double value[kBlock] = {};
    for (int n = kTerms; n >= 0; --n) {
      for (int64_t q = 0; q < kBlock; ++q) {
        value[q] = value[q] * offsets_[k + q] + coefficients[n];
      }
    }
    for (int64_t q = 0; q < kBlock; ++q) sums[k - begin + q] = value[q] * bumps_[k + q];
  }
  for (int64_t i = active; i < inside - kink_bins_; ++i) {
    kink(bin, i, z, near);
    const double weight = weights[i];
    const double *own = weights_ + begin, *at = z, *exponentials = near;
    double* __restrict to = sums;
    for (int64_t k = 0; k < end - begin; ++k) to[k] += weight * own[k] * exponentials[k] * at[k];
  }
  for (int64_t k = begin; k < end; ++k) {
    out[positions_[k]] = static_cast<T>(2.0 * inverse_ * sums[k - begin]);
  }
}

template <class T>
void BinnedLogSums<T>::columns(const double* anchor_weights, const double* masses, T* out) {
  double* weights = scratch_.allocate<double>(call_.anchor_count);
  for (int64_t i = 0; i < call_.anchor_count; ++i) {
    weights[i] = anchor_weights[order_[i]] / masses[order_[i]];
  }
  executor_.for_range(bins_, 8, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) columns_of(b, weights, out);
  });
}

template class BinnedLogSums<float>;
template class BinnedLogSums<double>;

}  // namespace xrisk::cpu
