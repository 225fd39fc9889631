// Pair sums with a gradient: the rows forward, the columns backward.
//
// What the Python Function of xrisk_ext/ops/pairwise.py does, as a bare node: at a few thousand
// scores the wrapper takes as long as the sums. Both ops go through the dispatcher, to the CPU or
// CUDA. Included by torch/pairwise_ops.h only.
#pragma once

#include <ATen/ops/mul.h>

#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "torch/attach_gradient.h"
#include "torch/ops.h"

namespace xrisk {

struct PairwiseSumsBackward final : torch::autograd::Node {
  torch::autograd::SavedVariable anchors, items, item_weights, scale, slopes, order;
  double margin = 0.0;
  int64_t surrogate = 0, algorithm = 0;

  std::string name() const override { return "PairwiseSumsBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto* each : {&anchors, &items, &item_weights, &scale, &slopes, &order}) {
      each->reset_data();
    }
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& upstreams) override {
    torch::autograd::variable_list gradients(2);
    const at::Tensor upstream = std::move(upstreams[0]);
    if (!upstream.defined()) return gradients;
    const bool again = at::GradMode::is_enabled();  // create_graph=True
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const at::Tensor x = anchors.unpack(), y = items.unpack();
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      if (task_should_compute_output(0)) gradients[0] = of_anchors(x, upstream);
      if (task_should_compute_output(1)) gradients[1] = of_items(x, y, upstream);
    }
    for (at::Tensor& gradient : gradients) {
      if (!again || !gradient.defined()) continue;
      gradient = NoSecondDerivative::apply(gradient.requires_grad_());
    }
    return gradients;
  }

 private:
  at::Tensor of_anchors(const at::Tensor& x, const at::Tensor& upstream) {
    at::Tensor gradient = at::mul(upstream, slopes.unpack()).neg_();
    if (gradient.dim() == 2) gradient = gradient.sum(0);
    return gradient.scalar_type() == x.scalar_type() ? gradient : gradient.to(x.scalar_type());
  }

  at::Tensor of_items(const at::Tensor& x, const at::Tensor& y, const at::Tensor& upstream) {
    static const auto columns = c10::Dispatcher::singleton()
                                    .findSchemaOrThrow("xrisk_ext::pairwise_sums_columns", "")
                                    .typed<decltype(pairwise_sums_columns)>();
    const at::Tensor weights = item_weights.unpack();
    const auto given = weights.defined() ? std::optional<at::Tensor>(weights) : std::nullopt;
    const at::Tensor gradient = columns.call(x, y, given, upstream, order.unpack(), scale.unpack(),
                                             margin, surrogate, algorithm);
    return gradient.scalar_type() == y.scalar_type() ? gradient : gradient.to(y.scalar_type());
  }
};

at::Tensor pairwise_sums(const at::Tensor& anchors, const at::Tensor& items,
                         const std::optional<at::Tensor>& item_weights, const at::Tensor& scale,
                         double margin, int64_t surrogate, int64_t algorithm) {
  static const auto rows = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("xrisk_ext::pairwise_sums_rows", "")
                               .typed<decltype(pairwise_sums_rows)>();
  using torch::autograd::SavedVariable;
  const bool wanted =
      at::GradMode::is_enabled() && (anchors.requires_grad() || items.requires_grad());
  at::Tensor sums, slopes, order;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    std::tie(sums, slopes, order) =
        rows.call(anchors, items, item_weights, scale, margin, surrogate, algorithm);
  }
  if (!wanted) return sums;
  const auto node = make_node<PairwiseSumsBackward>();
  node->anchors = SavedVariable(anchors, /*is_output=*/false);
  node->items = SavedVariable(items, /*is_output=*/false);
  node->item_weights = SavedVariable(item_weights, /*is_output=*/false);
  node->scale = SavedVariable(scale, /*is_output=*/false);
  node->slopes = SavedVariable(slopes, /*is_output=*/false);
  node->order = SavedVariable(order, /*is_output=*/false);
  node->margin = margin;
  node->surrogate = surrogate;
  node->algorithm = algorithm;
  node->set_next_edges(
      {torch::autograd::impl::gradient_edge(anchors), torch::autograd::impl::gradient_edge(items)});
  torch::autograd::set_history(sums, node);
  return sums;
}

}  // namespace xrisk
