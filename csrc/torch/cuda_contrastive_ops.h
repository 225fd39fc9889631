// P4 on CUDA: contrastive log sums, the fused step of the global contrastive losses and that of the
// losses without state, products by cuBLAS through ATen on the current stream. Included by
// torch/cuda_ops.cpp only.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <utility>

#include "cuda/contrastive_step.h"
#include "cuda/half_similarity.h"
#include "cuda/similarity.h"
#include "cuda/streamed_similarity.h"
#include "torch/contrastive_inputs.h"
#include "torch/cuda_common.h"
#include "torch/cuda_similarities.h"

namespace xrisk {

inline void debug_check_temperatures(const char* op, const at::Tensor& temperatures) {
  if (!debugging() || temperatures.numel() == 0) return;
  const double low = temperatures.min().item<double>(), high = temperatures.max().item<double>();
  TORCH_CHECK_VALUE(low >= 1e-30 && std::isfinite(high), op,
                    ": expected temperature >= 1e-30 and finite, got ", low);
}

inline void debug_check_alpha(const char* op, const at::Tensor& alpha) {
  if (!debugging()) return;
  const double value = alpha.item<double>();
  TORCH_CHECK_VALUE(value > 0 && std::isfinite(value), op, ": expected alpha > 0 and finite, got ",
                    value);
}

inline void debug_check_exclude(const char* op, const ContrastiveInputs& inputs) {
  if (!debugging() || !inputs.exclude.defined() || inputs.exclude.numel() == 0) return;
  const int64_t low = inputs.exclude.min().item<int64_t>();
  const int64_t high = inputs.exclude.max().item<int64_t>();
  TORCH_CHECK_INDEX(low >= -1 && high < inputs.keys_count, op, ": expected exclude in [-1, ",
                    inputs.keys_count, "), got ", low < -1 ? low : high);
}

template <class Problem>  // cuda::HalfSimilarities or cuda::StreamedSimilarities
Problem half_similarities_of(const ContrastiveInputs& inputs, const SimilarityWay& way) {
  Problem problem;
  problem.x = halves_of(inputs.queries);
  problem.y = halves_of(inputs.keys);
  problem.bfloat16 = inputs.bfloat16;
  problem.rows = inputs.count;
  problem.columns = inputs.keys_count;
  problem.block = way.block > 0 ? way.block : cuda::block_of(problem.rows, problem.columns);
  problem.width = inputs.width;
  if (inputs.exclude.defined()) problem.exclude = inputs.exclude.const_data_ptr<int64_t>();
  problem.exclusions = inputs.exclusions;
  return problem;
}

// The problem, without the arrays that only floats have.
template <class T>
cuda::Similarities<T> cuda_similarities_of(const ContrastiveInputs& inputs) {
  cuda::Similarities<T> problem;
  problem.rows = inputs.count;
  problem.columns = inputs.keys_count;
  problem.width = inputs.width;
  if (inputs.exclude.defined()) problem.exclude = inputs.exclude.const_data_ptr<int64_t>();
  problem.exclusions = inputs.exclusions;
  return problem;
}

// With the block of similarities that it works in.
template <class T>
cuda::Similarities<T> with_block(cuda::Similarities<T> problem, const ContrastiveInputs& inputs,
                                 at::Tensor& block) {
  problem.x = inputs.queries.const_data_ptr<T>();
  problem.y = inputs.keys.const_data_ptr<T>();
  block = at::empty({std::min(problem.block_rows, problem.rows),
                     std::min(problem.block_columns, problem.columns)},
                    inputs.queries.options());
  problem.block = block.mutable_data_ptr<T>();
  return problem;
}

// Sums of the rows, by one way.
template <class T>
void launch_row_sums(const cuda::Similarities<T>& problem, const ContrastiveInputs& inputs,
                     const SimilarityWay& way, const T* inverses, const cuda::ExpSums<T>& rows,
                     cudaStream_t stream) {
  at::Tensor space;
  if constexpr (std::is_same_v<T, float>) {
    if (way.kind == SimilarityWay::kStreamed) {
      const auto streamed = half_similarities_of<cuda::StreamedSimilarities>(inputs, way);
      space = workspace_like(inputs.queries, cuda::streamed_workspace_bytes(streamed));
      C10_CUDA_CHECK(cuda::launch_streamed_sums(streamed, inverses, rows, inverses,
                                                cuda::ExpSums<float>{}, space.mutable_data_ptr(),
                                                stream));
      return;
    }
    if (way.kind == SimilarityWay::kBlocks) {
      const auto halves = half_similarities_of<cuda::HalfSimilarities>(inputs, way);
      space = workspace_like(inputs.queries, cuda::half_similarity_workspace_bytes(halves));
      C10_CUDA_CHECK(cuda::launch_half_sums(
          halves, inverses, rows, inverses, cuda::ExpSums<float>{},
          CudaProducts<float, uint16_t>(inputs.queries, inputs.queries.scalar_type()),
          space.mutable_data_ptr(), stream));
      return;
    }
  }
  C10_CUDA_CHECK(cuda::launch_similarity_sums(with_block(problem, inputs, space), inverses, rows,
                                              inverses, cuda::ExpSums<T>{},
                                              CudaProducts<T>(inputs.queries), stream));
}

// Their gradients; null: not wanted.
template <class T>
void launch_row_gradients(const cuda::Similarities<T>& problem, const ContrastiveInputs& inputs,
                          const SimilarityWay& way, const cuda::PairWeights<T>& rows, T* dx, T* dy,
                          cudaStream_t stream) {
  at::Tensor space;
  if constexpr (std::is_same_v<T, float>) {
    if (way.kind == SimilarityWay::kStreamed) {
      const auto streamed = half_similarities_of<cuda::StreamedSimilarities>(inputs, way);
      space = workspace_like(inputs.queries, cuda::streamed_workspace_bytes(streamed));
      C10_CUDA_CHECK(cuda::launch_streamed_gradients(streamed, rows, cuda::PairWeights<float>{}, dx,
                                                     dy, space.mutable_data_ptr(), stream));
      return;
    }
    if (way.kind == SimilarityWay::kBlocks) {
      const auto halves = half_similarities_of<cuda::HalfSimilarities>(inputs, way);
      space = workspace_like(inputs.queries, cuda::half_similarity_workspace_bytes(halves));
      const at::Tensor fit = at::empty({2}, inputs.queries.options().dtype(at::kFloat));
      C10_CUDA_CHECK(cuda::launch_half_gradients(
          halves, rows, cuda::PairWeights<float>{}, dx, dy, fit.mutable_data_ptr<float>(),
          CudaProducts<float, uint16_t>(inputs.queries, inputs.queries.scalar_type()),
          space.mutable_data_ptr(), stream));
      if (halves.bfloat16) return;
      for (const auto& [gradient, count] :
           {std::pair(dx, inputs.count), std::pair(dy, inputs.keys_count)}) {
        if (gradient == nullptr) continue;
        C10_CUDA_CHECK(cuda::launch_rescale(fit.const_data_ptr<float>(), count, inputs.width,
                                            gradient, stream));
      }
      return;
    }
  }
  C10_CUDA_CHECK(cuda::launch_similarity_gradients(with_block(problem, inputs, space), rows,
                                                   cuda::PairWeights<T>{}, false, dx, dy,
                                                   CudaProducts<T>(inputs.queries), stream));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> contrastive_log_sums_rows_cuda(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude) {
  constexpr const char* kOp = "contrastive_log_sums";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(queries.device());
  const SimilarityWay way = similarity_way(queries, keys, kStreamedLogSums);
  const ContrastiveInputs inputs = check_contrastive(kOp, queries, keys, temperature, exclude,
                                                     way.kind != SimilarityWay::kFloats);
  debug_check_temperatures(kOp, inputs.temperatures);
  debug_check_exclude(kOp, inputs);
  const auto empty = [&](at::ScalarType type) {
    return at::empty({inputs.count}, inputs.queries.options().dtype(type));
  };
  at::Tensor log_means = empty(inputs.type), exponents = empty(inputs.type);
  at::Tensor peaks = empty(inputs.type), masses = empty(inputs.type), inverses = empty(inputs.type);
  at::Tensor sums = empty(at::kDouble), moments = empty(at::kDouble);
  const cudaStream_t stream = stream_of(queries);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    const cuda::Similarities<T> problem = cuda_similarities_of<T>(inputs);
    const cuda::ExpSums<T> rows{peaks.mutable_data_ptr<T>(), sums.mutable_data_ptr<double>(),
                                moments.mutable_data_ptr<double>()};
    T* inverse = inverses.mutable_data_ptr<T>();
    C10_CUDA_CHECK(cuda::launch_inverse_temperatures(inputs.temperatures.const_data_ptr<double>(),
                                                     inputs.temperatures.numel() != 1, inputs.count,
                                                     inverse, stream));
    launch_row_sums(problem, inputs, way, inverse, rows, stream);
    C10_CUDA_CHECK(cuda::launch_log_means(problem, inverse, rows, log_means.mutable_data_ptr<T>(),
                                          exponents.mutable_data_ptr<T>(),
                                          masses.mutable_data_ptr<T>(), stream));
  });
  return {log_means, exponents, peaks, masses};
}

std::tuple<at::Tensor, at::Tensor> contrastive_log_sums_gradients_cuda(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude, const at::Tensor& query_weights,
    const at::Tensor& peaks, const at::Tensor& masses, bool for_queries, bool for_keys) {
  constexpr const char* kOp = "contrastive_log_sums_gradients";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(queries.device());
  const SimilarityWay way = similarity_way(queries, keys, kStreamedLogSums);
  const ContrastiveInputs inputs = check_contrastive(kOp, queries, keys, temperature, exclude,
                                                     way.kind != SimilarityWay::kFloats);
  check_per_query(kOp, inputs, query_weights, peaks, masses);
  at::Tensor dq = empty_gradient(inputs.queries, for_queries, inputs.type);
  at::Tensor dk = empty_gradient(inputs.keys, for_keys, inputs.type);
  const at::Tensor upstream = contiguous_as(query_weights, inputs.type);
  const at::Tensor row_peaks = contiguous_as(peaks, inputs.type);
  const at::Tensor row_masses = contiguous_as(masses, inputs.type);
  at::Tensor inverses = at::empty_like(row_peaks), weights = at::empty_like(row_peaks);
  at::Tensor shifts = at::empty_like(row_peaks);
  const cudaStream_t stream = stream_of(queries);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    const cuda::Similarities<T> problem = cuda_similarities_of<T>(inputs);
    T* inverse = inverses.mutable_data_ptr<T>();
    C10_CUDA_CHECK(cuda::launch_inverse_temperatures(inputs.temperatures.const_data_ptr<double>(),
                                                     inputs.temperatures.numel() != 1, inputs.count,
                                                     inverse, stream));
    C10_CUDA_CHECK(cuda::launch_log_mean_weights(
        upstream.const_data_ptr<T>(), inverse, row_masses.const_data_ptr<T>(), inputs.count,
        weights.mutable_data_ptr<T>(), shifts.mutable_data_ptr<T>(), stream));
    const cuda::PairWeights<T> rows{inverse, row_peaks.const_data_ptr<T>(),
                                    shifts.const_data_ptr<T>(), weights.const_data_ptr<T>()};
    launch_row_gradients(problem, inputs, way, rows,
                         for_queries ? dq.mutable_data_ptr<T>() : nullptr,
                         for_keys ? dk.mutable_data_ptr<T>() : nullptr, stream);
  });
  return {dq, dk};
}

// With all of the call set but the arrays.
template <class T, class State>
void launch_contrastive_step(cuda::ContrastiveStep<T, State>& call,
                             const ContrastiveStepInputs& inputs, const SimilarityWay& way,
                             const ContrastiveStepOutputs& outputs) {
  outputs.set_arrays(call, inputs);
  call.value = outputs.value.mutable_data_ptr<T>();
  call.temperature_slope = outputs.slope.mutable_data_ptr<T>();
  if constexpr (std::is_same_v<T, float>) {
    if (inputs.halves) {
      call.half_view1 = halves_of(inputs.view1);
      call.half_view2 = halves_of(inputs.view2);
      call.bfloat16 = inputs.bfloat16;
      call.half_block = way.block;
      if (!way.chosen) call.small_anchors = 0;
      call.streamed = way.kind == SimilarityWay::kStreamed;
    }
  }
  const size_t bytes = cuda::contrastive_step_workspace_bytes(call);
  const at::Tensor space = workspace_like(inputs.view1, bytes);
  const auto launch = [&](const auto& products) {
    C10_CUDA_CHECK(cuda::launch_contrastive_step(call, products, space.mutable_data_ptr(), bytes,
                                                 stream_of(inputs.view1)));
  };
  if constexpr (std::is_same_v<T, float>) {
    if (inputs.halves) {
      launch(CudaProducts<float, uint16_t>(inputs.view1, inputs.view1.scalar_type()));
      return;
    }
  }
  launch(CudaProducts<T>(inputs.view1));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> contrastive_step_cuda_(
    const at::Tensor& view1, const at::Tensor& view2, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, const at::Tensor& gamma,
    const at::Tensor& temperature, const at::Tensor& eta, double beta, double second_beta,
    double slope_limit, double lowest, double highest, double rho, double epsilon, bool bimodal,
    bool normalize, bool per_view, bool relative, bool temperature_weighted, bool update_state,
    bool needs_gradient) {
  constexpr const char* kOp = "contrastive_step_";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(view1.device());
  const SimilarityWay way = similarity_way(view1, view2, kStreamedSteps);
  const ContrastiveStepInputs inputs =
      check_contrastive_step(kOp, view1, view2, index, state, state_temperature, state_momentum,
                             bimodal, second_beta > 0, way.kind != SimilarityWay::kFloats);
  const at::Tensor gammas = device_number(gamma, view1, kOp, "gamma");
  const at::Tensor tau = device_number(temperature, view1, kOp, "temperature");
  const at::Tensor steps = device_number(eta, view1, kOp, "eta");
  debug_check_gamma(kOp, gammas);
  debug_check_temperatures(kOp, tau);
  if (state.has_value()) debug_check_range(kOp, inputs.ids, inputs.rows);
  const ContrastiveStepOutputs outputs(inputs, needs_gradient);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cuda::ContrastiveStep<T, State> call;
      call.bimodal = bimodal;
      call.normalize = normalize;
      if (state.has_value()) call.index = inputs.ids.const_data_ptr<int64_t>();
      call.state = state_rows<State>(state, update_state);
      call.temperatures = state_rows<State>(state_temperature, update_state);
      call.momenta = state_rows<State>(state_momentum, update_state);
      call.rows = inputs.rows;
      call.write_state = update_state;
      call.gamma = gammas.const_data_ptr<double>();
      call.temperature = tau.const_data_ptr<double>();
      call.eta = steps.const_data_ptr<double>();
      call.options = {rho, epsilon, temperature_weighted};
      call.per_view = per_view;
      call.relative = relative;
      call.beta = beta;
      call.second_beta = second_beta;
      call.slope_limit = slope_limit;
      call.lowest = lowest;
      call.highest = highest;
      launch_contrastive_step(call, inputs, way, outputs);
    });
  });
  if (update_state) bump_states(state, state_temperature, state_momentum);
  return outputs.result();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_step_cuda(
    const at::Tensor& view1, const at::Tensor& view2, const at::Tensor& temperature,
    const std::optional<at::Tensor>& alpha, const std::optional<at::Tensor>& labels, bool bimodal,
    bool flat, bool normalize, bool needs_gradient) {
  constexpr const char* kOp = "info_nce_step";
  TORCH_CHECK_VALUE(!labels.has_value(), kOp, ": expected labels on the CPU alone");
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(view1.device());
  const SimilarityWay way = similarity_way(view1, view2, kStreamedSteps);
  const ContrastiveStepInputs inputs =
      check_contrastive_step(kOp, view1, view2, std::nullopt, std::nullopt, std::nullopt,
                             std::nullopt, bimodal, false, way.kind != SimilarityWay::kFloats);
  const at::Tensor tau = device_number(temperature, view1, kOp, "temperature");
  debug_check_temperatures(kOp, tau);
  at::Tensor equivalent;
  if (alpha.has_value()) {
    equivalent = device_number(*alpha, view1, kOp, "alpha");
    debug_check_alpha(kOp, equivalent);
  }
  const ContrastiveStepOutputs outputs(inputs, needs_gradient);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    cuda::ContrastiveStep<T, float> call;
    call.bimodal = bimodal;
    call.normalize = normalize;
    call.temperature = tau.const_data_ptr<double>();
    call.stateless = true;
    call.info_nce = info_nce_of(bimodal, flat);
    if (equivalent.defined()) call.alpha = equivalent.const_data_ptr<double>();
    call.per_view = true;
    call.relative = true;
    launch_contrastive_step(call, inputs, way, outputs);
  });
  return outputs.result();
}

}  // namespace xrisk
