// The step of the compositional entropic risk on logits, on the CPU. Included once, by
// torch/state_ops.h.
#pragma once

#include "cpu/entropic_step.h"
#include "torch/entropic_inputs.h"
#include "torch/ops.h"

namespace xrisk {

std::tuple<at::Tensor, at::Tensor> entropic_step_(bool needs_gradient, const at::Tensor& logits,
                                                  const std::optional<at::Tensor>& index,
                                                  const std::optional<at::Tensor>& state,
                                                  at::TensorList schedules, bool update_state) {
  constexpr const char* kOp = "entropic_step_";
  const NoAutocast no_autocast;
  check_floating(logits, kOp, "logits");
  TORCH_CHECK_VALUE(logits.dim() == 2 && logits.size(1) > 0, kOp,
                    ": expected logits of shape [B, K], K > 0, got ", logits.sizes());
  const EntropicStateInputs inputs =
      check_entropic_state(kOp, logits, logits.size(0), index, state, schedules);
  const at::ScalarType type = accumulation_type(logits);
  const at::Tensor rows = contiguous_as(logits, type);
  at::Tensor gradient =
      at::empty(needs_gradient ? logits.sizes() : at::IntArrayRef({0}), rows.options());
  at::Tensor value = at::empty({}, rows.options());
  visit_floating(type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cpu::EntropicStep<T, State> call;
      call.logits = rows.const_data_ptr<T>();
      call.batch = logits.size(0);
      call.classes = logits.size(1);
      call.state = inputs.rows_of<State>(state, update_state);
      call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
      *value.mutable_data_ptr<T>() = static_cast<T>(cpu::entropic_step(call, AtenExecutor()));
    });
  });
  if (state.has_value() && update_state) bump_version(*state);
  return {value, gradient};
}

}  // namespace xrisk
