// The arguments of ranking_step_, checked once for the CPU and CUDA.
#pragma once

#include <ATen/ops/empty.h>

#include "core/lists.h"
#include "core/params.h"
#include "torch/state_inputs.h"

namespace xrisk {

// What API.md calls sizes: one number, or one per query.
struct QuerySizes {
  at::Tensor values;  // float64, or undefined
  bool per_query = false;

  const double* data() const {
    return values.defined() ? values.const_data_ptr<double>() : nullptr;
  }
};

struct RankingInputs {
  at::Tensor scores, relevance, mask, offsets, weights;  // contiguous; undefined where left out
  at::Tensor pair_index, query_index;
  QuerySizes num_items, num_relevant, ideal_dcg;
  RankingRule rule = RankingRule::kNDCG;
  at::ScalarType type = at::kFloat;
  int64_t queries = 0, length = 0, entries = 0;
  int64_t rows = 0;         // of the state
  bool transposed = false;  // average precision: a query is a label, a column of what came
  bool keeps_thresholds = false;

  Lists lists() const {
    return {offsets.defined() ? offsets.const_data_ptr<int64_t>() : nullptr, queries, length};
  }
  // Brought to the kernel's order.
  at::Tensor arranged(const at::Tensor& t) const {
    return (transposed && t.dim() == 2 ? t.t() : t).contiguous();
  }
};

inline void check_ids(const at::Tensor& ids, const at::Tensor& like, const char* op,
                      const char* name) {
  check_device(ids, like, op, name);
  TORCH_CHECK_TYPE(ids.scalar_type() == at::kLong || ids.scalar_type() == at::kInt, op,
                   ": expected ", name, " to be int64 or int32, got ", ids.scalar_type());
}

inline void check_same_shape(const at::Tensor& t, const at::Tensor& scores, const char* op,
                             const char* name) {
  check_device(t, scores, op, name);
  TORCH_CHECK_VALUE(t.sizes() == scores.sizes(), op, ": expected ", name, " of the scores' shape ",
                    scores.sizes(), ", got ", t.sizes());
}

inline QuerySizes checked_sizes(const std::optional<at::Tensor>& sizes, const at::Tensor& scores,
                                int64_t queries, const char* op, const char* name) {
  QuerySizes result;
  if (!sizes.has_value()) return result;
  check_device(*sizes, scores, op, name);
  TORCH_CHECK_TYPE(!at::isComplexType(sizes->scalar_type()), op, ": expected ", name,
                   " to be numbers, got ", sizes->scalar_type());
  TORCH_CHECK_VALUE(sizes->dim() == 0 || (sizes->dim() == 1 && sizes->numel() == queries), op,
                    ": expected ", name, " to be one number or of shape [", queries, "], got ",
                    sizes->sizes());
  TORCH_CHECK_VALUE(!sizes->requires_grad() || !at::GradMode::is_enabled(), op, ": expected ", name,
                    " to be constants, got requires_grad=True");
  result.per_query = sizes->dim() == 1;
  result.values = contiguous_as(*sizes, at::kDouble);
  return result;
}

inline void check_layout(RankingInputs& inputs, const at::Tensor& scores,
                         const std::optional<at::Tensor>& offsets, const char* op) {
  if (!offsets.has_value()) {
    TORCH_CHECK_VALUE(scores.dim() == 2, op,
                      ": expected scores of shape [Q, S], or [T] with offsets, got ",
                      scores.sizes());
    inputs.transposed = inputs.rule == RankingRule::kAveragePrecision;
    inputs.queries = scores.size(inputs.transposed ? 1 : 0);
    inputs.length = scores.size(inputs.transposed ? 0 : 1);
  } else {
    check_ids(*offsets, scores, op, "offsets");
    TORCH_CHECK_VALUE(offsets->dim() == 1 && offsets->numel() >= 1, op,
                      ": expected offsets of shape [Q + 1], got ", offsets->sizes());
    TORCH_CHECK_VALUE(scores.dim() == 1, op, ": expected scores of shape [T] with offsets, got ",
                      scores.sizes());
    inputs.offsets = contiguous_as(*offsets, at::kLong);
    inputs.queries = offsets->numel() - 1;
  }
  inputs.entries = scores.numel();
  TORCH_CHECK_VALUE(inputs.entries < INT32_MAX, op, ": expected fewer than 2^31 scores");
}

inline void check_state_of(RankingInputs& inputs, const std::optional<at::Tensor>& state,
                           const std::optional<at::Tensor>& pair_index, const at::Tensor& scores,
                           const char* op) {
  if (!state.has_value()) return;
  const bool labels = inputs.rule == RankingRule::kAveragePrecision;
  const char* name = labels ? "index" : "pair_index";
  check_state(*state, scores, op);
  TORCH_CHECK_VALUE(
      labels ? state->dim() == 3 && state->size(0) == inputs.queries && state->size(2) == 2
             : state->dim() == 1,
      op, ": expected state of shape ", labels ? "[L, N, 2]" : "[num_pairs]", ", got ",
      state->sizes());
  TORCH_CHECK_VALUE(pair_index.has_value(), op, ": expected ", name,
                    ", the ids that the moving averages are kept for, got None");
  check_ids(*pair_index, scores, op, name);
  if (labels) {
    inputs.pair_index = checked_index(*pair_index, inputs.length, op);
  } else {
    check_same_shape(*pair_index, scores, op, name);
    inputs.pair_index = contiguous_as(*pair_index, at::kLong);
  }
  inputs.rows = state->size(labels ? 1 : 0);
}

inline void check_thresholds(RankingInputs& inputs, const std::optional<at::Tensor>& state,
                             const std::optional<at::Tensor>& thresholds,
                             const std::optional<at::Tensor>& curvatures,
                             const std::optional<at::Tensor>& query_index, at::TensorList schedules,
                             int64_t top_k, double epsilon, int64_t options,
                             const at::Tensor& scores, const char* op) {
  TORCH_CHECK_VALUE(top_k >= 0, op, ": expected top_k >= 1, got ", top_k);
  if (top_k == 0) return;
  TORCH_CHECK_VALUE(schedules.size() == 5, op,
                    ": expected schedules (gamma1, eta0, tau1, tau2, sigmoid_alpha)");
  TORCH_CHECK_VALUE(epsilon >= 0 && epsilon < 1, op, ": expected epsilon in [0, 1), got ", epsilon);
  if (!thresholds.has_value() || (options & kSolvedThreshold) != 0) return;
  TORCH_CHECK_VALUE(curvatures.has_value(), op, ": expected thresholds and curvatures together");
  for (const at::Tensor& t : {*thresholds, *curvatures}) {
    check_state(t, scores, op);
    TORCH_CHECK_VALUE(t.dim() == 1 && t.numel() == thresholds->numel() &&
                          t.scalar_type() == thresholds->scalar_type(),
                      op, ": expected thresholds and curvatures of one shape [num_queries]");
  }
  inputs.keeps_thresholds = true;
  TORCH_CHECK_TYPE(!state.has_value() || state->scalar_type() == thresholds->scalar_type(), op,
                   ": expected state and thresholds of one dtype");
  if (inputs.transposed) return;  // a label is its own query
  TORCH_CHECK_VALUE(query_index.has_value(), op,
                    ": expected query_index, the ids that the thresholds are kept for, got None");
  check_ids(*query_index, scores, op, "query_index");
  TORCH_CHECK_VALUE(query_index->dim() == 1 && query_index->numel() == inputs.queries, op,
                    ": expected query_index of shape [", inputs.queries, "], got ",
                    query_index->sizes());
  inputs.query_index = contiguous_as(*query_index, at::kLong);
}

// Everything but the values of what stays on the device.
inline RankingInputs check_ranking(
    const char* op, const at::Tensor& scores, const at::Tensor& relevance,
    const std::optional<at::Tensor>& pair_index, const std::optional<at::Tensor>& query_index,
    const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& offsets,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& num_items,
    const std::optional<at::Tensor>& num_relevant, const std::optional<at::Tensor>& ideal_dcg,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& thresholds,
    const std::optional<at::Tensor>& curvatures, at::TensorList schedules, double epsilon,
    int64_t top_k, int64_t rule, int64_t options) {
  RankingInputs inputs;
  TORCH_CHECK_VALUE(rule >= 0 && rule <= 2, op, ": unknown rule number ", rule);
  TORCH_CHECK_VALUE(options >= 0 && options <= kRankingOptions, op, ": unknown options ", options);
  inputs.rule = static_cast<RankingRule>(rule);
  check_floating(scores, op, "scores");
  check_layout(inputs, scores, offsets, op);
  const char* labels = inputs.transposed ? "labels" : "relevance";
  check_same_shape(relevance, scores, op, labels);
  TORCH_CHECK_TYPE(
      !at::isComplexType(relevance.scalar_type()) && !at::isQIntType(relevance.scalar_type()), op,
      ": expected ", labels, " to be integers, bool or floating, got ", relevance.scalar_type());
  inputs.type = accumulation_type(scores);
  inputs.scores = inputs.arranged(contiguous_as(scores, inputs.type));
  inputs.relevance = inputs.arranged(relevance);
  if (mask.has_value()) {
    check_same_shape(*mask, scores, op, "mask");
    TORCH_CHECK_TYPE(mask->scalar_type() == at::kBool || mask->scalar_type() == at::kByte, op,
                     ": expected mask to be bool, got ", mask->scalar_type());
    inputs.mask = mask->contiguous();
  }
  if (item_weights.has_value()) {
    at::Tensor w = *item_weights;
    if (inputs.transposed && w.dim() == 1 && w.numel() == inputs.length) {
      check_device(w, scores, op, "item_weights");
      w = w.unsqueeze(1).expand(scores.sizes());
    }
    check_same_shape(w, scores, op, "item_weights");
    inputs.weights = inputs.arranged(checked_weights(w, inputs.type, true, op));
  }
  inputs.num_items = checked_sizes(num_items, scores, inputs.queries, op, "num_items");
  inputs.num_relevant = checked_sizes(num_relevant, scores, inputs.queries, op, "num_relevant");
  inputs.ideal_dcg = checked_sizes(ideal_dcg, scores, inputs.queries, op, "ideal_dcg");
  check_state_of(inputs, state, pair_index, scores, op);
  check_thresholds(inputs, state, thresholds, curvatures, query_index, schedules, top_k, epsilon,
                   options, scores, op);
  return inputs;
}

}  // namespace xrisk
