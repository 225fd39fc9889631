// What the op files share: the executor on ATen's threads, argument checks, dtype dispatch.
//
// Only csrc/torch/ includes ATen. Errors name the op, the argument, what was expected and what
// came.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/executor.h"
#include "cpu/pairwise.h"

namespace xrisk {

class AtenExecutor final : public cpu::Executor {
 public:
  void run(int64_t count, const cpu::Task& task) const override {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) task(k);
    });
  }
};

// Autocast must not lower anything inside an op.
struct NoAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};

inline void check_floating(const at::Tensor& t, const char* op, const char* name) {
  const at::ScalarType type = t.scalar_type();
  const bool known =
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16;
  TORCH_CHECK_TYPE(known, op, ": expected ", name,
                   " to be float32, float64, float16 or bfloat16, got ", t.scalar_type());
}

inline void check_device(const at::Tensor& t, const at::Tensor& like, const char* op,
                         const char* name) {
  TORCH_CHECK_VALUE(t.device() == like.device(), op, ": expected ", name, " on ", like.device(),
                    " like the other arguments, got ", t.device(), "; move it with .to()");
}

inline void check_cpu(const at::Tensor& t, const char* op, const char* name) {
  TORCH_CHECK_VALUE(t.device().is_cpu(), op, ": expected ", name,
                    " on the CPU like the other arguments, got ", t.device(),
                    "; move it with .to('cpu')");
}

// The type that scores are computed in: float64 for float64, float32 otherwise.
inline at::ScalarType accumulation_type(const at::Tensor& t) {
  return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Calls f(T{}) with T = float or double.
template <class F>
auto visit_floating(at::ScalarType type, F&& f) {
  if (type == at::kDouble) return f(double{});
  return f(float{});
}

inline at::Tensor contiguous_as(const at::Tensor& t, at::ScalarType type) {
  return (t.scalar_type() == type ? t : t.to(type)).contiguous();
}

// The value of a 0-dim (or one-element) CPU tensor.
inline double scalar_value(const at::Tensor& t, const char* op, const char* name) {
  TORCH_CHECK_VALUE(t.numel() == 1, op, ": expected ", name, " to be one number, got shape ",
                    t.sizes());
  check_cpu(t, op, name);
  if (t.scalar_type() == at::kDouble) return *t.const_data_ptr<double>();
  if (t.scalar_type() == at::kFloat) return static_cast<double>(*t.const_data_ptr<float>());
  return t.item<double>();
}

inline double checked_temperature(const at::Tensor& temperature, const char* op, const char* name) {
  const double value = scalar_value(temperature, op, name);
  TORCH_CHECK_VALUE(value >= 1e-30 && std::isfinite(value), op, ": expected ", name,
                    " >= 1e-30 and finite, got ", value);
  return value;
}

inline void check_algorithm_number(const char* op, int64_t algorithm) {
  TORCH_CHECK_VALUE(algorithm >= 0 && algorithm < kAlgorithmCount, op,
                    ": unknown algorithm number ", algorithm);
}

// Surrogate, margin and algorithm, checked. The scale is left at 1: on CUDA the device alone knows
// it.
inline cpu::PairwiseSpec make_unscaled_spec(const char* op, int64_t surrogate, double margin,
                                            int64_t algorithm) {
  TORCH_CHECK_VALUE(surrogate >= 0 && surrogate < kSurrogateCount, op,
                    ": unknown surrogate number ", surrogate);
  check_algorithm_number(op, algorithm);
  cpu::PairwiseSpec spec;
  spec.surrogate = static_cast<Surrogate>(surrogate);
  spec.algorithm = static_cast<Algorithm>(algorithm);
  spec.params.margin = margin;
  TORCH_CHECK_VALUE(margin >= 0 && std::isfinite(margin), op,
                    ": expected margin >= 0 and finite, got ", margin);
  TORCH_CHECK_VALUE(spec.algorithm != Algorithm::kSort || cpu::has_sort(spec.surrogate), op,
                    ": algorithm \"sort\" needs a piecewise-polynomial or exponential surrogate; "
                    "logistic and sigmoid have \"direct\" and \"smooth\"");
  TORCH_CHECK_VALUE(spec.algorithm != Algorithm::kSmooth || cpu::has_smooth(spec.surrogate), op,
                    ": algorithm \"smooth\" is for logistic and sigmoid; the other surrogates "
                    "have \"direct\" and \"sort\"");
  return spec;
}

inline void check_scale(const char* op, Surrogate surrogate, double scale) {
  TORCH_CHECK_VALUE(scale > 0 && std::isfinite(scale), op, ": expected scale > 0 and finite, got ",
                    scale);
  TORCH_CHECK_VALUE(surrogate != Surrogate::kBarrierHinge || scale >= 1, op,
                    ": expected scale >= 1 for the surrogate barrier_hinge, got ", scale);
}

// The same with a scale that the host may read.
inline cpu::PairwiseSpec make_spec(const char* op, int64_t surrogate, double margin,
                                   const at::Tensor& scale, int64_t algorithm) {
  cpu::PairwiseSpec spec = make_unscaled_spec(op, surrogate, margin, algorithm);
  spec.params.scale = scalar_value(scale, op, "scale");
  check_scale(op, spec.surrogate, spec.params.scale);
  return spec;
}

// Weights: floating, of the given shape's trailing size, finite and >= 0 (if non_negative); the
// values are looked at on the CPU alone.
inline at::Tensor checked_weights(const at::Tensor& weights, at::ScalarType type, bool non_negative,
                                  const char* op) {
  check_floating(weights, op, "item_weights");
  TORCH_CHECK_VALUE(!weights.requires_grad() || !at::GradMode::is_enabled(), op,
                    ": item_weights are constants, expected requires_grad=False");
  at::Tensor result = contiguous_as(weights, type);
  if (!result.is_cpu()) return result;  // the host does not wait for values
  visit_floating(type, [&](auto zero) {
    using T = decltype(zero);
    const T* w = result.const_data_ptr<T>();
    bool good = true;
    for (int64_t j = 0; j < result.numel(); ++j) {
      good &= (w[j] - w[j] == T(0)) & (!non_negative | (w[j] >= T(0)));
    }
    TORCH_CHECK_VALUE(good, op, ": expected item_weights to be finite",
                      non_negative ? " and >= 0" : "");
  });
  return result;
}

// int64 ids [entries], contiguous.
inline at::Tensor checked_index(const at::Tensor& index, int64_t entries, const char* op) {
  TORCH_CHECK_TYPE(index.scalar_type() == at::kLong || index.scalar_type() == at::kInt, op,
                   ": expected index to be int64 or int32, got ", index.scalar_type());
  TORCH_CHECK_VALUE(
      index.numel() == entries && (index.dim() == 1 || (index.dim() == 2 && index.size(1) == 1)),
      op, ": expected index of shape [", entries, "], got ", index.sizes());
  return contiguous_as(index, at::kLong);
}

inline void bump_version(const at::Tensor& t) {
  if (!t.is_inference()) t.unsafeGetTensorImpl()->bump_version();
}

}  // namespace xrisk
