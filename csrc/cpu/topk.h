// P3: the top-K threshold of rows of scores, exact by selection (cpu/selection.h) or smoothed
// (core/topk.h), and the gradients of both.
//
// Mapping: short rows are dealt out to the threads in batches; a row of more than kLongRow scores
// is cut into chunks that all threads share. Results do not depend on the number of threads: a
// selection is exact, sums are added in the order of the chunks. Bytes: one read of the scores;
// the few that matter are copied. NaN stand above +inf, as in torch.topk.
#pragma once

#include <cstdint>

#include "core/lists.h"
#include "core/topk.h"
#include "cpu/executor.h"

namespace xrisk::cpu {

constexpr int64_t kLongRow = 65536;

// The (k+1)-th largest of scores [count], k >= 0; -inf where count <= k.
template <class T>
T kth_largest(const T* scores, int64_t count, int64_t k,
              const Executor& executor = SerialExecutor());

// The solution of the smoothed problem over scores [count] with weights [count] (>= 0; null: ones),
// whose means are then weighted, to the precision of T. Writes H there, if asked for. Scores may be
// infinite. -inf without scores.
template <class T>
double smooth_threshold(const T* scores, const T* weights, int64_t count, const SmoothTopK& problem,
                        double* curvature = nullptr, const Executor& executor = SerialExecutor());

// L' and H at `threshold`, over scores and weights as above.
struct SoftDerivatives {
  double derivative, curvature;
};
template <class T>
SoftDerivatives soft_derivatives(const T* scores, const T* weights, int64_t count,
                                 const SmoothTopK& problem, double threshold);

template <class T>
struct TopK {
  const T* scores = nullptr;
  Lists rows;
  int64_t k = 0;
  bool smooth = false;
  double epsilon = 0.5, tau1 = 0.01, tau2 = 1e-4;
};

// roots [rows]: the thresholds; -inf for a row of at most k.
template <class T>
void topk_thresholds(const TopK<T>& call, double* roots, const Executor& executor);

// gradient (as scores): upstream [rows] times the slope of each row's threshold. Exact: one at the
// first score that equals it; smooth: t_j / (n H). Zero in a row of at most k.
template <class T>
void topk_gradient(const TopK<T>& call, const double* roots, const T* upstream, T* gradient,
                   const Executor& executor);

}  // namespace xrisk::cpu
