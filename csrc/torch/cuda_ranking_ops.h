// The fused step of the ranking losses on CUDA. Included by cuda_ops.cpp alone.
#pragma once

#include "cuda/ranking_step.h"
#include "torch/cuda_common.h"
#include "torch/ops.h"
#include "torch/ranking_inputs.h"

namespace xrisk {

// What only XRISK_DEBUG=1 looks at.
inline void debug_check_ranking(const char* op, const RankingInputs& inputs,
                                const std::optional<at::Tensor>& state,
                                const std::optional<at::Tensor>& thresholds) {
  if (!debugging()) return;
  debug_check_weights(op, inputs.weights, true);
  const at::Tensor relevant = inputs.relevance.gt(0);
  if (state.has_value() && !inputs.transposed) {
    debug_check_range(op, inputs.pair_index.masked_select(relevant), inputs.rows);
  }
  if (inputs.keeps_thresholds && !inputs.transposed) {
    debug_check_range(op, inputs.query_index, thresholds->numel());
  }
  if (inputs.offsets.defined()) {
    const bool ascending = inputs.offsets.diff().ge(0).all().item<bool>();
    const bool whole = inputs.offsets[0].item<int64_t>() == 0 &&
                       inputs.offsets[-1].item<int64_t>() == inputs.entries;
    TORCH_CHECK_VALUE(ascending && whole, op, ": expected offsets to ascend from 0 to the ",
                      inputs.entries, " scores");
  }
  for (const QuerySizes& sizes : {inputs.num_items, inputs.num_relevant, inputs.ideal_dcg}) {
    if (!sizes.values.defined()) continue;
    const at::Tensor good = sizes.values.ge(0).logical_and(sizes.values.isfinite());
    TORCH_CHECK_VALUE(good.all().item<bool>(), op,
                      ": expected num_items, num_relevant and ideal_dcg >= 0 and finite");
  }
}

inline std::tuple<at::Tensor, at::Tensor> ranking_step_cuda_(
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
  const c10::cuda::CUDAGuard guard(scores.device());
  const RankingInputs inputs =
      check_ranking(kOp, scores, relevance, pair_index, query_index, mask, offsets, item_weights,
                    num_items, num_relevant, ideal_dcg, state, thresholds, curvatures, schedules,
                    epsilon, top_k, rule, options);
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, algorithm);
  const at::Tensor factor = device_number(scale, scores, kOp, "scale");
  const at::Tensor weight = device_number(gamma, scores, kOp, "gamma");
  constexpr const char* kNames[] = {"gamma1", "eta0", "tau1", "tau2", "sigmoid_alpha"};
  at::Tensor numbers[5];
  for (size_t k = 0; top_k > 0 && k < 5; ++k) {
    numbers[k] = device_number(schedules[k], scores, kOp, kNames[k]);
  }
  debug_check_scale(kOp, spec, factor);
  debug_check_gamma(kOp, weight);
  debug_check_ranking(kOp, inputs, state, thresholds);

  const int64_t queries = inputs.queries;
  const auto tensor_options = inputs.scores.options();
  const at::Tensor gains = contiguous_as(inputs.relevance, at::kDouble);
  at::Tensor gradient = needs_gradient ? at::empty(inputs.scores.sizes(), tensor_options)
                                       : at::empty({0}, tensor_options);
  at::Tensor values = at::empty({queries}, tensor_options);
  at::Tensor mean = mean_reduction ? at::empty({}, tensor_options) : values;
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
      cuda::RankingStep<T, State> call;
      call.rule = inputs.rule;
      call.surrogate = spec.surrogate;
      call.options = static_cast<int>(options);
      call.margin = margin;
      call.scale = factor.const_data_ptr<double>();
      call.gamma = weight.const_data_ptr<double>();
      call.lists = inputs.lists();
      call.entries = inputs.entries;
      call.scores = inputs.scores.const_data_ptr<T>();
      call.relevance = gains.const_data_ptr<double>();
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
      call.write_state = update_state;
      call.mean_reduction = mean_reduction;
      call.top_k.k = top_k;
      call.top_k.epsilon = epsilon;
      if (top_k > 0) {
        call.top_k.gamma1 = numbers[0].const_data_ptr<double>();
        call.top_k.eta0 = numbers[1].const_data_ptr<double>();
        call.top_k.tau1 = numbers[2].const_data_ptr<double>();
        call.top_k.tau2 = numbers[3].const_data_ptr<double>();
        call.top_k.alpha = numbers[4].const_data_ptr<double>();
      }
      if (inputs.keeps_thresholds) {
        call.top_k.thresholds = data(*thresholds);
        call.top_k.curvatures = data(*curvatures);
        call.top_k.rows = thresholds->numel();
        if (!inputs.transposed) {
          call.top_k.query_index = inputs.query_index.const_data_ptr<int64_t>();
        }
      }
      call.values = values.mutable_data_ptr<T>();
      call.mean_value = mean_reduction ? mean.mutable_data_ptr<T>() : nullptr;
      call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
      const size_t bytes = cuda::ranking_step_workspace_bytes(call);
      const at::Tensor space = workspace_like(scores, bytes);
      C10_CUDA_CHECK(
          cuda::launch_ranking_step(call, space.mutable_data_ptr(), bytes, stream_of(scores)));
    });
  });
  if (update_state && state.has_value()) bump_version(*state);
  if (update_state && inputs.keeps_thresholds) {
    bump_version(*thresholds);
    bump_version(*curvatures);
  }
  if (inputs.transposed && needs_gradient) gradient = gradient.t().contiguous();
  return {mean, gradient};
}

}  // namespace xrisk
