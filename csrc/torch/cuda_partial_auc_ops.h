// partial_auc_step_ on CUDA. Included by torch/cuda_ops.cpp alone.
#pragma once

#include "cuda/partial_auc_step.h"
#include "torch/cuda_common.h"
#include "torch/partial_auc_inputs.h"

namespace xrisk {

inline std::tuple<at::Tensor, at::Tensor> partial_auc_step_cuda_(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& dual, const std::optional<at::Tensor>& outer,
    at::TensorList schedules, const at::Tensor& scale, double margin, double max_fpr,
    double min_tpr, double power, int64_t rule, int64_t surrogate, int64_t algorithm,
    bool update_state, bool needs_gradient, bool mean_reduction) {
  constexpr const char* kOp = "partial_auc_step_";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(scores.device());
  const PartialInputs inputs = check_partial_step(kOp, scores, labels, index, item_weights, state,
                                                  dual, outer, schedules, rule);
  const PartialParams params = check_partial_params(kOp, max_fpr, min_tpr, power);
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, algorithm);
  const at::Tensor factor = device_number(scale, scores, kOp, "scale");
  std::vector<at::Tensor> numbers;  // alive until the launch
  PartialSchedules<const double*> now;
  const auto slots = schedule_slots<const double*>(inputs.rule);
  for (size_t k = 0; k < slots.size(); ++k) {
    numbers.push_back(device_number(schedules[k], scores, kOp, slots[k].name));
    now.*slots[k].slot = numbers.back().const_data_ptr<double>();
    if (debugging()) check_schedule(kOp, slots[k].name, numbers.back().item<double>());
  }
  // The anchors of the push are the negatives: the other class, with scores of the other sign.
  const bool reversed = inputs.rule == PartialRule::kPNormPush;
  const at::Tensor positive = labels.gt(0);
  const at::Tensor anchors = (reversed ? positive.logical_not() : positive).contiguous();
  const at::Tensor h = reversed ? inputs.scores.neg() : inputs.scores;
  if (debugging()) {
    debug_check_scale(kOp, spec, factor);
    debug_check_weights(kOp, inputs.weights, true);
    if (state.has_value()) {
      const at::Tensor any = inputs.num_labels == 1 ? anchors.reshape({-1}) : anchors.any(1);
      debug_check_range(kOp, inputs.ids.masked_select(any), inputs.rows);
    }
  }
  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  at::Tensor values = at::empty({inputs.num_labels}, options);
  at::Tensor mean = mean_reduction ? at::empty({}, options) : values;
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      const auto rows_of = [&](const std::optional<at::Tensor>& t) -> State* {
        if (!t.has_value()) return nullptr;
        return update_state ? t->mutable_data_ptr<State>()
                            : const_cast<State*>(t->const_data_ptr<State>());
      };
      cuda::PartialAUCStep<T, State> call;
      call.rule = inputs.rule;
      call.params = params;
      call.schedules = now;
      call.dual = rows_of(dual);
      call.outer = rows_of(outer);
      cuda::ScoreStep<T, State>& batch = call.batch;
      batch.rule = Rule::kPairwiseAUC;  // items are those that are not anchors
      batch.surrogate = spec.surrogate;
      batch.algorithm = spec.algorithm;
      batch.margin = margin;
      batch.scale = factor.const_data_ptr<double>();
      batch.batch = inputs.batch;
      batch.labels = static_cast<int>(inputs.num_labels);
      batch.scores = h.const_data_ptr<T>();
      batch.positive.data = anchors.const_data_ptr();
      batch.weights = inputs.weights.defined() ? inputs.weights.const_data_ptr<T>() : nullptr;
      batch.weights_per_label = inputs.weights_per_label;
      batch.index = state.has_value() ? inputs.ids.const_data_ptr<int64_t>() : nullptr;
      batch.state = rows_of(state);
      batch.rows = inputs.rows;
      batch.write_state = update_state;
      batch.mean_reduction = mean_reduction;
      batch.values = values.mutable_data_ptr<T>();
      batch.mean_value = mean_reduction ? mean.mutable_data_ptr<T>() : nullptr;
      batch.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
      const size_t bytes = cuda::partial_auc_step_workspace_bytes(call);
      const at::Tensor space = workspace_like(scores, bytes);
      C10_CUDA_CHECK(
          cuda::launch_partial_auc_step(call, space.mutable_data_ptr(), bytes, stream_of(scores)));
    });
  });
  for (const auto& written : {state, dual, outer}) {
    if (written.has_value() && update_state) bump_version(*written);
  }
  return {mean, gradient};
}

}  // namespace xrisk
