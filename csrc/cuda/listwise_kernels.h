// The losses of ranked lists, a block a list; NeuralNDCG is in cuda/listwise_neural.h.
//
//   pairs (RankNet, LambdaRank), soft ranks (ApproxNDCG, Smooth-AP, recall@k), scans (ListNet,
//   ListMLE), histogram (FastAP): the formulas of cpu/listwise_*.cpp
//
// Bytes: each input once, and per item a few numbers in the workspace. Work: n^2 per list where
// there are pairs or ranks (places by counting, which for lists of a few thousand costs less than
// the launches of a sort). A pair is evaluated at both its ends, so nothing is added across
// threads. Hazard: the order of additions is fixed, as everywhere.
#pragma once

#include "core/rules.h"
#include "cuda/listwise_list.h"

namespace xrisk::cuda {

// RankNet and LambdaRank.
template <int kThreads, class T>
__device__ ListResult block_pairs(const BlockList<T>& list) {
  const ListOptions& options = list.call.options;
  const bool lambda = options.loss == ListLoss::kLambdaRank;
  const int32_t n = list.count;
  const T *h = list.space.scores, *y = list.space.relevance;
  double *gains = list.space.numbers[0], *discounts = list.space.numbers[1];
  double* gradient = list.space.numbers[2];
  const Logistic<T> phi{static_cast<T>(1.0 / *list.call.temperature)};
  double factor = 1.0, inverse_ideal = 0.0;
  if (lambda) {
    constexpr double kInverseLn2 = 1.44269504088896340736;
    inverse_ideal = list_gains<kThreads>(list, options.top_k, gains);
    factor = inverse_ideal * kInverseLn2;
    each_by_warp<kThreads>(n, [&](int32_t i) {
      const int32_t place = place_of(h, n, i);
      const bool inside = options.top_k == 0 || place < options.top_k;
      // beyond top_k: in no pair
      if (lane_index() == 0) {
        discounts[i] = inside ? rank_discount(static_cast<double>(place + 1)) : -1.0;
      }
    });
    __syncthreads();
  }
  double value = 0.0, pairs = 0.0;
  each_by_warp<kThreads>(n, [&](int32_t i) {
    double slope_sum = 0.0, value_sum = 0.0, pair_count = 0.0;
    const double mine = static_cast<double>(y[i]);
    for (int32_t j = lane_index(); j < n; j += 32) {
      const double other = static_cast<double>(y[j]);
      if (mine == other) continue;
      double weight;
      if (lambda) {
        if (discounts[i] < 0.0 || discounts[j] < 0.0) continue;
        weight = fabs((gains[i] - gains[j]) * (discounts[i] - discounts[j]));
      } else {
        weight = pair_weight(options.pair_weight, fmax(mine, other), fmin(mine, other));
      }
      const bool anchor = mine > other;
      T term, slope;
      phi(anchor ? h[j] - h[i] : h[i] - h[j], term, slope);
      const double pull = weight * static_cast<double>(slope);
      slope_sum += anchor ? -pull : pull;
      if (!anchor) continue;
      value_sum += weight * static_cast<double>(term);
      pair_count += 1.0;
    }
    slope_sum = warp_sum(slope_sum);
    if (lane_index() == 0) gradient[i] = slope_sum;
    value += value_sum;
    pairs += pair_count;
  });
  value = block_sum<kThreads>(value);
  pairs = block_sum<kThreads>(pairs);  // a barrier, too
  if (!lambda) factor = pairs > 0.0 ? 1.0 / pairs : 0.0;
  each_by_thread<kThreads>(n, [&](int32_t i) { gradient[i] *= factor; });
  write_gradient<kThreads>(list, gradient);
  return {factor * value, options.pool_pairs ? pairs : 1.0};
}

// ApproxNDCG, Smooth-AP and the recall@k surrogate.
template <int kThreads, class T>
__device__ ListResult block_soft_ranks(const BlockList<T>& list) {
  const ListOptions& options = list.call.options;
  const bool two_classes = options.loss == ListLoss::kSmoothAP;
  const bool approx = options.loss == ListLoss::kApproxNDCG;
  const int32_t n = list.count;
  const T *h = list.space.scores, *y = list.space.relevance, *w = list.space.weights;
  double *gains = list.space.numbers[0], *weights = list.space.numbers[1];
  double *positive_weights = list.space.numbers[2], *own = list.space.numbers[3];
  double* gradient = list.space.numbers[4];
  const Sigmoid<T> phi{static_cast<T>(1.0 / *list.call.temperature)};
  const double inverse_ideal = approx ? list_gains<kThreads>(list, 0, gains) : 0.0;
  const double inverse_heat = 1.0 / *list.call.rank_temperature;
  double value = 0.0;
  each_by_warp<kThreads>(n, [&](int32_t i) {
    if (!(y[i] > T(0))) return;  // the whole warp
    double sums[4] = {};
    for (int32_t j = lane_index(); j < n; j += 32) {
      T term, slope;
      phi(h[j] - h[i], term, slope);
      sums[0] += static_cast<double>(w[j] * term);
      sums[1] += static_cast<double>(w[j] * slope);
      if (two_classes && y[j] > T(0)) {
        sums[2] += static_cast<double>(w[j] * term);
        sums[3] += static_cast<double>(w[j] * slope);
      }
    }
    for (double& sum : sums) sum = warp_sum(sum);
    if (lane_index() != 0) return;
    const double rank = 0.5 + sums[0], share = static_cast<double>(w[i]) / list.relevant_weight;
    if (two_classes) {
      const AnchorTerms terms = average_precision_rule(rank, 0.5 + sums[2]);
      value += share * terms.value;
      weights[i] = share * terms.negative_weight;
      positive_weights[i] = share * terms.positive_weight;
      own[i] = weights[i] * sums[1] + (positive_weights[i] - weights[i]) * sums[3];
      return;
    }
    const RankTerms terms = approx ? approx_ndcg_rule(gains[i] * inverse_ideal, rank)
                                   : recall_terms(options, rank, static_cast<double>(w[i]),
                                                  list.relevant_weight, inverse_heat);
    value += terms.value;
    weights[i] = terms.weight;
    own[i] = terms.weight * sums[1];
  });
  value = block_sum<kThreads>(value) + (approx ? 0.0 : 1.0);
  if (list.gradient == nullptr) return {value, 1.0};  // all threads
  __syncthreads();
  each_by_warp<kThreads>(n, [&](int32_t j) {
    const bool positive = y[j] > T(0);
    const double* of_anchor = two_classes && positive ? positive_weights : weights;
    const double pull = warp_sum_over(n, [&](int32_t i) {
      if (!(y[i] > T(0))) return 0.0;
      T ignored, slope;
      phi(h[j] - h[i], ignored, slope);
      return of_anchor[i] * static_cast<double>(slope);
    });
    if (lane_index() == 0) {
      gradient[j] = static_cast<double>(w[j]) * pull - (positive ? own[j] : 0.0);
    }
  });
  __syncthreads();
  write_gradient<kThreads>(list, gradient);
  return {value, 1.0};
}

template <int kThreads, class T>
__device__ ListResult block_list_net(const BlockList<T>& list) {
  const int32_t n = list.count;
  const T *h = list.space.scores, *y = list.space.relevance;
  double top = -INFINITY;
  each_by_thread<kThreads>(n, [&](int32_t j) { top = fmax(top, static_cast<double>(h[j])); });
  top = block_max<kThreads>(top, -static_cast<double>(INFINITY));
  double total = 0.0, y_total = 0.0, gap = 0.0;
  each_by_thread<kThreads>(n, [&](int32_t j) {
    const double d = static_cast<double>(h[j]) - top;
    const double power = exp(static_cast<double>(y[j]) - list.top);
    total += exp(d);
    y_total += power;
    gap -= power * d;
  });
  total = block_sum<kThreads>(total);
  y_total = block_sum<kThreads>(y_total);
  gap = block_sum<kThreads>(gap);
  double* gradient = list.space.numbers[0];
  each_by_thread<kThreads>(n, [&](int32_t j) {
    gradient[j] = exp(static_cast<double>(h[j]) - top) / total -
                  exp(static_cast<double>(y[j]) - list.top) / y_total;
  });
  write_gradient<kThreads>(list, gradient);
  return {log(total) + gap / y_total, 1.0};
}

// sum * exp(exponent), of which sums are formed without leaving the range.
struct ScaledSum {
  double exponent, sum;
};
struct AddScaled {
  __device__ ScaledSum operator()(const ScaledSum& a, const ScaledSum& b) const {
    if (a.sum == 0.0) return b;
    if (b.sum == 0.0) return a;
    const double top = fmax(a.exponent, b.exponent);
    return {top, a.sum * exp(a.exponent - top) + b.sum * exp(b.exponent - top)};
  }
};

template <int kThreads, class T>
__device__ ListResult block_list_mle(const BlockList<T>& list) {
  const int32_t n = list.count;
  const int t = static_cast<int>(threadIdx.x);
  double *ordered = list.space.numbers[0], *exponents = list.space.numbers[1];
  double *sums = list.space.numbers[2], *places = list.space.numbers[3];
  double* gradient = list.space.numbers[4];
  each_by_warp<kThreads>(n, [&](int32_t i) {
    const int32_t place = place_of(list.space.relevance, n, i);
    if (lane_index() != 0) return;
    ordered[place] = static_cast<double>(list.space.scores[i]);
    places[place] = static_cast<double>(i);
  });
  __syncthreads();
  const ScaledSum none = {0.0, 0.0};
  double value = 0.0;
  ScaledSum carry = none;  // of all behind the tile
  for (int32_t begin = 0; begin < n; begin += kThreads) {
    const int32_t k = n - 1 - (begin + t);  // from the end
    const ScaledSum mine = k >= 0 ? ScaledSum{ordered[k], 1.0} : none;
    ScaledSum before, total;
    block_scan<kThreads>(mine, none, AddScaled(), before, total);
    const ScaledSum tail = AddScaled()(carry, AddScaled()(before, mine));
    if (k >= 0) {
      exponents[k] = tail.exponent;
      sums[k] = tail.sum;
      value += tail.exponent - ordered[k] + log(tail.sum);
    }
    carry = AddScaled()(carry, total);
  }
  value = block_sum<kThreads>(value);  // a barrier, too
  carry = none;
  for (int32_t begin = 0; begin < n; begin += kThreads) {
    const int32_t k = begin + t;
    const ScaledSum mine = k < n ? ScaledSum{-exponents[k], 1.0 / sums[k]} : none;
    ScaledSum before, total;
    block_scan<kThreads>(mine, none, AddScaled(), before, total);
    const ScaledSum head = AddScaled()(carry, AddScaled()(before, mine));
    if (k < n) {
      const auto i = static_cast<int32_t>(places[k]);
      gradient[i] = exp(ordered[k] + head.exponent) * head.sum - 1.0;
    }
    carry = AddScaled()(carry, total);
  }
  __syncthreads();
  write_gradient<kThreads>(list, gradient);
  return {value, 1.0};
}

template <int kThreads, class T>
__device__ ListResult block_fast_ap(const BlockList<T>& list) {
  const ListOptions& options = list.call.options;
  const int32_t n = list.count, edges = static_cast<int32_t>(options.num_bins) + 1;
  double *any = list.space.edges, *of_positives = any + edges;
  double *through_any = of_positives + edges, *through_positive = through_any + edges;
  const auto bin_of = [&](int32_t k) {
    return soft_bin(static_cast<double>(list.space.scores[k]), options.low, options.high,
                    options.num_bins);
  };
  each_by_warp<kThreads>(edges, [&](int32_t l) {
    double sums[2] = {0.0, 0.0};
    for (int32_t k = lane_index(); k < n; k += 32) {
      const SoftBin at = bin_of(k);
      if (at.bin != l && at.bin + 1 != l) continue;
      const double part = at.bin == l ? 1.0 - at.upper : at.upper;
      const double pulse = static_cast<double>(list.space.weights[k]) * part;
      sums[0] += pulse;
      if (list.space.relevance[k] > T(0)) sums[1] += pulse;
    }
    for (double& sum : sums) sum = warp_sum(sum);
    if (lane_index() != 0) return;
    any[l] = sums[0];
    of_positives[l] = sums[1];
  });
  __syncthreads();
  double value = 0.0;
  if (threadIdx.x == 0) {
    double total = 0.0, total_positive = 0.0;
    for (int32_t l = 0; l < edges; ++l) {
      const double here = of_positives[l];
      total += any[l];
      total_positive += here;
      const double share = total > 0.0 ? total_positive / total : 0.0;
      value += here * share;
      through_positive[l] = share;
      of_positives[l] = total > 0.0 ? here / total : 0.0;
      through_any[l] = -of_positives[l] * share;
    }
    double later_positive = 0.0, later_any = 0.0;
    for (int32_t l = edges - 1; l >= 0; --l) {
      later_positive += of_positives[l];
      later_any += through_any[l];
      through_positive[l] += later_positive;
      through_any[l] = later_any;
    }
  }
  value = block_sum<kThreads>(value);
  __syncthreads();
  double* gradient = list.space.numbers[0];
  each_by_thread<kThreads>(n, [&](int32_t k) {
    const SoftBin at = bin_of(k);
    double rise = through_any[at.bin + 1] - through_any[at.bin];
    if (list.space.relevance[k] > T(0)) {
      rise += through_positive[at.bin + 1] - through_positive[at.bin];
    }
    gradient[k] =
        -static_cast<double>(list.space.weights[k]) * at.slope * rise / list.relevant_weight;
  });
  write_gradient<kThreads>(list, gradient);
  return {1.0 - value / list.relevant_weight, 1.0};
}

}  // namespace xrisk::cuda
