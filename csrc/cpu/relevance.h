// Relevance in the type that it came in: only the relevant items' is ever computed with.
#pragma once

#include <cstdint>

namespace xrisk::cpu {

enum class RelevanceType { kFloat, kDouble, kInt32, kInt64, kByte };

template <class F>
auto visit_relevance(RelevanceType type, const void* data, F&& f) {
  switch (type) {
    case RelevanceType::kFloat:
      return f(static_cast<const float*>(data));
    case RelevanceType::kDouble:
      return f(static_cast<const double*>(data));
    case RelevanceType::kInt32:
      return f(static_cast<const int32_t*>(data));
    case RelevanceType::kInt64:
      return f(static_cast<const int64_t*>(data));
    case RelevanceType::kByte:
      break;
  }
  return f(static_cast<const uint8_t*>(data));
}

}  // namespace xrisk::cpu
