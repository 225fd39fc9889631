// Labels of any of torch's usual dtypes, read where they lie: positive is what is > 0.
//
// Read as integers of their size: a floating number is > 0 if its bits, as a signed integer, are,
// and no NaN if they are not beyond those of infinity.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace xrisk {

struct LabelArray {
  const void* data = nullptr;
  int bytes = 1;                // of a label: 1, 2, 4 or 8
  bool is_signed = false;       // of one byte; wider ones are
  int64_t highest = INT64_MAX;  // infinity's bits

  XRISK_HD bool positive(int64_t at) const {
    int64_t bits = 0;
    if (bytes == 1) {
      bits =
          is_signed ? static_cast<const int8_t*>(data)[at] : static_cast<const uint8_t*>(data)[at];
    } else if (bytes == 2) {
      bits = static_cast<const int16_t*>(data)[at];
    } else if (bytes == 4) {
      bits = static_cast<const int32_t*>(data)[at];
    } else {
      bits = static_cast<const int64_t*>(data)[at];
    }
    return bits > 0 && bits <= highest;
  }
};

}  // namespace xrisk
