// Pair terms: what is summed over (anchor, item) pairs. A surrogate alone, the exponential of one,
// or what of it lies above a threshold.
#pragma once

#include "core/surrogate.h"

namespace xrisk {

// phi(d); the anchor's shift is not used.
template <class T, class Phi>
struct PlainTerm {
  Phi phi;
  template <class V>
  XRISK_HD void operator()(V d, V /*shift*/, V& value, V& slope) const {
    phi(d, value, slope);
  }
};

// exp((phi(d) - shift) / temperature) and its slope. The shift is the anchor's largest phi, so the
// exponent is never positive; taken before the division, it keeps the bits of large exponents.
template <class T, class Phi>
struct ExponentialTerm {
  Phi phi;
  T inverse_temperature;
  template <class V>
  XRISK_HD void operator()(V d, V shift, V& value, V& slope) const {
    V inner_value, inner_slope;
    phi(d, inner_value, inner_slope);
    const V exponent = (rounded(inner_value) - shift) * V(inverse_temperature);
    value = exponential(select(greater(exponent, V(T(0))), V(T(0)), exponent));
    slope = value * inner_slope * V(inverse_temperature);
  }
};

// (phi(d) - shift)+ and its slope: phi' where phi > shift, 0 elsewhere.
template <class T, class Phi>
struct ExcessTerm {
  Phi phi;
  template <class V>
  XRISK_HD void operator()(V d, V shift, V& value, V& slope) const {
    V inner_value, inner_slope;
    phi(d, inner_value, inner_slope);
    const auto above = greater(inner_value, shift);
    value = select(above, inner_value - shift, V(T(0)));
    slope = select(above, inner_slope, V(T(0)));
  }
};

// 1[phi(d) > shift]; no slope.
template <class T, class Phi>
struct AboveTerm {
  Phi phi;
  template <class V>
  XRISK_HD void operator()(V d, V shift, V& value, V& slope) const {
    V inner_value, inner_slope;
    phi(d, inner_value, inner_slope);
    value = select(greater(inner_value, shift), V(T(1)), V(T(0)));
    slope = V(T(0));
  }
};

}  // namespace xrisk
