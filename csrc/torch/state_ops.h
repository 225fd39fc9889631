// The ops that write state on the CPU: P2, and the fused step of the score losses.
//
// The gradient of a fused step is known in its forward; torch/attach_gradient.h hands it to
// autograd. Included by module.cpp alone.
#pragma once

#include <cmath>
#include <vector>

#include "cpu/moving_average.h"
#include "cpu/score_step.h"
#include "torch/attach_gradient.h"
#include "torch/cpu_step.h"
#include "torch/entropic_ops.h"
#include "torch/moment_ops.h"
#include "torch/ops.h"
#include "torch/partial_auc_ops.h"
#include "torch/pooled_margin_ops.h"
#include "torch/ranked_precision_ops.h"
#include "torch/ranking_ops.h"
#include "torch/state_inputs.h"

namespace xrisk {
namespace {

auto& score_step_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::score_step_", "")
                             .typed<decltype(score_step_)>();
  return op;
}

}  // namespace

at::Tensor moving_average_update_(const at::Tensor& state, const at::Tensor& index,
                                  const at::Tensor& values, const at::Tensor& gamma, bool log) {
  constexpr const char* kOp = "moving_average_update_";
  const NoAutocast no_autocast;
  const UpdateInputs inputs = check_update(kOp, state, index, values, gamma);
  check_cpu(gamma, kOp, "gamma");
  const at::Tensor gammas = contiguous_as(gamma, at::kDouble);
  for (int64_t k = 0; k < gammas.numel(); ++k) check_gamma(gammas.const_data_ptr<double>()[k], kOp);

  const AtenExecutor executor;
  const int64_t outside = cpu::find_out_of_range(inputs.ids.const_data_ptr<int64_t>(),
                                                 inputs.ids.numel(), state.size(0), executor);
  check_range(inputs.ids, outside, state.size(0), kOp);
  return update_state<cpu::MovingAverage>(state, inputs, values, gammas, log, [&](auto& call) {
    cpu::Scratch scratch;
    cpu::moving_average_update(call, scratch, executor);
  });
}

std::tuple<at::Tensor, at::Tensor> score_step_(const at::Tensor& scores, const at::Tensor& labels,
                                               const std::optional<at::Tensor>& index,
                                               const std::optional<at::Tensor>& item_weights,
                                               const std::optional<at::Tensor>& state,
                                               const at::Tensor& gamma, const at::Tensor& scale,
                                               double margin, int64_t rule, int64_t surrogate,
                                               int64_t algorithm, bool update_state,
                                               bool needs_gradient, bool mean_reduction) {
  constexpr const char* kOp = "score_step_";
  const NoAutocast no_autocast;
  const StepInputs inputs = check_step(kOp, scores, labels, index, item_weights, state, rule);
  const int64_t batch = inputs.batch, num_labels = inputs.num_labels, rows = inputs.rows;
  const at::ScalarType type = inputs.type;
  const at::Tensor &h = inputs.scores, &weights = inputs.weights, &ids = inputs.ids;
  at::Tensor mask_storage;
  const uint8_t* mask = positives_of(labels, mask_storage);
  const double gamma_value = scalar_value(gamma, kOp, "gamma");
  check_gamma(gamma_value, kOp);
  const cpu::PairwiseSpec spec = make_spec(kOp, surrogate, margin, scale, algorithm);

  at::Tensor gradient =
      at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), h.options());
  at::Tensor value =
      at::empty(mean_reduction ? at::IntArrayRef() : at::IntArrayRef({num_labels}), h.options());
  std::vector<double> values(static_cast<size_t>(num_labels), 0.0);
  int64_t bad_entry = -1;
  visit_floating(type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cpu::ScoreStep<T, State> call;
      call.rule = static_cast<Rule>(rule);
      call.spec = spec;
      call.batch = batch;
      call.labels = num_labels;
      call.scores = h.const_data_ptr<T>();
      call.positive = mask;
      call.weights = weights.defined() ? weights.const_data_ptr<T>() : nullptr;
      call.weights_per_label = inputs.weights_per_label;
      if (state.has_value()) {
        call.index = ids.const_data_ptr<int64_t>();
        call.state = update_state ? state->mutable_data_ptr<State>()
                                  : const_cast<State*>(state->const_data_ptr<State>());
        call.rows = rows;
      }
      call.gamma = gamma_value;
      call.write_state = update_state;
      call.values = values.data();
      call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
      bad_entry = cpu::score_step(call, AtenExecutor());
      if (bad_entry < 0) reduce_labels(values, mean_reduction, value, gradient);
    });
  });
  if (bad_entry >= 0) check_range(ids, bad_entry, rows, kOp);
  if (state.has_value() && update_state) bump_version(*state);
  return {value, gradient};
}

std::tuple<at::Tensor, at::Tensor> score_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const at::Tensor& gamma, const at::Tensor& scale, double margin, int64_t rule,
    int64_t surrogate, int64_t algorithm, bool update_state, bool needs_gradient,
    bool mean_reduction) {
  std::tuple<at::Tensor, at::Tensor> result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result =
        score_step_op().call(scores, labels, index, item_weights, state, gamma, scale, margin, rule,
                             surrogate, algorithm, update_state, needs_gradient, mean_reduction);
  }
  // A compiled graph asks for the gradient with grad mode off: it attaches it by itself.
  if (needs_gradient && scores.requires_grad() && at::GradMode::is_enabled()) {
    attach_gradient(scores, std::get<0>(result), std::get<1>(result));
  }
  return result;
}

at::Tensor score_step(const at::Tensor& scores, const at::Tensor& labels,
                      const std::optional<at::Tensor>& index,
                      const std::optional<at::Tensor>& item_weights,
                      const std::optional<at::Tensor>& state, const at::Tensor& gamma,
                      const at::Tensor& scale, double margin, int64_t rule, int64_t surrogate,
                      int64_t algorithm, bool update_state, bool mean_reduction) {
  const bool needs_gradient = scores.requires_grad() && at::GradMode::is_enabled();
  return std::get<0>(score_step_op().call(scores, labels, index, item_weights, state, gamma, scale,
                                          margin, rule, surrogate, algorithm, update_state,
                                          needs_gradient, mean_reduction));
}

}  // namespace xrisk
