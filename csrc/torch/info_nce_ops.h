// The step of the contrastive losses without state on the CPU: value and gradients, one product for
// both directions.
// Included by torch/pairwise_ops.h only.
#pragma once

#include <ATen/ops/_unique.h>

#include <cmath>
#include <tuple>

#include "torch/contrastive_ops.h"

namespace xrisk {

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_step(
    const at::Tensor& view1, const at::Tensor& view2, const at::Tensor& temperature,
    const std::optional<at::Tensor>& alpha, const std::optional<at::Tensor>& labels, bool bimodal,
    bool flat, bool normalize, bool needs_gradient) {
  constexpr const char* kOp = "info_nce_step";
  const NoAutocast no_autocast;
  const ContrastiveStepInputs inputs = check_contrastive_step(
      kOp, view1, view2, std::nullopt, std::nullopt, std::nullopt, std::nullopt, bimodal);
  const double tau = checked_temperature(temperature, kOp, "temperature");
  InfoNce loss = info_nce_of(bimodal, flat);
  const double negatives = static_cast<double>((bimodal ? 1 : 2) * (inputs.batch - 1));
  const double equivalent = alpha.has_value() ? scalar_value(*alpha, kOp, "alpha") : negatives;
  TORCH_CHECK_VALUE(!alpha.has_value() || (equivalent > 0 && std::isfinite(equivalent)), kOp,
                    ": expected alpha > 0 and finite, got ", equivalent);
  loss.log_alpha = std::log(equivalent);
  at::Tensor classes, distinct;
  if (labels.has_value()) {
    check_device(*labels, view1, kOp, "labels");
    TORCH_CHECK_VALUE(labels->dim() == 1 && labels->numel() == inputs.batch && !bimodal, kOp,
                      ": expected labels of shape [", inputs.batch, "] and one modality, got ",
                      labels->sizes());
    std::tie(distinct, classes) = at::_unique(*labels, /*sorted=*/true, /*return_inverse=*/true);
  }
  const ContrastiveStepOutputs outputs(inputs, needs_gradient);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    cpu::ContrastiveStep<T, float> call;
    call.bimodal = bimodal;
    call.normalize = normalize;
    call.temperature = tau;
    call.info_nce = &loss;
    if (classes.defined()) {
      call.classes = classes.const_data_ptr<int64_t>();
      call.class_count = distinct.numel();
    }
    call.per_view = true;
    call.relative = true;
    run_contrastive_step(call, inputs, outputs, AtenExecutor());
  });
  return outputs.result();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_step_autograd(
    const at::Tensor& view1, const at::Tensor& view2, const at::Tensor& temperature,
    const std::optional<at::Tensor>& alpha, const std::optional<at::Tensor>& labels, bool bimodal,
    bool flat, bool normalize, bool needs_gradient) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::info_nce_step", "")
                             .typed<decltype(info_nce_step)>();
  std::tuple<at::Tensor, at::Tensor, at::Tensor> result;
  at::Tensor first, second;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result =
        op.call(view1, view2, temperature, alpha, labels, bimodal, flat, normalize, needs_gradient);
    if (!needs_gradient) return result;
    first = std::get<1>(result).select(0, 0);
    second = std::get<1>(result).select(0, 1);
  }
  const bool wanted = view1.requires_grad() || view2.requires_grad() || temperature.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) return result;
  attach_gradients(
      {{view1, first}, {view2, second}, {temperature, std::get<2>(result).view_as(temperature)}},
      std::get<0>(result));
  return result;
}

}  // namespace xrisk
