// Which items of a list are relevant. Most of a long list are not: bytes are one read of the
// relevance, and 64 items without a relevant one cost a comparison a register.
#pragma once

#include "cpu/relevance.h"
#include "cpu/simd.h"

namespace xrisk::cpu::XRISK_ISA {

// Whether one of 64 numbers is > 0, without a branch: what is OR-ed together is > 0, or has its
// sign set, where one is.
template <class R>
XRISK_HD bool any_positive_of_64(const R* y) {
  typedef R Vector __attribute__((vector_size(XRISK_VECTOR_BYTES)));
  constexpr int kLanes = XRISK_VECTOR_BYTES / sizeof(R);
  using Bits = decltype(Vector{} > Vector{});
  Bits any{};
  for (int k = 0; k < 64; k += kLanes) {
    Vector x;
    memcpy(&x, y + k, sizeof(x));
    if constexpr (R(0.5) > R(0)) {  // floating
      any |= x > Vector{};
    } else if constexpr (R(-1) < R(0)) {
      any |= reinterpret_cast<Bits>(-x & ~x);  // the sign of -x, but not of the lowest number
    } else {
      any |= reinterpret_cast<Bits>(x);
    }
  }
  uint64_t words[XRISK_VECTOR_BYTES / 8], all = 0;
  memcpy(words, &any, sizeof(words));
  for (const uint64_t word : words) all |= word;
  constexpr uint64_t kSigns = sizeof(R) == 4 ? 0x8000000080000000ull : 0x8000000000000000ull;
  return R(-1) < R(0) ? (all & kSigns) != 0 : all != 0;
}

template <class R>
int64_t relevant_of(const R* y, int64_t count, int32_t* positions) {
  int64_t found = 0, j = 0;
  for (; j + 64 <= count; j += 64) {
    if (!any_positive_of_64(y + j)) continue;
    for (int64_t k = j; k < j + 64; ++k) {
      if (y[k] > R(0)) positions[found++] = static_cast<int32_t>(k);
    }
  }
  for (; j < count; ++j) {
    if (y[j] > R(0)) positions[found++] = static_cast<int32_t>(j);
  }
  return found;
}

inline int64_t relevant_items(RelevanceType type, const void* data, int64_t begin, int64_t count,
                              int32_t* positions) {
  switch (type) {
    case RelevanceType::kFloat:
      return relevant_of(static_cast<const float*>(data) + begin, count, positions);
    case RelevanceType::kDouble:
      return relevant_of(static_cast<const double*>(data) + begin, count, positions);
    case RelevanceType::kInt32:
      return relevant_of(static_cast<const int32_t*>(data) + begin, count, positions);
    case RelevanceType::kInt64:
      return relevant_of(static_cast<const int64_t*>(data) + begin, count, positions);
    case RelevanceType::kByte:
      break;
  }
  return relevant_of(static_cast<const uint8_t*>(data) + begin, count, positions);
}

}  // namespace xrisk::cpu::XRISK_ISA
