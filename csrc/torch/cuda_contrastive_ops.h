// P4 on CUDA: contrastive log sums (of halves streamed through the tensor cores), the fused step of
// the global contrastive losses and that of the losses without state, products by cuBLAS through
// ATen on the current stream. Included by torch/cuda_ops.cpp only.
#pragma once

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <array>
#include <string>

#include "cuda/contrastive_step.h"
#include "cuda/similarity.h"
#include "cuda/streamed_similarity.h"
#include "torch/contrastive_inputs.h"
#include "torch/cuda_common.h"

namespace xrisk {

template <class T>
class CudaProducts final : public Products<T> {
 public:
  explicit CudaProducts(const at::Tensor& like)
      : options_(like.options().dtype(c10::CppTypeToScalarType<T>::value)) {}

  void multiply(const MatrixProduct<T>& p) const override {
    if (p.m == 0 || p.n == 0) return;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor c = view(p.c, p.m, p.n, p.c_stride, false);
    const at::Tensor a = view(p.a, p.m, p.k, p.a_stride, p.a_transposed);
    const at::Tensor b = view(p.b, p.k, p.n, p.b_stride, p.b_transposed);
    if (p.add) {
      at::addmm_out(c, c, a, b);
    } else {
      at::mm_out(c, a, b);
    }
  }

 private:
  at::Tensor view(const T* data, int64_t rows, int64_t columns, int64_t stride,
                  bool transposed) const {
    const std::array<int64_t, 2> strides = {transposed ? 1 : stride, transposed ? stride : 1};
    return at::for_blob(const_cast<T*>(data), {rows, columns})
        .strides(strides)
        .options(options_)
        .target_device(options_.device())  // known: the driver is not asked for it
        .make_tensor();
  }

  at::TensorOptions options_;
};

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

// Whether similarities are streamed through the tensor cores instead of multiplied in blocks: of
// queries and keys of one 16-bit type, no wider than the kernels are, on a device that has them.
//
// Only where XRISK_SIMILARITIES=streamed, read at each call, asks for it: their PTX has never run
// on a GPU. By count they should win (14 N M D flops at the rate of the tensor cores against 8 at
// that of float32): benchmarks/streamed_similarities.py checks and races both. A choice that timed
// both at first use would wait for the device, and results would depend on the clock.
inline bool streams_similarities(const at::Tensor& queries, const at::Tensor& keys) {
  const at::ScalarType type = queries.scalar_type();
  if (type != keys.scalar_type() || (type != at::kBFloat16 && type != at::kHalf)) return false;
  if (queries.dim() != 2 || queries.size(1) > cuda::StreamedSimilarities::kWidest) return false;
  const char* named = std::getenv("XRISK_SIMILARITIES");
  const std::string way = named == nullptr ? "blocks" : named;
  TORCH_CHECK_VALUE(way == "streamed" || way == "blocks",
                    "XRISK_SIMILARITIES: expected streamed or blocks, got ", way);
  if (way == "blocks") return false;
  int major = 0;
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, queries.get_device()));
  return major >= 8;
}

inline cuda::StreamedSimilarities streamed_similarities_of(const ContrastiveInputs& inputs) {
  cuda::StreamedSimilarities problem;
  problem.x = static_cast<const uint16_t*>(inputs.queries.const_data_ptr());
  problem.y = static_cast<const uint16_t*>(inputs.keys.const_data_ptr());
  problem.bfloat16 = inputs.bfloat16;
  problem.rows = inputs.count;
  problem.columns = inputs.keys_count;
  problem.width = inputs.width;
  if (inputs.exclude.defined()) problem.exclude = inputs.exclude.const_data_ptr<int64_t>();
  problem.exclusions = inputs.exclusions;
  return problem;
}

// The problem, and the block of similarities that it works in; neither rows nor block of halves.
template <class T>
cuda::Similarities<T> cuda_similarities_of(const ContrastiveInputs& inputs, at::Tensor& block) {
  cuda::Similarities<T> problem;
  problem.rows = inputs.count;
  problem.columns = inputs.keys_count;
  problem.width = inputs.width;
  if (inputs.exclude.defined()) problem.exclude = inputs.exclude.const_data_ptr<int64_t>();
  problem.exclusions = inputs.exclusions;
  if (inputs.halves) return problem;
  problem.x = inputs.queries.const_data_ptr<T>();
  problem.y = inputs.keys.const_data_ptr<T>();
  block = at::empty({std::min(problem.block_rows, problem.rows),
                     std::min(problem.block_columns, problem.columns)},
                    inputs.queries.options());
  problem.block = block.mutable_data_ptr<T>();
  return problem;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> contrastive_log_sums_rows_cuda(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude) {
  constexpr const char* kOp = "contrastive_log_sums";
  const NoAutocast no_autocast;
  const c10::cuda::CUDAGuard guard(queries.device());
  const ContrastiveInputs inputs = check_contrastive(kOp, queries, keys, temperature, exclude,
                                                     streams_similarities(queries, keys));
  debug_check_temperatures(kOp, inputs.temperatures);
  debug_check_exclude(kOp, inputs);
  const auto empty = [&](at::ScalarType type) {
    return at::empty({inputs.count}, inputs.queries.options().dtype(type));
  };
  at::Tensor log_means = empty(inputs.type), exponents = empty(inputs.type);
  at::Tensor peaks = empty(inputs.type), masses = empty(inputs.type), inverses = empty(inputs.type);
  at::Tensor sums = empty(at::kDouble), moments = empty(at::kDouble), block;
  const cudaStream_t stream = stream_of(queries);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    const cuda::Similarities<T> problem = cuda_similarities_of<T>(inputs, block);
    const cuda::ExpSums<T> rows{peaks.mutable_data_ptr<T>(), sums.mutable_data_ptr<double>(),
                                moments.mutable_data_ptr<double>()};
    T* inverse = inverses.mutable_data_ptr<T>();
    C10_CUDA_CHECK(cuda::launch_inverse_temperatures(inputs.temperatures.const_data_ptr<double>(),
                                                     inputs.temperatures.numel() != 1, inputs.count,
                                                     inverse, stream));
    if (!inputs.halves) {
      C10_CUDA_CHECK(cuda::launch_similarity_sums(problem, inverse, rows, inverse,
                                                  cuda::ExpSums<T>{},
                                                  CudaProducts<T>(inputs.queries), stream));
    } else if constexpr (std::is_same_v<T, float>) {
      const cuda::StreamedSimilarities streamed = streamed_similarities_of(inputs);
      block = workspace_like(queries, cuda::streamed_workspace_bytes(streamed));
      C10_CUDA_CHECK(
          cuda::launch_streamed_sums(streamed, inverse, rows, block.mutable_data_ptr(), stream));
    }
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
  const ContrastiveInputs inputs = check_contrastive(kOp, queries, keys, temperature, exclude,
                                                     streams_similarities(queries, keys));
  check_per_query(kOp, inputs, query_weights, peaks, masses);
  at::Tensor dq = empty_gradient(inputs.queries, for_queries, inputs.type);
  at::Tensor dk = empty_gradient(inputs.keys, for_keys, inputs.type);
  const at::Tensor upstream = contiguous_as(query_weights, inputs.type);
  const at::Tensor row_peaks = contiguous_as(peaks, inputs.type);
  const at::Tensor row_masses = contiguous_as(masses, inputs.type);
  at::Tensor inverses = at::empty_like(row_peaks), weights = at::empty_like(row_peaks);
  at::Tensor shifts = at::empty_like(row_peaks), block;
  const cudaStream_t stream = stream_of(queries);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    const cuda::Similarities<T> problem = cuda_similarities_of<T>(inputs, block);
    T* inverse = inverses.mutable_data_ptr<T>();
    C10_CUDA_CHECK(cuda::launch_inverse_temperatures(inputs.temperatures.const_data_ptr<double>(),
                                                     inputs.temperatures.numel() != 1, inputs.count,
                                                     inverse, stream));
    C10_CUDA_CHECK(cuda::launch_log_mean_weights(
        upstream.const_data_ptr<T>(), inverse, row_masses.const_data_ptr<T>(), inputs.count,
        weights.mutable_data_ptr<T>(), shifts.mutable_data_ptr<T>(), stream));
    const cuda::PairWeights<T> rows{inverse, row_peaks.const_data_ptr<T>(),
                                    shifts.const_data_ptr<T>(), weights.const_data_ptr<T>()};
    T* const dx = for_queries ? dq.mutable_data_ptr<T>() : nullptr;
    T* const dy = for_keys ? dk.mutable_data_ptr<T>() : nullptr;
    if (!inputs.halves) {
      C10_CUDA_CHECK(cuda::launch_similarity_gradients(problem, rows, cuda::PairWeights<T>{}, false,
                                                       dx, dy, CudaProducts<T>(inputs.queries),
                                                       stream));
    } else if constexpr (std::is_same_v<T, float>) {
      const cuda::StreamedSimilarities streamed = streamed_similarities_of(inputs);
      block = workspace_like(queries, cuda::streamed_workspace_bytes(streamed));
      C10_CUDA_CHECK(cuda::launch_streamed_gradients(streamed, rows, dx, dy,
                                                     block.mutable_data_ptr(), stream));
    }
  });
  return {dq, dk};
}

// With all of the call set but the arrays.
template <class T, class State>
void launch_contrastive_step(cuda::ContrastiveStep<T, State>& call,
                             const ContrastiveStepInputs& inputs,
                             const ContrastiveStepOutputs& outputs) {
  outputs.set_arrays(call, inputs);
  call.value = outputs.value.mutable_data_ptr<T>();
  call.temperature_slope = outputs.slope.mutable_data_ptr<T>();
  const size_t bytes = cuda::contrastive_step_workspace_bytes(call);
  const at::Tensor space = workspace_like(inputs.view1, bytes);
  C10_CUDA_CHECK(cuda::launch_contrastive_step(call, CudaProducts<T>(inputs.view1),
                                               space.mutable_data_ptr(), bytes,
                                               stream_of(inputs.view1)));
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
  const ContrastiveStepInputs inputs = check_contrastive_step(
      kOp, view1, view2, index, state, state_temperature, state_momentum, bimodal, second_beta > 0);
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
      launch_contrastive_step(call, inputs, outputs);
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
  const ContrastiveStepInputs inputs = check_contrastive_step(
      kOp, view1, view2, std::nullopt, std::nullopt, std::nullopt, std::nullopt, bimodal);
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
    launch_contrastive_step(call, inputs, outputs);
  });
  return outputs.result();
}

}  // namespace xrisk
