// The smoothed top-K threshold: the lambda that solves
//
//   L'(lambda) = kappa + tau2 lambda - mean_j sigma((h_j - lambda) / tau1) = 0
//   H(lambda)  = tau2 + mean_j t_j,   t_j = sigma (1 - sigma) / tau1
//
// a strongly convex problem whose solution tends to the (k+1)-th largest score as tau1 and tau2 go
// to 0; d lambda / d h_j = t_j / (n H). Each formula once, for the host and for CUDA. Source: Qiu
// et al., K-SONG (ICML 2022).
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/math.h"
#include "core/moving_average.h"

namespace xrisk {

struct SmoothTopK {
  double kappa = 0.0;  // (k + epsilon) / n
  double tau1 = 0.01;  // of the sigmoid, > 0
  double tau2 = 1e-4;  // of the quadratic term, >= 0

  XRISK_HD double derivative(double threshold, double mean_above) const {
    return kappa + tau2 * threshold - mean_above;
  }
  // Of the mean of sigma (1 - sigma).
  XRISK_HD double curvature(double mean_slope) const { return tau2 + mean_slope / tau1; }
};

// sigma(z) and sigma(z) (1 - sigma(z)). A NaN counts as +inf: as everywhere in P3 it stands above
// all numbers.
template <class V>
XRISK_HD void soft_indicator(V z, V& above, V& slope) {
  z = select(is_nan(z), V(INFINITY), z);
  const V q = exponential(-absolute(z));
  const V p = V(1) / (V(1) + q);
  above = select(greater(z, V(0)), p, q * p);
  slope = q * p * p;
}

// The root of an increasing function by Newton's method. A step is no longer than a length that
// doubles while the bracket is open to one side; once it is closed, a step that leaves it, or is
// not half as long as the one before the last, gives way to bisection.
struct NewtonSearch {
  double at = 0.0;  // where the function is wanted next
  double low = -INFINITY, high = INFINITY;
  double last = 0.0, before = INFINITY;  // lengths of the two last steps

  XRISK_HD NewtonSearch() {}
  // `length`: of the first step at most, > 0, and more where it would be rounded away.
  XRISK_HD NewtonSearch(double start, double length)
      : at(start), last(0.5 * length + 1e-15 * fabs(start)) {}

  // Takes the function's value and slope (>= 0) at `at`, and moves on. True: `at` is the root,
  // which a Newton step of `tolerance` at most has reached.
  XRISK_HD bool advance(double value, double slope, double tolerance) {
    if (value == 0.0) return true;
    if (value > 0.0) {
      high = at;
    } else {
      low = at;
    }
    const double newton = slope > 0.0 ? -value / slope : (value > 0.0 ? -INFINITY : INFINITY);
    if (fabs(newton) <= tolerance) {
      at += newton;
      return true;
    }
    double next = at + newton;
    if (low == -INFINITY || high == INFINITY) {
      last *= 2.0;
      if (!(fabs(newton) <= last)) next = value > 0.0 ? at - last : at + last;
      if (!is_finite(next)) return true;  // no root: tau2 = 0 and kappa outside (0, 1)
    } else {
      if (!(next > low && next < high) || !(2.0 * fabs(newton) <= before)) {
        next = low + 0.5 * (high - low);
      }
      before = last;
      last = fabs(next - at);
    }
    const bool stuck = next == low || next == high;
    at = next;
    return stuck;
  }
};

// How near is near enough: the error that a Newton step of this length leaves is its square over
// tau1, below the rounding of T.
template <class T>
XRISK_HD double newton_tolerance(double at, double tau1) {
  constexpr bool kSingle = sizeof(T) == 4;
  const double rounding = (kSingle ? 3e-8 : 1e-16) * fabs(at), square = kSingle ? 1e-4 : 3e-9;
  return rounding > square * tau1 ? rounding : square * tau1;
}

// Where sigma is 0 or 1 to the rounding of a sum in T.
template <class T>
XRISK_HD constexpr double soft_reach() {
  return sizeof(T) == 4 ? 20.0 : 40.0;
}

// K-SONG's single stochastic step: lambda by a gradient step, and the moving average s of H (NaN:
// untouched), both from the derivative and the curvature at the OLD lambda. The gradient of the
// step uses t_j / (n s) with the s that comes back.
struct ThresholdStep {
  double threshold, curvature;
};
XRISK_HD ThresholdStep threshold_step(double threshold, double average, double derivative,
                                      double curvature, double eta, double gamma) {
  return {threshold - eta * derivative, blend_linear(average, curvature, 1.0 - gamma, gamma)};
}

}  // namespace xrisk
