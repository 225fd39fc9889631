// Compositional entropic risk (softmax over very many classes): how far an average moves.
//
//   e^nu <- (1 - gamma) e^nu + gamma g,   g = sum_k exp(s_k - s_y) / (K - 1)
//
// SOX: gamma as given. SCENT: gamma = sigmoid(alpha + kappa nu), of the nu before: a proximal step
// of size e^alpha. Sources: Wang & Yang (ICML 2022); Wei et al. (2026).
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/math.h"

namespace xrisk {

struct EntropicSchedule {
  bool scent = false;
  double gamma = 1.0;               // SOX
  double alpha = 0.0, kappa = 1.0;  // SCENT
};

// Where nothing was seen (nu is -inf) the observation is taken as it is, whatever gamma.
XRISK_HD double entropic_gamma(const EntropicSchedule& schedule, double nu) {
  if (!schedule.scent) return schedule.gamma;
  if (!(nu > -INFINITY)) return 1.0;
  const double z = schedule.alpha + schedule.kappa * nu;
  const double q = exponential(-absolute(z));
  return z > 0.0 ? 1.0 / (1.0 + q) : q / (1.0 + q);
}

}  // namespace xrisk
