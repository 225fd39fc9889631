// What the ops on CUDA share: workspaces, streams, hyper-parameters that stay on the device, and
// the checks of values that only XRISK_DEBUG=1 makes, since they wait for the device.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/label_array.h"
#include "torch/common.h"

namespace xrisk {

inline bool debugging() {
  static const bool debug = [] {
    const char* value = std::getenv("XRISK_DEBUG");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  return debug;
}

inline at::Tensor workspace_like(const at::Tensor& like, size_t bytes) {
  return at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte));
}

inline cudaStream_t stream_of(const at::Tensor& t) {
  return c10::cuda::getCurrentCUDAStream(t.get_device()).stream();
}

// A hyper-parameter as one double on the device.
inline at::Tensor device_number(const at::Tensor& t, const at::Tensor& like, const char* op,
                                const char* name) {
  TORCH_CHECK_VALUE(t.numel() == 1, op, ": expected ", name, " to be one number, got shape ",
                    t.sizes());
  check_device(t, like, op, name);
  return contiguous_as(t, at::kDouble);
}

// The labels as the kernels read them, and the tensor that holds them: their own memory where their
// dtype allows it, which saves a launch.
inline at::Tensor as_label_array(const at::Tensor& labels, LabelArray& array) {
  const auto keep = [&](bool is_signed, int64_t highest) {
    at::Tensor kept = labels.contiguous();
    array = {kept.const_data_ptr(), static_cast<int>(kept.element_size()), is_signed, highest};
    return kept;
  };
  switch (labels.scalar_type()) {
    case at::kBool:
    case at::kByte:
      return keep(false, INT64_MAX);
    case at::kChar:
    case at::kShort:
    case at::kInt:
    case at::kLong:
      return keep(true, INT64_MAX);
    case at::kHalf:
      return keep(true, 0x7c00);
    case at::kBFloat16:
      return keep(true, 0x7f80);
    case at::kFloat:
      return keep(true, 0x7f800000);
    case at::kDouble:
      return keep(true, 0x7ff0000000000000);
    default: {
      at::Tensor kept = labels.gt(0).contiguous();
      array = {kept.const_data_ptr(), 1, false, INT64_MAX};
      return kept;
    }
  }
}

inline void debug_check_scale(const char* op, const cpu::PairwiseSpec& spec,
                              const at::Tensor& scale) {
  if (debugging()) check_scale(op, spec.surrogate, scale.item<double>());
}

inline void debug_check_temperature(const char* op, const at::Tensor& temperature) {
  if (!debugging()) return;
  const double value = temperature.item<double>();
  TORCH_CHECK_VALUE(value >= 1e-30 && std::isfinite(value), op,
                    ": expected temperature >= 1e-30 and finite, got ", value);
}

inline void debug_check_gamma(const char* op, const at::Tensor& gamma) {
  if (!debugging()) return;
  const at::Tensor good = gamma.ge(0).logical_and(gamma.le(1));
  TORCH_CHECK_VALUE(good.all().item<bool>(), op, ": expected gamma in [0, 1]");
}

inline void debug_check_weights(const char* op, const at::Tensor& weights, bool non_negative) {
  if (!debugging() || !weights.defined()) return;
  at::Tensor good = weights.sub(weights).eq(0);
  if (non_negative) good = good.logical_and(weights.ge(0));
  TORCH_CHECK_VALUE(good.all().item<bool>(), op, ": expected item_weights to be finite",
                    non_negative ? " and >= 0" : "");
}

inline void debug_check_range(const char* op, const at::Tensor& ids, int64_t rows) {
  if (!debugging() || ids.numel() == 0) return;
  const int64_t low = ids.min().item<int64_t>(), high = ids.max().item<int64_t>();
  TORCH_CHECK_INDEX(low >= 0 && high < rows, op, ": expected index in [0, ", rows, "), got ",
                    low < 0 ? low : high);
}

}  // namespace xrisk
