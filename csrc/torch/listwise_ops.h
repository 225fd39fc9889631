// listwise_step on the CPU, with its gradient attached, and the short way to it.
#pragma once

#include "cpu/listwise_step.h"
#include "torch/attach_gradient.h"
#include "torch/listwise_inputs.h"
#include "torch/ops.h"

namespace xrisk {
namespace {

// Relevance that is NaN or infinite is an error where the item takes part.
template <class T>
bool relevance_is_finite(const ListInputs& inputs) {
  const T* y = inputs.relevance.const_data_ptr<T>();
  const int64_t count = inputs.relevance.numel();
  bool finite = true;
  for (int64_t k = 0; k < count; ++k) finite &= y[k] - y[k] == T(0);
  if (finite || !inputs.mask.defined()) return finite;
  const bool* mask = inputs.mask.const_data_ptr<bool>();
  for (int64_t k = 0; k < count; ++k) {
    if (mask[k] && !(y[k] - y[k] == T(0))) return false;
  }
  return true;
}

auto& listwise_step_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::listwise_step", "")
                             .typed<decltype(listwise_step)>();
  return op;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> listwise_step(
    const at::Tensor& scores, const at::Tensor& relevance, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& temperature,
    const at::Tensor& rank_temperature, int64_t loss, at::IntArrayRef counts,
    at::ArrayRef<double> numbers, int64_t reduction, bool needs_gradient) {
  constexpr const char* kOp = "listwise_step";
  const NoAutocast no_autocast;
  const ListInputs inputs =
      check_lists(kOp, scores, relevance, mask, item_weights, loss, counts, numbers, reduction);
  const double heat = checked_temperature(temperature, kOp, "temperature");
  const double rank_heat = checked_temperature(rank_temperature, kOp, "rank_temperature");
  at::Tensor value = at::empty(inputs.value_shape(), inputs.scores.options());
  at::Tensor gradient =
      at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), inputs.scores.options());
  std::vector<double> values(static_cast<size_t>(inputs.lists));
  double total = 0.0;
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    TORCH_CHECK_VALUE(is_retrieval(inputs.options.loss) || relevance_is_finite<T>(inputs), kOp,
                      ": expected relevance to be finite");
    cpu::ListwiseStep<T> call;
    call.options = inputs.options;
    call.reduction = inputs.reduction;
    call.temperature = heat;
    call.rank_temperature = rank_heat;
    call.lists = inputs.lists;
    call.length = inputs.length;
    call.scores = inputs.scores.const_data_ptr<T>();
    call.relevance = inputs.relevance.const_data_ptr<T>();
    if (inputs.mask.defined()) {
      call.mask = reinterpret_cast<const uint8_t*>(inputs.mask.const_data_ptr<bool>());
    }
    if (inputs.weights.defined()) call.weights = inputs.weights.const_data_ptr<T>();
    call.values = values.data();
    call.total = &total;
    call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    cpu::listwise_step(call, AtenExecutor());
    T* out = value.mutable_data_ptr<T>();
    if (inputs.reduction != ListReduction::kNone) {
      *out = static_cast<T>(total);
    } else {
      for (int64_t q = 0; q < inputs.lists; ++q) {
        out[q] = static_cast<T>(values[static_cast<size_t>(q)]);
      }
    }
  });
  return {value, gradient};
}

std::tuple<at::Tensor, at::Tensor> listwise_step_autograd(
    const at::Tensor& scores, const at::Tensor& relevance, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& temperature,
    const at::Tensor& rank_temperature, int64_t loss, at::IntArrayRef counts,
    at::ArrayRef<double> numbers, int64_t reduction, bool needs_gradient) {
  std::tuple<at::Tensor, at::Tensor> result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result =
        listwise_step_op().call(scores, relevance, mask, item_weights, temperature,
                                rank_temperature, loss, counts, numbers, reduction, needs_gradient);
  }
  // A compiled graph asks for the gradient with grad mode off: it attaches it by itself.
  if (needs_gradient && scores.requires_grad() && at::GradMode::is_enabled()) {
    attach_gradient(scores, std::get<0>(result), std::get<1>(result));
  }
  return result;
}

at::Tensor listwise_value(const at::Tensor& scores, const at::Tensor& relevance,
                          const std::optional<at::Tensor>& mask,
                          const std::optional<at::Tensor>& item_weights,
                          const at::Tensor& temperature, const at::Tensor& rank_temperature,
                          int64_t loss, const std::vector<int64_t>& counts,
                          const std::vector<double>& numbers, int64_t reduction) {
  const bool needs_gradient = scores.requires_grad() && at::GradMode::is_enabled();
  return std::get<0>(listwise_step_op().call(scores, relevance, mask, item_weights, temperature,
                                             rank_temperature, loss, counts, numbers, reduction,
                                             needs_gradient));
}

}  // namespace xrisk
