// The losses of ranked lists that need no pairs: ListNet, ListMLE and FastAP.
//
//   ListNet: -sum_j softmax(y)_j log softmax(h)_j
//   ListMLE: sum_k L_k - h_(k) in descending order of relevance, L_k = log sum_{l >= k} exp(h_(l));
//            gradient exp(h_(k) + log sum_{l <= k} exp(-L_l)) - 1
//   FastAP:  1 - (1 / P) sum_l h+_l H+_l / H_l over a soft histogram
//
// Mapping: a list is one thread's. Bytes: the list a few times, from cache. Hazard: the sums of
// ListMLE may leave the range of exp at both ends, so each is relative to its own largest term.
#include <algorithm>
#include <cmath>

#include "cpu/kernel_table.h"
#include "cpu/listwise_step.h"

namespace xrisk::cpu {
namespace {

template <class T>
bool has_two_levels(const RankedList<T>& list) {
  const T* y = list.relevance;
  return std::any_of(y, y + list.count, [&](T other) { return other != y[0]; });
}

template <class T>
double list_net(const RankedList<T>& list) {
  Scratch scratch;
  T* powers = list.gradient == nullptr ? scratch.allocate<T>(list.count) : list.gradient;
  T* of_relevance = scratch.allocate<T>(list.count);
  return kernels<T>().lists.cross_entropy(list.scores, list.relevance, list.count, powers,
                                          of_relevance);
}

// With m_k the largest of h_(l), l >= k, and s_k their sum of exp(h_(l) - m_k), which is at least
// 1: L_k = m_k + log s_k, and the head sum of exp(-L_l) is kept relative to exp(-m_k), which only
// grows.
template <class T>
double list_mle(const RankedList<T>& list) {
  Scratch scratch;
  const int64_t n = list.count;
  const int32_t* places = descending_places(list.relevance, n, scratch, SerialExecutor());
  double* powers = scratch.allocate<double>(n);   // exp(h_k - m_k)
  double* factors = scratch.allocate<double>(n);  // exp(m_(k+1) - m_k)
  double* tails = scratch.allocate<double>(n);    // s_k
  double top = -INFINITY, value = 0.0;
  for (int64_t k = n - 1; k >= 0; --k) {
    const double h = static_cast<double>(list.scores[places[k]]);
    factors[k] = h > top ? std::exp(top - h) : 1.0;
    top = std::max(top, h);
    powers[k] = h - top;
    value -= powers[k];
  }
  kernels<double>().scaled_exponentials(powers, n, 1.0, 0.0, 1.0, powers);
  double tail = 0.0, product = 1.0;  // of 32 factors in [1, 2^31], for one logarithm
  for (int64_t k = n - 1; k >= 0; --k) {
    tail = tail * factors[k] + powers[k];
    tails[k] = tail;
    product *= tail;
    if (k % 32 == 0) {
      value += std::log(product);
      product = 1.0;
    }
  }
  double head = 0.0;
  for (int64_t k = 0; list.gradient != nullptr && k < n; ++k) {
    head = (k == 0 ? 0.0 : head * factors[k - 1]) + 1.0 / tails[k];
    list.gradient[places[k]] = static_cast<T>(powers[k] * head - 1.0);
  }
  return value;
}

// The gradient of edge l through h+ is H+_l / H_l + sum over m >= l of h+_m / H_m, and through h it
// is the sum over m >= l of -h+_m H+_m / H_m^2; an item moves weight from one edge to the next.
template <class T>
ListResult fast_ap(const ListwiseStep<T>& call, const RankedList<T>& list) {
  Scratch scratch;
  const ListOptions& options = call.options;
  const int64_t n = list.count, edges = options.num_bins + 1;
  double* histogram = scratch.allocate<double>(2 * edges);
  double* of_positives = histogram + edges;
  std::fill(histogram, histogram + 2 * edges, 0.0);
  const auto bin_of = [&](int64_t k) {
    return soft_bin(static_cast<double>(list.scores[k]), options.low, options.high,
                    options.num_bins);
  };
  double positives = 0.0;
  for (int64_t k = 0; k < n; ++k) {
    const SoftBin at = bin_of(k);
    const double w = list.weight(k), upper = w * at.upper;
    histogram[at.bin] += w - upper;
    histogram[at.bin + 1] += upper;
    if (!(list.relevance[k] > T(0))) continue;
    positives += w;
    of_positives[at.bin] += w - upper;
    of_positives[at.bin + 1] += upper;
  }
  if (positives == 0.0) return {0.0, 0.0};
  double *through_positive = scratch.allocate<double>(edges), *through_any = histogram;
  double value = 0.0, total = 0.0, total_positive = 0.0;
  for (int64_t l = 0; l < edges; ++l) {
    const double h = of_positives[l];
    total += histogram[l];
    total_positive += h;
    const double share = total > 0.0 ? total_positive / total : 0.0;
    value += h * share;
    through_positive[l] = share;
    of_positives[l] = total > 0.0 ? h / total : 0.0;
    through_any[l] = -of_positives[l] * share;
  }
  double later_positive = 0.0, later_any = 0.0;
  for (int64_t l = edges - 1; l >= 0; --l) {
    later_positive += of_positives[l];
    later_any += through_any[l];
    through_positive[l] += later_positive;
    through_any[l] = later_any;
  }
  for (int64_t k = 0; list.gradient != nullptr && k < n; ++k) {
    const SoftBin at = bin_of(k);
    double rise = through_any[at.bin + 1] - through_any[at.bin];
    if (list.relevance[k] > T(0)) rise += through_positive[at.bin + 1] - through_positive[at.bin];
    list.gradient[k] = static_cast<T>(-list.weight(k) * at.slope * rise / positives);
  }
  return {1.0 - value / positives, 1.0};
}

}  // namespace

template <class T>
ListResult scanned_list(const ListwiseStep<T>& call, const RankedList<T>& list) {
  if (call.options.loss == ListLoss::kFastAP) return fast_ap(call, list);
  if (!has_two_levels(list)) return {0.0, 1.0};
  return {call.options.loss == ListLoss::kListNet ? list_net(list) : list_mle(list), 1.0};
}

template ListResult scanned_list(const ListwiseStep<float>&, const RankedList<float>&);
template ListResult scanned_list(const ListwiseStep<double>&, const RankedList<double>&);

}  // namespace xrisk::cpu
