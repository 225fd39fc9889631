// Rules: the outer function of an X-risk, per anchor. O(P) work between the row and column stages.
//
// A rule turns the sums of an anchor into its share of the value and into two weights: one on the
// slopes of its non-positive items, one on those of its positive items. Everything that the rule
// multiplies is a constant for differentiation.
#pragma once

#include "core/macros.h"

namespace xrisk {

struct AnchorTerms {
  double value;            // share of the objective
  double negative_weight;  // d value / d (mean over items of phi), for items of class 0
  double positive_weight;  // the same for items of class 1
};

// Average precision (SOAP): f(u) = -u_pos / u_all. Source: Qi et al., NeurIPS 2021.
XRISK_HD AnchorTerms average_precision_rule(double u_all, double u_pos) {
  // No pair of the anchor has a loss: nothing to weight. A gradient of 1 / u would be noise.
  constexpr double kFloor = 1e-30;
  if (u_all <= kFloor) return {0.0, 0.0, 0.0};
  const double inverse = 1.0 / u_all;
  const double ratio = u_pos * inverse;
  return {-ratio, ratio * inverse, (ratio - 1.0) * inverse};
}

// Pairwise AUC: f(u) = u over the negatives; no state.
XRISK_HD AnchorTerms pairwise_auc_rule(double u_negative) { return {u_negative, 1.0, 0.0}; }

}  // namespace xrisk
