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

// kSort stands for the exact algorithms that are near-linear: sort and moments for the piecewise
// surrogates, moments alone for squared, separability for exponential. kSmooth is near-linear with
// a stated error, for logistic and sigmoid.
enum class Algorithm : int { kAuto = 0, kDirect = 1, kSort = 2, kSmooth = 3 };
constexpr int kAlgorithmCount = 4;

}  // namespace xrisk
