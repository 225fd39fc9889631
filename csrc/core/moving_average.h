// The state of an X-risk: u <- (1 - gamma) u + gamma * observation, linear or in the log domain.
//
// A row that was never written holds a sentinel (NaN, or -inf = log 0) and is assigned on first
// touch. A state that starts at zero instead (LibAUC) needs no other code: zero is no sentinel.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"
#include "core/math.h"

namespace xrisk {

// By bit pattern, so that no fast-math flag can remove the test.
XRISK_HD bool is_nan_bits(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return (bits & 0x7fffffffffffffffull) > 0x7ff0000000000000ull;
}

XRISK_HD double log_add_exp(double a, double b) {
  const double high = a > b ? a : b;
  const double low = a > b ? b : a;
  if (!(low > -INFINITY)) return high;  // also the two -inf, whose difference would be NaN
  return high + log1p(exp(low - high));
}

XRISK_HD double blend_linear(double old, double observation, double gamma) {
  return is_nan_bits(old) ? observation : (1.0 - gamma) * old + gamma * observation;
}

XRISK_HD double blend_log(double old, double observation, double gamma) {
  if (observation != observation || old == -INFINITY) return observation;
  return log_add_exp(log1p(-gamma) + old, log(gamma) + observation);
}

// Whether a blend may be written: finite, or in the log domain also -inf (the log of zero).
XRISK_HD bool is_storable(double blend, bool log_domain) {
  return is_finite(blend) || (log_domain && blend == -INFINITY);
}

}  // namespace xrisk
