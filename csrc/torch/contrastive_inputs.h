// The arguments of the contrastive ops, checked once for the CPU and CUDA.
#pragma once

#include "core/info_nce.h"
#include "torch/common.h"
#include "torch/state_inputs.h"

namespace xrisk {

// Queries [B, D] and keys [M, D] in the type of the accumulation, or in theirs (`halves`);
// temperatures [B], exclude [B, E].
struct ContrastiveInputs {
  at::Tensor queries, keys, temperatures, exclude;
  at::ScalarType type = at::kFloat;
  bool bfloat16 = false;  // queries and keys came as bfloat16
  bool halves = false;
  int64_t count = 0, keys_count = 0, width = 0, exclusions = 0;
};

inline ContrastiveInputs check_contrastive(const char* op, const at::Tensor& queries,
                                           const at::Tensor& keys, const at::Tensor& temperature,
                                           const std::optional<at::Tensor>& exclude,
                                           bool keep_halves = false) {
  check_floating(queries, op, "queries");
  check_floating(keys, op, "keys");
  check_floating(temperature, op, "temperature");
  check_device(keys, queries, op, "keys");
  check_device(temperature, queries, op, "temperature");
  TORCH_CHECK_VALUE(queries.dim() == 2, op, ": expected queries of shape [B, D], got ",
                    queries.sizes());
  TORCH_CHECK_VALUE(keys.dim() == 2 && keys.size(1) == queries.size(1), op,
                    ": expected keys of shape [M, ", queries.size(1), "], got ", keys.sizes());
  TORCH_CHECK_VALUE(queries.size(0) < INT32_MAX && keys.size(0) < INT32_MAX, op,
                    ": expected fewer than 2^31 queries and keys");
  ContrastiveInputs inputs;
  inputs.count = queries.size(0);
  inputs.keys_count = keys.size(0);
  inputs.width = queries.size(1);
  const bool twice = queries.scalar_type() == at::kDouble || keys.scalar_type() == at::kDouble;
  inputs.type = twice ? at::kDouble : at::kFloat;
  inputs.bfloat16 = queries.scalar_type() == at::kBFloat16 && keys.scalar_type() == at::kBFloat16;
  inputs.halves = keep_halves;
  const at::ScalarType kept = keep_halves ? queries.scalar_type() : inputs.type;
  inputs.queries = contiguous_as(queries, kept);
  inputs.keys = contiguous_as(keys, kept);
  TORCH_CHECK_VALUE(temperature.dim() == 0 ||
                        (temperature.dim() == 1 && temperature.size(0) == inputs.count) ||
                        temperature.numel() == 1,
                    op, ": expected temperature to be one number or of shape [", inputs.count,
                    "], got ", temperature.sizes());
  inputs.temperatures = contiguous_as(temperature, at::kDouble).reshape({-1});
  if (exclude.has_value()) {
    const at::Tensor& e = *exclude;
    check_device(e, queries, op, "exclude");
    TORCH_CHECK_TYPE(e.scalar_type() == at::kLong || e.scalar_type() == at::kInt, op,
                     ": expected exclude to be int64 or int32, got ", e.scalar_type());
    TORCH_CHECK_VALUE((e.dim() == 1 || e.dim() == 2) && e.size(0) == inputs.count, op,
                      ": expected exclude of shape [", inputs.count, "] or [", inputs.count,
                      ", E], got ", e.sizes());
    inputs.exclude = contiguous_as(e, at::kLong);
    inputs.exclusions = e.dim() == 2 ? e.size(1) : 1;
  }
  return inputs;
}

inline void check_per_query(const char* op, const ContrastiveInputs& inputs,
                            const at::Tensor& weights, const at::Tensor& peaks,
                            const at::Tensor& masses) {
  for (const at::Tensor& rows : {weights, peaks, masses}) {
    TORCH_CHECK_VALUE(rows.dim() == 1 && rows.numel() == inputs.count, op,
                      ": expected one weight, peak and mass per query, got ", rows.sizes());
  }
}

inline at::Tensor empty_gradient(const at::Tensor& like, bool wanted, at::ScalarType type) {
  return at::empty(wanted ? like.sizes() : at::IntArrayRef({0}), like.options().dtype(type));
}

// Of contrastive_step_: views [B, D] in the type of the accumulation, or in theirs (`halves`), ids,
// the state's rows.
struct ContrastiveStepInputs {
  at::Tensor view1, view2, ids;
  at::ScalarType type = at::kFloat;
  bool bfloat16 = false;  // both views came as bfloat16
  bool halves = false;
  int64_t batch = 0, width = 0, rows = 0;
};

inline ContrastiveStepInputs check_contrastive_step(
    const char* op, const at::Tensor& view1, const at::Tensor& view2,
    const std::optional<at::Tensor>& index, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, bool bimodal, bool adam = false,
    bool keep_halves = false) {
  check_floating(view1, op, "view1");
  check_floating(view2, op, "view2");
  check_device(view2, view1, op, "view2");
  TORCH_CHECK_VALUE(view1.dim() == 2, op, ": expected view1 of shape [B, D], got ", view1.sizes());
  TORCH_CHECK_VALUE(view2.sizes() == view1.sizes(), op, ": expected view2 of the shape of view1, ",
                    view1.sizes(), ", got ", view2.sizes());
  TORCH_CHECK_VALUE(view1.size(0) < INT32_MAX / 2, op, ": expected fewer than 2^30 entries");
  ContrastiveStepInputs inputs;
  const bool twice = view1.scalar_type() == at::kDouble || view2.scalar_type() == at::kDouble;
  inputs.type = twice ? at::kDouble : at::kFloat;
  inputs.batch = view1.size(0);
  inputs.width = view1.size(1);
  inputs.bfloat16 = view1.scalar_type() == at::kBFloat16 && view2.scalar_type() == at::kBFloat16;
  inputs.halves = keep_halves;
  const at::ScalarType kept = keep_halves ? view1.scalar_type() : inputs.type;
  inputs.view1 = contiguous_as(view1, kept);
  inputs.view2 = contiguous_as(view2, kept);
  TORCH_CHECK_VALUE(state_temperature.has_value() == state_momentum.has_value() &&
                        (state.has_value() || !state_temperature.has_value()),
                    op, ": expected individual temperatures together with state");
  if (!state.has_value()) return inputs;
  const int64_t sides = bimodal ? 2 : 1;
  inputs.rows = state->dim() == 2 ? state->size(1) : 0;
  for (const std::optional<at::Tensor>* each : {&state, &state_temperature, &state_momentum}) {
    const std::optional<at::Tensor>& t = *each;
    if (!t.has_value()) continue;
    check_state(*t, view1, op);
    const int64_t wanted = each == &state_momentum && adam ? 3 * sides : sides;
    TORCH_CHECK_VALUE(t->dim() == 2 && t->size(0) == wanted && t->size(1) == inputs.rows, op,
                      ": expected state of shape [", wanted, ", N], got ", t->sizes());
    TORCH_CHECK_TYPE(t->scalar_type() == state->scalar_type(), op,
                     ": expected state of one dtype, got ", t->scalar_type());
  }
  TORCH_CHECK_VALUE(index.has_value(), op, ": expected index, the ids of the samples, got None");
  check_device(*index, view1, op, "index");
  inputs.ids = checked_index(*index, inputs.batch, op);
  return inputs;
}

// What a step of the contrastive losses writes, whose call is cpu::ContrastiveStep or cuda's.
struct ContrastiveStepOutputs {
  at::Tensor embeddings, gradient, value, slope;  // embeddings: scratch, not of halves
  bool needs_gradient;

  ContrastiveStepOutputs(const ContrastiveStepInputs& inputs, bool wanted)
      : needs_gradient(wanted) {
    const auto options = inputs.view1.options().dtype(inputs.type);
    if (!inputs.halves) embeddings = at::empty({2, inputs.batch, inputs.width}, options);
    gradient =
        wanted ? at::empty({2, inputs.batch, inputs.width}, options) : at::empty({0}, options);
    value = at::empty({}, options);
    slope = at::empty({}, options);
  }

  template <class Call>
  void set_arrays(Call& call, const ContrastiveStepInputs& inputs) const {
    using T = std::remove_pointer_t<decltype(call.embeddings)>;
    call.batch = inputs.batch;
    call.width = inputs.width;
    call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    if (inputs.halves) return;
    call.view1 = inputs.view1.const_data_ptr<T>();
    call.view2 = inputs.view2.const_data_ptr<T>();
    call.embeddings = embeddings.mutable_data_ptr<T>();
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor> result() const { return {value, gradient, slope}; }
};

// The loss of info_nce_step, less the number that its alpha is. The fused step takes the mean over
// the samples and the sum over the views of one modality.
inline InfoNce info_nce_of(bool bimodal, bool flat) {
  InfoNce loss;
  loss.flat = flat;
  loss.share = bimodal ? 1.0 : 0.5;
  return loss;
}

template <class State>
State* state_rows(const std::optional<at::Tensor>& state, bool update_state) {
  if (!state.has_value()) return nullptr;
  return update_state ? state->mutable_data_ptr<State>()
                      : const_cast<State*>(state->const_data_ptr<State>());
}

inline void bump_states(const std::optional<at::Tensor>& state,
                        const std::optional<at::Tensor>& temperature,
                        const std::optional<at::Tensor>& momentum) {
  for (const std::optional<at::Tensor>& t : {state, temperature, momentum}) {
    if (t.has_value()) bump_version(*t);
  }
}

}  // namespace xrisk
