// The CPU implementations that torch/module.cpp registers. Schemas and docstrings: there and in
// xrisk_ext/ops.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace xrisk {

std::tuple<at::Tensor, at::Tensor> pairwise_sums_rows(const at::Tensor& anchors,
                                                      const at::Tensor& items,
                                                      const std::optional<at::Tensor>& item_weights,
                                                      const at::Tensor& scale, double margin,
                                                      int64_t surrogate, int64_t algorithm);

at::Tensor pairwise_sums_columns(const at::Tensor& anchors, const at::Tensor& items,
                                 const std::optional<at::Tensor>& item_weights,
                                 const at::Tensor& anchor_weights, const at::Tensor& scale,
                                 double margin, int64_t surrogate, int64_t algorithm);

std::tuple<at::Tensor, at::Tensor, at::Tensor> pairwise_log_sums_rows(
    const at::Tensor& anchors, const at::Tensor& items,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& scale,
    const at::Tensor& temperature, double margin, int64_t surrogate);

at::Tensor pairwise_log_sums_columns(const at::Tensor& anchors, const at::Tensor& items,
                                     const std::optional<at::Tensor>& item_weights,
                                     const at::Tensor& anchor_weights, const at::Tensor& masses,
                                     const at::Tensor& scale, const at::Tensor& temperature,
                                     double margin, int64_t surrogate);

std::tuple<at::Tensor, at::Tensor> surrogate_values(const at::Tensor& differences,
                                                    const at::Tensor& scale, double margin,
                                                    int64_t surrogate);

at::Tensor moving_average_update_(const at::Tensor& state, const at::Tensor& index,
                                  const at::Tensor& values, const at::Tensor& gamma, bool log);

std::tuple<at::Tensor, at::Tensor> sort_descending(const at::Tensor& scores);

at::Tensor curve_sums(const at::Tensor& values, const at::Tensor& indices,
                      const at::Tensor& positive, const std::optional<at::Tensor>& weights,
                      double max_fpr, double min_tpr);

std::tuple<at::Tensor, at::Tensor> score_step_(const at::Tensor& scores, const at::Tensor& labels,
                                               const std::optional<at::Tensor>& index,
                                               const std::optional<at::Tensor>& item_weights,
                                               const std::optional<at::Tensor>& state,
                                               const at::Tensor& gamma, const at::Tensor& scale,
                                               double margin, int64_t rule, int64_t surrogate,
                                               int64_t algorithm, bool update_state,
                                               bool needs_gradient, bool mean_reduction);

// The same with the gradient attached to the value; for the Autograd key.
std::tuple<at::Tensor, at::Tensor> score_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const at::Tensor& gamma, const at::Tensor& scale, double margin, int64_t rule,
    int64_t surrogate, int64_t algorithm, bool update_state, bool needs_gradient,
    bool mean_reduction);

// The value alone, through the dispatcher: what Python calls where nothing traces it, since
// converting the arguments for torch.ops takes 3 us more.
at::Tensor score_step(const at::Tensor& scores, const at::Tensor& labels,
                      const std::optional<at::Tensor>& index,
                      const std::optional<at::Tensor>& item_weights,
                      const std::optional<at::Tensor>& state, const at::Tensor& gamma,
                      const at::Tensor& scale, double margin, int64_t rule, int64_t surrogate,
                      int64_t algorithm, bool update_state, bool mean_reduction);

std::tuple<at::Tensor, at::Tensor> partial_auc_step_(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& dual, const std::optional<at::Tensor>& outer,
    at::TensorList schedules, const at::Tensor& scale, double margin, double max_fpr,
    double min_tpr, double power, int64_t rule, int64_t surrogate, int64_t algorithm,
    bool update_state, bool needs_gradient, bool mean_reduction);

// As score_step_autograd and score_step.
std::tuple<at::Tensor, at::Tensor> partial_auc_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& dual, const std::optional<at::Tensor>& outer,
    at::TensorList schedules, const at::Tensor& scale, double margin, double max_fpr,
    double min_tpr, double power, int64_t rule, int64_t surrogate, int64_t algorithm,
    bool update_state, bool needs_gradient, bool mean_reduction);

at::Tensor partial_auc_step(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const std::optional<at::Tensor>& dual, const std::optional<at::Tensor>& outer,
    const std::vector<at::Tensor>& schedules, const at::Tensor& scale, double margin,
    double max_fpr, double min_tpr, double power, int64_t rule, int64_t surrogate,
    int64_t algorithm, bool update_state, bool mean_reduction);

}  // namespace xrisk
