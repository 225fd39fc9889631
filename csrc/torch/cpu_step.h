// What the fused steps on the CPU share: checks of values, and the mask of the positives.
#pragma once

#include "torch/common.h"

namespace xrisk {

inline void check_gamma(double gamma, const char* op) {
  TORCH_CHECK_VALUE(gamma >= 0 && gamma <= 1, op, ": expected gamma in [0, 1], got ", gamma);
}

inline void check_range(const at::Tensor& index, int64_t entry, int64_t rows, const char* op) {
  TORCH_CHECK_INDEX(entry < 0, op, ": expected index in [0, ", rows, "), got ",
                    index.const_data_ptr<int64_t>()[entry < 0 ? 0 : entry], " at position ", entry);
}

// labels > 0, as bytes.
template <class L>
void positive_mask(const at::Tensor& labels, uint8_t* mask) {
  const L* label = labels.const_data_ptr<L>();
  AtenExecutor().for_range(labels.numel(), 1 << 17, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) mask[k] = label[k] > L(0);
  });
}

// The mask, in `storage` unless the labels are one already.
inline const uint8_t* positives_of(const at::Tensor& labels, at::Tensor& storage) {
  storage = labels.contiguous();
  if (storage.scalar_type() == at::kBool) {
    return reinterpret_cast<const uint8_t*>(storage.const_data_ptr<bool>());
  }
  if (storage.scalar_type() == at::kByte) return storage.const_data_ptr<uint8_t>();
  at::Tensor mask = at::empty(storage.sizes(), storage.options().dtype(at::kByte));
  uint8_t* out = mask.mutable_data_ptr<uint8_t>();
  switch (storage.scalar_type()) {
    case at::kFloat:
      positive_mask<float>(storage, out);
      break;
    case at::kDouble:
      positive_mask<double>(storage, out);
      break;
    case at::kInt:
      positive_mask<int32_t>(storage, out);
      break;
    case at::kLong:
      positive_mask<int64_t>(storage, out);
      break;
    default:  // small integers and halves are exact in float
      storage = storage.to(at::kFloat);
      positive_mask<float>(storage, out);
  }
  storage = mask;
  return out;
}

// From the values of the labels to `value`; of their mean, the gradient takes its share.
inline void reduce_labels(const std::vector<double>& values, bool mean_reduction, at::Tensor& value,
                          at::Tensor& gradient) {
  const auto labels = static_cast<int64_t>(values.size());
  visit_floating(value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T* out = value.mutable_data_ptr<T>();
    if (!mean_reduction) {
      for (int64_t l = 0; l < labels; ++l) out[l] = static_cast<T>(values[l]);
      return;
    }
    double total = 0;
    for (const double v : values) total += v;
    *out = labels == 0 ? T(0) : static_cast<T>(total / static_cast<double>(labels));
    if (labels < 2) return;
    const T share = T(1) / static_cast<T>(labels);
    T* slopes = gradient.mutable_data_ptr<T>();
    for (int64_t k = 0; k < gradient.numel(); ++k) slopes[k] *= share;
  });
}

}  // namespace xrisk
