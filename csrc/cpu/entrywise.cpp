#include "cpu/entrywise.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;  // entries of a chunk
constexpr int64_t kLanes = 8;        // rows of one label that are summed side by side

int64_t rows_per_chunk(int64_t labels) { return std::max<int64_t>(1, kGrain / labels); }

// Adds rows [begin, end) to `sums` [6, width]. Compilers turn the loop over a row into SIMD code:
// its sums do not wait for each other.
template <class T>
void add_moments(const LabelledEntries<T>& in, int64_t first, int64_t rows, int64_t width,
                 const double* a, const double* b, double* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = first + row * width;
    const T* h = in.scores + at;
    const uint8_t* positive = in.positive + at;
    const T* weights = in.weights == nullptr ? nullptr : in.weights + at;
    for (int64_t l = 0; l < width; ++l) {
      const double w = weights == nullptr ? 1.0 : static_cast<double>(weights[l]);
      const bool up = positive[l] != 0;
      const double d = w > 0 ? static_cast<double>(h[l]) - (up ? a[l] : b[l]) : 0.0;
      const double of_positive = up ? w : 0.0, of_negative = up ? 0.0 : w;
      const double first_moment = w * d, second_moment = w * d * d;
      sums[l] += of_positive;
      sums[width + l] += up ? first_moment : 0.0;
      sums[2 * width + l] += up ? second_moment : 0.0;
      sums[3 * width + l] += of_negative;
      sums[4 * width + l] += up ? 0.0 : first_moment;
      sums[5 * width + l] += up ? 0.0 : second_moment;
    }
  }
}

// [6, L] of a chunk of rows.
template <class T>
void chunk_moments(const AucMarginStep<T>& call, int64_t begin, int64_t end, double* out) {
  const LabelledEntries<T>& in = call.entries;
  const int64_t labels = in.labels;
  const double *a = call.parameters, *b = a + labels;
  std::fill(out, out + 6 * labels, 0.0);
  if (labels > 1) return add_moments(in, begin * labels, end - begin, labels, a, b, out);
  double as[kLanes], bs[kLanes], sums[6 * kLanes] = {};
  std::fill(as, as + kLanes, *a);
  std::fill(bs, bs + kLanes, *b);
  const int64_t blocks = (end - begin) / kLanes, done = begin + blocks * kLanes;
  add_moments(in, begin, blocks, kLanes, as, bs, sums);
  for (int64_t k = 0; k < 6; ++k) {
    for (int64_t lane = 0; lane < kLanes; ++lane) out[k] += sums[k * kLanes + lane];
  }
  add_moments(in, done, end - done, 1, a, b, out);
}

template <class T>
T fill_of(double value) {
  return std::isfinite(value) ? T(0) : std::numeric_limits<T>::quiet_NaN();
}

}  // namespace

template <class T>
void auc_margin_step(const AucMarginStep<T>& call, const Executor& executor) {
  const LabelledEntries<T>& in = call.entries;
  const int64_t labels = in.labels, rows = rows_per_chunk(labels);
  const int64_t chunks = (in.batch + rows - 1) / rows;
  Scratch scratch;
  double* partial = scratch.allocate<double>(chunks * 6 * labels);
  executor.for_range(in.batch, rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    chunk_moments(call, begin, end, partial + chunk * 6 * labels);
  });
  AucMarginTerms* terms = scratch.allocate<AucMarginTerms>(labels);
  for (int64_t l = 0; l < labels; ++l) {
    ClassMoments sums;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const double* of = partial + chunk * 6 * labels + l;
      for (int k = 0; k < 3; ++k) {
        sums.positive[k] += of[k * labels];
        sums.negative[k] += of[(k + 3) * labels];
      }
    }
    const double* p = call.parameters + l;
    AucMarginTerms t = auc_margin_terms(call.kind, sums, p[0], p[labels], p[2 * labels],
                                        call.margin, call.priors == nullptr ? -1 : call.priors[l]);
    if (!std::isfinite(t.value)) {
      const double nan = std::numeric_limits<double>::quiet_NaN();
      t.value = t.by_a = t.by_b = t.by_alpha = t.positive_scale = t.negative_scale = nan;
    }
    call.values[l] = t.value;
    call.by_parameters[l] = call.share * t.by_a;
    call.by_parameters[labels + l] = call.share * t.by_b;
    call.by_parameters[2 * labels + l] = call.share * t.by_alpha;
    t.positive_scale *= call.share;
    t.negative_scale *= call.share;
    terms[l] = t;
  }
  if (call.gradient == nullptr) return;
  executor.for_range(in.batch, rows, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t l = 0; l < labels; ++l) {
        const int64_t k = row * labels + l;
        const AucMarginTerms& t = terms[l];
        const bool up = in.positive[k] != 0;
        const double w = in.weights == nullptr ? 1.0 : static_cast<double>(in.weights[k]);
        const double h = w > 0 ? static_cast<double>(in.scores[k]) : 0.0;
        const double scale = up ? t.positive_scale : t.negative_scale;
        const double centre = up ? t.positive_centre : t.negative_centre;
        // not 0 * inf: a label that has nothing to contrast is not looked at
        call.gradient[k] = scale == 0 ? T(0) : static_cast<T>(w * scale * (h - centre));
      }
    }
  });
}

template <class T>
void cross_entropy_step(const CrossEntropyStep<T>& call, const Executor& executor) {
  const LabelledEntries<T>& in = call.entries;
  const int64_t labels = in.labels, rows = rows_per_chunk(labels), count = in.batch * labels;
  const int64_t chunks = (in.batch + rows - 1) / rows;
  Scratch scratch;
  double* partial = scratch.allocate<double>((chunks + 1) * labels);
  // What the entries of a label weigh together, without their class weights.
  double* total = partial + chunks * labels;
  std::fill(total, total + labels, in.weights == nullptr ? static_cast<double>(in.batch) : 0.0);
  if (in.weights != nullptr) {
    executor.for_range(in.batch, rows, [&](int64_t chunk, int64_t begin, int64_t end) {
      double* sums = partial + chunk * labels;
      std::fill(sums, sums + labels, 0.0);
      for (int64_t row = begin; row < end; ++row) {
        const T* weights = in.weights + row * labels;
        for (int64_t l = 0; l < labels; ++l) sums[l] += static_cast<double>(weights[l]);
      }
    });
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int64_t l = 0; l < labels; ++l) total[l] += partial[chunk * labels + l];
    }
  }
  CrossEntropyRange<T> range;
  range.scores = in.scores;
  range.positive = in.positive;
  range.weights = in.weights;
  range.labels = labels;
  range.period = labels + kMostLanes;
  range.scale = static_cast<T>(call.scale);
  range.focus = static_cast<T>(call.focus);
  range.losses = scratch.allocate<T>(count);
  range.gradient = call.gradient;
  T* tables = scratch.allocate<T>(5 * range.period);
  for (int64_t k = 0; k < range.period; ++k) {
    const int64_t l = k % labels;
    for (int64_t side = 0; side < 2; ++side) {
      const double w = call.class_weights == nullptr ? 1 : call.class_weights[side * labels + l];
      const double m = call.margins == nullptr ? 0 : call.margins[side * labels + l];
      tables[side * range.period + k] = static_cast<T>(w);
      tables[(2 + side) * range.period + k] = static_cast<T>(m);
    }
    tables[4 * range.period + k] = static_cast<T>(total[l] > 0 ? call.share / total[l] : 0.0);
  }
  range.class_weights = tables;
  range.margins = tables + 2 * range.period;
  range.factors = tables + 4 * range.period;

  const auto kernel = kernels<T>().cross_entropy;
  executor.for_range(in.batch, rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    kernel(range, begin * labels, end * labels);
    double* sums = partial + chunk * labels;
    std::fill(sums, sums + labels, 0.0);
    for (int64_t row = begin; row < end; ++row) {
      const T* losses = range.losses + row * labels;
      for (int64_t l = 0; l < labels; ++l) sums[l] += static_cast<double>(losses[l]);
    }
  });
  bool good = true;
  for (int64_t l = 0; l < labels; ++l) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * labels + l];
    call.values[l] = total[l] > 0 ? sum / total[l] : 0.0;
    if (!std::isfinite(call.values[l])) {
      call.values[l] = std::numeric_limits<double>::quiet_NaN();
      good = false;
    }
  }
  if (good || call.gradient == nullptr) return;
  for (int64_t k = 0; k < count; ++k) call.gradient[k] += fill_of<T>(call.values[k % labels]);
}

template void auc_margin_step(const AucMarginStep<float>&, const Executor&);
template void auc_margin_step(const AucMarginStep<double>&, const Executor&);
template void cross_entropy_step(const CrossEntropyStep<float>&, const Executor&);
template void cross_entropy_step(const CrossEntropyStep<double>&, const Executor&);

}  // namespace xrisk::cpu
