// topk_threshold and its gradient on the CPU. Included by torch/metric_ops.h alone.
#pragma once

#include "cpu/topk.h"
#include "torch/ops.h"
#include "torch/topk_inputs.h"

namespace xrisk {

template <class T>
cpu::TopK<T> topk_call(const TopKInputs& inputs, int64_t k, bool smooth, double epsilon,
                       double tau1, double tau2) {
  return {inputs.scores.const_data_ptr<T>(), inputs.lists(), k, smooth, epsilon, tau1, tau2};
}

std::tuple<at::Tensor, at::Tensor> topk_threshold(const at::Tensor& scores, int64_t k,
                                                  const std::optional<at::Tensor>& offsets,
                                                  bool smooth, double epsilon, double tau1,
                                                  double tau2) {
  constexpr const char* kOp = "topk_threshold";
  const NoAutocast no_autocast;
  check_cpu(scores, kOp, "scores");
  const TopKInputs inputs = check_topk(kOp, scores, k, offsets, smooth, epsilon, tau1, tau2);
  check_offset_values(kOp, inputs);
  at::Tensor roots = at::empty(inputs.shape, inputs.scores.options().dtype(at::kDouble));
  visit_floating(inputs.type(), [&](auto zero) {
    cpu::topk_thresholds(topk_call<decltype(zero)>(inputs, k, smooth, epsilon, tau1, tau2),
                         roots.mutable_data_ptr<double>(), AtenExecutor());
  });
  // of its own storage, since an op's results must not share one
  return {roots.to(inputs.type(), /*non_blocking=*/false, /*copy=*/true), roots};
}

at::Tensor topk_threshold_gradient(const at::Tensor& scores, const at::Tensor& roots,
                                   const at::Tensor& upstream, int64_t k,
                                   const std::optional<at::Tensor>& offsets, bool smooth,
                                   double epsilon, double tau1, double tau2) {
  constexpr const char* kOp = "topk_threshold_gradient";
  const NoAutocast no_autocast;
  check_cpu(scores, kOp, "scores");
  const TopKInputs inputs = check_topk(kOp, scores, k, offsets, smooth, epsilon, tau1, tau2);
  check_offset_values(kOp, inputs);
  const at::Tensor at = checked_rows(roots, inputs, at::kDouble, kOp, "roots");
  const at::Tensor above = checked_rows(upstream, inputs, inputs.type(), kOp, "upstream");
  at::Tensor gradient = at::empty(scores.sizes(), inputs.scores.options());
  visit_floating(inputs.type(), [&](auto zero) {
    using T = decltype(zero);
    cpu::topk_gradient(topk_call<T>(inputs, k, smooth, epsilon, tau1, tau2),
                       at.const_data_ptr<double>(), above.const_data_ptr<T>(),
                       gradient.mutable_data_ptr<T>(), AtenExecutor());
  });
  return gradient.to(scores.scalar_type());
}

}  // namespace xrisk
