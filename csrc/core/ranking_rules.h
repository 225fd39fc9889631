// The outer functions of the ranking losses: the discount of NDCG, and K-SONG's weight of being in
// the top K. Source: Qiu et al., ICML 2022.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/math.h"
#include "core/params.h"

namespace xrisk {

struct OuterTerms {
  double value;
  double slope;
};

// f(u) = -1 / log2(1 + N u): the discount of the rank 1 + N u, which diverges at rank 1.
XRISK_HD OuterTerms ndcg_rule(double u, double num_items) {
  constexpr double kSmallestRank = 1.0 + 1e-6, kLn2 = 0.69314718055994530942;
  const double rank = 1.0 + num_items * u;
  const double natural = log(select(greater(rank, kSmallestRank), rank, kSmallestRank));
  const double value = -kLn2 / natural;
  if (!(rank > kSmallestRank)) return {value, 0.0};
  return {value, -value * num_items / (rank * natural)};
}

// 2^y - 1; exact where y is a whole number below 2^52.
XRISK_HD double ndcg_gain(double relevance) {
  const int whole = static_cast<int>(relevance < 62.0 ? relevance : 0.0);
  if (static_cast<double>(whole) == relevance) {
    return static_cast<double>((int64_t{1} << whole) - 1);
  }
  return exp2(relevance) - 1.0;
}

// psi(x) = sigma(alpha x), x = score - threshold. `published`: the slope without its factor alpha,
// as in the authors' code.
XRISK_HD OuterTerms top_k_rule(double gap, double alpha, bool published) {
  const double z = alpha * gap;
  const double q = exp(z < 0.0 ? z : -z);
  const double r = 1.0 / (1.0 + q);
  return {z < 0.0 ? q * r : r, (published ? 1.0 : alpha) * q * r * r};
}

// d lambda / d h of an item whose part in the curvature is w t / W: at most 1, as where the problem
// is solved, however small the average s is.
XRISK_HD double implicit_weight(double part, double curvature, bool published) {
  const double weight = part / curvature;
  return weight > 1.0 && !published ? 1.0 : weight;
}

}  // namespace xrisk
