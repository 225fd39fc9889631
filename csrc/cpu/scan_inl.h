// The exponential scan: pair sums over sorted scores, whatever their distribution.
//
//   sigma(-|z|) = sum_k c_k q^k, q = exp(-|z|), and q^k = exp(-k |z|) falls apart: with S_k(r) =
//   sum over sources up to place r of w q^k, S_k(r + 1) = S_k(r) exp(-k gap) + w
//
// Mapping: the powers k across the lanes, the scores in order; two directions, a call each. A
// target is a source of weight 0, so that no branch depends on the order; what the sums are there
// is kept for a block, and lanes are added for a register of targets at once. Bytes: 5 a score, 4 a
// source and 8 a target (double: 9, 8, 16), all of them in order: who calls gathers and scatters.
// Hazards: the coefficients alternate, up to a few units; all sums are doubles. Powers of what
// decays over a long gap leave the normal range, where arithmetic is slow: who calls flushes them.
#pragma once

#include "core/scan_fit.h"
#include "cpu/smooth_inl.h"

namespace xrisk::cpu::XRISK_ISA {

template <int kTerms>
struct alignas(64) ScanBlock {
  static constexpr int64_t kScores = 64;
  static constexpr int64_t kTargets = kScores + D::kLanes;  // what is read past the last is unused
  double scores[kScores + 1];  // in this direction, behind the one before
  double gaps[kScores];
  double decays[4][kScores];  // exp(-gap), its square, fourth and eighth power
  double weights[kScores];    // 0: a target
  int64_t is_target[kScores];
  alignas(64) double sums[kTargets][kTerms];
  double weight_sums[kTargets], distance_sums[kTargets];
};

// scores: sorted. weights: of the sources, in ascending order of their scores; null: ones. values
// (null: not wanted) and slopes: of the targets, in that order too.
template <class T>
void smooth_scan(const ScanPass& pass, const T* scores, const T* weights, T* values, T* slopes) {
  constexpr int kTerms = SmoothFit<T>::kScanTerms, kVectors = kTerms / D::kLanes;
  constexpr int kLanes = D::kLanes;
  using Fit = ScanFit<kTerms>;
  const double* value_fit = pass.logistic ? Fit::kSoftplus : Fit::kSigma;
  const double* slope_fit = pass.logistic ? Fit::kSigma : Fit::kSigmaSlope;
  // Whether this direction sees the sources whose pair terms do not vanish far away.
  const bool active = pass.to_anchors == pass.descending;
  const bool logistic = pass.logistic;
  ScanBlock<kTerms> block = {};
  D sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = D(0.0);
  double weight_sum = 0.0, distance_sum = 0.0;
  const int64_t forward = pass.descending ? -1 : 1;
  const double scale = pass.scale * static_cast<double>(forward);
  int64_t source = pass.descending ? pass.sources - 1 : 0;
  int64_t target = pass.descending ? pass.targets - 1 : 0;
  int64_t r = pass.descending ? pass.count - 1 : 0;
  if (pass.count > 0) block.scores[0] = static_cast<double>(scores[r]);
  // sum of fit * sums of kLanes targets
  const auto dots = [&](const double* fit, int64_t first) {
    D a[kLanes];
    for (int s = 0; s < kLanes; ++s) {
      const double* at = block.sums[first + s];
      a[s] = D::load(at) * D::load(fit);
      for (int v = 1; v < kVectors; ++v) {
        a[s] = a[s] + D::load(at + v * kLanes) * D::load(fit + v * kLanes);
      }
    }
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int s = 0; s < width; ++s) a[s] = pair_sums(a[2 * s], a[2 * s + 1]);
    }
    return a[0];
  };
  for (int64_t done = 0; done < pass.count; done += block.kScores) {
    const int64_t left = pass.count - done, size = left < block.kScores ? left : block.kScores;
    const T* score = scores + r;
    const uint8_t* is_anchor = pass.is_anchor + r;
    for (int64_t k = 0; k < size; ++k, score += forward, is_anchor += forward) {
      block.scores[k + 1] = static_cast<double>(*score);
      block.is_target[k] = (*is_anchor != 0) == pass.to_anchors;
    }
    for (int64_t k = 0; k < size; ++k) {
      block.gaps[k] = scale * (block.scores[k + 1] - block.scores[k]);
    }
    block.scores[0] = block.scores[size];
    scaled_exponentials(block.gaps, size, -1.0, 0.0, 1.0, block.decays[0]);
    for (int64_t k = 0; k < size; ++k) {
      const double q = block.decays[0][k], q2 = q * q, q4 = q2 * q2;
      block.decays[1][k] = q2;
      block.decays[2][k] = q4;
      block.decays[3][k] = q4 * q4;
    }
    for (int64_t k = 0; k < size; ++k)
      block.weights[k] = static_cast<double>(1 - block.is_target[k]);
    if (weights != nullptr) {
      for (int64_t k = 0; k < size; ++k) {  // no branches: they come in any order
        const int64_t is_source = 1 - block.is_target[k];
        block.weights[k] *= static_cast<double>(weights[source * is_source]);
        source += forward * is_source;
      }
    }
    int64_t found = 0;
    for (int64_t k = 0; k < size; ++k) {
      const Powers<kTerms, double> powers(block.decays[0] + k, block.decays[1] + k,
                                          block.decays[2] + k, block.decays[3] + k,
                                          D(block.decays[0][k]));
      const double weight = block.weights[k];
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = sums[v] * powers.p[v] + D(weight);
        sums[v].store(block.sums[found] + v * kLanes);
      }
      distance_sum += weight_sum * block.gaps[k];
      weight_sum += weight;
      block.distance_sums[found] = distance_sum;
      block.weight_sums[found] = weight_sum;
      found += block.is_target[k];
    }
    r += forward * size;
    for (int64_t first = 0; first < found; first += kLanes) {
      D slope = dots(slope_fit, first);
      const D weight = D::load(block.weight_sums + first);
      if (active && logistic) slope = weight - slope;
      double out[2][kLanes];
      slope.store(out[1]);
      if (values != nullptr) {
        D value = dots(value_fit, first);
        if (active)
          value = logistic ? D::load(block.distance_sums + first) + value : weight - value;
        value.store(out[0]);
      }
      const int64_t count = found - first < kLanes ? found - first : kLanes;
      for (int64_t k = 0; k < count; ++k, target += forward) {
        slopes[target] = static_cast<T>(out[1][k]);
        if (values != nullptr) values[target] = static_cast<T>(out[0][k]);
      }
    }
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
