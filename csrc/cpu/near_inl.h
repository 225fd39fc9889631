// The items near a threshold: those that a steep sigmoid around it does not see as 0 or 1. Bytes:
// one read of the scores; 16 of them without a near one cost two comparisons.
#pragma once

#include "cpu/simd.h"

namespace xrisk::cpu::XRISK_ISA {

// positions, ascending: of x[j] in [low, high); returns how many. `above`: how many are >= high.
template <class T>
int64_t near_items(const T* x, int64_t count, T low, T high, int32_t* positions, int64_t* above) {
  int64_t found = 0, below_high = 0, j = 0;
  for (; j + 16 <= count; j += 16) {
    const int under = mask_below_16(x + j, high);
    below_high += __builtin_popcount(under);
    for (int near = under & ~mask_below_16(x + j, low); near != 0; near &= near - 1) {
      positions[found++] = static_cast<int32_t>(j + __builtin_ctz(near));
    }
  }
  for (; j < count; ++j) {
    if (!(x[j] < high)) continue;
    ++below_high;
    if (!(x[j] < low)) positions[found++] = static_cast<int32_t>(j);
  }
  *above = count - below_high;
  return found;
}

}  // namespace xrisk::cpu::XRISK_ISA
