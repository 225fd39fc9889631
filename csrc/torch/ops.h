// The CPU implementations that torch/module.cpp registers. Schemas and docstrings: there and in
// xrisk_ext/ops.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

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

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> contrastive_log_sums_rows(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude);

std::tuple<at::Tensor, at::Tensor> contrastive_log_sums_gradients(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude, const at::Tensor& query_weights,
    const at::Tensor& peaks, const at::Tensor& masses, bool for_queries, bool for_keys);

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_step(const at::Tensor& view1,
                                                             const at::Tensor& view2,
                                                             const at::Tensor& temperature,
                                                             const std::optional<at::Tensor>& alpha,
                                                             bool bimodal, bool flat,
                                                             bool normalize, bool needs_gradient);

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_step_autograd(
    const at::Tensor& view1, const at::Tensor& view2, const at::Tensor& temperature,
    const std::optional<at::Tensor>& alpha, bool bimodal, bool flat, bool normalize,
    bool needs_gradient);

std::tuple<at::Tensor, at::Tensor, at::Tensor> contrastive_step_(
    const at::Tensor& view1, const at::Tensor& view2, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, const at::Tensor& gamma,
    const at::Tensor& temperature, const at::Tensor& eta, double beta, double lowest,
    double highest, double rho, double epsilon, bool bimodal, bool normalize, bool per_view,
    bool relative, bool temperature_weighted, bool update_state, bool needs_gradient);

// The same with the gradients attached to the value; for the Autograd key.
std::tuple<at::Tensor, at::Tensor, at::Tensor> contrastive_step_autograd(
    const at::Tensor& view1, const at::Tensor& view2, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, const at::Tensor& gamma,
    const at::Tensor& temperature, const at::Tensor& eta, double beta, double lowest,
    double highest, double rho, double epsilon, bool bimodal, bool normalize, bool per_view,
    bool relative, bool temperature_weighted, bool update_state, bool needs_gradient);

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

}  // namespace xrisk
