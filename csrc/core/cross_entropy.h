// Cross entropy of one score, with everything that its relatives for imbalanced data add:
//
//   z = scale ((2 y - 1) h - margin_y),   loss = weight_y (1 - sigma(z))^focus softplus(-z)
//
// focus > 0: focal loss (Lin et al., 2017); class weights: class-balanced (Cui et al., 2019);
// margins and scale: LDAM (Cao et al., 2019). Everything goes through exp(-|z|) <= 1, so that
// nothing overflows and no logarithm is taken of a difference.
#pragma once

#include "core/macros.h"
#include "core/math.h"

namespace xrisk {

// `side`: 1 for a positive, -1 for a negative. V: float, double or a SIMD vector of T.
template <class T, class V>
XRISK_HD void cross_entropy(V h, V side, V weight, V margin, T scale, T focus, V& value, V& slope) {
  const V zero(T(0)), one(T(1));
  const V z = V(scale) * (side * h - margin);
  const V q = exponential(-absolute(z));
  const V tail = log_one_plus(q);
  const V loss = positive_part(-z) + tail;                      // -log p, p = sigma(z)
  const V rest = select(greater(z, zero), q, one) / (one + q);  // 1 - p
  V factor = weight;
  V bend = rest;
  if (focus != T(0)) {
    factor = weight * exponential(V(-focus) * (positive_part(z) + tail));  // (1 - p)^focus
    bend = V(focus) * (one - rest) * loss + rest;
  }
  value = factor * loss + (h - h);  // NaN for an infinite score, whichever side it is on
  slope = -side * V(scale) * factor * bend;
}

}  // namespace xrisk
