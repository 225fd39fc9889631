// The arguments of topk_threshold, checked: what the op on the CPU and on CUDA share.
#pragma once

#include <limits>

#include "core/lists.h"
#include "torch/common.h"

namespace xrisk {

struct TopKInputs {
  at::Tensor scores;   // contiguous, in the type that is computed in
  at::Tensor offsets;  // int64 [rows + 1], or undefined
  int64_t rows = 0, length = 0;
  std::vector<int64_t> shape;  // of the thresholds

  at::ScalarType type() const { return scores.scalar_type(); }
  Lists lists() const {
    return {offsets.defined() ? offsets.const_data_ptr<int64_t>() : nullptr, rows, length};
  }
};

inline TopKInputs check_topk(const char* op, const at::Tensor& scores, int64_t k,
                             const std::optional<at::Tensor>& offsets, bool smooth, double epsilon,
                             double tau1, double tau2) {
  check_floating(scores, op, "scores");
  TORCH_CHECK_VALUE(scores.dim() >= 1, op, ": expected scores of shape [..., M], got a scalar");
  TORCH_CHECK_VALUE(k >= 0, op, ": expected k >= 0, got ", k);
  if (smooth) {
    TORCH_CHECK_VALUE(epsilon >= 0 && epsilon <= 1, op, ": expected epsilon in [0, 1], got ",
                      epsilon);
    TORCH_CHECK_VALUE(tau1 > 0 && std::isfinite(tau1), op, ": expected tau1 > 0 and finite, got ",
                      tau1);
    TORCH_CHECK_VALUE(tau2 >= 0 && std::isfinite(tau2), op, ": expected tau2 >= 0 and finite, got ",
                      tau2);
  }
  TopKInputs inputs;
  inputs.scores = contiguous_as(scores, accumulation_type(scores));
  if (!offsets.has_value()) {
    inputs.shape.assign(scores.sizes().begin(), scores.sizes().end() - 1);
    inputs.length = scores.size(-1);
    inputs.rows = 1;
    for (const int64_t size : inputs.shape) inputs.rows *= size;
    return inputs;
  }
  TORCH_CHECK_VALUE(scores.dim() == 1, op, ": expected flat scores [N] with offsets, got ",
                    scores.sizes());
  TORCH_CHECK_TYPE(offsets->scalar_type() == at::kLong || offsets->scalar_type() == at::kInt, op,
                   ": expected offsets to be int64 or int32, got ", offsets->scalar_type());
  TORCH_CHECK_VALUE(offsets->dim() == 1 && offsets->numel() >= 1, op,
                    ": expected offsets of shape [R + 1], got ", offsets->sizes());
  check_device(*offsets, scores, op, "offsets");
  inputs.offsets = contiguous_as(*offsets, at::kLong);
  inputs.rows = offsets->numel() - 1;
  inputs.shape = {inputs.rows};
  return inputs;
}

// On the CPU, where values may be looked at.
inline void check_offset_values(const char* op, const TopKInputs& inputs) {
  if (!inputs.offsets.defined()) return;
  const int64_t* values = inputs.offsets.const_data_ptr<int64_t>();
  bool good = values[0] == 0 && values[inputs.rows] == inputs.scores.numel();
  for (int64_t row = 0; row < inputs.rows; ++row) good &= values[row] <= values[row + 1];
  TORCH_CHECK_VALUE(good, op, ": expected offsets that ascend from 0 to the number of scores, ",
                    inputs.scores.numel());
}

// One number a row, as the backward gets them.
inline at::Tensor checked_rows(const at::Tensor& t, const TopKInputs& inputs, at::ScalarType type,
                               const char* op, const char* name) {
  check_device(t, inputs.scores, op, name);
  TORCH_CHECK_VALUE(t.numel() == inputs.rows, op, ": expected ", name, " of ", inputs.rows,
                    " entries, got shape ", t.sizes());
  return contiguous_as(t, type);
}

}  // namespace xrisk
