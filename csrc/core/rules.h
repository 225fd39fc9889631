// Rules: the outer function of an X-risk, per anchor. O(P) work between the row and column stages.
//
// A rule turns the sums of an anchor into its share of the value and into two weights: one on the
// slopes of its non-positive items, one on those of its positive items. Everything that the rule
// multiplies is a constant for differentiation.
#pragma once

#include <cmath>

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

// ---- losses that look at the top of the list. `weight` multiplies the slope of the anchor's log
// sum (KL), of its mean above the threshold (CVaR) or of its mean (push).

struct TopTerms {
  double value, weight;
};

// Partial AUC, KL (SOPA-s): f(u) = lambda log u, u the mean of exp(phi / lambda). log_mean is the
// batch's own log u, log_u the moving average: their gap is at most log(1 / gamma) where ids
// differ. Source: Zhu et al., ICML 2022, as the next two.
XRISK_HD TopTerms kl_rule(double log_mean, double log_u, double kl_weight) {
  return {kl_weight * log_u, kl_weight * exp(log_mean - log_u)};
}

// Two-way, KL (SOTA-s): lambda' log v, v the mean over the anchors of u^(lambda / lambda'). First
// log u^(lambda / lambda'), whose log mean is blended into log v; then the weight.
XRISK_HD double two_way_power(double log_u, double kl_weight, double positive_kl_weight) {
  return kl_weight / positive_kl_weight * log_u;
}
XRISK_HD double two_way_kl_weight(double log_mean, double log_u, double log_v, double kl_weight,
                                  double positive_kl_weight) {
  const double power = two_way_power(log_u, kl_weight, positive_kl_weight);
  return kl_weight * exp((log_mean - log_u) + (power - log_v));  // of one size, each
}

// CVaR (SOPA): g = s + mean of (phi - s)+ / rate, and the subgradient step of s. `excess` and
// `above` are the means of (phi - s)+ and of 1[phi > s] over the negatives.
XRISK_HD double cvar_value(double threshold, double excess, double rate) {
  return threshold + excess / rate;
}
XRISK_HD double cvar_next(double threshold, double above, double rate, double eta) {
  return threshold - eta * (1.0 - above / rate);
}

// Two-way CVaR (STACO): f(g) = t + (g - t)+ / share, whose positive part is the largest y (g - t)
// over y in [0, 1]. y ascends first; the steps of s and of t use the new one. Source: Zhou et al.,
// TMLR 2025.
XRISK_HD double cvar_dual_next(double dual, double g, double outer, double share, double dual_eta) {
  const double y = dual + dual_eta * (g - outer) / share;
  return y < 0.0 ? 0.0 : y > 1.0 ? 1.0 : y;
}
XRISK_HD double cvar_outer_next(double outer, double mean_dual, double share, double outer_eta) {
  return outer - outer_eta * (1.0 - mean_dual / share);
}

// p-norm push: f(u) = u^p, as logarithms: a power of a large gap leaves any range.
struct LogTerms {
  double value, weight;
};
XRISK_HD LogTerms p_norm_rule(double log_u, double power) {
  // u^0 is 1, also where u is 0
  const double slope = power > 1.0 ? (power - 1.0) * log_u : 0.0;
  return {power * log_u, log(power) + slope};
}

}  // namespace xrisk
