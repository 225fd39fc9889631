// LambdaRank's pairs of a higher and a lower set of relevance, by an exponential scan over the list
// in the order of its ranks.
//
//   W_ts = |G_t - G_s| |D_t - D_s|, D the discounts (descending); sums over the sources s that
//   stand on one side of a target t, in the other set, d = scale * |h_t - h_s|:
//   slope:  W (sigma(-d) - 1 if the pair is in the wrong order), the negative from below
//   value:  W (log(1 + exp(-d)) + d if the pair is in the wrong order), of higher targets
//
// With a gain between those of the sets, |G_t - G_s| = |G_t - base| + |G_s - base|, and the
// discounts on the way add up: sums of |D_t - D_s| q^k grow by the step of the discount times the
// sums of q^k. Both are sums of what is not negative, so nothing cancels but the fit's
// coefficients.
//
// Mapping and hazards: those of cpu/scan_inl.h. Bytes: 25 an item and call, in order.
#pragma once

#include "core/scan_fit.h"
#include "cpu/list_kernels.h"
#include "cpu/smooth_inl.h"

namespace xrisk::cpu::XRISK_ISA {

// kGraded: the sources' gains differ from the base.
template <bool kGraded, class T>
double lambda_scan_of(const LambdaScan<T>& call) {
  constexpr int kTerms = SmoothFit<T>::kScanTerms, kVectors = kTerms / D::kLanes;
  constexpr int kKinds = kGraded ? 2 : 1;  // of weights: 1, |G_s - base|
  using Fit = ScanFit<kTerms>;
  const bool wrong_order = call.from_above == call.to_higher;
  const double sign = call.from_above ? 1.0 : -1.0;
  // Sums of q^k, and of q^k times the difference of the discounts.
  D powers_of[kKinds][kVectors], sums[kKinds][kVectors], value_v[kVectors];
  // The same of d^0 and d^1.
  double weight[kKinds] = {}, distance[kKinds] = {}, plain[kKinds] = {}, linear[kKinds] = {};
  for (int v = 0; v < kVectors; ++v) {
    value_v[v] = D(0.0);
    for (int c = 0; c < kKinds; ++c) powers_of[c][v] = sums[c][v] = D(0.0);
  }
  double value = 0.0;
  constexpr int64_t kBlock = 256;
  double gaps[kBlock], decays[kBlock];  // from the item before, in this direction
  const int64_t forward = call.from_above ? 1 : -1;
  int64_t r = call.from_above ? 0 : call.count - 1;
  double score_before = static_cast<double>(call.scores[r]), discount_before = call.discounts[r];
  for (int64_t first = 0; first < call.count; first += kBlock) {
    const int64_t size = call.count - first < kBlock ? call.count - first : kBlock;
    for (int64_t k = 0; k < size; ++k) {
      const double score = static_cast<double>(call.scores[r + forward * k]);
      gaps[k] = call.scale * sign * (score_before - score);
      score_before = score;
    }
    scaled_exponentials(gaps, size, -1.0, 0.0, 1.0, decays);
    for (int64_t k = 0; k < size; ++k, r += forward) {
      const double gap = gaps[k], decay = decays[k];
      const double step = sign * (discount_before - call.discounts[r]);
      discount_before = call.discounts[r];
      const Powers<kTerms, double> powers(decay);
      for (int c = 0; c < kKinds; ++c) {
        linear[c] += gap * plain[c] + step * (distance[c] + gap * weight[c]);
        distance[c] += gap * weight[c];
        plain[c] += step * weight[c];
        for (int v = 0; v < kVectors; ++v) {
          const D factor = powers.p[v] * D(decay);
          powers_of[c][v] = powers_of[c][v] * factor;
          sums[c][v] = sums[c][v] * factor + D(step) * powers_of[c][v];
        }
      }
      const double gain = call.gains[r] - call.base;
      const double from_base = gain < 0.0 ? -gain : gain;
      if ((call.is_higher[r] != 0) != call.to_higher) {
        const double weights[2] = {1.0, from_base};
        for (int c = 0; c < kKinds; ++c) {
          weight[c] += weights[c];
          for (int v = 0; v < kVectors; ++v) powers_of[c][v] = powers_of[c][v] + D(weights[c]);
        }
        continue;
      }
      D dot(0.0);
      for (int v = 0; v < kVectors; ++v) {
        D weighted = D(from_base) * sums[0][v];
        if constexpr (kGraded) weighted = weighted + sums[1][v];
        dot = dot + weighted * D::load(Fit::kSigma + v * D::kLanes);
        value_v[v] = value_v[v] + weighted;
      }
      double slope = sum(dot);
      if (wrong_order) {
        slope -= from_base * plain[0];
        value += from_base * linear[0];
        if constexpr (kGraded) {
          slope -= plain[1];
          value += linear[1];
        }
      }
      call.slopes[r] = sign * slope;
    }
  }
  if (!call.to_higher) return 0.0;
  D dot(0.0);
  for (int v = 0; v < kVectors; ++v) {
    dot = dot + value_v[v] * D::load(Fit::kSoftplus + v * D::kLanes);
  }
  return value + sum(dot);
}

template <class T>
double lambda_scan(const LambdaScan<T>& call) {
  return call.graded ? lambda_scan_of<true>(call) : lambda_scan_of<false>(call);
}

}  // namespace xrisk::cpu::XRISK_ISA
