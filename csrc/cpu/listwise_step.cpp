// What the losses of ranked lists share: who takes part, lists on threads, the reduction.
//
// Mapping: short lists are dealt out to the threads in batches, a long list is cut by its own
// algorithm; both by sizes alone. Bytes: scores, relevance and gradient once, and per list what its
// loss needs, linear in the list (NeuralNDCG: its matrix). Hazard: a list of which nothing takes
// part, or that has no order to learn, must be an exact zero.
#include "cpu/listwise_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/sort_key.h"
#include "cpu/pairwise.h"
#include "cpu/radix_sort.h"

namespace xrisk::cpu {
namespace {

template <class T>
ListResult solve(const ListwiseStep<T>& call, const RankedList<T>& list, const Executor& executor) {
  switch (call.options.loss) {
    case ListLoss::kRankNet:
    case ListLoss::kLambdaRank:
      return pairwise_list(call, list, executor);
    case ListLoss::kListNet:
    case ListLoss::kListMLE:
    case ListLoss::kFastAP:
      return scanned_list(call, list);
    case ListLoss::kApproxNDCG:
    case ListLoss::kSmoothAP:
    case ListLoss::kRecallAtK:
      return soft_rank_list(call, list, executor);
    case ListLoss::kNeuralNDCG:
      return neural_list(call, list);
  }
  return {0.0, 0.0};
}

// Differences of such scores over the temperature leave the range of float: the same on doubles.
template <class T>
ListResult solve_in_double(const ListwiseStep<T>& call, const RankedList<T>& list,
                           const Executor& executor) {
  Scratch scratch;
  const auto widened = [&](const T* x) {
    double* wide = scratch.allocate<double>(list.count);
    std::copy(x, x + list.count, wide);
    return wide;
  };
  ListwiseStep<double> wide_call;
  wide_call.options = call.options;
  wide_call.temperature = call.temperature;
  wide_call.rank_temperature = call.rank_temperature;
  RankedList<double> wide;
  wide.count = list.count;
  wide.scores = widened(list.scores);
  wide.relevance = widened(list.relevance);
  if (list.weights != nullptr) wide.weights = widened(list.weights);
  if (list.gradient != nullptr) {
    wide.gradient = scratch.allocate<double>(list.count);
    std::fill(wide.gradient, wide.gradient + list.count, 0.0);
  }
  const ListResult result = solve(wide_call, wide, executor);
  for (int64_t k = 0; wide.gradient != nullptr && k < list.count; ++k) {
    list.gradient[k] = static_cast<T>(wide.gradient[k]);
  }
  return result;
}

// A score that is NaN or infinite: NaN, unless the list has nothing to say whatever its scores are.
template <class T>
ListResult fail(const ListwiseStep<T>& call, const RankedList<T>& list) {
  const T* y = list.relevance;
  const T top = *std::max_element(y, y + list.count);
  const bool has_order = *std::min_element(y, y + list.count) < top;
  const bool of_levels = call.options.loss <= ListLoss::kListMLE;
  if (of_levels ? !has_order : !(top > T(0))) {
    return {0.0, is_retrieval(call.options.loss) ? 0.0 : 1.0};
  }
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  if (list.gradient != nullptr) std::fill(list.gradient, list.gradient + list.count, kNaN);
  return {std::numeric_limits<double>::quiet_NaN(), 1.0};
}

template <class T>
ListResult solve_list(const ListwiseStep<T>& call, int64_t q, const Executor& executor) {
  const int64_t length = call.length, first = q * length;
  const T *scores = call.scores + first, *relevance = call.relevance + first;
  const T* weights = call.weights == nullptr ? nullptr : call.weights + first;
  const uint8_t* mask = call.mask == nullptr ? nullptr : call.mask + first;
  const bool pads = !is_retrieval(call.options.loss);
  const auto takes_part = [&](int64_t k) {
    return (mask == nullptr || mask[k]) && (!pads || relevance[k] >= T(0)) &&
           (weights == nullptr || weights[k] > T(0));
  };
  T* gradient = call.gradient == nullptr ? nullptr : call.gradient + first;
  if (gradient != nullptr) std::fill(gradient, gradient + length, T(0));
  int64_t count = 0;
  if (mask == nullptr && weights == nullptr) {  // apart, so that the compiler can vectorise it
    for (int64_t k = 0; k < length; ++k) count += !pads | (relevance[k] >= T(0));
  } else {
    for (int64_t k = 0; k < length; ++k) count += takes_part(k);
  }
  if (count == 0) return {0.0, 0.0};

  Scratch scratch;
  RankedList<T> list{count, scores, relevance, weights, gradient};
  int32_t* places = nullptr;
  if (count < length) {
    places = scratch.allocate<int32_t>(count);
    T* compact = scratch.allocate<T>(3 * count);
    list.scores = compact;
    list.relevance = compact + count;
    list.weights = weights == nullptr ? nullptr : compact + 2 * count;
    int64_t next = 0;
    for (int64_t k = 0; k < length; ++k) {
      if (!takes_part(k)) continue;
      places[next] = static_cast<int32_t>(k);
      compact[next] = scores[k];
      compact[count + next] = relevance[k];
      if (weights != nullptr) compact[2 * count + next] = weights[k];
      ++next;
    }
    if (gradient != nullptr) {
      list.gradient = scratch.allocate<T>(count);
      std::fill(list.gradient, list.gradient + count, T(0));
    }
  }
  const T largest = largest_magnitude(list.scores, count, executor);
  constexpr double kWideReach = 1e15;
  const double reach = std::max(1.0, static_cast<double>(largest)) / call.temperature;
  const ListResult result = !std::isfinite(largest) ? fail(call, list)
                            : sizeof(T) == sizeof(float) && reach > kWideReach
                                ? solve_in_double(call, list, executor)
                                : solve(call, list, executor);
  for (int64_t k = 0; places != nullptr && gradient != nullptr && k < count; ++k) {
    gradient[places[k]] = list.gradient[k];
  }
  return result;
}

// Nanoseconds that a list takes, roughly.
double cost_of(const ListOptions& options, int64_t length) {
  const double n = static_cast<double>(length);
  switch (options.loss) {
    case ListLoss::kListNet:
    case ListLoss::kListMLE:
    case ListLoss::kFastAP:
      return 100.0 + 10.0 * n;
    case ListLoss::kNeuralNDCG:
      return 100.0 + 10.0 * n * n;
    default:
      return 300.0 + 10.0 * n + 0.1 * n * n;
  }
}

// Graded relevance has few levels: one counting pass sorts it. False if these are no such levels.
template <class T>
bool count_levels(const T* values, int64_t count, int32_t* places) {
  constexpr int kLevels = 32;
  int32_t next[kLevels + 1] = {};  // of level l at kLevels - 1 - l, one up
  bool good = true;
  for (int64_t k = 0; k < count; ++k) good &= values[k] >= T(0) && values[k] < T(kLevels);
  if (!good) return false;
  for (int64_t k = 0; k < count; ++k) {
    const int level = static_cast<int>(values[k]);
    good &= values[k] == static_cast<T>(level);
    ++next[kLevels - level];
  }
  if (!good) return false;
  for (int l = 0; l < kLevels; ++l) next[l + 1] += next[l];
  for (int64_t k = 0; k < count; ++k) {
    places[next[kLevels - 1 - static_cast<int>(values[k])]++] = static_cast<int32_t>(k);
  }
  return true;
}

}  // namespace

template <class T>
void listwise_step(const ListwiseStep<T>& call, const Executor& executor) {
  constexpr double kTask = 10'000.0, kLongList = 1'000'000.0;
  Scratch scratch;
  double* masses = scratch.allocate<double>(call.lists);
  const auto run = [&](int64_t q, const Executor& on) {
    const ListResult result = solve_list(call, q, on);
    call.values[q] = result.value;
    masses[q] = result.mass;
  };
  const double cost = cost_of(call.options, call.length);
  if (cost > kLongList && call.options.loss != ListLoss::kNeuralNDCG) {
    for (int64_t q = 0; q < call.lists; ++q) run(q, executor);
  } else {
    const int64_t grain = std::max<int64_t>(1, static_cast<int64_t>(kTask / cost));
    executor.for_range(call.lists, grain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q) run(q, SerialExecutor());
    });
  }
  if (call.reduction == ListReduction::kNone) return;
  double mass = 0.0, total = 0.0;
  for (int64_t q = 0; q < call.lists; ++q) mass += masses[q];
  const auto share = [&](int64_t q) {
    if (call.reduction == ListReduction::kSum) return 1.0;
    return mass > 0.0 ? masses[q] / mass : 0.0;
  };
  for (int64_t q = 0; q < call.lists; ++q) {
    if (masses[q] > 0.0) total += share(q) * call.values[q];
  }
  *call.total = total;
  if (call.gradient == nullptr || call.reduction == ListReduction::kSum) return;
  executor.for_range(call.lists, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, call.length)),
                     [&](int64_t, int64_t begin, int64_t end) {
                       for (int64_t q = begin; q < end; ++q) {
                         const T factor = static_cast<T>(share(q));
                         T* row = call.gradient + q * call.length;
                         for (int64_t k = 0; k < call.length; ++k) row[k] *= factor;
                       }
                     });
}

template <class T>
const int32_t* descending_places(const T* values, int64_t count, Scratch& scratch,
                                 const Executor& executor) {
  int32_t* places = scratch.allocate<int32_t>(count);
  if (count_levels(values, count, places)) return places;
  using Key = decltype(sort_key(T{}));
  auto* records = scratch.allocate<SortRecord<Key>>(count);
  for (int64_t k = 0; k < count; ++k) {  // adding 0 turns -0 into +0, which are ties
    records[k] = {static_cast<Key>(~sort_key(values[k] + T(0))), static_cast<uint32_t>(k)};
  }
  const auto* sorted = radix_sort(records, count, scratch, executor);
  for (int64_t k = 0; k < count; ++k) places[k] = static_cast<int32_t>(sorted[k].payload);
  return places;
}

template <class T>
double relative_gains(const T* relevance, int64_t count, int64_t top_k, double* gains,
                      const Executor& executor) {
  const double top = static_cast<double>(*std::max_element(relevance, relevance + count));
  if (!(top > 0.0)) {
    std::fill(gains, gains + count, 0.0);
    return 0.0;
  }
  const double shift = gain_shift(top);
  Scratch scratch;
  // Most items have no relevance: only the others need a power, and a place in the ideal order.
  T* relevant = scratch.allocate<T>(count);
  int64_t relevant_count = 0;
  double last = -1.0, gain = 0.0;
  for (int64_t k = 0; k < count; ++k) {
    const double y = static_cast<double>(relevance[k]);
    if (!(y > 0.0)) {
      gains[k] = 0.0;
      continue;
    }
    if (y != last) gain = relative_gain(y, shift);
    last = y;
    gains[k] = gain;
    relevant[relevant_count++] = relevance[k];
  }
  const int64_t ranks = top_k > 0 ? std::min(top_k, relevant_count) : relevant_count;
  const int32_t* places = descending_places(relevant, relevant_count, scratch, executor);
  double ideal = 0.0;
  last = -1.0;
  for (int64_t r = 0; r < ranks; ++r) {
    const double y = static_cast<double>(relevant[places[r]]);
    if (y != last) gain = relative_gain(y, shift);
    last = y;
    ideal += gain * rank_discount(static_cast<double>(r + 1));
  }
  return ideal > 0.0 ? 1.0 / ideal : 0.0;
}

#define XRISK_INSTANTIATE(T)                                                               \
  template void listwise_step(const ListwiseStep<T>&, const Executor&);                    \
  template const int32_t* descending_places(const T*, int64_t, Scratch&, const Executor&); \
  template double relative_gains(const T*, int64_t, int64_t, double*, const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
