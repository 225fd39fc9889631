#include "torch/common.h"

#include <cmath>

namespace xrisk {

double scalar_value(const at::Tensor& t, const char* op, const char* name) {
  TORCH_CHECK_VALUE(t.numel() == 1, op, ": expected ", name, " to be one number, got shape ",
                    t.sizes());
  check_cpu(t, op, name);
  if (t.scalar_type() == at::kDouble) return *t.const_data_ptr<double>();
  if (t.scalar_type() == at::kFloat) return static_cast<double>(*t.const_data_ptr<float>());
  return t.item<double>();
}

cpu::PairwiseSpec make_spec(const char* op, int64_t surrogate, double margin,
                            const at::Tensor& scale, int64_t algorithm) {
  TORCH_CHECK_VALUE(surrogate >= 0 && surrogate < kSurrogateCount, op,
                    ": unknown surrogate number ", surrogate);
  TORCH_CHECK_VALUE(algorithm >= 0 && algorithm <= 2, op, ": unknown algorithm number ", algorithm);
  cpu::PairwiseSpec spec;
  spec.surrogate = static_cast<Surrogate>(surrogate);
  spec.algorithm = static_cast<Algorithm>(algorithm);
  spec.params.margin = margin;
  spec.params.scale = scalar_value(scale, op, "scale");
  TORCH_CHECK_VALUE(margin >= 0 && std::isfinite(margin), op,
                    ": expected margin >= 0 and finite, got ", margin);
  TORCH_CHECK_VALUE(spec.params.scale > 0 && std::isfinite(spec.params.scale), op,
                    ": expected scale > 0 and finite, got ", spec.params.scale);
  TORCH_CHECK_VALUE(spec.surrogate != Surrogate::kBarrierHinge || spec.params.scale >= 1, op,
                    ": expected scale >= 1 for the surrogate barrier_hinge, got ",
                    spec.params.scale);
  TORCH_CHECK_VALUE(spec.algorithm != Algorithm::kSort || cpu::has_sort(spec.surrogate), op,
                    ": algorithm \"sort\" needs a piecewise-polynomial or exponential surrogate; "
                    "logistic and sigmoid have \"direct\"");
  return spec;
}

at::Tensor checked_weights(const at::Tensor& weights, at::ScalarType type, bool non_negative,
                           const char* op) {
  check_floating(weights, op, "item_weights");
  check_cpu(weights, op, "item_weights");
  TORCH_CHECK_VALUE(!weights.requires_grad() || !at::GradMode::is_enabled(), op,
                    ": item_weights are constants, expected requires_grad=False");
  at::Tensor result = contiguous_as(weights, type);
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

at::Tensor checked_index(const at::Tensor& index, int64_t entries, const char* op) {
  TORCH_CHECK_TYPE(index.scalar_type() == at::kLong || index.scalar_type() == at::kInt, op,
                   ": expected index to be int64 or int32, got ", index.scalar_type());
  check_cpu(index, op, "index");
  TORCH_CHECK_VALUE(
      index.numel() == entries && (index.dim() == 1 || (index.dim() == 2 && index.size(1) == 1)),
      op, ": expected index of shape [", entries, "], got ", index.sizes());
  return contiguous_as(index, at::kLong);
}

}  // namespace xrisk
