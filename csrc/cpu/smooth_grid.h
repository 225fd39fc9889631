// Plain data of the smooth algorithm (cpu/smooth.cpp), shared with its SIMD kernels.
//
// The line is cut into bins of equal width, bin k centred at k widths. In a bin the local
// coordinate t runs from -1 to 1; a source counts by its moments w {1, t, .., t^(terms - 1)}.
#pragma once

#include <cstdint>

#include "core/smooth_fit.h"

namespace xrisk::cpu {

struct SmoothGrid {
  double inverse_width = 0.0;
  double width_high = 0.0;  // the width in two parts: k * high is exact for |k| < 2^27
  double width_low = 0.0;
  double first = 0.0;  // number of bin 0
};

// Local polynomials of value and slope in every bin, from the moments of the bins in reach.
struct SmoothTranslation {
  const double* moments = nullptr;    // [bins, terms]
  const uint8_t* filled = nullptr;    // [bins]: whether there are any sources
  const double* positions = nullptr;  // [bins] ascending; null: 0, 1, 2, ..
  int64_t bins = 0;
  // [2 reach + 1, terms of the source, terms of the target], by source bin minus target bin; null
  // where nothing is wanted
  const double* value_table = nullptr;
  const double* slope_table = nullptr;
  // Of the sources beyond the reach on the side where pair terms do not vanish: their weight, and
  // their weighted distance in bins.
  const double* far_weight = nullptr;  // [bins]; null: they all vanish
  const double* far_distance = nullptr;
  bool value_is_linear = false;    // there; otherwise the value is 1
  bool slope_is_constant = false;  // there; otherwise the slope is 0
};

// One direction of the exponential scan over the sorted scores (cpu/scan_inl.h).
struct ScanPass {
  const uint8_t* is_anchor = nullptr;  // [count], of the sorted scores
  int64_t count = 0;
  double scale = 1.0;
  int64_t sources = 0, targets = 0;  // count in all
  bool to_anchors = true;            // else to the items
  bool logistic = true;              // else sigmoid
  bool descending = false;
};

}  // namespace xrisk::cpu
