// P1 on the CPU: pairwise sums and log sums, their column slopes, and the surrogates themselves.
// Included by module.cpp alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "cpu/log_sums.h"
#include "cpu/smooth.h"
#include "torch/contrastive_ops.h"
#include "torch/info_nce_ops.h"
#include "torch/ops.h"
#include "torch/pair_inputs.h"
#include "torch/pairwise_gradient.h"
#include "torch/query_ops.h"

namespace xrisk {
namespace {

constexpr int64_t kGrain = int64_t{1} << 16;

template <class T>
cpu::Items<T> items_of(const Pairs& pairs) {
  return {pairs.items.const_data_ptr<T>(),
          pairs.weights.defined() ? pairs.weights.const_data_ptr<T>() : nullptr,
          pairs.items.numel(), pairs.channels};
}

// The algorithm for these scores: what is not finite cannot be sorted or centred.
template <class T>
Algorithm algorithm_for(const cpu::PairwiseSpec& spec, const Pairs& pairs,
                        const cpu::Executor& executor) {
  const int64_t p = pairs.anchors.numel(), m = pairs.items.numel();
  const Algorithm algorithm = cpu::choose_algorithm<T>(spec, p, m, pairs.channels);
  if (algorithm == Algorithm::kDirect) return algorithm;
  const T anchors = cpu::largest_magnitude(pairs.anchors.const_data_ptr<T>(), p, executor);
  const T items = cpu::largest_magnitude(pairs.items.const_data_ptr<T>(), m, executor);
  // Nor what leaves the range of T on the way to a key, or that of double when it is squared.
  const double s = spec.params.scale;
  const double steep = spec.surrogate == Surrogate::kBarrierHinge && s > 1 ? s / (s - 1) : 1.0;
  const double reach = static_cast<double>(anchors) + static_cast<double>(items) +
                       spec.params.margin * std::max(1.0, steep);
  const double limit = std::min(static_cast<double>(std::numeric_limits<T>::max()) / 4, 1e150);
  return reach < limit ? algorithm : Algorithm::kDirect;
}

// Log sums are finite however large phi is: floats that phi would leave become doubles.
void widen_if_needed(Pairs& pairs, const cpu::PairwiseSpec& spec) {
  if (pairs.type == at::kDouble) return;
  const AtenExecutor executor;
  float largest = 0.0f;
  for (const at::Tensor& t : {pairs.anchors, pairs.items}) {
    largest =
        std::max(largest, cpu::largest_magnitude(t.const_data_ptr<float>(), t.numel(), executor));
  }
  if (!std::isfinite(largest) || !cpu::leaves_float(spec, largest)) return;
  pairs.type = at::kDouble;
  pairs.anchors = pairs.anchors.to(at::kDouble);
  pairs.items = pairs.items.to(at::kDouble);
  if (pairs.weights.defined()) pairs.weights = pairs.weights.to(at::kDouble);
}

// Room for the order that the rows may find: unless they do, its first entry is -1. Its size
// follows from the arguments' sizes alone.
at::Tensor empty_order(const cpu::PairwiseSpec& spec, const Pairs& pairs) {
  const int64_t p = pairs.anchors.numel(), m = pairs.items.numel();
  const int64_t size = cpu::keeps_order(spec, p, m) ? p + m : 0;
  at::Tensor order = at::empty({size}, pairs.anchors.options().dtype(at::kInt));
  if (size > 0) *order.mutable_data_ptr<int32_t>() = -1;
  return order;
}

// Null: none was found. The numbers are places in memory, so they are looked at.
const uint32_t* checked_order(const char* op, const Pairs& pairs, const at::Tensor& order) {
  if (order.numel() == 0) return nullptr;
  const int64_t p = pairs.anchors.numel(), m = pairs.items.numel();
  TORCH_CHECK_VALUE(order.numel() == p + m && order.is_contiguous() && order.device().is_cpu() &&
                        order.scalar_type() == at::kInt,
                    op, ": expected the order that pairwise_sums_rows returned, got shape ",
                    order.sizes());
  const auto* numbers = reinterpret_cast<const uint32_t*>(order.const_data_ptr<int32_t>());
  if (numbers[0] == UINT32_MAX) return nullptr;
  const auto first_item = static_cast<uint32_t>(p), end = static_cast<uint32_t>(p + m);
  std::atomic<int64_t> anchors = 0, outside = 0;
  AtenExecutor().for_range(p + m, kGrain, [&](int64_t, int64_t first, int64_t last) {
    int64_t here[2] = {0, 0};
    for (int64_t k = first; k < last; ++k) {
      here[0] += numbers[k] < first_item;
      here[1] += numbers[k] >= end;
    }
    anchors += here[0];
    outside += here[1];
  });
  TORCH_CHECK_VALUE(anchors == p && outside == 0, op,
                    ": expected the order that pairwise_sums_rows returned");
  return numbers;
}

template <class From, class To>
void convert(const From* from, int64_t count, To* to, const cpu::Executor& executor) {
  executor.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) to[k] = static_cast<To>(from[k]);
  });
}

at::Tensor doubles(const at::Tensor& t) { return contiguous_as(t, at::kDouble); }

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> pairwise_sums_rows(
    const at::Tensor& anchors, const at::Tensor& items,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& scale, double margin,
    int64_t surrogate, int64_t algorithm) {
  constexpr const char* kOp = "pairwise_sums";
  const NoAutocast no_autocast;
  const Pairs pairs = check_pairs(kOp, anchors, items, item_weights, false);
  cpu::PairwiseSpec spec = make_spec(kOp, surrogate, margin, scale, algorithm);
  at::Tensor sums = empty_rows(pairs, pairs.type), slopes = empty_rows(pairs, pairs.type);
  at::Tensor order = empty_order(spec, pairs);
  if (sums.numel() == 0) return {sums, slopes, order};
  visit_floating(pairs.type, [&](auto zero) {
    using T = decltype(zero);
    const AtenExecutor executor;
    cpu::Scratch scratch;
    spec.algorithm = algorithm_for<T>(spec, pairs, executor);
    const cpu::Anchors<T> x{pairs.anchors.const_data_ptr<T>(), pairs.anchors.numel()};
    cpu::ItemPass<T> pass{items_of<T>(pairs)};
    const auto sums_of = cpu::make_pairwise_sums(spec, x, scratch, executor);
    T* out[2] = {sums.mutable_data_ptr<T>(), slopes.mutable_data_ptr<T>()};
    if (!sums_of->narrow_rows(pass, out[0], out[1])) {
      const int64_t size = sums.numel();
      double* wide[2] = {scratch.allocate<double>(size), scratch.allocate<double>(size)};
      sums_of->rows(pass, wide[0], wide[1]);
      for (int which = 0; which < 2; ++which) {
        convert(wide[which], size, out[which], executor);
      }
    }
    if (order.numel() > 0 && pass.plan != nullptr && pass.plan->order != nullptr) {
      convert(pass.plan->order, order.numel(), order.mutable_data_ptr<int32_t>(), executor);
    }
  });
  return {sums, slopes, order};
}

at::Tensor pairwise_sums_columns(const at::Tensor& anchors, const at::Tensor& items,
                                 const std::optional<at::Tensor>& item_weights,
                                 const at::Tensor& anchor_weights, const at::Tensor& order,
                                 const at::Tensor& scale, double margin, int64_t surrogate,
                                 int64_t algorithm) {
  constexpr const char* kOp = "pairwise_sums_columns";
  const NoAutocast no_autocast;
  const Pairs pairs = check_pairs(kOp, anchors, items, item_weights, false);
  cpu::PairwiseSpec spec = make_spec(kOp, surrogate, margin, scale, algorithm);
  TORCH_CHECK_VALUE(anchor_weights.numel() == pairs.channels * pairs.anchors.numel(), kOp,
                    ": expected anchor_weights of the shape of the sums, got ",
                    anchor_weights.sizes());
  at::Tensor out = at::empty(pairs.items.sizes(), pairs.items.options());
  if (out.numel() == 0) return out;
  if (anchor_weights.numel() == 0) return out.zero_();
  const at::Tensor weights = contiguous_as(anchor_weights, pairs.type);
  const uint32_t* known = checked_order(kOp, pairs, order);
  visit_floating(pairs.type, [&](auto zero) {
    using T = decltype(zero);
    const AtenExecutor executor;
    cpu::Scratch scratch;
    spec.algorithm = algorithm_for<T>(spec, pairs, executor);
    const cpu::Anchors<T> x{pairs.anchors.const_data_ptr<T>(), pairs.anchors.numel()};
    cpu::ItemPass<T> pass{items_of<T>(pairs)};
    pass.order = known;
    const auto sums_of = cpu::make_pairwise_sums(spec, x, scratch, executor);
    const T* narrow = weights.const_data_ptr<T>();
    if (!sums_of->narrow_columns(pass, narrow, out.mutable_data_ptr<T>())) {
      double* wide = scratch.allocate<double>(weights.numel());
      convert(narrow, weights.numel(), wide, executor);
      sums_of->columns(pass, wide, out.mutable_data_ptr<T>());
    }
  });
  return out;
}

namespace {

template <class T>
cpu::LogSums<T> log_sums_of(const Pairs& pairs, const cpu::PairwiseSpec& spec, double temperature) {
  cpu::LogSums<T> call;
  call.term = {spec.surrogate, spec.params, 1.0 / temperature};
  call.anchors = pairs.anchors.const_data_ptr<T>();
  call.anchor_count = pairs.anchors.numel();
  call.items = items_of<T>(pairs);
  return call;
}

// The algorithms of a log sum are others than those of a sum, and depend on the temperature.
cpu::PairwiseSpec make_log_spec(const char* op, int64_t surrogate, double margin,
                                const at::Tensor& scale, int64_t algorithm) {
  check_algorithm_number(op, algorithm);
  return make_spec(op, surrogate, margin, scale, static_cast<int64_t>(Algorithm::kAuto));
}

template <class T>
Algorithm log_algorithm_for(const cpu::LogSums<T>& call, int64_t algorithm) {
  const auto wanted = static_cast<Algorithm>(algorithm);
  TORCH_CHECK_VALUE(wanted != Algorithm::kSort || cpu::has_sorted_log_sums<T>(call.term),
                    "pairwise_log_sums: algorithm \"sort\" is for hinge, barrier_hinge, and "
                    "logistic where 1 / temperature is a whole number up to 512");
  TORCH_CHECK_VALUE(wanted != Algorithm::kSmooth || cpu::has_smooth_log_sums(call.term),
                    "pairwise_log_sums: algorithm \"smooth\" is for squared_hinge");
  return cpu::choose_log_algorithm(call, wanted);
}

double checked_temperature(const at::Tensor& temperature, const char* op) {
  const double value = scalar_value(temperature, op, "temperature");
  // Its inverse must fit a float.
  TORCH_CHECK_VALUE(value >= 1e-30 && std::isfinite(value), op,
                    ": expected temperature >= 1e-30 and finite, got ", value);
  return value;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> pairwise_log_sums_rows(
    const at::Tensor& anchors, const at::Tensor& items,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& scale,
    const at::Tensor& temperature, double margin, int64_t surrogate, int64_t algorithm) {
  constexpr const char* kOp = "pairwise_log_sums";
  const NoAutocast no_autocast;
  Pairs pairs = check_pairs(kOp, anchors, items, item_weights, true);
  const at::ScalarType type = pairs.type;
  TORCH_CHECK_VALUE(!pairs.channel_dimension, kOp, ": expected item_weights of shape [",
                    items.numel(), "], got ", item_weights->sizes());
  const cpu::PairwiseSpec spec = make_log_spec(kOp, surrogate, margin, scale, algorithm);
  const double t = checked_temperature(temperature, kOp);
  widen_if_needed(pairs, spec);
  at::Tensor sums = empty_rows(pairs, at::kDouble), slopes = empty_rows(pairs, at::kDouble);
  at::Tensor masses = empty_rows(pairs, at::kDouble);
  visit_floating(pairs.type, [&](auto zero) {
    using T = decltype(zero);
    const AtenExecutor executor;
    cpu::Scratch scratch;
    const cpu::LogSums<T> call = log_sums_of<T>(pairs, spec, t);
    cpu::make_log_sums(call, log_algorithm_for(call, algorithm), scratch, executor)
        ->rows(sums.mutable_data_ptr<double>(), slopes.mutable_data_ptr<double>(),
               masses.mutable_data_ptr<double>());
  });
  return {sums.to(type), slopes.to(type), masses.to(type)};
}

at::Tensor pairwise_log_sums_columns(const at::Tensor& anchors, const at::Tensor& items,
                                     const std::optional<at::Tensor>& item_weights,
                                     const at::Tensor& anchor_weights, const at::Tensor& masses,
                                     const at::Tensor& scale, const at::Tensor& temperature,
                                     double margin, int64_t surrogate, int64_t algorithm) {
  constexpr const char* kOp = "pairwise_log_sums_columns";
  const NoAutocast no_autocast;
  Pairs pairs = check_pairs(kOp, anchors, items, item_weights, true);
  const at::ScalarType type = pairs.type;
  const cpu::PairwiseSpec spec = make_log_spec(kOp, surrogate, margin, scale, algorithm);
  const double t = checked_temperature(temperature, kOp);
  for (const at::Tensor& rows : {anchor_weights, masses}) {
    TORCH_CHECK_VALUE(rows.numel() == anchors.numel(), kOp,
                      ": expected one anchor weight and one mass per anchor, got ", rows.sizes());
  }
  widen_if_needed(pairs, spec);
  at::Tensor out = at::empty(pairs.items.sizes(), pairs.items.options());
  const at::Tensor weights = doubles(anchor_weights), sums = doubles(masses);
  visit_floating(pairs.type, [&](auto zero) {
    using T = decltype(zero);
    const AtenExecutor executor;
    cpu::Scratch scratch;
    const cpu::LogSums<T> call = log_sums_of<T>(pairs, spec, t);
    cpu::make_log_sums(call, log_algorithm_for(call, algorithm), scratch, executor)
        ->columns(weights.const_data_ptr<double>(), sums.const_data_ptr<double>(),
                  out.mutable_data_ptr<T>());
  });
  return out.to(type);
}

std::tuple<at::Tensor, at::Tensor> surrogate_values(const at::Tensor& differences,
                                                    const at::Tensor& scale, double margin,
                                                    int64_t surrogate) {
  constexpr const char* kOp = "surrogate_values";
  check_floating(differences, kOp, "differences");
  check_cpu(differences, kOp, "differences");
  const cpu::PairwiseSpec spec = make_spec(kOp, surrogate, margin, scale, 0);
  const at::ScalarType type = accumulation_type(differences);
  const at::Tensor d = contiguous_as(differences, type);
  at::Tensor values = at::empty(d.sizes(), d.options());
  at::Tensor slopes = at::empty(d.sizes(), d.options());
  visit_floating(type, [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().surrogate(spec.surrogate, spec.params, d.const_data_ptr<T>(), d.numel(),
                                values.mutable_data_ptr<T>(), slopes.mutable_data_ptr<T>());
  });
  return {values, slopes};
}

}  // namespace xrisk
