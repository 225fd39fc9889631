// P4 on the CPU: sums of exponentials of similarities, and the fused step of the global contrastive
// losses; products by the BLAS that torch has.
// Included by torch/pairwise_ops.h only.
//
// A product of halves through ATen returns halves, a tenth of an exponent at temperature 0.01: so
// halves become floats first, and products are called below the dispatcher, where no autocast can
// lower them.
#pragma once

#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/contrastive_step.h"
#include "cpu/moving_average.h"
#include "torch/attach_gradient.h"
#include "torch/contrastive_inputs.h"
#include "torch/ops.h"

namespace xrisk {

template <class T>
class AtenProducts final : public Products<T> {
 public:
  void multiply(const MatrixProduct<T>& p) const override {
    if (p.m == 0 || p.n == 0) return;
    at::Tensor c = view(p.c, p.m, p.n, p.c_stride, false);
    const at::Tensor a = view(p.a, p.m, p.k, p.a_stride, p.a_transposed);
    const at::Tensor b = view(p.b, p.k, p.n, p.b_stride, p.b_transposed);
    if (p.add) {
      at::cpu::addmm_(c, a, b);
    } else {
      at::cpu::mm_out(c, a, b);
    }
  }

 private:
  static at::Tensor view(const T* data, int64_t rows, int64_t columns, int64_t stride,
                         bool transposed) {
    return at::from_blob(const_cast<T*>(data), {rows, columns},
                         transposed ? at::IntArrayRef{1, stride} : at::IntArrayRef{stride, 1},
                         c10::CppTypeToScalarType<T>::value);
  }
};

// Temperatures [1] or [B] as inverses in the type of the accumulation.
template <class T>
std::vector<T> inverse_temperatures(const at::Tensor& temperatures, int64_t count, const char* op) {
  const double* t = temperatures.const_data_ptr<double>();
  std::vector<T> inverses(static_cast<size_t>(count));
  for (int64_t i = 0; i < temperatures.numel(); ++i) {
    // Its inverse must fit a float.
    TORCH_CHECK_VALUE(t[i] >= 1e-30 && std::isfinite(t[i]), op,
                      ": expected temperature >= 1e-30 and finite, got ", t[i]);
  }
  for (int64_t i = 0; i < count; ++i) {
    inverses[static_cast<size_t>(i)] = static_cast<T>(1.0 / t[temperatures.numel() == 1 ? 0 : i]);
  }
  return inverses;
}

// How many different keys row i leaves out; an id out of range raises.
inline int64_t excluded_keys(const ContrastiveInputs& inputs, int64_t i, const char* op) {
  if (!inputs.exclude.defined()) return 0;
  const int64_t* row = inputs.exclude.const_data_ptr<int64_t>() + i * inputs.exclusions;
  int64_t different = 0;
  for (int64_t e = 0; e < inputs.exclusions; ++e) {
    TORCH_CHECK_INDEX(row[e] >= -1 && row[e] < inputs.keys_count, op, ": expected exclude in [-1, ",
                      inputs.keys_count, "), got ", row[e], " in row ", i);
    different += row[e] >= 0 && std::find(row, row + e, row[e]) == row + e;
  }
  return different;
}

template <class T>
cpu::Similarities<T> similarities_of(const ContrastiveInputs& inputs) {
  cpu::Similarities<T> problem;
  problem.x = inputs.queries.const_data_ptr<T>();
  problem.y = inputs.keys.const_data_ptr<T>();
  problem.rows = inputs.count;
  problem.columns = inputs.keys_count;
  problem.width = inputs.width;
  if (inputs.exclude.defined()) problem.exclude = inputs.exclude.const_data_ptr<int64_t>();
  problem.exclusions = inputs.exclusions;
  return problem;
}

// Where queries and keys came as bfloat16, the blocks multiply them as such, if the CPU can.
template <class T>
void use_bfloat16(const ContrastiveInputs& inputs, bool for_queries, bool for_keys,
                  cpu::SimilarityBlocks<T>& blocks, cpu::Scratch& scratch,
                  const cpu::Executor& executor) {
  const cpu::Bfloat16Kernels* kernels = inputs.bfloat16 ? cpu::bfloat16_kernels() : nullptr;
  if (kernels == nullptr) return;
  const auto packed = [&](const at::Tensor& rows, const cpu::Bfloat16Uses& uses) {
    const cpu::Bfloat16Source source{rows.const_data_ptr<float>(), nullptr, rows.size(0), nullptr};
    return cpu::pack_bfloat16(*kernels, source, rows.size(0), inputs.width, uses, scratch,
                              executor);
  };
  const cpu::PackedRows x = packed(inputs.queries, {true, false, for_keys});
  const cpu::PackedRows y = packed(inputs.keys, {false, true, for_queries});
  if (x.whole && y.whole) blocks.use(*kernels, x.rows, y.rows);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> contrastive_log_sums_rows(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude) {
  constexpr const char* kOp = "contrastive_log_sums";
  const NoAutocast no_autocast;
  const ContrastiveInputs inputs = check_contrastive(kOp, queries, keys, temperature, exclude);
  const auto empty = [&](at::ScalarType type) {
    return at::empty({inputs.count}, inputs.queries.options().dtype(type));
  };
  at::Tensor log_means = empty(inputs.type), exponents = empty(inputs.type);
  at::Tensor peaks = empty(inputs.type), masses = empty(at::kDouble), moments = empty(at::kDouble);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> inverses = inverse_temperatures<T>(inputs.temperatures, inputs.count, kOp);
    std::vector<double> kept(static_cast<size_t>(inputs.count));
    for (int64_t i = 0; i < inputs.count; ++i) {
      kept[static_cast<size_t>(i)] =
          static_cast<double>(inputs.keys_count - excluded_keys(inputs, i, kOp));
    }
    const cpu::ExpSums<T, double> sums{peaks.mutable_data_ptr<T>(),
                                       masses.mutable_data_ptr<double>(),
                                       moments.mutable_data_ptr<double>()};
    cpu::Scratch scratch;
    const AtenExecutor executor;
    const AtenProducts<T> products;
    cpu::SimilaritySizes sizes;
    sizes.store_bytes = 0;
    cpu::SimilarityBlocks<T> blocks(similarities_of<T>(inputs), sizes, products, scratch, executor);
    use_bfloat16(inputs, false, false, blocks, scratch, executor);
    blocks.sums(inverses.data(), sums, nullptr, nullptr);
    T* log_mean = log_means.mutable_data_ptr<T>();
    T* exponent = exponents.mutable_data_ptr<T>();
    for (int64_t i = 0; i < inputs.count; ++i) {
      const double mass = sums.masses[i];
      const double peak = mass == 0.0 ? 0.0
                                      : static_cast<double>(sums.peaks[i]) *
                                            static_cast<double>(inverses[static_cast<size_t>(i)]);
      const double n = kept[static_cast<size_t>(i)];
      log_mean[i] = static_cast<T>(mass == 0.0 ? -INFINITY : peak + std::log(mass / n));
      exponent[i] = static_cast<T>(mass == 0.0 ? 0.0 : peak + sums.moments[i] / mass);
    }
  });
  return {log_means, exponents, peaks, masses.to(inputs.type)};
}

std::tuple<at::Tensor, at::Tensor> contrastive_log_sums_gradients(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& temperature,
    const std::optional<at::Tensor>& exclude, const at::Tensor& query_weights,
    const at::Tensor& peaks, const at::Tensor& masses, bool for_queries, bool for_keys) {
  constexpr const char* kOp = "contrastive_log_sums_gradients";
  const NoAutocast no_autocast;
  const ContrastiveInputs inputs = check_contrastive(kOp, queries, keys, temperature, exclude);
  check_per_query(kOp, inputs, query_weights, peaks, masses);
  at::Tensor dq = empty_gradient(inputs.queries, for_queries, inputs.type);
  at::Tensor dk = empty_gradient(inputs.keys, for_keys, inputs.type);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> inverses = inverse_temperatures<T>(inputs.temperatures, inputs.count, kOp);
    for (int64_t i = 0; i < inputs.count; ++i) excluded_keys(inputs, i, kOp);
    const at::Tensor upstream = contiguous_as(query_weights, inputs.type);
    const at::Tensor row_peaks = contiguous_as(peaks, inputs.type).clone();
    const at::Tensor row_masses = contiguous_as(masses, inputs.type);
    std::vector<T> shifts(inverses.size(), T(0)), weights(inverses.size());
    T* peak = row_peaks.mutable_data_ptr<T>();
    for (int64_t i = 0; i < inputs.count; ++i) {
      const size_t k = static_cast<size_t>(i);
      const T mass = row_masses.const_data_ptr<T>()[i];
      weights[k] = mass == T(0) ? T(0) : upstream.const_data_ptr<T>()[i] * inverses[k] / mass;
      if (mass == T(0)) peak[i] = T(0);
    }
    const cpu::PairWeights<T> rows{inverses.data(), peak, shifts.data(), weights.data()};
    cpu::Scratch scratch;
    const AtenExecutor executor;
    const AtenProducts<T> products;
    cpu::SimilaritySizes sizes;
    sizes.store_bytes = 0;
    cpu::SimilarityBlocks<T> blocks(similarities_of<T>(inputs), sizes, products, scratch, executor);
    use_bfloat16(inputs, for_queries, for_keys, blocks, scratch, executor);
    blocks.gradients(rows, nullptr, for_queries ? dq.mutable_data_ptr<T>() : nullptr,
                     for_keys ? dk.mutable_data_ptr<T>() : nullptr);
  });
  return {dq, dk};
}

// In [0, 1]; NaN is not.
inline double unit_interval_value(const at::Tensor& t, const char* op, const char* name) {
  const double value = scalar_value(t, op, name);
  TORCH_CHECK_VALUE(value >= 0 && value <= 1, op, ": expected ", name, " in [0, 1], got ", value);
  return value;
}

// With all of the call set but the arrays.
template <class T, class State>
void run_contrastive_step(cpu::ContrastiveStep<T, State>& call, const ContrastiveStepInputs& inputs,
                          const ContrastiveStepOutputs& outputs, const AtenExecutor& executor) {
  outputs.set_arrays(call, inputs);
  call.bfloat16 = inputs.bfloat16;
  const cpu::ContrastiveResult result =
      cpu::contrastive_step(call, {}, AtenProducts<T>(), executor);
  *outputs.value.mutable_data_ptr<T>() = static_cast<T>(result.value);
  *outputs.slope.mutable_data_ptr<T>() = static_cast<T>(result.temperature_slope);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> contrastive_step_(
    const at::Tensor& view1, const at::Tensor& view2, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, const at::Tensor& gamma,
    const at::Tensor& temperature, const at::Tensor& eta, double beta, double second_beta,
    double slope_limit, double lowest, double highest, double rho, double epsilon, bool bimodal,
    bool normalize, bool per_view, bool relative, bool temperature_weighted, bool update_state,
    bool needs_gradient) {
  constexpr const char* kOp = "contrastive_step_";
  const NoAutocast no_autocast;
  const ContrastiveStepInputs inputs = check_contrastive_step(
      kOp, view1, view2, index, state, state_temperature, state_momentum, bimodal, second_beta > 0);
  const double gamma_value = unit_interval_value(gamma, kOp, "gamma");
  const double tau = checked_temperature(temperature, kOp, "temperature");
  const double eta_value = scalar_value(eta, kOp, "eta");
  TORCH_CHECK_VALUE(std::isfinite(eta_value), kOp, ": expected eta to be finite, got ", eta_value);
  const AtenExecutor executor;
  if (state.has_value()) {
    const int64_t* ids = inputs.ids.const_data_ptr<int64_t>();
    const int64_t bad = cpu::find_out_of_range(ids, inputs.batch, inputs.rows, executor);
    TORCH_CHECK_INDEX(bad < 0, kOp, ": expected index in [0, ", inputs.rows, "), got ",
                      ids[bad < 0 ? 0 : bad], " at position ", bad);
  }
  const ContrastiveStepOutputs outputs(inputs, needs_gradient);
  visit_floating(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    visit_floating(state.has_value() ? state->scalar_type() : at::kFloat, [&](auto state_zero) {
      using State = decltype(state_zero);
      cpu::ContrastiveStep<T, State> call;
      call.bimodal = bimodal;
      call.normalize = normalize;
      if (state.has_value()) call.index = inputs.ids.const_data_ptr<int64_t>();
      call.state = state_rows<State>(state, update_state);
      call.temperatures = state_rows<State>(state_temperature, update_state);
      call.momenta = state_rows<State>(state_momentum, update_state);
      call.rows = inputs.rows;
      call.write_state = update_state;
      call.gamma = gamma_value;
      call.temperature = tau;
      call.options = {rho, epsilon, temperature_weighted};
      call.per_view = per_view;
      call.relative = relative;
      call.eta = eta_value;
      call.beta = beta;
      call.second_beta = second_beta;
      call.slope_limit = slope_limit;
      call.lowest = lowest;
      call.highest = highest;
      run_contrastive_step(call, inputs, outputs, executor);
    });
  });
  if (update_state) bump_states(state, state_temperature, state_momentum);
  return outputs.result();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> contrastive_step_autograd(
    const at::Tensor& view1, const at::Tensor& view2, const std::optional<at::Tensor>& index,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& state_temperature,
    const std::optional<at::Tensor>& state_momentum, const at::Tensor& gamma,
    const at::Tensor& temperature, const at::Tensor& eta, double beta, double second_beta,
    double slope_limit, double lowest, double highest, double rho, double epsilon, bool bimodal,
    bool normalize, bool per_view, bool relative, bool temperature_weighted, bool update_state,
    bool needs_gradient) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("xrisk_ext::contrastive_step_", "")
                             .typed<decltype(contrastive_step_)>();
  std::tuple<at::Tensor, at::Tensor, at::Tensor> result;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    result =
        op.call(view1, view2, index, state, state_temperature, state_momentum, gamma, temperature,
                eta, beta, second_beta, slope_limit, lowest, highest, rho, epsilon, bimodal,
                normalize, per_view, relative, temperature_weighted, update_state, needs_gradient);
    if (!needs_gradient) return result;
  }
  const auto& [value, gradient, slope] = result;
  const bool wanted = view1.requires_grad() || view2.requires_grad() || temperature.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) return result;
  at::Tensor first, second;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    first = gradient.select(0, 0);
    second = gradient.select(0, 1);
  }
  attach_gradients({{view1, first}, {view2, second}, {temperature, slope.view_as(temperature)}},
                   value);
  return result;
}

}  // namespace xrisk
