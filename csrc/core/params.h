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

// The ranking losses; the numbers are part of the op schemas, xrisk_ext/ops/ranking_step.py lists
// the same. Options add up.
enum class RankingRule : int { kNDCG = 0, kListwise = 1, kAveragePrecision = 2 };
enum RankingOption : int {
  kStaleState = 1,        // weights from the moving average before its update
  kPracticalTopK = 2,     // psi and lambda are constants
  kSolvedThreshold = 4,   // lambda from the query's items, no state
  kPublishedTopK = 8,     // as in the authors' code: psi' without alpha, dlambda/dh without its cap
  kIrrelevantItems = 16,  // listwise: contrasted with the irrelevant items alone
  kBatchShift = 32,       // listwise: the largest difference of the batch taken off every log sum
};
constexpr int kRankingOptions = 63;
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
// surrogates, moments alone for squared, separability for exponential. kSmooth is near-linear with
// a stated error, for logistic and sigmoid.
enum class Algorithm : int { kAuto = 0, kDirect = 1, kSort = 2, kSmooth = 3 };
constexpr int kAlgorithmCount = 4;

}  // namespace xrisk
