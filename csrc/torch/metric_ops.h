// The ops under xrisk_ext.metrics on the CPU: torch.sort takes 84 ms for 1e6 floats, and the sums
// as tensor expressions 30 ms, most of it for the page faults of their temporaries. Included by
// module.cpp alone.
#pragma once

#include "cpu/curve_sums.h"
#include "cpu/descending_sort.h"
#include "torch/common.h"
#include "torch/listwise_ops.h"
#include "torch/ops.h"
#include "torch/topk_ops.h"

namespace xrisk {

std::tuple<at::Tensor, at::Tensor> sort_descending(const at::Tensor& scores) {
  constexpr const char* kOp = "sort_descending";
  const NoAutocast no_autocast;
  check_floating(scores, kOp, "scores");
  check_cpu(scores, kOp, "scores");
  TORCH_CHECK_VALUE(scores.dim() >= 1, kOp, ": expected scores of shape [..., N], got ",
                    scores.sizes());
  const int64_t columns = scores.size(-1);
  TORCH_CHECK_VALUE(columns < UINT32_MAX, kOp, ": expected fewer than 2^32 - 1 scores a row, got ",
                    columns);
  const at::Tensor h = contiguous_as(scores, accumulation_type(scores));
  at::Tensor values = at::empty(h.sizes(), h.options());
  at::Tensor indices = at::empty(h.sizes(), h.options().dtype(at::kLong));
  visit_floating(h.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    cpu::DescendingSort<T> call;
    call.scores = h.const_data_ptr<T>();
    call.values = values.mutable_data_ptr<T>();
    call.indices = indices.mutable_data_ptr<int64_t>();
    call.rows = columns == 0 ? 0 : h.numel() / columns;
    call.columns = columns;
    cpu::sort_descending(call, AtenExecutor());
  });
  return {values, indices};
}

at::Tensor curve_sums(const at::Tensor& values, const at::Tensor& indices,
                      const at::Tensor& positive, const std::optional<at::Tensor>& weights,
                      double max_fpr, double min_tpr) {
  constexpr const char* kOp = "curve_sums";
  const NoAutocast no_autocast;
  TORCH_CHECK_VALUE(values.dim() == 2, kOp, ": expected values of shape [L, N], got ",
                    values.sizes());
  TORCH_CHECK_TYPE(values.scalar_type() == at::kFloat || values.scalar_type() == at::kDouble, kOp,
                   ": expected values to be float32 or float64, got ", values.scalar_type());
  const auto check = [&](const at::Tensor& t, const char* name, at::ScalarType type) {
    TORCH_CHECK_TYPE(t.scalar_type() == type, kOp, ": expected ", name, " to be ", type, ", got ",
                     t.scalar_type());
    check_cpu(t, kOp, name);
    TORCH_CHECK_VALUE(t.sizes() == values.sizes(), kOp, ": expected ", name, " of shape ",
                      values.sizes(), ", got ", t.sizes());
    return t.contiguous();
  };
  const at::Tensor h = check(values, "values", values.scalar_type());
  const at::Tensor order = check(indices, "indices", at::kLong);
  const at::Tensor mask = check(positive, "positive", at::kBool);
  at::Tensor w;
  if (weights.has_value()) w = check(*weights, "weights", at::kDouble);
  TORCH_CHECK_VALUE(max_fpr > 0 && max_fpr <= 1, kOp, ": expected max_fpr in (0, 1], got ",
                    max_fpr);
  TORCH_CHECK_VALUE(min_tpr >= 0 && min_tpr < 1, kOp, ": expected min_tpr in [0, 1), got ",
                    min_tpr);
  at::Tensor sums = at::empty({h.size(0), 4}, h.options().dtype(at::kDouble));
  visit_floating(h.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    cpu::CurveSums<T> call;
    call.values = h.const_data_ptr<T>();
    call.indices = order.const_data_ptr<int64_t>();
    call.positive = reinterpret_cast<const uint8_t*>(mask.const_data_ptr<bool>());
    call.weights = w.defined() ? w.const_data_ptr<double>() : nullptr;
    call.rows = h.size(0);
    call.columns = h.size(1);
    call.max_fpr = max_fpr;
    call.min_tpr = min_tpr;
    call.sums = sums.mutable_data_ptr<double>();
    const bool good = cpu::curve_sums(call, AtenExecutor());
    TORCH_CHECK_INDEX(good, kOp, ": expected indices in [0, ", h.size(1), ")");
  });
  return sums;
}

}  // namespace xrisk
