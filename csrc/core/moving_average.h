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
XRISK_HD bool is_nan(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return (bits & 0x7fffffffffffffffull) > 0x7ff0000000000000ull;
}

// Factors of the old state and of the observation.
struct BlendFactors {
  double keep, add;
};
XRISK_HD BlendFactors linear_factors(double gamma) { return {1.0 - gamma, gamma}; }
XRISK_HD BlendFactors log_factors(double gamma) { return {log1p(-gamma), log(gamma)}; }

template <class V>
XRISK_HD V blend_linear(V old, V observation, V keep, V add) {
  return select(is_nan(old), observation, keep * old + add * observation);
}

// log(e^a + e^b). Two infinities of one sign are equal, and have no difference to take.
template <class V>
XRISK_HD V log_add_exp(V a, V b) {
  const V high = select(greater(a, b), a, b);
  const V low = select(greater(a, b), b, a);
  const V gap = select(greater(high, low), low - high, V(0.0));
  return high + log_one_plus(exponential(gap));
}

template <class V>
XRISK_HD V blend_log(V old, V observation, V keep, V add) {
  const V blend = log_add_exp(keep + old, add + observation);
  return select(greater(old, V(-INFINITY)), blend, observation);
}

// Whether a blend may be written: finite, or in the log domain also -inf (the log of zero).
XRISK_HD bool is_storable(double blend, bool log_domain) {
  return is_finite(blend) || (log_domain && blend == -INFINITY);
}

}  // namespace xrisk
