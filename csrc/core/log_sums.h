// What the near-linear log sums on the CPU and on CUDA share: when they apply, and the exponents of
// surrogates of straight pieces.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/params.h"

namespace xrisk {

constexpr int kLargestPower = 512;

// The whole number that 1 / temperature is, to T's rounding; 0 if it is none, or too large for the
// power to be the faster way or its binomials to be numbers.
template <class T>
XRISK_HD int whole_inverse(double inverse_temperature) {
  constexpr double kRounding = sizeof(T) == sizeof(float) ? 0x1p-23 : 0x1p-52;
  const double whole = round(inverse_temperature);
  const double error = fabs(inverse_temperature - whole);
  const bool good = whole >= 1.0 && whole <= kLargestPower && error <= kRounding * whole;
  return good ? static_cast<int>(whole) : 0;
}

// Whether differences of scores, and exponents, are numbers; `reach` bounds a difference.
XRISK_HD bool fits_log_sums(double reach, double scale, double inverse_temperature) {
  constexpr double kLargestReach = 1e140, kLargestExponent = 1e290;
  const double steep = scale > 1.0 ? scale : 1.0;
  const double square = reach * reach, line = 2.0 * reach * steep;
  return reach < kLargestReach && inverse_temperature > 1e-100 &&
         (square > line ? square : line) * inverse_temperature < kLargestExponent;
}

// Hinge and barrier hinge as a function of q = d + margin: -left q below 0, q up to the bend, and
// steep q + offset beyond.
struct LinearPieces {
  double left = 0.0, steep = 1.0, offset = 0.0, bend = INFINITY;
};

XRISK_HD LinearPieces linear_pieces(Surrogate surrogate, double margin, double scale) {
  LinearPieces pieces;
  if (surrogate == Surrogate::kBarrierHinge) {
    pieces.left = pieces.steep = scale;
    if (scale > 1.0) pieces.bend = scale * margin / (scale - 1.0) + margin;
    pieces.offset = margin - 2.0 * margin * scale;
  }
  return pieces;
}

// Of an anchor, with `top` the q of the highest item and that of the lowest `deepest` below it: the
// largest phi, and each piece at the item that its sums are relative to, less that.
struct LinearExponents {
  double peak, steep, middle, left;
};

XRISK_HD LinearExponents linear_exponents(const LinearPieces& pieces, double top, double deepest) {
  const auto larger = [](double a, double b) { return a < b ? b : a; };
  const double bottom = top - deepest;
  const double steep = pieces.steep * top + pieces.offset, left = -pieces.left * bottom;
  double peak = larger(larger(-pieces.left * top, top), larger(left, bottom));
  if (pieces.bend < INFINITY) peak = larger(peak, steep);
  return {peak, steep - peak, top - peak, left - peak};
}

}  // namespace xrisk
