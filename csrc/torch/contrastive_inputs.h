// The arguments of the contrastive ops, checked once for the CPU and CUDA.
#pragma once

#include "torch/common.h"

namespace xrisk {

// Queries [B, D] and keys [M, D] in the type of the accumulation, temperatures [B], exclude [B, E].
struct ContrastiveInputs {
  at::Tensor queries, keys, temperatures, exclude;
  at::ScalarType type = at::kFloat;
  int64_t count = 0, keys_count = 0, width = 0, exclusions = 0;
};

inline ContrastiveInputs check_contrastive(const char* op, const at::Tensor& queries,
                                           const at::Tensor& keys, const at::Tensor& temperature,
                                           const std::optional<at::Tensor>& exclude) {
  check_floating(queries, op, "queries");
  check_floating(keys, op, "keys");
  check_floating(temperature, op, "temperature");
  check_device(keys, queries, op, "keys");
  check_device(temperature, queries, op, "temperature");
  TORCH_CHECK_VALUE(queries.dim() == 2, op, ": expected queries of shape [B, D], got ",
                    queries.sizes());
  TORCH_CHECK_VALUE(keys.dim() == 2 && keys.size(1) == queries.size(1), op,
                    ": expected keys of shape [M, ", queries.size(1), "], got ", keys.sizes());
  TORCH_CHECK_VALUE(queries.size(0) < INT32_MAX && keys.size(0) < INT32_MAX, op,
                    ": expected fewer than 2^31 queries and keys");
  ContrastiveInputs inputs;
  inputs.count = queries.size(0);
  inputs.keys_count = keys.size(0);
  inputs.width = queries.size(1);
  const bool twice = queries.scalar_type() == at::kDouble || keys.scalar_type() == at::kDouble;
  inputs.type = twice ? at::kDouble : at::kFloat;
  inputs.queries = contiguous_as(queries, inputs.type);
  inputs.keys = contiguous_as(keys, inputs.type);
  TORCH_CHECK_VALUE(temperature.dim() == 0 ||
                        (temperature.dim() == 1 && temperature.size(0) == inputs.count) ||
                        temperature.numel() == 1,
                    op, ": expected temperature to be one number or of shape [", inputs.count,
                    "], got ", temperature.sizes());
  inputs.temperatures = contiguous_as(temperature, at::kDouble).reshape({-1});
  if (exclude.has_value()) {
    const at::Tensor& e = *exclude;
    check_device(e, queries, op, "exclude");
    TORCH_CHECK_TYPE(e.scalar_type() == at::kLong || e.scalar_type() == at::kInt, op,
                     ": expected exclude to be int64 or int32, got ", e.scalar_type());
    TORCH_CHECK_VALUE((e.dim() == 1 || e.dim() == 2) && e.size(0) == inputs.count, op,
                      ": expected exclude of shape [", inputs.count, "] or [", inputs.count,
                      ", E], got ", e.sizes());
    inputs.exclude = contiguous_as(e, at::kLong);
    inputs.exclusions = e.dim() == 2 ? e.size(1) : 1;
  }
  return inputs;
}

}  // namespace xrisk
