// The arguments of the ops that write state, checked once for the CPU and CUDA.
#pragma once

#include "torch/common.h"

namespace xrisk {

inline void check_state(const at::Tensor& state, const at::Tensor& like, const char* op) {
  TORCH_CHECK_TYPE(state.scalar_type() == at::kFloat || state.scalar_type() == at::kDouble, op,
                   ": expected state to be float32 or float64, got ", state.scalar_type());
  TORCH_CHECK_VALUE(state.device() == like.device(), op, ": expected state on the scores' device (",
                    like.device(), "), got ", state.device(), "; move the loss with .to()");
  TORCH_CHECK_VALUE(state.is_contiguous(), op, ": expected state to be contiguous");
  TORCH_CHECK_VALUE(!state.requires_grad(), op, ": expected state without requires_grad");
}

// Of moving_average_update_.
struct UpdateInputs {
  at::Tensor ids;  // [B] int64
  int64_t columns = 1;
};

inline UpdateInputs check_update(const char* op, const at::Tensor& state, const at::Tensor& index,
                                 const at::Tensor& values, const at::Tensor& gamma) {
  check_state(state, state, op);
  check_floating(values, op, "values");
  check_device(values, state, op, "values");
  check_device(index, state, op, "index");
  TORCH_CHECK_VALUE(state.dim() == 1 || state.dim() == 2, op,
                    ": expected state of shape [N] or [N, C], got ", state.sizes());
  TORCH_CHECK_VALUE(index.dim() == 1, op, ": expected index of shape [B], got ", index.sizes());
  UpdateInputs inputs;
  const int64_t entries = index.numel();
  std::vector<int64_t> shape{entries};
  if (state.dim() == 2) shape.push_back(inputs.columns = state.size(1));
  TORCH_CHECK_VALUE(values.sizes() == at::IntArrayRef(shape), op, ": expected values of shape ",
                    at::IntArrayRef(shape), ", got ", values.sizes());
  inputs.ids = checked_index(index, entries, op);
  TORCH_CHECK_VALUE(gamma.dim() == 0 || (gamma.dim() == 1 && gamma.numel() == entries), op,
                    ": expected gamma to be one number or of shape [", entries, "], got ",
                    gamma.sizes());
  return inputs;
}

// The update itself, for cpu::MovingAverage or cuda::MovingAverage, which `run` is called with.
// `gammas`: checked, contiguous doubles.
template <template <class, class, class> class MovingAverage, class Run>
at::Tensor update_state(const at::Tensor& state, const UpdateInputs& inputs,
                        const at::Tensor& values, const at::Tensor& gammas, bool log, Run&& run) {
  const at::ScalarType value_type = accumulation_type(values);
  at::Tensor observations = contiguous_as(values, value_type);
  if (observations.is_alias_of(state)) observations = observations.clone();  // read before written
  at::Tensor stored = at::empty(values.sizes(), state.options());
  visit_floating(state.scalar_type(), [&](auto state_zero) {
    visit_floating(value_type, [&](auto value_zero) {
      using State = decltype(state_zero);
      using Value = decltype(value_zero);
      MovingAverage<State, Value, State> call;
      call.state = state.mutable_data_ptr<State>();
      call.rows = state.size(0);
      call.columns = static_cast<decltype(call.columns)>(inputs.columns);
      call.index = inputs.ids.const_data_ptr<int64_t>();
      call.values = observations.const_data_ptr<Value>();
      call.entries = inputs.ids.numel();
      call.gamma = gammas.const_data_ptr<double>();
      call.gamma_per_entry = gammas.dim() == 1;
      call.log_domain = log;
      call.stored = stored.mutable_data_ptr<State>();
      run(call);
    });
  });
  bump_version(state);
  return stored;
}

// Of the fused steps.
struct StepInputs {
  at::Tensor scores, weights, ids;
  at::ScalarType type = at::kFloat;
  int64_t batch = 0, num_labels = 1, rows = 0;
  bool weights_per_label = false;
};

// Scores, labels and weights: all but the state.
inline StepInputs check_batch(const char* op, const at::Tensor& scores, const at::Tensor& labels,
                              const std::optional<at::Tensor>& item_weights) {
  check_floating(scores, op, "scores");
  check_device(labels, scores, op, "labels");
  TORCH_CHECK_VALUE(scores.dim() == 1 || scores.dim() == 2, op,
                    ": expected scores of shape [B], [B, 1] or [B, L], got ", scores.sizes());
  StepInputs inputs;
  const int64_t batch = inputs.batch = scores.size(0);
  inputs.num_labels = scores.dim() == 2 ? scores.size(1) : 1;
  const bool column = labels.dim() == 1 || (labels.dim() == 2 && labels.size(1) == 1);
  const bool labels_match = labels.sizes() == scores.sizes() ||
                            (inputs.num_labels == 1 && column && labels.size(0) == batch);
  TORCH_CHECK_VALUE(labels_match, op, ": expected labels of the scores' shape ", scores.sizes(),
                    ", got ", labels.sizes());
  TORCH_CHECK_TYPE(
      !at::isComplexType(labels.scalar_type()) && !at::isQIntType(labels.scalar_type()), op,
      ": expected labels to be integers, bool or floating, got ", labels.scalar_type());
  TORCH_CHECK_VALUE(batch < INT32_MAX, op, ": expected fewer than 2^31 scores");
  inputs.type = accumulation_type(scores);
  inputs.scores = contiguous_as(scores, inputs.type);
  if (item_weights.has_value()) {
    const at::Tensor& w = *item_weights;
    check_device(w, scores, op, "item_weights");
    inputs.weights_per_label = w.sizes() == scores.sizes();
    TORCH_CHECK_VALUE(inputs.weights_per_label || (w.dim() == 1 && w.numel() == batch), op,
                      ": expected item_weights of shape [", batch, "] or ", scores.sizes(),
                      ", got ", w.sizes());
    inputs.weights = checked_weights(w, inputs.type, true, op);
  }
  return inputs;
}

inline void check_step_index(const char* op, const std::optional<at::Tensor>& index,
                             const at::Tensor& scores, StepInputs& inputs) {
  TORCH_CHECK_VALUE(index.has_value(), op, ": expected index, the ids of the samples, got None");
  check_device(*index, scores, op, "index");
  inputs.ids = checked_index(*index, inputs.batch, op);
}

// Of score_step_.
inline StepInputs check_step(const char* op, const at::Tensor& scores, const at::Tensor& labels,
                             const std::optional<at::Tensor>& index,
                             const std::optional<at::Tensor>& item_weights,
                             const std::optional<at::Tensor>& state, int64_t rule) {
  TORCH_CHECK_VALUE(rule == 0 || rule == 1, op, ": unknown rule number ", rule);
  StepInputs inputs = check_batch(op, scores, labels, item_weights);
  if (state.has_value()) {
    check_state(*state, scores, op);
    TORCH_CHECK_VALUE(
        state->dim() == 3 && state->size(0) == inputs.num_labels && state->size(2) == 2, op,
        ": expected state of shape [", inputs.num_labels, ", N, 2], got ", state->sizes());
    check_step_index(op, index, scores, inputs);
    inputs.rows = state->size(1);
  }
  return inputs;
}

}  // namespace xrisk
