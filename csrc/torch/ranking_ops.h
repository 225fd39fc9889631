// The fused step of the ranking losses on the CPU. Included by state_ops.h alone.
#pragma once

#include <limits>

#include "cpu/ranking_step.h"
#include "torch/ops.h"
#include "torch/ranking_inputs.h"

namespace xrisk {

namespace ranking {

// Relevance in a type that the kernel reads.
inline at::Tensor readable(const at::Tensor& relevance, cpu::RelevanceType& type) {
  switch (relevance.scalar_type()) {
    case at::kFloat:
      type = cpu::RelevanceType::kFloat;
      return relevance;
    case at::kInt:
      type = cpu::RelevanceType::kInt32;
      return relevance;
    case at::kLong:
      type = cpu::RelevanceType::kInt64;
      return relevance;
    case at::kBool:
    case at::kByte:
      type = cpu::RelevanceType::kByte;
      return relevance;
    default:
      type = cpu::RelevanceType::kDouble;
      return contiguous_as(relevance, at::kDouble);
  }
}

inline void check_sizes(const QuerySizes& sizes, bool zero, const char* op, const char* name) {
  for (int64_t q = 0; sizes.values.defined() && q < sizes.values.numel(); ++q) {
    const double size = sizes.data()[q];
    TORCH_CHECK_VALUE(std::isfinite(size) && (zero ? size >= 0 : size > 0), op, ": expected ", name,
                      zero ? " >= 0" : " > 0", " and finite, got ", size);
  }
}

inline void check_offsets(const RankingInputs& inputs, const char* op) {
  if (!inputs.offsets.defined()) return;
  const int64_t* at = inputs.offsets.const_data_ptr<int64_t>();
  bool good = at[0] == 0 && at[inputs.queries] == inputs.entries;
  for (int64_t q = 0; q < inputs.queries; ++q) good &= at[q] <= at[q + 1];
  TORCH_CHECK_VALUE(good, op, ": expected offsets to ascend from 0 to the ", inputs.entries,
                    " scores");
}

// A schedule's value, in its range.
inline double schedule(const at::Tensor& t, const char* op, const char* name, double low,
                       double high) {
  const double value = scalar_value(t, op, name);
  TORCH_CHECK_VALUE(value >= low && value <= high, op, ": expected ", name, " in [", low, ", ",
                    high, "], got ", value);
  return value;
}

constexpr double kLargest = std::numeric_limits<double>::max();
constexpr double kSmallest = std::numeric_limits<double>::min();

template <class State>
void read_schedules(cpu::TopKTerms<State>& terms, at::TensorList schedules, const char* op) {
  terms.gamma1 = schedule(schedules[0], op, "gamma1", 0, 1);
  terms.eta0 = schedule(schedules[1], op, "eta0", 0, kLargest);
  terms.tau1 = schedule(schedules[2], op, "tau1", kSmallest, kLargest);
  terms.tau2 = schedule(schedules[3], op, "tau2", 0, kLargest);
  terms.alpha = schedule(schedules[4], op, "sigmoid_alpha", kSmallest, kLargest);
}

inline void raise(const cpu::RankingError& error, const RankingInputs& inputs, int64_t queries,
                  const char* op) {
  const int64_t at = error.position;
  switch (error.kind) {
    case cpu::RankingError::kNone:
      return;
    case cpu::RankingError::kPairIndex:
      TORCH_CHECK_INDEX(
          false, op, ": expected ", inputs.transposed ? "index" : "pair_index", " in [0, ",
          inputs.rows, ") where relevance > 0, got ",
          inputs.pair_index.const_data_ptr<int64_t>()[inputs.transposed ? at % inputs.length : at]);
    case cpu::RankingError::kQueryIndex:
      TORCH_CHECK_INDEX(false, op, ": expected query_index in [0, ", queries, "), got ",
                        inputs.query_index.const_data_ptr<int64_t>()[at], " at position ", at);
    case cpu::RankingError::kRelevance:
      TORCH_CHECK_VALUE(false, op,
                        ": expected relevance below 1024, whose gain is 2^relevance - 1, got more "
                        "at position ",
                        at);
  }
}

}  // namespace ranking

std::tuple<at::Tensor, at::Tensor> ranking_step_(
    bool needs_gradient, const at::Tensor& scores, const at::Tensor& relevance,
    const std::optional<at::Tensor>& pair_index, const std::optional<at::Tensor>& query_index,
    const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& offsets,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& num_items,
    const std::optional<at::Tensor>& num_relevant, const std::optional<at::Tensor>& ideal_dcg,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& thresholds,
    const std::optional<at::Tensor>& curvatures, const at::Tensor& gamma, const at::Tensor& scale,
    at::TensorList schedules, double margin, double epsilon, int64_t top_k, int64_t rule,
    int64_t options, int64_t surrogate, int64_t algorithm, bool update_state, bool mean_reduction) {
  constexpr const char* kOp = "ranking_step_";
  const NoAutocast no_autocast;
  const RankingInputs inputs =
      check_ranking(kOp, scores, relevance, pair_index, query_index, mask, offsets, item_weights,
                    num_items, num_relevant, ideal_dcg, state, thresholds, curvatures, schedules,
                    epsilon, top_k, rule, options);
  ranking::check_offsets(inputs, kOp);
  ranking::check_sizes(inputs.num_items, false, kOp, "num_items");
  ranking::check_sizes(inputs.num_relevant, true, kOp, "num_relevant");
  ranking::check_sizes(inputs.ideal_dcg, true, kOp, "ideal_dcg");
  const double gamma_value = ranking::schedule(gamma, kOp, "gamma", 0, 1);
  const cpu::PairwiseSpec spec = make_spec(kOp, surrogate, margin, scale, algorithm);

  const int64_t queries = inputs.queries;
  const auto tensor_options = inputs.scores.options();
  at::Tensor gradient = needs_gradient ? at::empty(inputs.scores.sizes(), tensor_options)
                                       : at::empty({0}, tensor_options);
  at::Tensor value =
      at::empty(mean_reduction ? at::IntArrayRef() : at::IntArrayRef({queries}), tensor_options);
  const at::Tensor values = at::empty({queries}, tensor_options.dtype(at::kDouble));
  const bool any_state = state.has_value() || inputs.keeps_thresholds;
  const at::ScalarType state_type = state.has_value()         ? state->scalar_type()
                                    : inputs.keeps_thresholds ? thresholds->scalar_type()
                                                              : at::kFloat;
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state_type, [&](auto state_zero) {
      using State = decltype(state_zero);
      const auto data = [&](const at::Tensor& t) {
        return update_state ? t.mutable_data_ptr<State>()
                            : const_cast<State*>(t.const_data_ptr<State>());
      };
      cpu::RankingStep<T, State> call;
      call.rule = inputs.rule;
      call.spec = spec;
      call.options = static_cast<int>(options);
      call.lists = inputs.lists();
      call.scores = inputs.scores.const_data_ptr<T>();
      const at::Tensor readable = ranking::readable(inputs.relevance, call.relevance_type);
      call.relevance = readable.const_data_ptr();
      if (inputs.mask.defined()) {
        call.mask = static_cast<const uint8_t*>(inputs.mask.const_data_ptr());
      }
      if (inputs.weights.defined()) call.weights = inputs.weights.const_data_ptr<T>();
      call.num_items = inputs.num_items.data();
      call.num_relevant = inputs.num_relevant.data();
      call.ideal_dcg = inputs.ideal_dcg.data();
      call.sizes_per_query[0] = inputs.num_items.per_query;
      call.sizes_per_query[1] = inputs.num_relevant.per_query;
      call.sizes_per_query[2] = inputs.ideal_dcg.per_query;
      if (state.has_value()) {
        call.pair_index = inputs.pair_index.const_data_ptr<int64_t>();
        call.state = data(*state);
        call.rows = inputs.rows;
      }
      call.gamma = gamma_value;
      call.write_state = update_state;
      call.top_k.k = top_k;
      call.top_k.epsilon = epsilon;
      if (top_k > 0) ranking::read_schedules(call.top_k, schedules, kOp);
      if (inputs.keeps_thresholds) {
        call.top_k.thresholds = data(*thresholds);
        call.top_k.curvatures = data(*curvatures);
        call.top_k.rows = thresholds->numel();
        if (!inputs.transposed) {
          call.top_k.query_index = inputs.query_index.const_data_ptr<int64_t>();
        }
      }
      double* each = values.mutable_data_ptr<double>();
      call.values = each;
      if (mean_reduction && queries > 0) call.gradient_factor = 1.0 / static_cast<double>(queries);
      if (needs_gradient) call.gradient = gradient.mutable_data_ptr<T>();
      const cpu::RankingError error = cpu::ranking_step(call, AtenExecutor());
      ranking::raise(error, inputs, call.top_k.rows, kOp);
      T* out = value.mutable_data_ptr<T>();
      if (!mean_reduction) {
        for (int64_t q = 0; q < queries; ++q) out[q] = static_cast<T>(each[q]);
        return;
      }
      double total = 0;
      for (int64_t q = 0; q < queries; ++q) total += each[q];
      *out = queries == 0 ? T(0) : static_cast<T>(total / static_cast<double>(queries));
    });
  });
  if (any_state && update_state) {
    if (state.has_value()) bump_version(*state);
    if (inputs.keeps_thresholds) {
      bump_version(*thresholds);
      bump_version(*curvatures);
    }
  }
  if (inputs.transposed && needs_gradient) gradient = gradient.t().contiguous();
  return {value, gradient};
}

}  // namespace xrisk
