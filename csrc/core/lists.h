// Lists of entries that stand one behind the other: rows of a matrix, or ragged with offsets.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace xrisk {

struct Lists {
  const int64_t* offsets = nullptr;  // [count + 1], ascending from 0; null: all of one length
  int64_t count = 0;
  int64_t length = 0;  // of every list, where there are no offsets

  XRISK_HD int64_t begin(int64_t list) const {
    return offsets == nullptr ? list * length : offsets[list];
  }
  XRISK_HD int64_t end(int64_t list) const { return begin(list + 1); }
};

}  // namespace xrisk
