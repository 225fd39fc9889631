// The CPU implementations that torch/module.cpp registers. Schemas and docstrings: there and in
// xrisk_ext/ops.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace xrisk {

std::tuple<at::Tensor, at::Tensor, at::Tensor> pairwise_sums_rows(
    const at::Tensor& anchors, const at::Tensor& items,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& scale, double margin,
    int64_t surrogate, int64_t algorithm);

at::Tensor pairwise_sums_columns(const at::Tensor& anchors, const at::Tensor& items,
                                 const std::optional<at::Tensor>& item_weights,
                                 const at::Tensor& anchor_weights, const at::Tensor& order,
                                 const at::Tensor& scale, double margin, int64_t surrogate,
                                 int64_t algorithm);

// The two with the gradient attached, for Python.
at::Tensor pairwise_sums(const at::Tensor& anchors, const at::Tensor& items,
                         const std::optional<at::Tensor>& item_weights, const at::Tensor& scale,
                         double margin, int64_t surrogate, int64_t algorithm);

std::tuple<at::Tensor, at::Tensor, at::Tensor> pairwise_log_sums_rows(
    const at::Tensor& anchors, const at::Tensor& items,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& scale,
    const at::Tensor& temperature, double margin, int64_t surrogate, int64_t algorithm);

at::Tensor pairwise_log_sums_columns(const at::Tensor& anchors, const at::Tensor& items,
                                     const std::optional<at::Tensor>& item_weights,
                                     const at::Tensor& anchor_weights, const at::Tensor& masses,
                                     const at::Tensor& scale, const at::Tensor& temperature,
                                     double margin, int64_t surrogate, int64_t algorithm);

std::tuple<at::Tensor, at::Tensor> surrogate_values(const at::Tensor& differences,
                                                    const at::Tensor& scale, double margin,
                                                    int64_t surrogate);

at::Tensor moving_average_update_(const at::Tensor& state, const at::Tensor& index,
                                  const at::Tensor& values, const at::Tensor& gamma, bool log);

std::tuple<at::Tensor, at::Tensor> topk_threshold(const at::Tensor& scores, int64_t k,
                                                  const std::optional<at::Tensor>& offsets,
                                                  bool smooth, double epsilon, double tau1,
                                                  double tau2);

at::Tensor topk_threshold_gradient(const at::Tensor& scores, const at::Tensor& roots,
                                   const at::Tensor& upstream, int64_t k,
                                   const std::optional<at::Tensor>& offsets, bool smooth,
                                   double epsilon, double tau1, double tau2);
std::tuple<at::Tensor, at::Tensor, at::Tensor> auc_margin_step(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& alpha, const std::optional<at::Tensor>& class_prior, double margin,
    int64_t kind, bool needs_gradient, bool mean_reduction);
std::tuple<at::Tensor, at::Tensor, at::Tensor> auc_margin_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& a, const at::Tensor& b,
    const at::Tensor& alpha, const std::optional<at::Tensor>& class_prior, double margin,
    int64_t kind, bool needs_gradient, bool mean_reduction);

std::tuple<at::Tensor, at::Tensor> cross_entropy_step(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& class_weights,
    const std::optional<at::Tensor>& margins, double scale, double focus, bool needs_gradient,
    bool mean_reduction);
std::tuple<at::Tensor, at::Tensor> cross_entropy_step_autograd(
    const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& class_weights,
    const std::optional<at::Tensor>& margins, double scale, double focus, bool needs_gradient,
    bool mean_reduction);

at::Tensor auc_margin(const at::Tensor& scores, const at::Tensor& labels,
                      const std::optional<at::Tensor>& item_weights, const at::Tensor& a,
                      const at::Tensor& b, const at::Tensor& alpha,
                      const std::optional<at::Tensor>& class_prior, double margin, int64_t kind,
                      bool mean_reduction);
at::Tensor cross_entropy(const at::Tensor& scores, const at::Tensor& labels,
                         const std::optional<at::Tensor>& item_weights,
                         const std::optional<at::Tensor>& class_weights,
                         const std::optional<at::Tensor>& margins, double scale, double focus,
                         bool mean_reduction);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> contrastive_log_sums_rows(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude);

std::tuple<at::Tensor, at::Tensor> contrastive_log_sums_gradients(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude, const at::Tensor& query_weights,
    const at::Tensor& peaks, const at::Tensor& masses, bool for_queries, bool for_keys);

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_step(
    const at::Tensor& view1, const at::Tensor& view2, const at::Tensor& temperature,
    const std::optional<at::Tensor>& alpha, const std::optional<at::Tensor>& labels, bool bimodal,
    bool flat, bool normalize, bool needs_gradient);

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_step_autograd(
    const at::Tensor& view1, const at::Tensor& view2, const at::Tensor& temperature,
    const std::optional<at::Tensor>& alpha, const std::optional<at::Tensor>& labels, bool bimodal,
    bool flat, bool normalize, bool needs_gradient);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> query_step_(
    const at::Tensor& queries, const at::Tensor& keys, const std::optional<at::Tensor>& positives,
    const std::optional<at::Tensor>& targets, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, at::TensorList schedules, const at::Tensor& temperature,
    bool normalize, bool update_state, bool for_queries, bool for_keys);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> query_step_autograd(
    const at::Tensor& queries, const at::Tensor& keys, const std::optional<at::Tensor>& positives,
    const std::optional<at::Tensor>& targets, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, at::TensorList schedules, const at::Tensor& temperature,
    bool normalize, bool update_state, bool for_queries, bool for_keys);

void enqueue_(const at::Tensor& state, const at::Tensor& state_pointer, const at::Tensor& rows,
              bool normalize);

std::tuple<at::Tensor, at::Tensor> entropic_step_(bool needs_gradient, const at::Tensor& logits,
                                                  const std::optional<at::Tensor>& index,
                                                  const std::optional<at::Tensor>& state,
                                                  at::TensorList schedules, bool update_state);
inline constexpr char kEntropicStep[] = "xrisk_ext::entropic_step_";

std::tuple<at::Tensor, at::Tensor, at::Tensor> contrastive_step_(
    const at::Tensor& view1, const at::Tensor& view2, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, const at::Tensor& gamma,
    const at::Tensor& temperature, const at::Tensor& eta, double beta, double second_beta,
    double slope_limit, double lowest, double highest, double rho, double epsilon, bool bimodal,
    bool normalize, bool per_view, bool relative, bool temperature_weighted, bool update_state,
    bool needs_gradient);

// The same with the gradients attached to the value; for the Autograd key.
std::tuple<at::Tensor, at::Tensor, at::Tensor> contrastive_step_autograd(
    const at::Tensor& view1, const at::Tensor& view2, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, const at::Tensor& gamma,
    const at::Tensor& temperature, const at::Tensor& eta, double beta, double second_beta,
    double slope_limit, double lowest, double highest, double rho, double epsilon, bool bimodal,
    bool normalize, bool per_view, bool relative, bool temperature_weighted, bool update_state,
    bool needs_gradient);

using PooledMarginOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
PooledMarginOutputs pooled_margin_step_(
    bool needs_gradient, const at::Tensor& values, const std::optional<at::Tensor>& denominators,
    const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_denominators,
    const at::Tensor& a, const at::Tensor& b, const at::Tensor& alpha, const at::Tensor& gamma,
    double tau);
PooledMarginOutputs pooled_margin_step_autograd(
    bool needs_gradient, const at::Tensor& values, const std::optional<at::Tensor>& denominators,
    const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_denominators,
    const at::Tensor& a, const at::Tensor& b, const at::Tensor& alpha, const at::Tensor& gamma,
    double tau);

at::Tensor pooled_margin(const at::Tensor& values, const std::optional<at::Tensor>& denominators,
                         const at::Tensor& labels, const std::optional<at::Tensor>& index,
                         const std::optional<at::Tensor>& state,
                         const std::optional<at::Tensor>& state_denominators, const at::Tensor& a,
                         const at::Tensor& b, const at::Tensor& alpha, const at::Tensor& gamma,
                         double tau);

std::tuple<at::Tensor, at::Tensor> ranked_precision_step(
    bool needs_gradient, const at::Tensor& scores, const at::Tensor& labels,
    const at::Tensor& values, const std::optional<at::Tensor>& chosen,
    const std::optional<at::Tensor>& index, const std::optional<at::Tensor>& state,
    const at::Tensor& scale, double margin, double top_k, int64_t count, int64_t surrogate,
    int64_t algorithm);
inline constexpr char kRankedPrecisionStep[] = "xrisk_ext::ranked_precision_step";

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

std::tuple<at::Tensor, at::Tensor> ranking_step_(
    bool needs_gradient, const at::Tensor& scores, const at::Tensor& relevance,
    const std::optional<at::Tensor>& pair_index, const std::optional<at::Tensor>& query_index,
    const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& offsets,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& num_items,
    const std::optional<at::Tensor>& num_relevant, const std::optional<at::Tensor>& ideal_dcg,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& thresholds,
    const std::optional<at::Tensor>& curvatures, const at::Tensor& gamma, const at::Tensor& scale,
    at::TensorList schedules, double margin, double epsilon, int64_t top_k, int64_t rule,
    int64_t options, int64_t surrogate, int64_t algorithm, bool update_state, bool mean_reduction);
inline constexpr char kRankingStep[] = "xrisk_ext::ranking_step_";
std::tuple<at::Tensor, at::Tensor> listwise_step(
    const at::Tensor& scores, const at::Tensor& relevance, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& temperature,
    const at::Tensor& rank_temperature, int64_t loss, at::IntArrayRef counts,
    at::ArrayRef<double> numbers, int64_t reduction, bool needs_gradient);

// With the gradient attached, and the value alone: as of score_step_.
std::tuple<at::Tensor, at::Tensor> listwise_step_autograd(
    const at::Tensor& scores, const at::Tensor& relevance, const std::optional<at::Tensor>& mask,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& temperature,
    const at::Tensor& rank_temperature, int64_t loss, at::IntArrayRef counts,
    at::ArrayRef<double> numbers, int64_t reduction, bool needs_gradient);

at::Tensor listwise_value(const at::Tensor& scores, const at::Tensor& relevance,
                          const std::optional<at::Tensor>& mask,
                          const std::optional<at::Tensor>& item_weights,
                          const at::Tensor& temperature, const at::Tensor& rank_temperature,
                          int64_t loss, const std::vector<int64_t>& counts,
                          const std::vector<double>& numbers, int64_t reduction);
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
