// The ops that sum over the entries of each label, on the CPU, and their autograd. Included once,
// by torch/state_ops.h.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/entrywise.h"
#include "torch/attach_gradient.h"
#include "torch/moment_inputs.h"
#include "torch/ops.h"

namespace xrisk {

template <class T>
cpu::LabelledEntries<T> entries_of(const EntryInputs& inputs) {
  cpu::LabelledEntries<T> entries;
  entries.scores = inputs.scores.const_data_ptr<T>();
  entries.positive = reinterpret_cast<const uint8_t*>(inputs.positive.const_data_ptr<bool>());
  entries.weights = inputs.weights.defined() ? inputs.weights.const_data_ptr<T>() : nullptr;
  entries.batch = inputs.batch;
  entries.labels = inputs.labels;
  return entries;
}

// label_numbers() of shape [L] into `to`: a tensor of doubles would take longer than the step.
inline void copy_label_numbers(const char* op, const char* name, const at::Tensor& t,
                               const at::Tensor& scores, double* to, int64_t count) {
  if (t.scalar_type() == at::kFloat && t.is_contiguous()) {
    check_label_numbers(op, name, t, scores, {count});
    std::copy_n(t.const_data_ptr<float>(), count, to);
    return;
  }
  const at::Tensor numbers = label_numbers(op, name, t, scores, {count});
  std::copy_n(numbers.const_data_ptr<double>(), count, to);
}

// [] or [L] of the type computed in.
template <class T>
void store_values(const std::vector<double>& values, bool mean, at::Tensor& out) {
  T* to = out.mutable_data_ptr<T>();
  if (!mean) {
    std::transform(values.begin(), values.end(), to, [](double v) { return static_cast<T>(v); });
    return;
  }
  double total = 0;
  for (const double v : values) total += v;
  *to = static_cast<T>(total / static_cast<double>(values.size()));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> auc_margin_step(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& alpha, const std::optional<at::Tensor>& class_prior, double margin,
    int64_t kind, bool needs_gradient, bool mean_reduction) {
  constexpr const char* kOp = "auc_margin_step";
  const NoAutocast no_autocast;
  const EntryInputs inputs = check_entries(kOp, scores, labels, item_weights);
  const int64_t count = inputs.labels;
  std::vector<double> parameters(static_cast<size_t>(3 * count)), values(count), by(3 * count);
  const char* names[] = {"a", "b", "alpha"};
  const at::Tensor* given[] = {&a, &b, &alpha};
  for (int k = 0; k < 3; ++k) {
    copy_label_numbers(kOp, names[k], *given[k], scores, parameters.data() + k * count, count);
  }
  at::Tensor priors;
  if (class_prior) priors = label_numbers(kOp, "class_prior", *class_prior, scores, {count});
  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  at::Tensor value =
      at::empty(mean_reduction ? at::IntArrayRef() : at::IntArrayRef({count}), options);
  at::Tensor by_parameters = at::empty({3, count}, options);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    cpu::AucMarginStep<T> call;
    call.entries = entries_of<T>(inputs);
    call.kind = check_auc_margin(kOp, margin, kind);
    call.margin = margin;
    call.parameters = parameters.data();
    call.priors = priors.defined() ? priors.const_data_ptr<double>() : nullptr;
    call.share = mean_reduction ? 1.0 / static_cast<double>(count) : 1.0;
    call.values = values.data();
    call.by_parameters = by.data();
    call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    cpu::auc_margin_step(call, AtenExecutor());
    store_values<T>(values, mean_reduction, value);
    std::transform(by.begin(), by.end(), by_parameters.mutable_data_ptr<T>(),
                   [](double v) { return static_cast<T>(v); });
  });
  return {value, gradient, by_parameters};
}

std::tuple<at::Tensor, at::Tensor> cross_entropy_step(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& class_weights,
    const std::optional<at::Tensor>& margins, double scale, double focus, bool needs_gradient,
    bool mean_reduction) {
  constexpr const char* kOp = "cross_entropy_step";
  const NoAutocast no_autocast;
  const EntryInputs inputs = check_entries(kOp, scores, labels, item_weights);
  check_cross_entropy(kOp, scale, focus);
  const int64_t count = inputs.labels;
  at::Tensor by_class, gaps;
  if (class_weights) {
    by_class = label_numbers(kOp, "class_weights", *class_weights, scores, {2, count});
  }
  if (margins) gaps = label_numbers(kOp, "margins", *margins, scores, {2, count});
  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  at::Tensor value =
      at::empty(mean_reduction ? at::IntArrayRef() : at::IntArrayRef({count}), options);
  std::vector<double> values(count);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    cpu::CrossEntropyStep<T> call;
    call.entries = entries_of<T>(inputs);
    call.class_weights = by_class.defined() ? by_class.const_data_ptr<double>() : nullptr;
    call.margins = gaps.defined() ? gaps.const_data_ptr<double>() : nullptr;
    call.scale = scale;
    call.focus = focus;
    call.share = mean_reduction ? 1.0 / static_cast<double>(count) : 1.0;
    call.values = values.data();
    call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    cpu::cross_entropy_step(call, AtenExecutor());
    store_values<T>(values, mean_reduction, value);
  });
  return {value, gradient};
}

inline auto& auc_margin_step_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::auc_margin_step", "")
                             .typed<decltype(auc_margin_step)>();
  return op;
}

inline auto& cross_entropy_step_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::cross_entropy_step", "")
                             .typed<decltype(cross_entropy_step)>();
  return op;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> auc_margin_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& alpha, const std::optional<at::Tensor>& class_prior, double margin,
    int64_t kind, bool needs_gradient, bool mean_reduction) {
  std::tuple<at::Tensor, at::Tensor, at::Tensor> result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = auc_margin_step_op().call(scores, labels, item_weights, a, b, alpha, class_prior,
                                       margin, kind, needs_gradient, mean_reduction);
  }
  const bool any =
      scores.requires_grad() || a.requires_grad() || b.requires_grad() || alpha.requires_grad();
  if (needs_gradient && any && at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor& by = std::get<2>(result);
    // alpha maximises: what flows to it is reversed, so that any optimizer makes it ascend
    attach_gradients({{scores, std::get<1>(result)},
                      {a, by.select(0, 0)},
                      {b, by.select(0, 1)},
                      {alpha, by.select(0, 2).neg()}},
                     std::get<0>(result));
  }
  return result;
}

std::tuple<at::Tensor, at::Tensor> cross_entropy_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& class_weights,
    const std::optional<at::Tensor>& margins, double scale, double focus, bool needs_gradient,
    bool mean_reduction) {
  std::tuple<at::Tensor, at::Tensor> result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = cross_entropy_step_op().call(scores, labels, item_weights, class_weights, margins,
                                          scale, focus, needs_gradient, mean_reduction);
  }
  if (needs_gradient && scores.requires_grad() && at::GradMode::is_enabled()) {
    attach_gradient(scores, std::get<0>(result), std::get<1>(result));
  }
  return result;
}

// The values of the two ops, with less to convert than through torch.ops.
at::Tensor auc_margin(const at::Tensor& scores, const at::Tensor& labels,
                      const std::optional<at::Tensor>& item_weights, const at::Tensor& a,
                      const at::Tensor& b, const at::Tensor& alpha,
                      const std::optional<at::Tensor>& class_prior, double margin, int64_t kind,
                      bool mean_reduction) {
  const bool any =
      scores.requires_grad() || a.requires_grad() || b.requires_grad() || alpha.requires_grad();
  return std::get<0>(auc_margin_step_op().call(scores, labels, item_weights, a, b, alpha,
                                               class_prior, margin, kind,
                                               any && at::GradMode::is_enabled(), mean_reduction));
}

at::Tensor cross_entropy(const at::Tensor& scores, const at::Tensor& labels,
                         const std::optional<at::Tensor>& item_weights,
                         const std::optional<at::Tensor>& class_weights,
                         const std::optional<at::Tensor>& margins, double scale, double focus,
                         bool mean_reduction) {
  const bool needs_gradient = scores.requires_grad() && at::GradMode::is_enabled();
  return std::get<0>(cross_entropy_step_op().call(scores, labels, item_weights, class_weights,
                                                  margins, scale, focus, needs_gradient,
                                                  mean_reduction));
}

}  // namespace xrisk
