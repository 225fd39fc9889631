// The arguments of the ops that sum over the entries of each label, checked once for the CPU and
// CUDA.
#pragma once

#include <ATen/ops/stack.h>

#include "core/auc_margin.h"
#include "torch/common.h"

namespace xrisk {

struct EntryInputs {
  at::Tensor scores;    // [B, L] in the type computed in
  at::Tensor positive;  // [B, L] bool
  at::Tensor weights;   // [B, L], or undefined
  at::ScalarType type = at::kFloat;
  int64_t batch = 0, labels = 1;
};

inline EntryInputs check_entries(const char* op, const at::Tensor& scores, const at::Tensor& labels,
                                 const std::optional<at::Tensor>& item_weights) {
  check_floating(scores, op, "scores");
  check_device(labels, scores, op, "labels");
  TORCH_CHECK_VALUE(scores.dim() == 1 || scores.dim() == 2, op,
                    ": expected scores of shape [B], [B, 1] or [B, L], got ", scores.sizes());
  EntryInputs inputs;
  const int64_t batch = inputs.batch = scores.size(0);
  inputs.labels = scores.dim() == 2 ? scores.size(1) : 1;
  TORCH_CHECK_VALUE(inputs.labels > 0, op, ": expected at least one label, got ", scores.sizes());
  const bool column = labels.dim() == 1 || (labels.dim() == 2 && labels.size(1) == 1);
  TORCH_CHECK_VALUE(
      labels.sizes() == scores.sizes() || (inputs.labels == 1 && column && labels.size(0) == batch),
      op, ": expected labels of the scores' shape ", scores.sizes(), ", got ", labels.sizes());
  TORCH_CHECK_TYPE(
      !at::isComplexType(labels.scalar_type()) && !at::isQIntType(labels.scalar_type()), op,
      ": expected labels to be integers, bool or floating, got ", labels.scalar_type());
  inputs.type = accumulation_type(scores);
  inputs.scores = contiguous_as(scores, inputs.type);
  inputs.positive = (labels.scalar_type() == at::kBool ? labels : labels.gt(0)).contiguous();
  if (item_weights.has_value()) {
    const at::Tensor& w = *item_weights;
    check_device(w, scores, op, "item_weights");
    const bool an_entry = w.sizes() == scores.sizes();
    TORCH_CHECK_VALUE(an_entry || (w.dim() == 1 && w.numel() == batch), op,
                      ": expected item_weights of shape [", batch, "] or ", scores.sizes(),
                      ", got ", w.sizes());
    const bool spread = !an_entry && inputs.labels > 1;
    inputs.weights =
        checked_weights(spread ? w.unsqueeze(1).expand_as(scores) : w, inputs.type, true, op);
  }
  return inputs;
}

inline void check_label_numbers(const char* op, const char* name, const at::Tensor& t,
                                const at::Tensor& scores, at::IntArrayRef shape) {
  check_floating(t, op, name);
  check_device(t, scores, op, name);
  TORCH_CHECK_VALUE(t.sizes() == shape, op, ": expected ", name, " of shape ", shape, ", got ",
                    t.sizes());
}

// [.., L] numbers on the scores' device, as doubles.
inline at::Tensor label_numbers(const char* op, const char* name, const at::Tensor& t,
                                const at::Tensor& scores, at::IntArrayRef shape) {
  check_label_numbers(op, name, t, scores, shape);
  return contiguous_as(t, at::kDouble);
}

inline AucMargin check_auc_margin(const char* op, double margin, int64_t kind) {
  TORCH_CHECK_VALUE(margin >= 0 && std::isfinite(margin), op,
                    ": expected margin >= 0 and finite, got ", margin);
  TORCH_CHECK_VALUE(kind >= 0 && kind < kAucMarginCount, op, ": unknown kind number ", kind);
  return static_cast<AucMargin>(kind);
}

inline void check_cross_entropy(const char* op, double scale, double focus) {
  TORCH_CHECK_VALUE(scale > 0 && std::isfinite(scale), op, ": expected scale > 0 and finite, got ",
                    scale);
  TORCH_CHECK_VALUE(focus >= 0 && std::isfinite(focus), op,
                    ": expected focus >= 0 and finite, got ", focus);
}

}  // namespace xrisk
