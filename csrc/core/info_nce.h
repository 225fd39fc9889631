// The rule of the contrastive losses without state: a cross entropy of the positive among
// negatives, per anchor.
#pragma once

#include "core/contrastive.h"

namespace xrisk {

// f(g) = share log(1 + alpha g), with g the mean over the negatives of exp((s_j - s_pos) / tau):
// InfoNCE if alpha is their number, EqCo otherwise. Flat: share log(alpha g), the gradient of
// FlatNCE.
struct InfoNce {
  double log_alpha = 0.0;
  double share = 1.0;
  bool flat = false;
};

XRISK_HD ContrastiveTerms info_nce_rule(const AnchorExponents& z, double temperature,
                                        const InfoNce& loss) {
  const double log_odds = z.log_mean + loss.log_alpha;
  const double value = loss.flat ? log_odds : log_add_exp(log_odds, 0.0);
  const double slope = loss.flat ? 1.0 : exp(log_odds - value);  // probability of the negatives
  ContrastiveTerms terms;
  terms.value = loss.share * value;
  terms.temperature_slope = -loss.share * slope * z.mean / temperature;
  terms.weight = loss.share * slope / temperature;
  terms.shift = z.peak - z.log_mean;
  terms.total = terms.weight;
  return terms;
}

}  // namespace xrisk
