// The arguments of listwise_step, checked once for the CPU and CUDA.
#pragma once

#include "core/list_losses.h"
#include "torch/common.h"

namespace xrisk {

struct ListInputs {
  ListOptions options;
  ListReduction reduction = ListReduction::kMean;
  at::Tensor scores, relevance, mask, weights;  // contiguous, in `type`; mask and weights optional
  at::ScalarType type = at::kFloat;
  int64_t lists = 0, length = 0;

  // Of the value; with two dimensions it multiplies a gradient [Q, S] row by row.
  std::vector<int64_t> value_shape() const {
    if (reduction != ListReduction::kNone) return {};
    return scores.dim() == 2 ? std::vector<int64_t>{lists, 1} : std::vector<int64_t>{1};
  }
};

// Per loss. RankNet: counts = {pair weight, pool pairs}. LambdaRank: {top_k}. NeuralNDCG: {top_k,
// max_iterations}, numbers = {tolerance}. FastAP: {num_bins}, {low, high}. RecallAtK: the cutoffs.
inline ListOptions list_options(const char* op, int64_t loss, at::IntArrayRef counts,
                                at::ArrayRef<double> numbers) {
  TORCH_CHECK_VALUE(loss >= 0 && loss < kListLossCount, op, ": unknown loss number ", loss);
  ListOptions options;
  options.loss = static_cast<ListLoss>(loss);
  const auto expect = [&](bool good, const char* what) {
    TORCH_CHECK_VALUE(good, op, ": expected ", what, ", got counts ", counts, " and numbers ",
                      numbers);
  };
  switch (options.loss) {
    case ListLoss::kRankNet:
      expect(counts.size() == 2 && counts[0] >= 0 && counts[0] <= 2, "a pair weight and a flag");
      options.pair_weight = static_cast<PairWeight>(counts[0]);
      options.pool_pairs = counts[1] != 0;
      break;
    case ListLoss::kLambdaRank:
      expect(counts.size() == 1 && counts[0] >= 0, "top_k >= 1");
      options.top_k = counts[0];
      break;
    case ListLoss::kNeuralNDCG:
      expect(counts.size() == 2 && counts[0] >= 0 && counts[1] >= 1 && counts[1] <= 10'000 &&
                 numbers.size() == 1 && numbers[0] >= 0,
             "top_k >= 1, max_iterations in [1, 10000] and tolerance >= 0");
      options.top_k = counts[0];
      options.max_iterations = counts[1];
      options.tolerance = numbers[0];
      break;
    case ListLoss::kFastAP:
      expect(counts.size() == 1 && counts[0] >= 1 && counts[0] <= kMaxBins && numbers.size() == 2 &&
                 numbers[0] < numbers[1] && std::isfinite(numbers[1] - numbers[0]),
             "num_bins in [1, 1024] and a finite score_range");
      options.num_bins = counts[0];
      options.low = numbers[0];
      options.high = numbers[1];
      break;
    case ListLoss::kRecallAtK:
      expect(!counts.empty() && counts.size() <= kMaxCutoffs, "1 to 16 cutoffs k");
      for (const int64_t k : counts) {
        expect(k >= 1, "k >= 1");
        options.cutoffs[options.cutoff_count++] = k;
      }
      break;
    default:
      break;
  }
  return options;
}

inline ListInputs check_lists(const char* op, const at::Tensor& scores, const at::Tensor& relevance,
                              const std::optional<at::Tensor>& mask,
                              const std::optional<at::Tensor>& item_weights, int64_t loss,
                              at::IntArrayRef counts, at::ArrayRef<double> numbers,
                              int64_t reduction) {
  ListInputs inputs;
  inputs.options = list_options(op, loss, counts, numbers);
  const char* name = is_retrieval(inputs.options.loss) ? "labels" : "relevance";
  check_floating(scores, op, "scores");
  check_device(relevance, scores, op, name);
  TORCH_CHECK_VALUE(scores.dim() == 1 || scores.dim() == 2, op,
                    ": expected scores of shape [Q, S], or [S] for one list, got ", scores.sizes());
  TORCH_CHECK_VALUE(relevance.sizes() == scores.sizes(), op, ": expected ", name,
                    " of the scores' shape ", scores.sizes(), ", got ", relevance.sizes());
  TORCH_CHECK_TYPE(
      !at::isComplexType(relevance.scalar_type()) && !at::isQIntType(relevance.scalar_type()), op,
      ": expected ", name, " to be integers, bool or floating, got ", relevance.scalar_type());
  TORCH_CHECK_VALUE(reduction >= 0 && reduction <= 2, op, ": unknown reduction number ", reduction);
  inputs.reduction = static_cast<ListReduction>(reduction);
  inputs.type = accumulation_type(scores);
  inputs.lists = scores.dim() == 2 ? scores.size(0) : 1;
  inputs.length = scores.size(-1);
  TORCH_CHECK_VALUE(inputs.length < INT32_MAX, op, ": expected lists of fewer than 2^31 items");
  inputs.scores = contiguous_as(scores, inputs.type);
  inputs.relevance = contiguous_as(relevance, inputs.type);
  if (mask.has_value()) {
    check_device(*mask, scores, op, "mask");
    TORCH_CHECK_TYPE(mask->scalar_type() == at::kBool, op, ": expected mask to be bool, got ",
                     mask->scalar_type());
    TORCH_CHECK_VALUE(mask->sizes() == scores.sizes(), op, ": expected mask of the scores' shape ",
                      scores.sizes(), ", got ", mask->sizes());
    inputs.mask = mask->contiguous();
  }
  if (item_weights.has_value()) {
    check_device(*item_weights, scores, op, "item_weights");
    TORCH_CHECK_VALUE(is_retrieval(inputs.options.loss), op,
                      ": item_weights are for the losses of labels");
    TORCH_CHECK_VALUE(item_weights->sizes() == scores.sizes(), op,
                      ": expected item_weights of the scores' shape ", scores.sizes(), ", got ",
                      item_weights->sizes());
    inputs.weights = checked_weights(*item_weights, inputs.type, true, op);
  }
  return inputs;
}

}  // namespace xrisk
