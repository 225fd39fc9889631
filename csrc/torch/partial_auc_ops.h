// partial_auc_step_ on the CPU, and its gradient. Included by torch/state_ops.h alone.
#pragma once

#include "cpu/partial_auc_step.h"
#include "torch/attach_gradient.h"
#include "torch/cpu_step.h"
#include "torch/ops.h"
#include "torch/partial_auc_inputs.h"

namespace xrisk {

std::tuple<at::Tensor, at::Tensor> partial_auc_step_(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& dual, const std::optional<at::Tensor>& outer,
    at::TensorList schedules, const at::Tensor& scale, double margin, double max_fpr,
    double min_tpr, double power, int64_t rule, int64_t surrogate, int64_t algorithm,
    bool update_state, bool needs_gradient, bool mean_reduction) {
  constexpr const char* kOp = "partial_auc_step_";
  const NoAutocast no_autocast;
  const PartialInputs inputs = check_partial_step(kOp, scores, labels, index, item_weights, state,
                                                  dual, outer, schedules, rule);
  const PartialParams params = check_partial_params(kOp, max_fpr, min_tpr, power);
  const cpu::PairwiseSpec spec = make_spec(kOp, surrogate, margin, scale, algorithm);
  PartialSchedules<double> now;
  const auto slots = schedule_slots<double>(inputs.rule);
  for (size_t k = 0; k < slots.size(); ++k) {
    const double value = scalar_value(schedules[k], kOp, slots[k].name);
    check_schedule(kOp, slots[k].name, value);
    now.*slots[k].slot = value;
  }
  at::Tensor mask_storage;
  const uint8_t* mask = positives_of(labels, mask_storage);

  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  at::Tensor value =
      at::empty(mean_reduction ? at::IntArrayRef() : at::IntArrayRef({inputs.num_labels}), options);
  std::vector<double> values(static_cast<size_t>(inputs.num_labels), 0.0);
  int64_t bad_entry = -1;
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      const auto rows_of = [&](const std::optional<at::Tensor>& t) -> State* {
        if (!t.has_value()) return nullptr;
        return update_state ? t->mutable_data_ptr<State>()
                            : const_cast<State*>(t->const_data_ptr<State>());
      };
      cpu::PartialAUCStep<T, State> call;
      call.batch = inputs.batch;
      call.labels = inputs.num_labels;
      call.scores = inputs.scores.const_data_ptr<T>();
      call.positive = mask;
      call.weights = inputs.weights.defined() ? inputs.weights.const_data_ptr<T>() : nullptr;
      call.weights_per_label = inputs.weights_per_label;
      call.index = state.has_value() ? inputs.ids.const_data_ptr<int64_t>() : nullptr;
      call.rows = inputs.rows;
      call.values = values.data();
      call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
      call.rule = inputs.rule;
      call.spec = spec;
      call.params = params;
      call.schedules = now;
      call.state = rows_of(state);
      call.dual = rows_of(dual);
      call.outer = rows_of(outer);
      call.write_state = update_state;
      bad_entry = cpu::partial_auc_step(call, AtenExecutor());
      if (bad_entry < 0) reduce_labels(values, mean_reduction, value, gradient);
    });
  });
  if (bad_entry >= 0) check_range(inputs.ids, bad_entry, inputs.rows, kOp);
  for (const auto& written : {state, dual, outer}) {
    if (written.has_value() && update_state) bump_version(*written);
  }
  return {value, gradient};
}

inline auto& partial_auc_step_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::partial_auc_step_", "")
                             .typed<decltype(partial_auc_step_)>();
  return op;
}

std::tuple<at::Tensor, at::Tensor> partial_auc_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& dual, const std::optional<at::Tensor>& outer,
    at::TensorList schedules, const at::Tensor& scale, double margin, double max_fpr,
    double min_tpr, double power, int64_t rule, int64_t surrogate, int64_t algorithm,
    bool update_state, bool needs_gradient, bool mean_reduction) {
  std::tuple<at::Tensor, at::Tensor> result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = partial_auc_step_op().call(
        scores, labels, index, item_weights, state, dual, outer, schedules, scale, margin, max_fpr,
        min_tpr, power, rule, surrogate, algorithm, update_state, needs_gradient, mean_reduction);
  }
  // A compiled graph asks for the gradient with grad mode off: it attaches it by itself.
  if (needs_gradient && scores.requires_grad() && at::GradMode::is_enabled()) {
    attach_gradient(scores, std::get<0>(result), std::get<1>(result));
  }
  return result;
}

at::Tensor partial_auc_step(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& dual, const std::optional<at::Tensor>& outer,
    const std::vector<at::Tensor>& schedules, const at::Tensor& scale, double margin,
    double max_fpr, double min_tpr, double power, int64_t rule, int64_t surrogate,
    int64_t algorithm, bool update_state, bool mean_reduction) {
  const bool needs_gradient = scores.requires_grad() && at::GradMode::is_enabled();
  return std::get<0>(partial_auc_step_op().call(
      scores, labels, index, item_weights, state, dual, outer, schedules, scale, margin, max_fpr,
      min_tpr, power, rule, surrogate, algorithm, update_state, needs_gradient, mean_reduction));
}

}  // namespace xrisk
