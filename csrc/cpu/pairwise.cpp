// Chooses the algorithm of a pairwise sum.
#include "cpu/pairwise.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace xrisk::cpu {

bool has_sort(Surrogate surrogate) { return !has_smooth(surrogate); }

bool has_smooth(Surrogate surrogate) {
  return surrogate == Surrogate::kLogistic || surrogate == Surrogate::kSigmoid;
}

// The model: nanoseconds for rows and columns together on one core, fitted per surrogate to times
// of 8 .. 400 anchors by 64 .. 20 000 items on a Xeon with AVX-512, under every SIMD variant and in
// both types. `auto` is to be within 1.25x of the best: `python -m xrisk_ext bench --op
// pairwise_sums` shows them side by side.
struct PairCosts {
  double pair;    // direct, per pair and float lane
  double fixed;   // sort, per call
  double anchor;  // sort
  double item;    // sort, first channel; a further one costs a third
};

static PairCosts costs_of(Surrogate surrogate) {
  switch (surrogate) {
    case Surrogate::kSquared:
      return {1.45, 10.0, 2.3, 1.0};
    case Surrogate::kBarrierHinge:
      return {4.3, 200.0, 36.0, 9.0};
    case Surrogate::kZeroOne:
      return {1.6, 40.0, 20.0, 5.0};
    case Surrogate::kSquaredHinge:
      return {1.75, 40.0, 22.0, 4.5};
    default:
      return {2.2, 50.0, 20.0, 4.5};
  }
}

template <class T>
Algorithm choose_algorithm(const PairwiseSpec& spec, int64_t anchors, int64_t items,
                           int64_t channels) {
  if (spec.algorithm != Algorithm::kAuto) return spec.algorithm;
  if (has_smooth(spec.surrogate)) {
    // Where the smooth algorithm would certainly choose the direct sums, it need not be asked.
    constexpr double kFewPairs = 512.0;
    const double pairs = static_cast<double>(anchors) * static_cast<double>(items);
    return pairs * static_cast<double>(channels) < kFewPairs ? Algorithm::kDirect
                                                             : Algorithm::kSmooth;
  }
  // Separable sums are formed in double: no overflow at one batch size and none at another.
  if (spec.surrogate == Surrogate::kExponential) return Algorithm::kSort;
  constexpr double kDirectAnchor = 4.0;  // the sums across lanes, per row
  const PairCosts costs = costs_of(spec.surrogate);
  const double p = static_cast<double>(anchors), m = static_cast<double>(items);
  const double more = static_cast<double>(channels - 1) / 3.0;
  const double lanes = kernel_table().lanes * 4.0 / sizeof(T);
  const double direct = p * kDirectAnchor + p * m * (1.0 + more) * costs.pair / lanes;
  const bool keys = spec.surrogate != Surrogate::kSquared;
  // longer keys, fewer to a compare
  const double wide = keys && sizeof(T) == sizeof(double) ? 2.0 : 1.0;
  const double sort = costs.fixed + wide * (p * costs.anchor + m * costs.item * (1.0 + more));
  return direct < sort ? Algorithm::kDirect : Algorithm::kSort;
}

template <class T>
std::unique_ptr<PairwiseSums<T>> make_pairwise_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                    Scratch& scratch, const Executor& executor) {
  if (spec.algorithm == Algorithm::kDirect) {
    return make_direct_sums(spec, anchors, scratch, executor);
  }
  if (spec.algorithm == Algorithm::kSmooth) {
    return make_smooth_sums(spec, anchors, scratch, executor);
  }
  switch (spec.surrogate) {
    case Surrogate::kSquared:
      return make_squared_sums(spec, anchors, scratch, executor);
    case Surrogate::kExponential:
      return make_exponential_sums(spec, anchors, scratch, executor);
    default:
      return make_sorted_sums(spec, anchors, scratch, executor);
  }
}

bool leaves_float(const PairwiseSpec& spec, double largest_magnitude) {
  constexpr double kWideReach = 1e15;
  constexpr double kExponentialReach = 40.0;  // exp of twice this is near the largest float
  const double reach = largest_magnitude + spec.params.margin;
  const bool exponential = spec.surrogate == Surrogate::kExponential;
  return reach * std::max(1.0, spec.params.scale) > (exponential ? kExponentialReach : kWideReach);
}

template <class T>
T largest_magnitude(const T* scores, int64_t count, const Executor& executor) {
  constexpr int64_t kGrain = 1 << 18;
  if (count <= kGrain) return kernels<T>().largest_magnitude(scores, count);
  std::vector<T> parts(static_cast<size_t>((count + kGrain - 1) / kGrain));
  executor.for_range(count, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    parts[static_cast<size_t>(chunk)] = kernels<T>().largest_magnitude(scores + begin, end - begin);
  });
  return *std::max_element(parts.begin(), parts.end());
}

#define XRISK_INSTANTIATE(T)                                                                    \
  template Algorithm choose_algorithm<T>(const PairwiseSpec&, int64_t, int64_t, int64_t);       \
  template std::unique_ptr<PairwiseSums<T>> make_pairwise_sums(const PairwiseSpec&, Anchors<T>, \
                                                               Scratch&, const Executor&);      \
  template T largest_magnitude(const T*, int64_t, const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
