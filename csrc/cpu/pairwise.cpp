// Chooses the algorithm of a pairwise sum.
#include "cpu/pairwise.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace xrisk::cpu {

bool has_sort(Surrogate surrogate) {
  return surrogate != Surrogate::kLogistic && surrogate != Surrogate::kSigmoid;
}

// The costs are in nanoseconds for rows and columns together, measured on one core per SIMD width
// (benchmarks/test_pairwise_sums.py holds `auto` to 1.25x of the best).
template <class T>
Algorithm choose_algorithm(const PairwiseSpec& spec, int64_t anchors, int64_t items,
                           int64_t channels) {
  if (spec.algorithm != Algorithm::kAuto) return spec.algorithm;
  if (!has_sort(spec.surrogate)) return Algorithm::kDirect;
  const double p = static_cast<double>(anchors), m = static_cast<double>(items);
  const double c = static_cast<double>(channels);
  const double lanes = kernel_table().lanes * 4.0 / sizeof(T);
  if (spec.surrogate == Surrogate::kSquared || spec.surrogate == Surrogate::kExponential) {
    return p * m < 16.0 * (p + m) ? Algorithm::kDirect : Algorithm::kSort;
  }
  const double direct = p * m * c * 2.0 / lanes;
  const double key_sets = spec.surrogate == Surrogate::kBarrierHinge ? 2.0 : 1.0;
  const double sort = 400.0 + key_sets * (m * (3.0 + 2.0 * c) + p * 20.0);
  return direct < sort ? Algorithm::kDirect : Algorithm::kSort;
}

template <class T>
std::unique_ptr<PairwiseSums<T>> make_pairwise_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                    Scratch& scratch, const Executor& executor) {
  if (spec.algorithm == Algorithm::kDirect) {
    return make_direct_sums(spec, anchors, scratch, executor);
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

template <class T>
bool all_finite(const T* scores, int64_t count, const Executor& executor) {
  constexpr int64_t kGrain = 1 << 18;
  if (count <= kGrain) return kernels<T>().all_finite(scores, count);
  std::atomic<bool> result{true};
  executor.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    if (!kernels<T>().all_finite(scores + begin, end - begin)) result = false;
  });
  return result;
}

#define XRISK_INSTANTIATE(T)                                                                     \
  template Algorithm choose_algorithm<T>(const PairwiseSpec&, int64_t, int64_t, int64_t);        \
  template std::unique_ptr<PairwiseSums<T>> make_pairwise_sums(const PairwiseSpec&, Anchors<T>,  \
                                                               Scratch&, const Executor&);       \
  template bool all_finite(const T*, int64_t, const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
