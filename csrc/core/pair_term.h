// Pair terms: what is summed over (anchor, item) pairs. A surrogate alone, the exponential of one,
// or what of it lies above a threshold.
#pragma once

#include "core/surrogate.h"

namespace xrisk {

// A surrogate whose slope costs less by halves.
template <class Phi>
constexpr bool kHalves = false;
template <class T>
constexpr bool kHalves<Squared<T>> = true;
template <class T>
constexpr bool kHalves<SquaredHinge<T>> = true;

template <class Phi>
constexpr double kSlopeScale = kHalves<Phi> ? 2.0 : 1.0;
template <class Phi, class V>
XRISK_HD void unscaled_surrogate(const Phi& phi, V d, V& value, V& slope) {
  if constexpr (kHalves<Phi>) {
    phi.half(d, value, slope);
  } else {
    phi(d, value, slope);
  }
}

// Every term has its slope in two ways: as it is, and `unscaled`, without the constant factor
// slope_scale(), for sums that are multiplied by it at the end.

// phi(d); the anchor's shift is not used.
template <class T, class Phi>
struct PlainTerm {
  Phi phi;
  XRISK_HD double slope_scale() const { return kSlopeScale<Phi>; }
  template <class V>
  XRISK_HD void unscaled(V d, V /*shift*/, V& value, V& slope) const {
    unscaled_surrogate(phi, d, value, slope);
  }
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
  XRISK_HD double slope_scale() const { return kSlopeScale<Phi> * inverse_temperature; }
  template <class V>
  XRISK_HD void unscaled(V d, V shift, V& value, V& slope) const {
    V inner_value, inner_slope;
    unscaled_surrogate(phi, d, inner_value, inner_slope);
    const V exponent = (rounded(inner_value) - shift) * V(inverse_temperature);
    value = exponential(negative_part(exponent));
    slope = value * inner_slope;
  }
  template <class V>
  XRISK_HD void operator()(V d, V shift, V& value, V& slope) const {
    unscaled(d, shift, value, slope);
    slope = slope * V(T(kSlopeScale<Phi>)) * V(inverse_temperature);
  }
};

// (phi(d) - shift)+ and its slope: phi' where phi > shift, 0 elsewhere.
template <class T, class Phi>
struct ExcessTerm {
  Phi phi;
  XRISK_HD double slope_scale() const { return kSlopeScale<Phi>; }
  template <class V>
  XRISK_HD void unscaled(V d, V shift, V& value, V& slope) const {
    V inner_value, inner_slope;
    unscaled_surrogate(phi, d, inner_value, inner_slope);
    const auto above = greater(inner_value, shift);
    value = select(above, inner_value - shift, V(T(0)));
    slope = select(above, inner_slope, V(T(0)));
  }
  template <class V>
  XRISK_HD void operator()(V d, V shift, V& value, V& slope) const {
    unscaled(d, shift, value, slope);
    slope = slope * V(T(kSlopeScale<Phi>));
  }
};

// 1[phi(d) > shift]; no slope.
template <class T, class Phi>
struct AboveTerm {
  Phi phi;
  XRISK_HD double slope_scale() const { return 1.0; }
  template <class V>
  XRISK_HD void unscaled(V d, V shift, V& value, V& slope) const {
    (*this)(d, shift, value, slope);
  }
  template <class V>
  XRISK_HD void operator()(V d, V shift, V& value, V& slope) const {
    V inner_value, inner_slope;
    phi(d, inner_value, inner_slope);
    value = select(greater(inner_value, shift), V(T(1)), V(T(0)));
    slope = V(T(0));
  }
};

}  // namespace xrisk
