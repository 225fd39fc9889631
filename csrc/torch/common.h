// What the op files share: the executor on ATen's threads, argument checks, dtype dispatch.
//
// Only csrc/torch/ includes ATen. Errors name the op, the argument, what was expected and what
// came.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

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
double scalar_value(const at::Tensor& t, const char* op, const char* name);

// Surrogate, margin and scale, checked.
cpu::PairwiseSpec make_spec(const char* op, int64_t surrogate, double margin,
                            const at::Tensor& scale, int64_t algorithm);

// Weights: floating, of the given shape's trailing size, finite and >= 0 (if non_negative).
at::Tensor checked_weights(const at::Tensor& weights, at::ScalarType type, bool non_negative,
                           const char* op);

// int64 ids [entries], contiguous.
at::Tensor checked_index(const at::Tensor& index, int64_t entries, const char* op);

inline void bump_version(const at::Tensor& t) {
  if (!t.is_inference()) t.unsafeGetTensorImpl()->bump_version();
}

}  // namespace xrisk
