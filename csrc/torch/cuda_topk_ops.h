// topk_threshold and its gradient on CUDA. Included by torch/cuda_ops.cpp alone.
#pragma once

#include "cuda/topk.h"
#include "torch/cuda_common.h"
#include "torch/topk_inputs.h"

namespace xrisk {

template <class T>
cuda::TopK<T> cuda_topk_call(const TopKInputs& inputs, int64_t k, bool smooth, double epsilon,
                             double tau1, double tau2) {
  return {inputs.scores.const_data_ptr<T>(),
          inputs.scores.numel(),
          inputs.lists(),
          k,
          smooth,
          epsilon,
          tau1,
          tau2};
}

inline void debug_check_offsets(const char* op, const TopKInputs& inputs) {
  if (!debugging() || !inputs.offsets.defined()) return;
  TopKInputs copy = inputs;
  copy.offsets = inputs.offsets.cpu();
  check_offset_values(op, copy);
}

inline std::tuple<at::Tensor, at::Tensor> topk_threshold_cuda(
    const at::Tensor& scores, int64_t k, const std::optional<at::Tensor>& offsets, bool smooth,
    double epsilon, double tau1, double tau2) {
  constexpr const char* kOp = "topk_threshold";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(scores.device());
  const TopKInputs inputs = check_topk(kOp, scores, k, offsets, smooth, epsilon, tau1, tau2);
  debug_check_offsets(kOp, inputs);
  at::Tensor roots = at::empty(inputs.shape, inputs.scores.options().dtype(at::kDouble));
  at::Tensor values = at::empty(inputs.shape, inputs.scores.options());
  visit_floating(inputs.type(), [&](auto zero) {
    using T = decltype(zero);
    const auto call = cuda_topk_call<T>(inputs, k, smooth, epsilon, tau1, tau2);
    const cuda::Thresholds<T> out{roots.mutable_data_ptr<double>(), values.mutable_data_ptr<T>()};
    const at::Tensor space = workspace_like(scores, cuda::topk_workspace_bytes(call));
    C10_CUDA_CHECK(cuda::launch_topk(call, out, space.mutable_data_ptr(), stream_of(scores)));
  });
  return {values, roots};
}

inline at::Tensor topk_threshold_gradient_cuda(const at::Tensor& scores, const at::Tensor& roots,
                                               const at::Tensor& upstream, int64_t k,
                                               const std::optional<at::Tensor>& offsets,
                                               bool smooth, double epsilon, double tau1,
                                               double tau2) {
  constexpr const char* kOp = "topk_threshold_gradient";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(scores.device());
  const TopKInputs inputs = check_topk(kOp, scores, k, offsets, smooth, epsilon, tau1, tau2);
  const at::Tensor at = checked_rows(roots, inputs, at::kDouble, kOp, "roots");
  const at::Tensor above = checked_rows(upstream, inputs, inputs.type(), kOp, "upstream");
  at::Tensor gradient = at::empty(scores.sizes(), inputs.scores.options());
  visit_floating(inputs.type(), [&](auto zero) {
    using T = decltype(zero);
    const auto call = cuda_topk_call<T>(inputs, k, smooth, epsilon, tau1, tau2);
    const at::Tensor space = workspace_like(scores, cuda::topk_gradient_workspace_bytes(call));
    C10_CUDA_CHECK(cuda::launch_topk_gradient(
        call, at.const_data_ptr<double>(), above.const_data_ptr<T>(),
        gradient.mutable_data_ptr<T>(), space.mutable_data_ptr(), stream_of(scores)));
  });
  return gradient.to(scores.scalar_type());
}

}  // namespace xrisk
