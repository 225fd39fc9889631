// The arguments of the pair sums, checked once for the CPU and CUDA.
#pragma once

#include "torch/common.h"

namespace xrisk {

// Anchors [P], items [M] and weights [C, M], checked and in the type of the accumulation.
struct Pairs {
  at::Tensor anchors, items, weights;
  int64_t channels = 1;
  bool channel_dimension = false;
  at::ScalarType type = at::kFloat;
};

inline Pairs check_pairs(const char* op, const at::Tensor& anchors, const at::Tensor& items,
                         const std::optional<at::Tensor>& item_weights, bool non_negative) {
  check_floating(anchors, op, "anchors");
  check_floating(items, op, "items");
  check_device(items, anchors, op, "items");
  TORCH_CHECK_VALUE(anchors.dim() == 1, op, ": expected anchors of shape [P], got ",
                    anchors.sizes());
  TORCH_CHECK_VALUE(items.dim() == 1, op, ": expected items of shape [M], got ", items.sizes());
  TORCH_CHECK_VALUE(anchors.numel() < INT32_MAX && items.numel() < INT32_MAX, op,
                    ": expected fewer than 2^31 anchors and items");
  Pairs pairs;
  const bool twice = anchors.scalar_type() == at::kDouble || items.scalar_type() == at::kDouble;
  pairs.type = twice ? at::kDouble : at::kFloat;
  pairs.anchors = contiguous_as(anchors, pairs.type);
  pairs.items = contiguous_as(items, pairs.type);
  if (item_weights.has_value()) {
    const at::Tensor& w = *item_weights;
    const bool one = w.dim() == 1 && w.size(0) == items.numel();
    const bool many = w.dim() == 2 && w.size(1) == items.numel();
    check_device(w, anchors, op, "item_weights");
    TORCH_CHECK_VALUE(one || many, op, ": expected item_weights of shape [", items.numel(),
                      "] or [C, ", items.numel(), "], got ", w.sizes());
    pairs.weights = checked_weights(w, pairs.type, non_negative, op);
    pairs.channel_dimension = many;
    pairs.channels = many ? w.size(0) : 1;
  }
  return pairs;
}

inline at::Tensor empty_rows(const Pairs& pairs, at::ScalarType type) {
  const int64_t p = pairs.anchors.numel();
  const auto options = pairs.anchors.options().dtype(type);
  return pairs.channel_dimension ? at::empty({pairs.channels, p}, options)
                                 : at::empty({p}, options);
}

}  // namespace xrisk
