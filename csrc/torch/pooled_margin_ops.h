// The step of MIDAM on the CPU. Included once, by torch/state_ops.h.
#pragma once

#include "cpu/moving_average.h"
#include "cpu/pooled_margin_step.h"
#include "torch/attach_gradient.h"
#include "torch/cpu_step.h"
#include "torch/ops.h"
#include "torch/state_inputs.h"

namespace xrisk {

// One number a bag: [B] or [B, 1].
inline at::Tensor check_bags(const char* op, const char* name, const at::Tensor& t,
                             const at::Tensor& like, at::ScalarType type) {
  check_floating(t, op, name);
  check_device(t, like, op, name);
  TORCH_CHECK_VALUE((t.dim() == 1 || (t.dim() == 2 && t.size(1) == 1)) && t.size(0) == like.size(0),
                    op, ": expected ", name, " of shape [", like.dim() == 0 ? 0 : like.size(0),
                    "] or the same with one column, got ", t.sizes());
  return contiguous_as(t, type);
}

PooledMarginOutputs pooled_margin_step_(
    bool needs_gradient, const at::Tensor& values, const std::optional<at::Tensor>& denominators,
    const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_denominators,
    const at::Tensor& a, const at::Tensor& b, const at::Tensor& alpha, const at::Tensor& gamma,
    double tau) {
  constexpr const char* kOp = "pooled_margin_step_";
  const NoAutocast no_autocast;
  TORCH_CHECK_VALUE(values.dim() > 0, kOp, ": expected values of shape [B], got ", values.sizes());
  const at::ScalarType type = accumulation_type(values);
  const at::Tensor observed = check_bags(kOp, "values", values, values, type);
  at::Tensor divisors;
  if (denominators.has_value()) {
    divisors = check_bags(kOp, "denominators", *denominators, values, type);
  }
  check_device(labels, values, kOp, "labels");
  TORCH_CHECK_VALUE(labels.numel() == values.numel(), kOp, ": expected labels of shape [",
                    values.size(0), "], got ", labels.sizes());
  at::Tensor mask_storage, ids;
  const uint8_t* mask = positives_of(labels, mask_storage);
  const double weight = scalar_value(gamma, kOp, "gamma");
  check_gamma(weight, kOp);
  if (state.has_value()) {
    TORCH_CHECK_VALUE(state_denominators.has_value() == denominators.has_value(), kOp,
                      ": expected state of the denominators together with them");
    for (const at::Tensor& each : {*state, state_denominators.value_or(*state)}) {
      check_state(each, values, kOp);
      TORCH_CHECK_VALUE(each.dim() == 1 && each.numel() == state->numel(), kOp,
                        ": expected state of shape [N], got ", each.sizes());
      TORCH_CHECK_TYPE(each.scalar_type() == state->scalar_type(), kOp,
                       ": expected state of one dtype, got ", each.scalar_type());
    }
    TORCH_CHECK_VALUE(index.has_value(), kOp, ": expected index, the ids of the bags, got None");
    check_device(*index, values, kOp, "index");
    ids = checked_index(*index, values.size(0), kOp);
    check_range(ids,
                cpu::find_out_of_range(ids.const_data_ptr<int64_t>(), ids.numel(), state->numel(),
                                       AtenExecutor()),
                state->numel(), kOp);
  }
  const auto options = observed.options();
  at::Tensor by_values = at::empty(needs_gradient ? values.sizes() : at::IntArrayRef({0}), options);
  const bool both = needs_gradient && divisors.defined();
  at::Tensor by_denominators =
      at::empty(both ? denominators->sizes() : at::IntArrayRef({0}), options);
  at::Tensor value = at::empty({}, options);
  at::Tensor by_a = at::empty(a.sizes(), options), by_b = at::empty(b.sizes(), options);
  visit_floating(type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cpu::PooledMarginStep<T, State> call;
      call.values = observed.const_data_ptr<T>();
      if (divisors.defined()) call.denominators = divisors.const_data_ptr<T>();
      call.positive = mask;
      call.batch = values.size(0);
      if (state.has_value()) {
        call.index = ids.const_data_ptr<int64_t>();
        call.state = state->mutable_data_ptr<State>();
        call.rows = state->numel();
        if (divisors.defined()) {
          call.state_denominators = state_denominators->mutable_data_ptr<State>();
        }
      }
      call.gamma = weight;
      call.tau = tau;
      call.a = scalar_value(a, kOp, "a");
      call.b = scalar_value(b, kOp, "b");
      call.alpha = scalar_value(alpha, kOp, "alpha");
      if (needs_gradient) call.by_values = by_values.mutable_data_ptr<T>();
      if (both) call.by_denominators = by_denominators.mutable_data_ptr<T>();
      const cpu::PooledMarginResult result = cpu::pooled_margin_step(call, AtenExecutor());
      *value.mutable_data_ptr<T>() = static_cast<T>(result.value);
      *by_a.mutable_data_ptr<T>() = static_cast<T>(result.by_a);
      *by_b.mutable_data_ptr<T>() = static_cast<T>(result.by_b);
    });
  });
  for (const std::optional<at::Tensor>& each : {state, state_denominators}) {
    if (each.has_value()) bump_version(*each);
  }
  return {value, by_values, by_denominators, by_a, by_b};
}

inline auto& pooled_margin_step_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::pooled_margin_step_", "")
                             .typed<decltype(pooled_margin_step_)>();
  return op;
}

PooledMarginOutputs pooled_margin_step_autograd(
    bool needs_gradient, const at::Tensor& values, const std::optional<at::Tensor>& denominators,
    const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_denominators,
    const at::Tensor& a, const at::Tensor& b, const at::Tensor& alpha, const at::Tensor& gamma,
    double tau) {
  PooledMarginOutputs result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = pooled_margin_step_op().call(needs_gradient, values, denominators, labels, index,
                                          state, state_denominators, a, b, alpha, gamma, tau);
  }
  if (!needs_gradient || !at::GradMode::is_enabled()) return result;
  const auto& [value, by_values, by_denominators, by_a, by_b] = result;
  const bool wanted = values.requires_grad() || a.requires_grad() || b.requires_grad() ||
                      (denominators.has_value() && denominators->requires_grad());
  if (!wanted) return result;
  if (denominators.has_value()) {
    attach_gradients({{values, by_values}, {*denominators, by_denominators}, {a, by_a}, {b, by_b}},
                     value);
  } else {
    attach_gradients({{values, by_values}, {a, by_a}, {b, by_b}}, value);
  }
  return result;
}

// The value of the op, with less to convert than through torch.ops.
at::Tensor pooled_margin(const at::Tensor& values, const std::optional<at::Tensor>& denominators,
                         const at::Tensor& labels, const std::optional<at::Tensor>& index,
                         const std::optional<at::Tensor>& state,
                         const std::optional<at::Tensor>& state_denominators, const at::Tensor& a,
                         const at::Tensor& b, const at::Tensor& alpha, const at::Tensor& gamma,
                         double tau) {
  const bool any = values.requires_grad() || a.requires_grad() || b.requires_grad() ||
                   (denominators.has_value() && denominators->requires_grad());
  return std::get<0>(pooled_margin_step_op().call(any && at::GradMode::is_enabled(), values,
                                                  denominators, labels, index, state,
                                                  state_denominators, a, b, alpha, gamma, tau));
}

}  // namespace xrisk
