// The fused step of queries against keys on the CPU: value and gradients, one product for each.
// Included by torch/pairwise_ops.h only.
#pragma once

#include <tuple>

#include "cpu/query_step.h"
#include "cpu/queue.h"
#include "torch/contrastive_ops.h"
#include "torch/entropic_inputs.h"

namespace xrisk {

// A row of its own for every query, or the number of a key.
inline at::Tensor check_positives(const char* op, const ContrastiveInputs& inputs,
                                  const at::Tensor& queries,
                                  const std::optional<at::Tensor>& positives,
                                  const std::optional<at::Tensor>& targets) {
  TORCH_CHECK_VALUE(positives.has_value() != targets.has_value(), op,
                    ": expected either positives or targets");
  if (positives.has_value()) {
    check_floating(*positives, op, "positives");
    check_device(*positives, queries, op, "positives");
    TORCH_CHECK_VALUE(positives->sizes() == queries.sizes(), op,
                      ": expected positives of the shape of queries, ", queries.sizes(), ", got ",
                      positives->sizes());
    return contiguous_as(*positives, inputs.type);
  }
  check_device(*targets, queries, op, "targets");
  TORCH_CHECK_TYPE(targets->scalar_type() == at::kLong || targets->scalar_type() == at::kInt, op,
                   ": expected targets to be int64 or int32, got ", targets->scalar_type());
  TORCH_CHECK_VALUE(targets->dim() == 1 && targets->numel() == inputs.count, op,
                    ": expected targets of shape [", inputs.count, "], got ", targets->sizes());
  at::Tensor numbers = contiguous_as(*targets, at::kLong);
  const int64_t* data = numbers.const_data_ptr<int64_t>();
  const int64_t bad = cpu::find_out_of_range(data, inputs.count, inputs.keys_count, AtenExecutor());
  TORCH_CHECK_INDEX(bad < 0, op, ": expected targets in [0, ", inputs.keys_count, "), got ",
                    data[bad < 0 ? 0 : bad], " at position ", bad);
  return numbers;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> query_step_(
    const at::Tensor& queries, const at::Tensor& keys, const std::optional<at::Tensor>& positives,
    const std::optional<at::Tensor>& targets, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, at::TensorList schedules, const at::Tensor& temperature,
    bool normalize, bool update_state, bool for_queries, bool for_keys) {
  constexpr const char* kOp = "query_step_";
  const NoAutocast no_autocast;
  const ContrastiveInputs inputs = check_contrastive(kOp, queries, keys, temperature, std::nullopt);
  TORCH_CHECK_VALUE(inputs.keys_count > 0, kOp, ": expected at least one key, got ", keys.sizes());
  const double tau = checked_temperature(temperature, kOp, "temperature");
  const at::Tensor chosen = check_positives(kOp, inputs, queries, positives, targets);
  TORCH_CHECK_VALUE(targets.has_value() || !state.has_value(), kOp,
                    ": expected targets together with state");
  const EntropicStateInputs averages =
      check_entropic_state(kOp, queries, inputs.count, index, state, schedules);
  const auto options = inputs.queries.options();
  at::Tensor value = at::empty({}, options), slope = at::empty({}, options);
  at::Tensor dq = empty_gradient(inputs.queries, for_queries, inputs.type);
  at::Tensor dk = empty_gradient(inputs.keys, for_keys, inputs.type);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cpu::QueryStep<T, State> call;
      call.queries = inputs.queries.const_data_ptr<T>();
      call.keys = inputs.keys.const_data_ptr<T>();
      call.batch = inputs.count;
      call.keys_count = inputs.keys_count;
      call.width = inputs.width;
      call.normalize = normalize;
      call.bfloat16 = inputs.bfloat16;
      if (positives.has_value()) {
        call.positives = chosen.const_data_ptr<T>();
      } else {
        call.targets = chosen.const_data_ptr<int64_t>();
      }
      call.temperature = tau;
      call.state = averages.rows_of<State>(state, update_state);
      call.by_queries = for_queries ? dq.mutable_data_ptr<T>() : nullptr;
      call.by_keys = for_keys ? dk.mutable_data_ptr<T>() : nullptr;
      const cpu::QueryResult result = cpu::query_step(call, {}, AtenProducts<T>(), AtenExecutor());
      *value.mutable_data_ptr<T>() = static_cast<T>(result.value);
      *slope.mutable_data_ptr<T>() = static_cast<T>(result.temperature_slope);
    });
  });
  if (state.has_value() && update_state) bump_version(*state);
  return {value, dq, dk, slope};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> query_step_autograd(
    const at::Tensor& queries, const at::Tensor& keys, const std::optional<at::Tensor>& positives,
    const std::optional<at::Tensor>& targets, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, at::TensorList schedules, const at::Tensor& temperature,
    bool normalize, bool update_state, bool for_queries, bool for_keys) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::query_step_", "")
                             .typed<decltype(query_step_)>();
  std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = op.call(queries, keys, positives, targets, index, state, schedules, temperature,
                     normalize, update_state, for_queries, for_keys);
  }
  const bool wanted = (for_queries && queries.requires_grad()) ||
                      (for_keys && keys.requires_grad()) || temperature.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) return result;
  const auto& [value, dq, dk, slope] = result;
  attach_gradients({{queries, dq}, {keys, dk}, {temperature, slope.view_as(temperature)}}, value);
  return result;
}

void enqueue_(const at::Tensor& state, const at::Tensor& state_pointer, const at::Tensor& rows,
              bool normalize) {
  constexpr const char* kOp = "enqueue_";
  check_state(state, rows, kOp);
  check_floating(rows, kOp, "rows");
  TORCH_CHECK_VALUE(state.dim() == 2 && state.size(0) > 0, kOp,
                    ": expected state of shape [N, D], N > 0, got ", state.sizes());
  TORCH_CHECK_VALUE(rows.dim() == 2 && rows.size(1) == state.size(1), kOp,
                    ": expected rows of shape [M, ", state.size(1), "], got ", rows.sizes());
  check_device(state_pointer, rows, kOp, "state_pointer");
  TORCH_CHECK_VALUE(state_pointer.numel() == 1 && state_pointer.scalar_type() == at::kLong, kOp,
                    ": expected state_pointer to be one int64, got ", state_pointer.sizes());
  int64_t* pointer = state_pointer.mutable_data_ptr<int64_t>();
  TORCH_CHECK_VALUE(*pointer >= 0 && *pointer < state.size(0), kOp,
                    ": expected state_pointer in [0, ", state.size(0), "), got ", *pointer);
  const at::ScalarType type = accumulation_type(rows);
  const at::Tensor entering = contiguous_as(rows, type);
  visit_floating(type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.scalar_type(), [&](auto state_zero) {
      using State = decltype(state_zero);
      const cpu::Enqueue<T, State> call{
          state.mutable_data_ptr<State>(), state.size(0), state.size(1), *pointer,
          entering.const_data_ptr<T>(),    rows.size(0),  normalize};
      *pointer = cpu::enqueue(call, AtenExecutor());
    });
  });
  bump_version(state);
  bump_version(state_pointer);
}

}  // namespace xrisk
