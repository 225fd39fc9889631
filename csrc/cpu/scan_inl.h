// The exponential scan: pair sums over sorted scores, whatever their distribution.
//
//   sigma(-|z|) = sum_k c_k q^k, q = exp(-|z|), and q^k = exp(-k |z|) falls apart: with S_k(r) =
//   sum over sources up to place r of w q^k, S_k(r + 1) = S_k(r) exp(-k gap) + w
//
// Mapping: the powers k across the lanes, the scores in order; two directions, a call each. Bytes:
// 5 a score, 4 a source and 16 a target, all of them in order: who calls gathers and scatters.
// Hazards: the coefficients alternate, up to a few units; all sums are doubles. Powers of what
// decays over a long gap leave the normal range, where arithmetic is slow: who calls flushes them.
#pragma once

#include "core/scan_fit.h"
#include "cpu/smooth_inl.h"

namespace xrisk::cpu::XRISK_ISA {

// scores: sorted. weights: of the sources, in ascending order of their scores; null: ones.
template <class T>
void smooth_scan(const ScanPass& pass, const T* scores, const T* weights) {
  constexpr int kTerms = SmoothFit<T>::kScanTerms, kVectors = kTerms / D::kLanes;
  using Fit = ScanFit<kTerms>;
  const double* value_fit = pass.logistic ? Fit::kSoftplus : Fit::kSigma;
  const double* slope_fit = pass.logistic ? Fit::kSigma : Fit::kSigmaSlope;
  // Whether this direction sees the sources whose pair terms do not vanish far away.
  const bool active = pass.to_anchors == pass.descending;
  D sums[kVectors], value_terms[kVectors], slope_terms[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = D(0.0);
    value_terms[v] = D::load(value_fit + v * D::kLanes);
    slope_terms[v] = D::load(slope_fit + v * D::kLanes);
  }
  // {sum of value * sums, sum of slope * sums} in the first two lanes
  const auto both_dots = [&] {
    D value = sums[0] * value_terms[0], slope = sums[0] * slope_terms[0];
    for (int v = 1; v < kVectors; ++v) {
      value = value + sums[v] * value_terms[v];
      slope = slope + sums[v] * slope_terms[v];
    }
    D both = pair_sums(value, slope);
    for (int width = D::kLanes / 2; width > 1; width /= 2) both = pair_sums(both, both);
    return both;
  };
  double weight_sum = 0.0, distance_sum = 0.0;
  int64_t source = pass.descending ? pass.sources - 1 : 0;
  int64_t target = pass.descending ? pass.targets - 1 : 0;
  const int64_t forward = pass.descending ? -1 : 1;
  constexpr int64_t kBlock = 256;
  double gaps[kBlock], decays[kBlock];  // from the score before, in this direction
  int64_t r = pass.descending ? pass.count - 1 : 0;
  double before = pass.count > 0 ? static_cast<double>(scores[r]) : 0.0;
  for (int64_t first = 0; first < pass.count; first += kBlock) {
    const int64_t size = pass.count - first < kBlock ? pass.count - first : kBlock;
    for (int64_t k = 0; k < size; ++k) {
      const double score = static_cast<double>(scores[r + forward * k]);
      gaps[k] = pass.scale * (pass.descending ? before - score : score - before);
      before = score;
    }
    scaled_exponentials(gaps, size, -1.0, 0.0, 1.0, decays);
    for (int64_t k = 0; k < size; ++k, r += forward) {
      const double decay = decays[k];
      distance_sum += weight_sum * gaps[k];
      const Powers<kTerms, double> powers(decay);
      for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] * (powers.p[v] * D(decay));
      if ((pass.is_anchor[r] != 0) != pass.to_anchors) {
        const double weight = weights == nullptr ? 1.0 : static_cast<double>(weights[source]);
        source += forward;
        for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + D(weight);
        weight_sum += weight;
        continue;
      }
      double dots[D::kLanes];
      both_dots().store(dots);
      pass.slopes[target] = active && pass.logistic ? weight_sum - dots[1] : dots[1];
      if (pass.values != nullptr) {
        pass.values[target] = !active         ? dots[0]
                              : pass.logistic ? distance_sum + dots[0]
                                              : weight_sum - dots[0];
      }
      target += forward;
    }
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
