// The stateless losses of ranked lists: their numbers, and the formulas that CPU and CUDA share.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/math.h"

namespace xrisk {

// The numbers are part of the op schema; xrisk_ext/ops/listwise.py lists the same order.
enum class ListLoss : int {
  kRankNet = 0,
  kLambdaRank = 1,
  kListNet = 2,
  kListMLE = 3,
  kApproxNDCG = 4,
  kNeuralNDCG = 5,
  kSmoothAP = 6,
  kFastAP = 7,
  kRecallAtK = 8,
};
constexpr int kListLossCount = 9;

// Of labels and not of graded relevance: no label pads, and a list without positives is left out of
// the mean.
XRISK_HD bool is_retrieval(ListLoss loss) { return loss >= ListLoss::kSmoothAP; }

// Weight of a pair of RankNet with y_i > y_j: 1, y_i - y_j, y_i^2 - y_j^2.
enum class PairWeight : int { kNone = 0, kDifference = 1, kSquaredDifference = 2 };

enum class ListReduction : int { kNone = 0, kMean = 1, kSum = 2 };

constexpr int kMaxCutoffs = 16;
constexpr int kMaxBins = 1024;

// The hyper-parameters that are not schedules. What a loss does not use is ignored.
struct ListOptions {
  ListLoss loss = ListLoss::kRankNet;
  PairWeight pair_weight = PairWeight::kNone;
  bool pool_pairs = false;            // RankNet: the mean over the pairs of all lists alike
  int64_t top_k = 0;                  // LambdaRank, NeuralNDCG; 0: the whole list
  int64_t max_iterations = 50;        // NeuralNDCG: of Sinkhorn
  double tolerance = 1e-6;            // NeuralNDCG: of its column sums
  int64_t num_bins = 10;              // FastAP
  double low = -1.0, high = 1.0;      // FastAP: range of the scores
  int64_t cutoffs[kMaxCutoffs] = {};  // RecallAtK
  int cutoff_count = 0;
};

// What a list contributes: its value, and its weight in the mean over the lists.
struct ListResult {
  double value;
  double mass;
};

template <class T>
XRISK_HD T pair_weight(PairWeight kind, T y_high, T y_low) {
  if (kind == PairWeight::kNone) return T(1);
  const T difference = y_high - y_low;
  return kind == PairWeight::kDifference ? difference : difference * (y_high + y_low);
}

// (2^y - 1) * 2^-shift for 0 <= y <= top. The shift is 0 for ordinary relevance and the largest
// one of the list otherwise: gains are only used relative to each other, so no power overflows.
XRISK_HD double gain_shift(double top) { return top > 30.0 ? top : 0.0; }
XRISK_HD double relative_gain(double y, double shift) {
  constexpr double kLn2 = 0.69314718055994530942;
  return shift > 0.0 ? exp2(y - shift) - exp2(-shift) : expm1(y * kLn2);
}

constexpr double kInverseLn2 = 1.44269504088896340736;  // LambdaRank's terms are to base 2

// 1 / log2(1 + rank)
XRISK_HD double rank_discount(double rank) { return 1.0 / log2(1.0 + rank); }

struct RankTerms {
  double value;   // share of the objective
  double weight;  // d value / d rank
};

// ApproxNDCG: f(r) = -G / log2(1 + r). Source: Qin et al., 2010.
XRISK_HD RankTerms approx_ndcg_rule(double gain, double rank) {
  constexpr double kLn2 = 0.69314718055994530942;
  const double discounted = gain * rank_discount(rank);
  return {-discounted, discounted * rank_discount(rank) / ((1.0 + rank) * kLn2)};
}

// Recall@k: f(r) = -sigma((k - r) / T). Source: Patel et al., CVPR 2022.
XRISK_HD RankTerms recall_rule(double rank, double cutoff, double inverse_temperature) {
  const double z = (cutoff - rank) * inverse_temperature;
  const double q = exp(-fabs(z));
  const double r = 1.0 / (1.0 + q);
  return {-(z > 0.0 ? r : q * r), q * r * r * inverse_temperature};
}

// FastAP: where a score stands among the edges 0 .. num_bins, counted from the high end. It shares
// a unit between the edges `bin` and `bin + 1`.
struct SoftBin {
  int64_t bin;
  double upper;  // share of edge bin + 1
  double slope;  // d upper / d score; 0 beyond the range
};
XRISK_HD SoftBin soft_bin(double score, double low, double high, int64_t num_bins) {
  const double last = static_cast<double>(num_bins);
  const double per_score = last / (high - low);
  const double place = (high - score) * per_score;
  if (!(place > 0.0)) return {0, 0.0, 0.0};
  if (place >= last) return {num_bins - 1, 1.0, 0.0};
  const int64_t bin = static_cast<int64_t>(place);
  return {bin, place - static_cast<double>(bin), -per_score};
}

}  // namespace xrisk
