// The gradient of LibAUC's mAP with top_k on the CPU, tied to a value that is known. Included once,
// by torch/state_ops.h.
#pragma once

#include <ATen/ops/sum.h>

#include "cpu/ranked_precision.h"
#include "torch/cpu_step.h"
#include "torch/ops.h"
#include "torch/state_inputs.h"

namespace xrisk {

std::tuple<at::Tensor, at::Tensor> ranked_precision_step(
    bool needs_gradient, const at::Tensor& scores, const at::Tensor& labels,
    const at::Tensor& values, const std::optional<at::Tensor>& chosen,
    const std::optional<at::Tensor>& index, const std::optional<at::Tensor>& state,
    const at::Tensor& scale, double margin, double top_k, int64_t count, int64_t surrogate,
    int64_t algorithm) {
  constexpr const char* kOp = "ranked_precision_step";
  const NoAutocast no_autocast;
  const StepInputs inputs = check_step(kOp, scores, labels, index, std::nullopt, state,
                                       static_cast<int64_t>(Rule::kAveragePrecision));
  TORCH_CHECK_VALUE(count > 0, kOp, ": expected count > 0, got ", count);
  if (chosen.has_value()) {
    TORCH_CHECK_VALUE(chosen->scalar_type() == at::kBool && chosen->dim() == 1 &&
                          chosen->numel() == inputs.num_labels && chosen->is_contiguous(),
                      kOp, ": expected chosen to be a mask of ", inputs.num_labels, " labels, got ",
                      chosen->sizes());
  }
  at::Tensor mask_storage;
  const uint8_t* mask = positives_of(labels, mask_storage);
  if (state.has_value()) {
    const int64_t* ids = inputs.ids.const_data_ptr<int64_t>();
    for (int64_t k = 0; k < inputs.batch * inputs.num_labels; ++k) {
      const int64_t entry = k / inputs.num_labels;
      if (mask[k] != 0) {
        check_range(inputs.ids, ids[entry] >= 0 && ids[entry] < inputs.rows ? -1 : entry,
                    inputs.rows, kOp);
      }
    }
  }
  const cpu::PairwiseSpec spec = make_spec(kOp, surrogate, margin, scale, algorithm);
  at::Tensor value = at::sum(values).div_(count);
  at::Tensor gradient =
      at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), inputs.scores.options());
  if (!needs_gradient) return {value, gradient};
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cpu::RankedPrecision<T, State> call;
      call.batch.batch = inputs.batch;
      call.batch.labels = inputs.num_labels;
      call.batch.scores = inputs.scores.const_data_ptr<T>();
      call.batch.positive = mask;
      call.batch.gradient = gradient.mutable_data_ptr<T>();
      if (state.has_value()) {
        call.batch.index = inputs.ids.const_data_ptr<int64_t>();
        call.batch.rows = inputs.rows;
        call.state = state->const_data_ptr<State>();
      }
      call.chosen = chosen.has_value() ? chosen->const_data_ptr<bool>() : nullptr;
      call.spec = spec;
      call.top_k = top_k;
      call.factor = 1.0 / static_cast<double>(count);
      cpu::ranked_precision_gradient(call, AtenExecutor());
    });
  });
  return {value, gradient};
}

}  // namespace xrisk
