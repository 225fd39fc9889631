// The ops that sum over the entries of each label on CUDA. Included once, by torch/cuda_ops.cpp.
#pragma once

#include "cuda/entrywise.h"
#include "torch/cuda_common.h"
#include "torch/moment_inputs.h"

namespace xrisk {

template <class T>
cuda::LabelledEntries<T> device_entries_of(const EntryInputs& inputs) {
  cuda::LabelledEntries<T> entries;
  entries.scores = inputs.scores.const_data_ptr<T>();
  entries.positive = reinterpret_cast<const uint8_t*>(inputs.positive.const_data_ptr<bool>());
  entries.weights = inputs.weights.defined() ? inputs.weights.const_data_ptr<T>() : nullptr;
  entries.batch = inputs.batch;
  entries.labels = static_cast<int>(inputs.labels);
  return entries;
}

// [L] -> [] or [L]
inline at::Tensor reduced(const at::Tensor& values, bool mean) {
  if (!mean) return values;
  return values.numel() == 1 ? values.reshape({}) : values.mean();
}

inline std::tuple<at::Tensor, at::Tensor, at::Tensor> auc_margin_step_cuda(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& alpha, const std::optional<at::Tensor>& class_prior, double margin,
    int64_t kind, bool needs_gradient, bool mean_reduction) {
  constexpr const char* kOp = "auc_margin_step";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(scores.device());
  const EntryInputs inputs = check_entries(kOp, scores, labels, item_weights);
  debug_check_weights(kOp, inputs.weights, true);
  const int64_t count = inputs.labels;
  const at::Tensor from_a = label_numbers(kOp, "a", a, scores, {count});
  const at::Tensor from_b = label_numbers(kOp, "b", b, scores, {count});
  const at::Tensor from_alpha = label_numbers(kOp, "alpha", alpha, scores, {count});
  at::Tensor priors;
  if (class_prior) priors = label_numbers(kOp, "class_prior", *class_prior, scores, {count});
  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  at::Tensor values = at::empty({count}, options), by_parameters = at::empty({3, count}, options);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    cuda::AucMarginStep<T> call;
    call.entries = device_entries_of<T>(inputs);
    call.kind = check_auc_margin(kOp, margin, kind);
    call.margin = margin;
    call.a = from_a.const_data_ptr<double>();
    call.b = from_b.const_data_ptr<double>();
    call.alpha = from_alpha.const_data_ptr<double>();
    call.priors = priors.defined() ? priors.const_data_ptr<double>() : nullptr;
    call.share = mean_reduction ? 1.0 / static_cast<double>(count) : 1.0;
    call.values = values.mutable_data_ptr<T>();
    call.by_parameters = by_parameters.mutable_data_ptr<T>();
    call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    C10_CUDA_CHECK(cuda::launch_auc_margin_step(call, stream_of(scores)));
  });
  return {reduced(values, mean_reduction), gradient, by_parameters};
}

inline std::tuple<at::Tensor, at::Tensor> cross_entropy_step_cuda(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& class_weights,
    const std::optional<at::Tensor>& margins, double scale, double focus, bool needs_gradient,
    bool mean_reduction) {
  constexpr const char* kOp = "cross_entropy_step";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(scores.device());
  const EntryInputs inputs = check_entries(kOp, scores, labels, item_weights);
  check_cross_entropy(kOp, scale, focus);
  debug_check_weights(kOp, inputs.weights, true);
  const int64_t count = inputs.labels;
  at::Tensor by_class, gaps;
  if (class_weights) {
    by_class = label_numbers(kOp, "class_weights", *class_weights, scores, {2, count});
  }
  if (margins) gaps = label_numbers(kOp, "margins", *margins, scores, {2, count});
  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  at::Tensor values = at::empty({count}, options);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    cuda::CrossEntropyStep<T> call;
    call.entries = device_entries_of<T>(inputs);
    call.class_weights = by_class.defined() ? by_class.const_data_ptr<double>() : nullptr;
    call.margins = gaps.defined() ? gaps.const_data_ptr<double>() : nullptr;
    call.scale = scale;
    call.focus = focus;
    call.share = mean_reduction ? 1.0 / static_cast<double>(count) : 1.0;
    call.values = values.mutable_data_ptr<T>();
    call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    C10_CUDA_CHECK(cuda::launch_cross_entropy_step(call, stream_of(scores)));
  });
  return {reduced(values, mean_reduction), gradient};
}

}  // namespace xrisk
