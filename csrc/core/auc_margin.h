// The AUC-margin objective of one label, and its min-max relative, from the moments of its scores.
//
// With w the entry weights, W+ and W- their sums by class, and t = alpha + shift,
//
//   F = c+ sum_+ w (h - a)^2 + c- sum_- w (h - b)^2
//       + 2 t (g sum_- w h - c+ sum_+ w h) + 2 alpha k m - q alpha^2
//
//   v2:      c+ = 1 / W+,      c- = 1 / W-,     k = 1,        q = 1,        shift = 0
//   v1:      c+ = (1 - p) / W, c- = p / W,      k = p(1 - p), q = p(1 - p), shift = 0
//   min-max: as v1, but                         k = 0,                      shift = m
//
// and g = c-; but in "v2 over all", which is what LibAUC 2.0.1 makes of v2, g = 1 / W.
//
// p: a given class prior, or the batch's W+ / W. The hazard is cancellation where all scores lie
// far from 0: the moments are of h - a and h - b, and sums are doubles.
// Sources: Yuan et al., ICCV 2021 (v1, v2); Ying et al., NIPS 2016, and Liu et al., ICLR 2020.
#pragma once

#include "core/macros.h"
#include "core/math.h"

namespace xrisk {

// The numbers are part of the op schema; xrisk_ext/ops/moments.py lists the same order.
enum class AucMargin : int { kV2 = 0, kV1 = 1, kMinMax = 2, kV2OverAll = 3 };
constexpr int kAucMarginCount = 4;

// sums of w, w d and w d^2 with d = h - a over the positives, h - b over the negatives
struct ClassMoments {
  double positive[3] = {0, 0, 0};
  double negative[3] = {0, 0, 0};
};

struct AucMarginTerms {
  double value = 0;
  double by_a = 0, by_b = 0, by_alpha = 0;
  // d value / d h = w scale (h - centre), by class
  double positive_scale = 0, positive_centre = 0;
  double negative_scale = 0, negative_centre = 0;
};

// `prior` outside of (0, 1): that of the batch. Without one class there is nothing to contrast, and
// all is zero; but a given prior makes a batch of one class an unbiased sample, which counts.
// `alpha` is taken as its positive part, but by the min-max objective.
XRISK_HD AucMarginTerms auc_margin_terms(AucMargin kind, const ClassMoments& sums, double a,
                                         double b, double alpha, double margin, double prior) {
  AucMarginTerms out;
  const double positives = sums.positive[0], negatives = sums.negative[0];
  const double all = positives + negatives;
  const bool over_all = kind == AucMargin::kV2OverAll;
  const bool prior_free = kind == AucMargin::kV2 || over_all, min_max = kind == AucMargin::kMinMax;
  const bool given = !prior_free && prior > 0.0 && prior < 1.0;
  if (!(given ? all > 0.0 : positives > 0.0 && negatives > 0.0)) return out;
  const double p = given ? prior : positives / all;
  const double both = p * (1.0 - p);
  const double of_positives = prior_free ? 1.0 / positives : (1.0 - p) / all;
  const double of_negatives = prior_free ? 1.0 / negatives : p / all;
  const double curvature = prior_free ? 1.0 : both;
  if (!min_max && alpha < 0.0) alpha = 0.0;
  const double t = min_max ? alpha + margin : alpha;
  const double constant = min_max ? 0.0 : curvature * margin;

  const double of_gap = over_all ? 1.0 / all : of_negatives;
  const double gap = of_gap * (sums.negative[1] + b * negatives) -
                     of_positives * (sums.positive[1] + a * positives);
  out.value = of_positives * sums.positive[2] + of_negatives * sums.negative[2] + 2.0 * t * gap +
              2.0 * alpha * constant - curvature * alpha * alpha;
  out.by_a = -2.0 * of_positives * sums.positive[1];
  out.by_b = -2.0 * of_negatives * sums.negative[1];
  out.by_alpha = 2.0 * (gap + constant) - 2.0 * curvature * alpha;
  out.positive_scale = 2.0 * of_positives;
  out.positive_centre = a + t;
  out.negative_scale = 2.0 * of_negatives;
  out.negative_centre = b - t * (of_gap / of_negatives);
  return out;
}

}  // namespace xrisk
