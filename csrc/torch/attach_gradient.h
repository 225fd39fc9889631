// Gives the value of a fused step a gradient that is known already.
//
// A fused step computes value and gradient together, below autograd. This node ties them to the
// graph: backward multiplies the saved gradient, kept in the accumulation dtype, by the upstream
// gradient and casts last. Saved memory is never written, so retain_graph, gradient accumulation
// and gradient scaling work. In C++ because at small batches the wrapper is the cost: a Python
// Function takes 15 us more.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace xrisk {

// Its backward is the second derivative of a fused step, which nobody knows.
struct NoSecondDerivative : torch::autograd::Function<NoSecondDerivative> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& gradient) {
    return gradient.view_as(gradient);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list&) {
    TORCH_CHECK(false,
                "xrisk_ext: a loss was differentiated twice, but its gradient is an estimate whose "
                "derivative is not known");
  }
};

struct AttachGradient : torch::autograd::Function<AttachGradient> {
  // step() returns {value, gradient}; it runs below autograd.
  template <class Step>
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& scores, const Step& step) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [value, gradient] = step();
    ctx->save_for_backward({gradient});
    ctx->mark_non_differentiable({gradient});
    ctx->saved_data["dtype"] = scores.scalar_type();
    return {value, gradient};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& upstream) {
    const at::Tensor gradient = ctx->get_saved_variables()[0];
    at::Tensor result = gradient.mul(upstream[0]).to(ctx->saved_data["dtype"].toScalarType());
    if (at::GradMode::is_enabled()) {  // create_graph=True
      result = NoSecondDerivative::apply(result.detach().requires_grad_());
    }
    return {result, at::Tensor()};
  }
};

}  // namespace xrisk
