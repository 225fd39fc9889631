// The names and hyper-parameters of a call: plain data, no code, so that any layer may include it.
#pragma once

namespace xrisk {

// The numbers are part of the op schemas; xrisk_ext/ops/surrogates.py lists the same order.
enum class Surrogate : int {
  kSquared = 0,
  kSquaredHinge = 1,
  kHinge = 2,
  kBarrierHinge = 3,
  kLogistic = 4,
  kSigmoid = 5,
  kExponential = 6,
  kZeroOne = 7,
};
constexpr int kSurrogateCount = 8;

struct SurrogateParams {
  double margin = 1.0;
  double scale = 1.0;
};

// The numbers are part of the op schemas; xrisk_ext/ops/score_step.py lists the same order.
enum class Rule : int { kAveragePrecision = 0, kPairwiseAUC = 1 };

// Losses over (positive, negative) pairs that look at the top of the list. The numbers are part of
// the op schemas; xrisk_ext/ops/partial_auc_step.py lists the same order.
enum class PartialRule : int {
  kKL = 0,          // SOPA-s
  kTwoWayKL = 1,    // SOTA-s
  kCVaR = 2,        // SOPA
  kTwoWayCVaR = 3,  // STACO
  kExact = 4,       // the highest negatives with the lowest positives
  kTopPush = 5,     // the highest negative alone
  kPNormPush = 6,   // anchors are the negatives
};
constexpr int kPartialRuleCount = 7;

// Which part of the curve, and how steep the push.
struct PartialParams {
  double max_fpr = 1.0;
  double min_tpr = 0.0;
  double power = 1.0;
};

// What may change from step to step: numbers on the host, or pointers to one on the device.
template <class Number>
struct PartialSchedules {
  Number kl_weight{}, positive_kl_weight{};  // of the rules named KL
  Number gamma{}, outer_gamma{};             // KL and the p-norm push
  Number eta{}, dual_eta{}, outer_eta{};     // CVaR
};

// kSort stands for the exact algorithms that are near-linear: sort and moments for the piecewise
// surrogates, moments alone for squared, separability for exponential.
enum class Algorithm : int { kAuto = 0, kDirect = 1, kSort = 2 };

}  // namespace xrisk
