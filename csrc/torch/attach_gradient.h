// Gives the value of a fused step a gradient that is known already.
//
// A fused step computes value and gradient together, below autograd. This node ties them to the
// graph: backward multiplies the saved gradient, kept in the accumulation dtype, by the upstream
// gradient and casts last. Saved memory is never written, so retain_graph, gradient accumulation
// and gradient scaling work. A bare node, since at small batches the wrapper is the cost: a C++
// Function takes 5 us more, a Python one 15.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

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

// Of a value with respect to kInputs tensors.
template <size_t kInputs>
struct AttachGradientBackward final : torch::autograd::Node {
  std::array<torch::autograd::SavedVariable, kInputs> gradients;
  std::array<at::ScalarType, kInputs> types;

  std::string name() const override { return "AttachGradientBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& gradient : gradients) gradient.reset_data();
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& upstream) override {
    torch::autograd::variable_list results(kInputs);
    for (size_t k = 0; k < kInputs; ++k) {
      if (!task_should_compute_output(k)) continue;
      at::Tensor saved;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        saved = gradients[k].unpack();
      }
      if (!upstream[0].defined()) continue;
      if (at::GradMode::is_enabled()) {  // create_graph=True
        const at::Tensor result = product(saved, upstream[0].detach(), types[k]);
        results[k] = NoSecondDerivative::apply(result.requires_grad_());
      } else {
        const at::AutoDispatchBelowADInplaceOrView below_autograd;
        results[k] = product(saved, upstream[0], types[k]);
      }
    }
    return results;
  }

 private:
  static at::Tensor product(const at::Tensor& saved, const at::Tensor& upstream,
                            at::ScalarType type) {
    const at::Tensor result = saved.mul(upstream);
    return result.scalar_type() == type ? result : result.to(type);
  }
};

// Nodes are counted by intrusive_ptr in torch 2.13 and by shared_ptr in 2.11.
template <class N, class Pointer = decltype(torch::autograd::Edge::function)>
auto make_node() {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::shared_ptr<N>(new N(), [](N* node) { deleteNode(node); });  // of torch::autograd
  } else {
    return c10::make_intrusive<N>();
  }
}

// Makes gradients[k] what flows to inputs[k] from `value`; all but the inputs fresh and without a
// graph. The gradient of an input that requires none may be undefined.
template <size_t kInputs>
void attach_gradients(const std::array<at::Tensor, kInputs>& inputs, const at::Tensor& value,
                      const std::array<at::Tensor, kInputs>& gradients) {
  const auto node = make_node<AttachGradientBackward<kInputs>>();
  for (size_t k = 0; k < kInputs; ++k) {
    node->gradients[k] = torch::autograd::SavedVariable(gradients[k], /*is_output=*/false);
    node->types[k] = inputs[k].scalar_type();
  }
  torch::autograd::edge_list edges;
  edges.reserve(kInputs);
  for (const at::Tensor& input : inputs) {
    edges.push_back(torch::autograd::impl::gradient_edge(input));
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(value, node);
}

inline void attach_gradient(const at::Tensor& scores, const at::Tensor& value,
                            const at::Tensor& gradient) {
  attach_gradients<1>({scores}, value, {gradient});
}

// The type in which an argument of an op comes from Python.
template <class Argument>
struct FromPython {
  using Type = Argument;
};
template <>
struct FromPython<at::TensorList> {
  using Type = const std::vector<at::Tensor>&;
};

// For a fused step `(bool needs_gradient, const Tensor& scores, ...)` that is the op kName: what
// the Autograd key and the short way from Python run.
template <const char* kName, class Signature>
struct FusedStep;
template <const char* kName, class... Rest>
struct FusedStep<kName, std::tuple<at::Tensor, at::Tensor>(bool, const at::Tensor&, Rest...)> {
  static const auto& op() {
    static const auto handle =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow(kName, "")
            .typed<std::tuple<at::Tensor, at::Tensor>(bool, const at::Tensor&, Rest...)>();
    return handle;
  }

  // With the gradient attached to the value. A compiled graph asks for the gradient with grad mode
  // off: it attaches it by itself.
  static std::tuple<at::Tensor, at::Tensor> attached(bool needs_gradient, const at::Tensor& scores,
                                                     Rest... rest) {
    std::tuple<at::Tensor, at::Tensor> result;
    {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      result = op().call(needs_gradient, scores, rest...);
    }
    if (needs_gradient && scores.requires_grad() && at::GradMode::is_enabled()) {
      attach_gradient(scores, std::get<0>(result), std::get<1>(result));
    }
    return result;
  }

  // The value alone, through the dispatcher: what Python calls where nothing traces it, since
  // converting the arguments for torch.ops takes longer.
  static at::Tensor value(const at::Tensor& scores, typename FromPython<Rest>::Type... rest) {
    const bool needs_gradient = scores.requires_grad() && at::GradMode::is_enabled();
    return std::get<0>(op().call(needs_gradient, scores, rest...));
  }
};

}  // namespace xrisk
