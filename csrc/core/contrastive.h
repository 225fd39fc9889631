// The rule of the contrastive losses: what follows, per anchor, from the exponentials of its
// similarities. O(B) work between the sums and the gradients.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/math.h"
#include "core/moving_average.h"

namespace xrisk {

// Over the n negatives of an anchor, with exponents z_j = h_j / tau.
struct AnchorExponents {
  double peak;      // max z
  double log_mean;  // log g, g = mean e^z
  double mean;      // sum e^z z / sum e^z
};

// h is the similarity less `offset`; mass and moment are relative to the largest similarity.
XRISK_HD AnchorExponents anchor_exponents(double peak_similarity, double mass, double moment,
                                          double offset, double temperature, double count) {
  const double peak = (peak_similarity - offset) / temperature;
  return {peak, peak + log(mass / count), peak + moment / mass};
}

struct ContrastiveOptions {
  double rho = 0.0;
  double epsilon = 0.0;  // added to u
  bool temperature_weighted = true;
};

// f(u) = tau (log(epsilon + u) + rho), or log(epsilon + u). Sources: Yuan et al., SogCLR (ICML
// 2022); Qiu et al., iSogCLR (ICML 2023); Wei et al., FastCLIP (2024).
struct ContrastiveTerms {
  double value;              // share of the objective
  double temperature_slope;  // its derivative by tau
  double weight;             // of a pair: weight * exp(z - peak + shift) / n
  double shift;
  double total;  // mean over the negatives of the pairs' weights
};

XRISK_HD ContrastiveTerms contrastive_rule(const AnchorExponents& z, double log_u,
                                           double temperature, const ContrastiveOptions& options) {
  const double log_floored =
      options.epsilon > 0.0 ? log_add_exp(log_u, log(options.epsilon)) : log_u;
  const double ratio = exp(z.log_mean - log_floored);  // g / u
  const double outer = log_floored + options.rho;
  ContrastiveTerms terms;
  terms.shift = z.peak - log_floored;
  if (options.temperature_weighted) {
    terms.value = temperature * outer;
    terms.temperature_slope = outer - ratio * z.mean;
    terms.weight = 1.0;
  } else {
    terms.value = log_floored;
    terms.temperature_slope = -ratio * z.mean / temperature;
    terms.weight = 1.0 / temperature;
  }
  terms.total = terms.weight * ratio;
  return terms;
}

// log((e^a + e^b) / 2)
XRISK_HD double log_mean_exp(double a, double b) { return log_add_exp(a, b) - 0.69314718055994531; }

// Within +-limit; keeps a NaN.
XRISK_HD double limited(double slope, double limit) {
  return slope > limit ? limit : slope < -limit ? -limit : slope;
}

// Adam's direction from the moments of `steps` slopes, the weights of a new one being beta and
// second_beta. Source: Kingma & Ba (ICLR 2015).
XRISK_HD double adam_direction(double first, double second, double steps, double beta,
                               double second_beta) {
  const double mean = first / -expm1(steps * log1p(-beta));
  const double square = second / -expm1(steps * log1p(-second_beta));
  return mean / (sqrt(square) + 1e-8);
}

// The next temperature, along the momentum of its slope or Adam's direction; NaN leaves it alone.
XRISK_HD double stepped_temperature(double temperature, double momentum, double eta, double lowest,
                                    double highest) {
  const double next = temperature - eta * momentum;
  if (!is_finite(next)) return temperature;
  return next < lowest ? lowest : next > highest ? highest : next;
}

}  // namespace xrisk
