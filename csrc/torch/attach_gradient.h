// Gives the value of a fused step a gradient that is known already.
//
// A fused step computes value and gradient together, below autograd. This node ties them to the
// graph: backward multiplies the saved gradient, kept in the accumulation dtype, by the upstream
// gradient and casts last. What is saved is never written while it may be asked for again, so
// retain_graph, gradient accumulation and gradient scaling work; the last backward takes it over
// and multiplies in place, which for a step over large lists saves the page faults of a second
// gradient. A bare node, since at small batches the wrapper is the cost: a C++
// Function takes 5 us more, a Python one 15.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/diff.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/repeat_interleave.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
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
                "xrisk_ext: a loss or sum was differentiated twice, but the derivative of its "
                "gradient is not known");
  }
};

// How the upstream gradient of several values meets the gradient of the scores: each value has a
// column of it, a row, or (with offsets) a list of entries. One value meets all of it.
struct ValueLayout {
  bool rows = false;
  at::Tensor offsets;  // [values + 1]

  at::Tensor spread(const at::Tensor& upstream, const at::Tensor& gradient) const {
    if (upstream.dim() == 0) return upstream;
    if (offsets.defined()) {
      return at::repeat_interleave(upstream, at::diff(offsets), 0, gradient.size(0));
    }
    return rows ? upstream.unsqueeze(1) : upstream;
  }
};

// gradient * upstream, a number, in another type by one kernel; undefined if there is none for it.
// Set where ops on CUDA are built.
using ScaledGradient = at::Tensor (*)(const at::Tensor& gradient, const at::Tensor& upstream,
                                      at::ScalarType type);
inline ScaledGradient& scaled_on_cuda() {
  static ScaledGradient kernel = nullptr;
  return kernel;
}

struct AttachGradientBackward final : torch::autograd::Node {
  struct Input {
    torch::autograd::SavedVariable gradient;
    at::ScalarType type;
  };
  std::vector<Input> inputs;
  ValueLayout layout;

  std::string name() const override { return "AttachGradientBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Input& input : inputs) input.gradient.reset_data();
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& upstream) override {
    torch::autograd::variable_list saved(inputs.size());
    const bool last = !torch::autograd::get_current_graph_task_keep_graph();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (size_t k = 0; k < inputs.size(); ++k) {
        if (!task_should_compute_output(k)) continue;
        saved[k] = inputs[k].gradient.unpack();
        if (last) inputs[k].gradient.reset_data();
      }
    }
    if (!upstream[0].defined()) return torch::autograd::variable_list(inputs.size());
    if (at::GradMode::is_enabled()) {  // create_graph=True
      const at::Tensor constant = upstream[0].detach();
      for (size_t k = 0; k < inputs.size(); ++k) {
        if (!saved[k].defined()) continue;
        const at::Tensor result = product(saved[k], constant, inputs[k].type);
        saved[k] = NoSecondDerivative::apply(result.requires_grad_());
      }
      return saved;
    }
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (size_t k = 0; k < inputs.size(); ++k) {
      if (!saved[k].defined()) continue;
      const bool on_cuda = saved[k].is_cuda() && plain_number(upstream[0]);
      if (on_cuda && follow_each_other(saved, k)) {
        const at::Tensor both = scaled(pair_of(saved[k]), upstream[0], inputs[k].type);
        saved[k] = both.select(0, 0);
        saved[k + 1] = both.select(0, 1);
        ++k;
      } else if (on_cuda && saved[k].scalar_type() != inputs[k].type) {
        saved[k] = scaled(saved[k], upstream[0], inputs[k].type);
      } else if (last && plain_number(upstream[0]) && saved[k].use_count() == 1 &&
                 saved[k].storage().use_count() == 1) {
        multiply(saved[k], upstream[0]);
        if (saved[k].scalar_type() != inputs[k].type) saved[k] = saved[k].to(inputs[k].type);
      } else {
        saved[k] = product(saved[k], upstream[0], inputs[k].type);
      }
    }
    return saved;
  }

 private:
  // Whether k and k + 1 are neighbours in one tensor, as the gradients of two views.
  bool follow_each_other(const torch::autograd::variable_list& saved, size_t k) const {
    if (k + 1 >= inputs.size()) return false;
    const at::Tensor &a = saved[k], &b = saved[k + 1];
    return b.defined() && a.is_contiguous() && b.is_contiguous() && a.sizes() == b.sizes() &&
           a.scalar_type() == b.scalar_type() && a.is_alias_of(b) &&
           b.storage_offset() == a.storage_offset() + a.numel() &&
           inputs[k].type == inputs[k + 1].type;
  }

  static at::Tensor pair_of(const at::Tensor& first) {
    std::vector<int64_t> sizes = first.sizes().vec(), strides = first.strides().vec();
    sizes.insert(sizes.begin(), 2);
    strides.insert(strides.begin(), first.numel());
    return first.as_strided(sizes, strides);
  }

  // Product and cast at once, on CUDA.
  static at::Tensor scaled(const at::Tensor& gradient, const at::Tensor& upstream,
                           at::ScalarType type) {
    if (scaled_on_cuda() != nullptr) {
      at::Tensor found = scaled_on_cuda()(gradient, upstream, type);
      if (found.defined()) return found;
    }
    at::Tensor result = at::empty(gradient.sizes(), gradient.options().dtype(type));
    at::mul_out(result, gradient, upstream);
    return result;
  }

  // Not one that stands for many (vmap), nor of a tensor subclass.
  static bool plain_number(const at::Tensor& t) {
    return t.dim() == 0 && t.has_storage() && !t.key_set().has(c10::DispatchKey::Python);
  }

  static void multiply(at::Tensor& gradient, const at::Tensor& upstream) {
    const bool one = upstream.is_cpu() && upstream.item<double>() == 1;  // the usual end of a loss
    if (!one) gradient.mul_(upstream);
  }
  at::Tensor product(const at::Tensor& saved, const at::Tensor& upstream,
                     at::ScalarType type) const {
    const at::Tensor result = saved.mul(layout.spread(upstream, saved));
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

// An input of a fused step and the gradient that is to flow to it.
struct InputGradient {
  const at::Tensor& input;
  at::Tensor gradient;
};

// Makes the gradients what flows to the inputs from `value`. All are fresh, without a graph.
inline void attach_gradients(std::initializer_list<InputGradient> gradients,
                             const at::Tensor& value, const ValueLayout& layout = {}) {
  const auto node = make_node<AttachGradientBackward>();
  node->layout = layout;
  node->inputs.reserve(gradients.size());
  torch::autograd::edge_list edges;
  for (const InputGradient& each : gradients) {
    node->inputs.push_back({torch::autograd::SavedVariable(each.gradient, /*is_output=*/false),
                            each.input.scalar_type()});
    edges.push_back(torch::autograd::impl::gradient_edge(each.input));
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(value, node);
}

inline void attach_gradient(const at::Tensor& scores, const at::Tensor& value,
                            const at::Tensor& gradient, const ValueLayout& layout = {}) {
  attach_gradients({{scores, gradient}}, value, layout);
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
// the Autograd key and the short way from Python run. `Layout::of(rest...)` is the ValueLayout of a
// call.
template <const char* kName, class Layout, class Signature>
struct FusedStep;
template <const char* kName, class Layout, class... Rest>
struct FusedStep<kName, Layout,
                 std::tuple<at::Tensor, at::Tensor>(bool, const at::Tensor&, Rest...)> {
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
      attach_gradient(scores, std::get<0>(result), std::get<1>(result), Layout::of(rest...));
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
