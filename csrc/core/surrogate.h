// The surrogates phi(d) and their slopes phi'(d), d = item score - anchor score: written once, used
// by the CPU kernels, the CUDA kernels and the op that shows them to the tests.
//
// Kinks: the slope at an exact tie is that of the left piece (0 for the hinges). NaN in, NaN out.
#pragma once

#include <type_traits>

#include "core/macros.h"
#include "core/math.h"
#include "core/params.h"

namespace xrisk {

// (m + d)^2
template <class T>
struct Squared {
  T margin;
  // The slope by halves, for sums that are doubled at the end: it changes no bit of them.
  template <class V>
  XRISK_HD void half(V d, V& value, V& half_slope) const {
    half_slope = d + V(margin);
    value = half_slope * half_slope;
  }
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    half(d, value, slope);
    slope = slope + slope;
  }
};

// max(m + d, 0)^2
template <class T>
struct SquaredHinge {
  T margin;
  // The slope by halves, for sums that are doubled at the end: it changes no bit of them.
  template <class V>
  XRISK_HD void half(V d, V& value, V& half_slope) const {
    half_slope = positive_part(d + V(margin));
    value = half_slope * half_slope;
  }
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    half(d, value, slope);
    slope = slope + slope;
  }
};

// max(m + d, 0)
template <class T>
struct Hinge {
  T margin;
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    value = positive_part(d + V(margin));
    slope = select(greater(value, V(T(0))), V(T(1)), V(T(0)));
  }
};

// max(s (d - m) + m, m + d, -s (d + m)), s >= 1: the three pieces meet at d = s m / (s - 1) and -m.
template <class T>
struct BarrierHinge {
  T margin, scale;
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    const V middle = d + V(margin);
    const V steep = V(scale) * (d - V(margin)) + V(margin);
    const V left = V(-scale) * middle;
    value = select(greater(steep, middle), steep, middle);
    slope = select(greater(V(scale - T(1)) * d, V(scale * margin)), V(scale), V(T(1)));
    slope = select(greater(middle, V(T(0))), slope, V(-scale));
    value = select(greater(left, value), left, value);
  }
};

// log(1 + exp(s d)) = s max(d, 0) + log(1 + exp(-s |d|)): the exponent is never positive.
template <class T>
struct Logistic {
  T scale;
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    const V z = V(scale) * d;
    const V q = exponential(-absolute(z));
    value = positive_part(z) + log_one_plus(q);
    slope = V(scale) * select(greater(z, V(T(0))), V(T(1)), q) * reciprocal(V(T(1)) + q);
  }
};

// 1 / (1 + exp(-s d))
template <class T>
struct Sigmoid {
  T scale;
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    const V z = V(scale) * d;
    const V q = exponential(-absolute(z));
    const V r = reciprocal(V(T(1)) + q);
    value = select(greater(z, V(T(0))), V(T(1)), q) * r;
    slope = V(scale) * q * r * r;
  }
};

// exp(s d): may reach inf, by definition.
template <class T>
struct Exponential {
  T scale;
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    value = exponential(V(scale) * d);
    slope = V(scale) * value;
  }
};

// 1[d > 0] + 1/2 on ties, slope 0. (d - d) carries a NaN through the comparisons.
template <class T>
struct ZeroOne {
  template <class V>
  XRISK_HD void operator()(V d, V& value, V& slope) const {
    const V zero = V(T(0));
    value = select(greater(d, zero), V(T(1)), select(greater(zero, d), zero, V(T(0.5)) + (d - d)));
    slope = zero;
  }
};

// The functor of a surrogate that is known when a kernel is compiled.
template <Surrogate kKind, class T>
XRISK_HD auto make_surrogate(const SurrogateParams& params) {
  const T margin = static_cast<T>(params.margin);
  const T scale = static_cast<T>(params.scale);
  (void)margin, (void)scale;
  if constexpr (kKind == Surrogate::kSquared) {
    return Squared<T>{margin};
  } else if constexpr (kKind == Surrogate::kSquaredHinge) {
    return SquaredHinge<T>{margin};
  } else if constexpr (kKind == Surrogate::kHinge) {
    return Hinge<T>{margin};
  } else if constexpr (kKind == Surrogate::kBarrierHinge) {
    return BarrierHinge<T>{margin, scale};
  } else if constexpr (kKind == Surrogate::kLogistic) {
    return Logistic<T>{scale};
  } else if constexpr (kKind == Surrogate::kSigmoid) {
    return Sigmoid<T>{scale};
  } else if constexpr (kKind == Surrogate::kExponential) {
    return Exponential<T>{scale};
  } else {
    return ZeroOne<T>{};
  }
}

// Calls f with the surrogate as a functor: a typed switch, so that a kernel is a template over the
// functor and the choice is made once per call.
template <class T, class F>
XRISK_HOST void visit_surrogate(Surrogate kind, const SurrogateParams& params, F&& f) {
  switch (kind) {
    case Surrogate::kSquared:
      return f(make_surrogate<Surrogate::kSquared, T>(params));
    case Surrogate::kSquaredHinge:
      return f(make_surrogate<Surrogate::kSquaredHinge, T>(params));
    case Surrogate::kHinge:
      return f(make_surrogate<Surrogate::kHinge, T>(params));
    case Surrogate::kBarrierHinge:
      return f(make_surrogate<Surrogate::kBarrierHinge, T>(params));
    case Surrogate::kLogistic:
      return f(make_surrogate<Surrogate::kLogistic, T>(params));
    case Surrogate::kSigmoid:
      return f(make_surrogate<Surrogate::kSigmoid, T>(params));
    case Surrogate::kExponential:
      return f(make_surrogate<Surrogate::kExponential, T>(params));
    case Surrogate::kZeroOne:
      return f(make_surrogate<Surrogate::kZeroOne, T>(params));
  }
}

// The same on the host before a launch, with the kind as a constant: its parameters may be known to
// the device alone.
template <class F>
void visit_kind(Surrogate kind, F&& f) {
  switch (kind) {
    case Surrogate::kSquared:
      return f(std::integral_constant<Surrogate, Surrogate::kSquared>{});
    case Surrogate::kSquaredHinge:
      return f(std::integral_constant<Surrogate, Surrogate::kSquaredHinge>{});
    case Surrogate::kHinge:
      return f(std::integral_constant<Surrogate, Surrogate::kHinge>{});
    case Surrogate::kBarrierHinge:
      return f(std::integral_constant<Surrogate, Surrogate::kBarrierHinge>{});
    case Surrogate::kLogistic:
      return f(std::integral_constant<Surrogate, Surrogate::kLogistic>{});
    case Surrogate::kSigmoid:
      return f(std::integral_constant<Surrogate, Surrogate::kSigmoid>{});
    case Surrogate::kExponential:
      return f(std::integral_constant<Surrogate, Surrogate::kExponential>{});
    case Surrogate::kZeroOne:
      return f(std::integral_constant<Surrogate, Surrogate::kZeroOne>{});
  }
}

}  // namespace xrisk
