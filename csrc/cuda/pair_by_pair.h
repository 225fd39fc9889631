// A row sum over all pairs one by one, in double: what the near-linear algorithms do where a score
// is infinite, since an infinity has no moments and which pairs it meets is for IEEE arithmetic to
// say.
#pragma once

#include "core/surrogate.h"
#include "cuda/pairs.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

template <Surrogate kKind, class T>
__device__ void pair_by_pair_of(const SurrogateParams& params, T x, const Side<T>& items,
                                int64_t segment, int64_t row, double& sum, double& slope) {
  const auto phi = make_surrogate<kKind, double>(params);
  const int64_t count = items.live == nullptr ? items.capacity : items.live[segment];
  sum = slope = 0.0;
  for (int64_t j = 0; j < count && sum == sum; ++j) {
    const double weight = items.weights == nullptr
                              ? 1.0
                              : static_cast<double>(items.weights[row * items.capacity + j]);
    if (weight == 0.0) continue;  // whatever its score is
    const double y = static_cast<double>(items.scores[segment * items.capacity + j]);
    double value, derivative;
    phi(y - static_cast<double>(x), value, derivative);
    sum += weight * value;
    slope += weight * derivative;
  }
  if (sum != sum) slope = sum;
}

// sum_j w_j phi(y_j - x) and its slope, of one row of [segments, channels].
template <class T>
__device__ void pair_by_pair(Surrogate surrogate, const SurrogateParams& params, T x,
                             const Side<T>& items, int64_t segment, int64_t row, double& sum,
                             double& slope) {
  switch (surrogate) {
    case Surrogate::kSquared:
      return pair_by_pair_of<Surrogate::kSquared>(params, x, items, segment, row, sum, slope);
    case Surrogate::kSquaredHinge:
      return pair_by_pair_of<Surrogate::kSquaredHinge>(params, x, items, segment, row, sum, slope);
    case Surrogate::kHinge:
      return pair_by_pair_of<Surrogate::kHinge>(params, x, items, segment, row, sum, slope);
    case Surrogate::kBarrierHinge:
      return pair_by_pair_of<Surrogate::kBarrierHinge>(params, x, items, segment, row, sum, slope);
    default:
      return pair_by_pair_of<Surrogate::kZeroOne>(params, x, items, segment, row, sum, slope);
  }
}

}  // namespace xrisk::cuda
