// listwise_step on CUDA.
#pragma once

#include "cuda/listwise_step.h"
#include "torch/cuda_common.h"
#include "torch/listwise_inputs.h"

namespace xrisk {
namespace {

std::tuple<at::Tensor, at::Tensor> listwise_step_cuda(
    const at::Tensor& scores, const at::Tensor& relevance, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& temperature,
    const at::Tensor& rank_temperature, int64_t loss, at::IntArrayRef counts,
    at::ArrayRef<double> numbers, int64_t reduction, bool needs_gradient) {
  constexpr const char* kOp = "listwise_step";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(scores.device());
  const ListInputs inputs =
      check_lists(kOp, scores, relevance, mask, item_weights, loss, counts, numbers, reduction);
  const at::Tensor heat = device_number(temperature, scores, kOp, "temperature");
  const at::Tensor rank_heat = device_number(rank_temperature, scores, kOp, "rank_temperature");
  debug_check_temperature(kOp, heat);
  debug_check_temperature(kOp, rank_heat);
  debug_check_weights(kOp, inputs.weights, true);
  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  const bool reduced = inputs.reduction != ListReduction::kNone;
  at::Tensor value = at::empty(inputs.value_shape(), options);
  at::Tensor values = reduced ? at::empty({inputs.lists}, options) : value;
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    cuda::ListwiseStep<T> call;
    call.options = inputs.options;
    call.reduction = inputs.reduction;
    call.temperature = heat.const_data_ptr<double>();
    call.rank_temperature = rank_heat.const_data_ptr<double>();
    call.lists = inputs.lists;
    call.length = inputs.length;
    call.scores = inputs.scores.const_data_ptr<T>();
    call.relevance = inputs.relevance.const_data_ptr<T>();
    if (inputs.mask.defined()) {
      call.mask = reinterpret_cast<const uint8_t*>(inputs.mask.const_data_ptr<bool>());
    }
    if (inputs.weights.defined()) call.weights = inputs.weights.const_data_ptr<T>();
    call.values = values.mutable_data_ptr<T>();
    call.total = reduced ? value.mutable_data_ptr<T>() : nullptr;
    call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    const size_t bytes = cuda::listwise_step_workspace_bytes(call);
    const at::Tensor space = workspace_like(scores, bytes);
    C10_CUDA_CHECK(
        cuda::launch_listwise_step(call, space.mutable_data_ptr(), bytes, stream_of(scores)));
  });
  return {value, gradient};
}

}  // namespace
}  // namespace xrisk
