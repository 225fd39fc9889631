// Unsigned integers that order as the floats they come from (-0 just below +0; NaN is not ordered).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace xrisk {

XRISK_HD uint32_t sort_key(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

XRISK_HD uint64_t sort_key(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits ^ (static_cast<uint64_t>(static_cast<int64_t>(bits) >> 63) | 0x8000000000000000ull);
}

}  // namespace xrisk
