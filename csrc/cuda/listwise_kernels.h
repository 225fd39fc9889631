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
#include "cuda/list_surrogates.h"
#include "cuda/listwise_list.h"

namespace xrisk::cuda {

// RankNet and LambdaRank.
template <int kThreads, bool kLambda, class T>
__device__ ListResult block_pairs(const BlockList<T>& list) {
  const ListOptions& options = list.call.options;
  const int32_t n = list.count;
  const T *h = list.space.scores, *y = list.space.relevance;
  double* gradient = list.space.numbers[2];
  T* gains = reinterpret_cast<T*>(list.space.numbers[3]);
  T* discounts = reinterpret_cast<T*>(list.space.numbers[4]);
  const ListLogistic<T> phi{static_cast<T>(1.0 / *list.call.temperature)};
  double factor = 1.0, inverse_ideal = 0.0;
  if constexpr (kLambda) {
    const double* exact = list.space.numbers[0];
    inverse_ideal = list_gains<kThreads>(list, options.top_k, list.space.numbers[0]);
    factor = inverse_ideal * kInverseLn2;
    each_by_warp<kThreads>(n, [&](int32_t i) {
      const int32_t place = place_of(h, n, i);
      const bool inside = options.top_k == 0 || place < options.top_k;
      if (lane_index() != 0) return;
      gains[i] = static_cast<T>(exact[i]);
      // beyond top_k: in no pair
      discounts[i] = inside ? static_cast<T>(rank_discount(static_cast<double>(place + 1))) : T(-1);
    });
    __syncthreads();
  }
  double value = 0.0, ends = 0.0;
  each_by_warp<kThreads>(n, [&](int32_t i) {
    const T score = h[i], mine = y[i];
    const T gain = kLambda ? gains[i] : T(0), discount = kLambda ? discounts[i] : T(0);
    double sums[2] = {};
    int32_t partners = 0;
    if (!kLambda || discount >= T(0)) {
      warp_sums_by_tile<2, T>(n, sums, [&](int32_t j, T(&terms)[2]) {
        const T other = y[j];
        T weight;
        if constexpr (kLambda) {
          weight = absolute((gain - gains[j]) * (discount - discounts[j]));
          if (discounts[j] < T(0)) weight = T(0);
        } else {
          const bool higher = mine > other;
          weight = pair_weight(options.pair_weight, higher ? mine : other, higher ? other : mine);
          if (mine == other) weight = T(0);
          partners += mine != other;
        }
        const T direction = mine > other ? T(-1) : T(1);  // of the slope at this end
        T term, slope;
        phi(direction * (score - h[j]), term, slope);
        terms[0] += direction * weight * slope;
        terms[1] += weight == T(0) ? T(0) : weight * term;  // which may be infinite
      });
    }
    if (lane_index() == 0) {
      gradient[i] = sums[0];
      value += sums[1];
    }
    ends += static_cast<double>(partners);
  });
  // both ends of a pair have counted it
  value = 0.5 * block_sum<kThreads>(value);
  const double pairs = 0.5 * block_sum<kThreads>(ends);  // a barrier, too
  if (!kLambda) factor = pairs > 0.0 ? 1.0 / pairs : 0.0;
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
  double *gains = list.space.numbers[0], *own = list.space.numbers[3];
  double* gradient = list.space.numbers[4];
  // Of the anchors, without gaps.
  T* weights = reinterpret_cast<T*>(list.space.numbers[1]);
  T* positive_weights = reinterpret_cast<T*>(list.space.numbers[2]);
  T* scores = reinterpret_cast<T*>(list.space.numbers[5]);
  int32_t* items = reinterpret_cast<int32_t*>(list.space.numbers[6]);
  const ListSigmoid<T> phi{static_cast<T>(1.0 / *list.call.temperature)};
  const double inverse_ideal = approx ? list_gains<kThreads>(list, 0, gains) : 0.0;
  const double inverse_heat = 1.0 / *list.call.rank_temperature;
  int32_t anchors = 0;
  for (int32_t begin = 0; begin < n; begin += kThreads) {
    const int32_t i = begin + static_cast<int32_t>(threadIdx.x);
    const bool anchor = i < n && y[i] > T(0);
    int32_t before, total;
    block_scan<kThreads>(anchor ? 1 : 0, 0, Sum(), before, total);
    if (anchor) {
      items[anchors + before] = i;
      scores[anchors + before] = h[i];
    }
    anchors += total;
  }
  __syncthreads();
  double value = 0.0;
  each_by_warp<kThreads>(anchors, [&](int32_t a) {
    const T score = scores[a];
    double sums[4] = {};
    if (two_classes) {
      warp_sums_by_tile<4, T>(n, sums, [&](int32_t j, T(&terms)[4]) {
        T term, slope;
        phi(h[j] - score, term, slope);
        const T of_positive = y[j] > T(0) ? w[j] : T(0);
        terms[0] += w[j] * term;
        terms[1] += w[j] * slope;
        terms[2] += of_positive * term;
        terms[3] += of_positive * slope;
      });
    } else {
      double two[2] = {};
      warp_sums_by_tile<2, T>(n, two, [&](int32_t j, T(&terms)[2]) {
        T term, slope;
        phi(h[j] - score, term, slope);
        terms[0] += w[j] * term;
        terms[1] += w[j] * slope;
      });
      sums[0] = two[0];
      sums[1] = two[1];
    }
    if (lane_index() != 0) return;
    const int32_t i = items[a];
    const double rank = 0.5 + sums[0], share = static_cast<double>(w[i]) / list.relevant_weight;
    if (two_classes) {
      const AnchorTerms terms = average_precision_rule(rank, 0.5 + sums[2]);
      value += share * terms.value;
      const double all = share * terms.negative_weight, same = share * terms.positive_weight;
      weights[a] = static_cast<T>(all);
      positive_weights[a] = static_cast<T>(same);
      own[i] = all * sums[1] + (same - all) * sums[3];
      return;
    }
    const RankTerms terms = approx ? approx_ndcg_rule(gains[i] * inverse_ideal, rank)
                                   : recall_terms(options, rank, static_cast<double>(w[i]),
                                                  list.relevant_weight, inverse_heat);
    value += terms.value;
    weights[a] = static_cast<T>(terms.weight);
    own[i] = terms.weight * sums[1];
  });
  value = block_sum<kThreads>(value) + (approx ? 0.0 : 1.0);
  if (list.gradient == nullptr) return {value, 1.0};  // all threads
  __syncthreads();
  each_by_warp<kThreads>(n, [&](int32_t j) {
    const bool positive = y[j] > T(0);
    const T score = h[j];
    const T* of_anchor = two_classes && positive ? positive_weights : weights;
    double pull[1] = {};
    warp_sums_by_tile<1, T>(anchors, pull, [&](int32_t a, T(&terms)[1]) {
      T ignored, slope;
      phi(score - scores[a], ignored, slope);
      terms[0] += of_anchor[a] * slope;
    });
    if (lane_index() == 0) {
      gradient[j] = static_cast<double>(w[j]) * pull[0] - (positive ? own[j] : 0.0);
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

// 2^x of an integer x <= 0
__device__ __forceinline__ double power_of_two(double x) {
  if (x < -1022.0) return 0.0;
  const int64_t bits = (static_cast<int64_t>(x) + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof(power));
  return power;
}

// sum * 2^exponent, of which sums are formed without leaving the range and without a logarithm or
// exponential. The exponent is an integer.
struct ScaledSum {
  double exponent, sum;
};
__device__ __forceinline__ ScaledSum scaled_exp(double x) {
  constexpr double kLog2OfE = 1.44269504088896340736;
  const double power = x * kLog2OfE, whole = floor(power);
  return {whole, exp2(power - whole)};
}
struct AddScaled {
  __device__ ScaledSum operator()(const ScaledSum& a, const ScaledSum& b) const {
    if (a.sum == 0.0) return b;
    if (b.sum == 0.0) return a;
    const double gap = b.exponent - a.exponent;
    if (gap > 0.0) return {b.exponent, b.sum + a.sum * power_of_two(-gap)};
    return {a.exponent, a.sum + b.sum * power_of_two(gap)};
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
  constexpr double kLogOf2 = 0.69314718055994530942;
  const ScaledSum none = {0.0, 0.0};
  double value = 0.0;
  ScaledSum carry = none;  // of all behind the tile
  for (int32_t begin = 0; begin < n; begin += kThreads) {
    const int32_t k = n - 1 - (begin + t);  // from the end
    const ScaledSum mine = k >= 0 ? scaled_exp(ordered[k]) : none;
    ScaledSum before, total;
    block_scan<kThreads>(mine, none, AddScaled(), before, total);
    const ScaledSum tail = AddScaled()(carry, AddScaled()(before, mine));
    if (k >= 0) {
      exponents[k] = tail.exponent;
      sums[k] = tail.sum;
      value += (tail.exponent * kLogOf2 - ordered[k]) + log(tail.sum);
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
      const ScaledSum own = scaled_exp(ordered[k]);
      gradient[i] = own.sum * head.sum * power_of_two(own.exponent + head.exponent) - 1.0;
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
