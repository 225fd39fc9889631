// The ops on CUDA: argument checks as on the CPU, workspaces from torch's allocator, launches on
// the current stream of the tensors' device.
//
// The host never waits: what the device knows (scale, temperature, gamma, how many positives there
// are) is read there, so that a step can be captured in a CUDA graph. Values are looked at only
// under XRISK_DEBUG=1, which does wait.
#include <ATen/ops/empty.h>

#include <utility>

#include "core/log_sums.h"
#include "cuda/moving_average.h"
#include "cuda/pairs.h"
#include "cuda/scaled_gradient.h"
#include "cuda/score_step.h"
#include "cuda/surrogate_values.h"
#include "torch/attach_gradient.h"
#include "torch/cuda_common.h"
#include "torch/cuda_contrastive_ops.h"
#include "torch/cuda_listwise_ops.h"
#include "torch/cuda_moment_ops.h"
#include "torch/cuda_partial_auc_ops.h"
#include "torch/cuda_ranking_ops.h"
#include "torch/cuda_topk_ops.h"
#include "torch/ops.h"
#include "torch/pair_inputs.h"
#include "torch/state_inputs.h"

namespace xrisk {
namespace {

// Pairs from which a near-linear algorithm is faster than the direct one; from shapes alone. Where
// they cross on an H200 (benchmarks/gpu_crossovers.py): sort 0.7e8 (hinge) to 1.2e8 (squared
// hinge), smooth 0.7e8, log sums less than 0.2e8 (logistic) to 0.7e8 (squared hinge).
constexpr double kSortFromPairs = 1e8;
constexpr double kSmoothFromPairs = 0.7e8;
constexpr double kNearLogFromPairs = 0.5e8;

template <class T>
cuda::PairProblem<T> problem_of(const Pairs& pairs, const cpu::PairwiseSpec& spec,
                                const at::Tensor& scale) {
  cuda::PairProblem<T> problem;
  problem.surrogate = spec.surrogate;
  problem.margin = spec.params.margin;
  problem.scale = scale.const_data_ptr<double>();
  problem.anchors = {pairs.anchors.const_data_ptr<T>(), nullptr, pairs.anchors.numel(), nullptr};
  problem.items = {pairs.items.const_data_ptr<T>(),
                   pairs.weights.defined() ? pairs.weights.const_data_ptr<T>() : nullptr,
                   pairs.items.numel(), nullptr};
  problem.channels = static_cast<int>(pairs.channels);
  return problem;
}

// The algorithm that runs. Exponential has no near-linear kernel on CUDA yet: "sort" asks for the
// exact sum, which direct is.
Algorithm algorithm_of(const cpu::PairwiseSpec& spec, const Pairs& pairs) {
  const bool smooth = cpu::has_smooth(spec.surrogate);
  if (spec.surrogate == Surrogate::kExponential) return Algorithm::kDirect;
  if (spec.algorithm != Algorithm::kAuto) return spec.algorithm;
  const double pair_count =
      static_cast<double>(pairs.anchors.numel()) * static_cast<double>(pairs.items.numel());
  if (pair_count < (smooth ? kSmoothFromPairs : kSortFromPairs)) return Algorithm::kDirect;
  return smooth ? Algorithm::kSmooth : Algorithm::kSort;
}

// What an algorithm needs and its launcher.
template <class T>
auto rows_kernels(Algorithm algorithm) {
  using Bytes = size_t (*)(const cuda::PairProblem<T>&);
  using Launch = cudaError_t (*)(const cuda::PairRows<T>&, void*, cudaStream_t);
  using Kernels = std::pair<Bytes, Launch>;
  switch (algorithm) {
    case Algorithm::kSort:
      return Kernels{cuda::sorted_rows_workspace_bytes<T>, cuda::launch_sorted_rows<T>};
    case Algorithm::kSmooth:
      return Kernels{cuda::smooth_rows_workspace_bytes<T>, cuda::launch_smooth_rows<T>};
    default:
      return Kernels{cuda::direct_rows_workspace_bytes<T>, cuda::launch_direct_rows<T>};
  }
}
template <class T>
auto columns_kernels(Algorithm algorithm) {
  using Bytes = size_t (*)(const cuda::PairProblem<T>&);
  using Launch = cudaError_t (*)(const cuda::PairColumns<T>&, void*, cudaStream_t);
  using Kernels = std::pair<Bytes, Launch>;
  switch (algorithm) {
    case Algorithm::kSort:
      return Kernels{cuda::sorted_columns_workspace_bytes<T>, cuda::launch_sorted_columns<T>};
    case Algorithm::kSmooth:
      return Kernels{cuda::smooth_columns_workspace_bytes<T>, cuda::launch_smooth_columns<T>};
    default:
      return Kernels{cuda::direct_columns_workspace_bytes<T>, cuda::launch_direct_columns<T>};
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> pairwise_sums_rows_cuda(
    const at::Tensor& anchors, const at::Tensor& items,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& scale, double margin,
    int64_t surrogate, int64_t algorithm) {
  constexpr const char* kOp = "pairwise_sums";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(anchors.device());
  const Pairs pairs = check_pairs(kOp, anchors, items, item_weights, false);
  debug_check_weights(kOp, pairs.weights, false);
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, algorithm);
  const at::Tensor factor = device_number(scale, anchors, kOp, "scale");
  debug_check_scale(kOp, spec, factor);
  at::Tensor sums = empty_rows(pairs, at::kDouble), slopes = empty_rows(pairs, at::kDouble);
  if (sums.numel() > 0) {
    visit_floating(pairs.type, [&](auto zero) {
      using T = decltype(zero);
      const cuda::PairRows<T> call{problem_of<T>(pairs, spec, factor),
                                   sums.mutable_data_ptr<double>(),
                                   slopes.mutable_data_ptr<double>(), nullptr};
      const auto [bytes, launch] = rows_kernels<T>(algorithm_of(spec, pairs));
      const at::Tensor space = workspace_like(anchors, bytes(call.problem));
      C10_CUDA_CHECK(launch(call, space.mutable_data_ptr(), stream_of(anchors)));
    });
  }
  const at::Tensor no_order = at::empty({0}, pairs.anchors.options().dtype(at::kInt));
  return {sums.to(pairs.type), slopes.to(pairs.type), no_order};
}

at::Tensor pairwise_sums_columns_cuda(const at::Tensor& anchors, const at::Tensor& items,
                                      const std::optional<at::Tensor>& item_weights,
                                      const at::Tensor& anchor_weights, const at::Tensor& order,
                                      const at::Tensor& scale, double margin, int64_t surrogate,
                                      int64_t algorithm) {
  constexpr const char* kOp = "pairwise_sums_columns";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(anchors.device());
  const Pairs pairs = check_pairs(kOp, anchors, items, item_weights, false);
  debug_check_weights(kOp, pairs.weights, false);
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, algorithm);
  const at::Tensor factor = device_number(scale, anchors, kOp, "scale");
  check_device(anchor_weights, anchors, kOp, "anchor_weights");
  TORCH_CHECK_VALUE(order.numel() == 0, kOp, ": no order is kept on CUDA, got shape ",
                    order.sizes());
  TORCH_CHECK_VALUE(anchor_weights.numel() == pairs.channels * pairs.anchors.numel(), kOp,
                    ": expected anchor_weights of ", pairs.channels * pairs.anchors.numel(),
                    " entries, got shape ", anchor_weights.sizes());
  at::Tensor out = at::empty(pairs.items.sizes(), pairs.items.options());
  if (out.numel() == 0) return out;
  if (anchor_weights.numel() == 0) return out.zero_();
  const at::Tensor weights = contiguous_as(anchor_weights, at::kDouble);
  visit_floating(pairs.type, [&](auto zero) {
    using T = decltype(zero);
    const cuda::PairColumns<T> call{problem_of<T>(pairs, spec, factor),
                                    weights.const_data_ptr<double>(), nullptr,
                                    out.mutable_data_ptr<T>()};
    const auto [bytes, launch] = columns_kernels<T>(algorithm_of(spec, pairs));
    const at::Tensor space = workspace_like(anchors, bytes(call.problem));
    C10_CUDA_CHECK(launch(call, space.mutable_data_ptr(), stream_of(anchors)));
  });
  return out;
}

// The algorithm of the log sums that runs. Whether 1 / temperature is a whole number the device
// alone knows: where it is none, "sort" asks for the exact sum, which direct is.
Algorithm log_algorithm_of(const char* op, const cpu::PairwiseSpec& spec, int64_t algorithm,
                           const Pairs& pairs, const at::Tensor& temperature) {
  check_algorithm_number(op, algorithm);
  const auto wanted = static_cast<Algorithm>(algorithm);
  TORCH_CHECK_VALUE(wanted != Algorithm::kSmooth || cuda::has_smooth_log_sums(spec.surrogate), op,
                    ": algorithm \"smooth\" is for squared_hinge");
  bool exact = cuda::has_sorted_log_sums(spec.surrogate);
  if (debugging() && wanted == Algorithm::kSort && spec.surrogate == Surrogate::kLogistic) {
    const double inverse = 1.0 / temperature.item<double>();
    exact = pairs.type == at::kDouble ? whole_inverse<double>(inverse) > 0
                                      : whole_inverse<float>(inverse) > 0;
  }
  TORCH_CHECK_VALUE(wanted != Algorithm::kSort || exact, op,
                    ": algorithm \"sort\" is for hinge, barrier_hinge, and logistic where "
                    "1 / temperature is a whole number up to 512");
  if (wanted != Algorithm::kAuto) return wanted;
  const double pair_count =
      static_cast<double>(pairs.anchors.numel()) * static_cast<double>(pairs.items.numel());
  if (!cuda::has_near_log_sums(spec.surrogate) || pair_count < kNearLogFromPairs) {
    return Algorithm::kDirect;
  }
  return exact ? Algorithm::kSort : Algorithm::kSmooth;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> pairwise_log_sums_rows_cuda(
    const at::Tensor& anchors, const at::Tensor& items,
    const std::optional<at::Tensor>& item_weights, const at::Tensor& scale,
    const at::Tensor& temperature, double margin, int64_t surrogate, int64_t algorithm) {
  constexpr const char* kOp = "pairwise_log_sums";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(anchors.device());
  const Pairs pairs = check_pairs(kOp, anchors, items, item_weights, true);
  debug_check_weights(kOp, pairs.weights, true);
  TORCH_CHECK_VALUE(!pairs.channel_dimension, kOp, ": expected item_weights of shape [",
                    items.numel(), "], got ", item_weights->sizes());
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, 0);
  const at::Tensor factor = device_number(scale, anchors, kOp, "scale");
  const at::Tensor heat = device_number(temperature, anchors, kOp, "temperature");
  debug_check_temperature(kOp, heat);
  debug_check_scale(kOp, spec, factor);
  const Algorithm chosen = log_algorithm_of(kOp, spec, algorithm, pairs, heat);
  at::Tensor sums = empty_rows(pairs, at::kDouble), slopes = empty_rows(pairs, at::kDouble);
  at::Tensor masses = empty_rows(pairs, at::kDouble);
  visit_floating(pairs.type, [&](auto zero) {
    using T = decltype(zero);
    cuda::PairRows<T> call{problem_of<T>(pairs, spec, factor), sums.mutable_data_ptr<double>(),
                           slopes.mutable_data_ptr<double>(), masses.mutable_data_ptr<double>()};
    call.problem.temperature = heat.const_data_ptr<double>();
    const bool near = chosen != Algorithm::kDirect;
    const size_t bytes = near ? cuda::near_log_rows_workspace_bytes(call.problem)
                              : cuda::direct_rows_workspace_bytes(call.problem);
    const at::Tensor space = workspace_like(anchors, bytes);
    const auto launch = near ? cuda::launch_near_log_rows<T> : cuda::launch_direct_rows<T>;
    C10_CUDA_CHECK(launch(call, space.mutable_data_ptr(), stream_of(anchors)));
  });
  return {sums.to(pairs.type), slopes.to(pairs.type), masses.to(pairs.type)};
}

at::Tensor pairwise_log_sums_columns_cuda(const at::Tensor& anchors, const at::Tensor& items,
                                          const std::optional<at::Tensor>& item_weights,
                                          const at::Tensor& anchor_weights,
                                          const at::Tensor& masses, const at::Tensor& scale,
                                          const at::Tensor& temperature, double margin,
                                          int64_t surrogate, int64_t algorithm) {
  constexpr const char* kOp = "pairwise_log_sums_columns";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(anchors.device());
  const Pairs pairs = check_pairs(kOp, anchors, items, item_weights, true);
  debug_check_weights(kOp, pairs.weights, true);
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, 0);
  const at::Tensor factor = device_number(scale, anchors, kOp, "scale");
  const at::Tensor heat = device_number(temperature, anchors, kOp, "temperature");
  debug_check_temperature(kOp, heat);
  const Algorithm chosen = log_algorithm_of(kOp, spec, algorithm, pairs, heat);
  for (const at::Tensor& rows : {anchor_weights, masses}) {
    check_device(rows, anchors, kOp, "anchor_weights and masses");
    TORCH_CHECK_VALUE(rows.numel() == anchors.numel(), kOp,
                      ": expected one anchor weight and one mass per anchor, got ", rows.sizes());
  }
  at::Tensor out = at::empty(pairs.items.sizes(), pairs.items.options());
  const at::Tensor weights = contiguous_as(anchor_weights, at::kDouble);
  const at::Tensor sums = contiguous_as(masses, at::kDouble);
  visit_floating(pairs.type, [&](auto zero) {
    using T = decltype(zero);
    cuda::PairColumns<T> call{problem_of<T>(pairs, spec, factor), weights.const_data_ptr<double>(),
                              sums.const_data_ptr<double>(), out.mutable_data_ptr<T>()};
    call.problem.temperature = heat.const_data_ptr<double>();
    const bool near = chosen != Algorithm::kDirect;
    const size_t bytes = near ? cuda::near_log_columns_workspace_bytes(call.problem)
                              : cuda::direct_columns_workspace_bytes(call.problem);
    const at::Tensor space = workspace_like(anchors, bytes);
    const auto launch = near ? cuda::launch_near_log_columns<T> : cuda::launch_direct_columns<T>;
    C10_CUDA_CHECK(launch(call, space.mutable_data_ptr(), stream_of(anchors)));
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> surrogate_values_cuda(const at::Tensor& differences,
                                                         const at::Tensor& scale, double margin,
                                                         int64_t surrogate) {
  constexpr const char* kOp = "surrogate_values";
  check_floating(differences, kOp, "differences");
  const c10::cuda::CUDAGuard guard(differences.device());
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, 0);
  const at::Tensor factor = device_number(scale, differences, kOp, "scale");
  debug_check_scale(kOp, spec, factor);
  const at::ScalarType type = accumulation_type(differences);
  const at::Tensor d = contiguous_as(differences, type);
  at::Tensor values = at::empty(d.sizes(), d.options());
  at::Tensor slopes = at::empty(d.sizes(), d.options());
  visit_floating(type, [&](auto zero) {
    using T = decltype(zero);
    C10_CUDA_CHECK(cuda::launch_surrogate_values(
        spec.surrogate, margin, factor.const_data_ptr<double>(), d.const_data_ptr<T>(), d.numel(),
        values.mutable_data_ptr<T>(), slopes.mutable_data_ptr<T>(), stream_of(d)));
  });
  return {values, slopes};
}

at::Tensor moving_average_update_cuda_(const at::Tensor& state, const at::Tensor& index,
                                       const at::Tensor& values, const at::Tensor& gamma,
                                       bool log) {
  constexpr const char* kOp = "moving_average_update_";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(state.device());
  const UpdateInputs inputs = check_update(kOp, state, index, values, gamma);
  check_device(gamma, state, kOp, "gamma");
  debug_check_range(kOp, inputs.ids, state.size(0));
  const at::Tensor gammas = contiguous_as(gamma, at::kDouble);
  debug_check_gamma(kOp, gammas);
  return update_state<cuda::MovingAverage>(state, inputs, values, gammas, log, [&](auto& call) {
    const size_t bytes = cuda::moving_average_workspace_bytes(call);
    const at::Tensor space = workspace_like(state, bytes);
    C10_CUDA_CHECK(
        cuda::launch_moving_average(call, space.mutable_data_ptr(), bytes, stream_of(state)));
  });
}

std::tuple<at::Tensor, at::Tensor> score_step_cuda_(
    const at::Tensor& scores, const at::Tensor& labels, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& item_weights, const std::optional<at::Tensor>& state,
    const at::Tensor& gamma, const at::Tensor& scale, double margin, int64_t rule,
    int64_t surrogate, int64_t algorithm, bool update_state, bool needs_gradient,
    bool mean_reduction) {
  constexpr const char* kOp = "score_step_";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(scores.device());
  const StepInputs inputs = check_step(kOp, scores, labels, index, item_weights, state, rule);
  const cpu::PairwiseSpec spec = make_unscaled_spec(kOp, surrogate, margin, algorithm);
  const at::Tensor factor = device_number(scale, scores, kOp, "scale");
  const at::Tensor weight = device_number(gamma, scores, kOp, "gamma");
  LabelArray positive;
  const at::Tensor kept = as_label_array(labels, positive);
  if (debugging()) {
    debug_check_scale(kOp, spec, factor);
    debug_check_gamma(kOp, weight);
    debug_check_weights(kOp, inputs.weights, true);
    if (state.has_value()) {
      const at::Tensor above = labels.gt(0);
      const at::Tensor any = inputs.num_labels == 1 ? above.reshape({-1}) : above.any(1);
      debug_check_range(kOp, inputs.ids.masked_select(any), inputs.rows);
    }
  }
  const auto options = inputs.scores.options();
  at::Tensor gradient = at::empty(needs_gradient ? scores.sizes() : at::IntArrayRef({0}), options);
  at::Tensor values = at::empty({inputs.num_labels}, options);
  at::Tensor mean = mean_reduction ? at::empty({}, options) : values;
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cuda::ScoreStep<T, State> call;
      call.rule = static_cast<Rule>(rule);
      call.surrogate = spec.surrogate;
      call.algorithm = spec.algorithm;
      call.margin = margin;
      call.scale = factor.const_data_ptr<double>();
      call.gamma = weight.const_data_ptr<double>();
      call.batch = inputs.batch;
      call.labels = static_cast<int>(inputs.num_labels);
      call.scores = inputs.scores.const_data_ptr<T>();
      call.positive = positive;
      call.weights = inputs.weights.defined() ? inputs.weights.const_data_ptr<T>() : nullptr;
      call.weights_per_label = inputs.weights_per_label;
      if (state.has_value()) {
        call.index = inputs.ids.const_data_ptr<int64_t>();
        call.state = update_state ? state->mutable_data_ptr<State>()
                                  : const_cast<State*>(state->const_data_ptr<State>());
        call.rows = inputs.rows;
      }
      call.write_state = update_state;
      call.mean_reduction = mean_reduction;
      call.values = values.mutable_data_ptr<T>();
      call.mean_value = mean_reduction ? mean.mutable_data_ptr<T>() : nullptr;
      call.gradient = needs_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
      const size_t bytes = cuda::score_step_workspace_bytes(call);
      const at::Tensor space = workspace_like(scores, bytes);
      C10_CUDA_CHECK(
          cuda::launch_score_step(call, space.mutable_data_ptr(), bytes, stream_of(scores)));
    });
  });
  if (state.has_value() && update_state) bump_version(*state);
  return {mean, gradient};
}

// See attach_gradient.h.
at::Tensor scaled_gradient_cuda(const at::Tensor& gradient, const at::Tensor& upstream,
                                at::ScalarType type) {
  if (gradient.scalar_type() != at::kFloat || upstream.scalar_type() != at::kFloat ||
      (type != at::kBFloat16 && type != at::kHalf) || !gradient.is_contiguous() ||
      upstream.device() != gradient.device()) {
    return {};
  }
  int major = 0;
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, gradient.get_device()));
  if (major < 8) return {};
  const c10::cuda::CUDAGuard guard(gradient.device());
  at::Tensor result = at::empty(gradient.sizes(), gradient.options().dtype(type));
  C10_CUDA_CHECK(cuda::launch_scaled_gradient(
      gradient.const_data_ptr<float>(), upstream.const_data_ptr<float>(), gradient.numel(),
      type == at::kBFloat16, static_cast<uint16_t*>(result.mutable_data_ptr()),
      stream_of(gradient)));
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(xrisk_ext, CUDA, m) {
  scaled_on_cuda() = &scaled_gradient_cuda;
  m.impl("pairwise_sums_rows", &pairwise_sums_rows_cuda);
  m.impl("pairwise_sums_columns", &pairwise_sums_columns_cuda);
  m.impl("pairwise_log_sums_rows", &pairwise_log_sums_rows_cuda);
  m.impl("pairwise_log_sums_columns", &pairwise_log_sums_columns_cuda);
  m.impl("surrogate_values", &surrogate_values_cuda);
  m.impl("moving_average_update_", &moving_average_update_cuda_);
  m.impl("topk_threshold", &topk_threshold_cuda);
  m.impl("topk_threshold_gradient", &topk_threshold_gradient_cuda);
  m.impl("score_step_", &score_step_cuda_);
  m.impl("contrastive_log_sums_rows", &contrastive_log_sums_rows_cuda);
  m.impl("contrastive_log_sums_gradients", &contrastive_log_sums_gradients_cuda);
  m.impl("contrastive_step_", &contrastive_step_cuda_);
  m.impl("info_nce_step", &info_nce_step_cuda);
  m.impl("ranking_step_", &ranking_step_cuda_);
  m.impl("auc_margin_step", &auc_margin_step_cuda);
  m.impl("cross_entropy_step", &cross_entropy_step_cuda);
  m.impl("partial_auc_step_", &partial_auc_step_cuda_);
  m.impl("listwise_step", &listwise_step_cuda);
}

}  // namespace xrisk
