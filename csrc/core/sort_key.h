// Unsigned integers that order as the floats they come from (-0 just below +0; NaN is not ordered),
// and the way back.
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

XRISK_HD float score_of_key(uint32_t key) {
  const uint32_t bits = (key >> 31) != 0 ? key ^ 0x80000000u : ~key;
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

XRISK_HD double score_of_key(uint64_t key) {
  const uint64_t bits = (key >> 63) != 0 ? key ^ 0x8000000000000000ull : ~key;
  double x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

}  // namespace xrisk
