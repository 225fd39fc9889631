// Pairwise surrogate sums: one interface, one class per algorithm.
//
//   rows:    sums_ci = sum_j w_cj phi(y_j - x_i), slopes_ci the same with phi'
//   columns: out_j   = sum_c w_cj sum_i a_ci phi'(y_j - x_i)
//
// The anchors are given once; several sets of items may then be summed against them.
#pragma once

#include <memory>

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T>
struct Anchors {
  const T* scores = nullptr;
  int64_t count = 0;
};

struct SmoothPlan;  // cpu/smooth.h

// A set of items, and what the row stage leaves for the column stage: their ranks among the sorted
// keys (two key sets for the barrier hinge), or the plan of the smooth algorithm.
template <class T>
struct ItemPass {
  Items<T> items;
  int32_t* ranks[2] = {nullptr, nullptr};
  const uint32_t* order = nullptr;  // of the plan of an earlier call, if it had one (SmoothPlan)
  const SmoothPlan* plan = nullptr;
};

template <class T>
class PairwiseSums {
 public:
  virtual ~PairwiseSums() = default;
  // sums, slopes: [C, P]
  virtual void rows(ItemPass<T>& pass, double* sums, double* slopes) = 0;
  // anchor_weights: [C, P]; out: [M], overwritten
  virtual void columns(ItemPass<T>& pass, const double* anchor_weights, T* out) = 0;
  // The same with sums, slopes and weights in the type of the scores. False, and nothing is
  // written, where the algorithm has no use for that.
  virtual bool narrow_rows(ItemPass<T>&, T* /*sums*/, T* /*slopes*/) { return false; }
  virtual bool narrow_columns(ItemPass<T>&, const T* /*anchor_weights*/, T* /*out*/) {
    return false;
  }
};

// How Algorithm::kSmooth sums; kCheapest looks at the scores. The others are for tests.
enum class SmoothWay : int { kCheapest, kDirect, kBins, kScattered, kScan };

struct PairwiseSpec {
  Surrogate surrogate = Surrogate::kSquaredHinge;
  SurrogateParams params;
  Algorithm algorithm = Algorithm::kAuto;
  SmoothWay smooth_way = SmoothWay::kCheapest;
};

// Whether the exact near-linear algorithm (Algorithm::kSort) exists for a surrogate.
bool has_sort(Surrogate surrogate);

// Whether the near-linear algorithm with an error bound (Algorithm::kSmooth) exists for it.
bool has_smooth(Surrogate surrogate);

// Resolves kAuto from the sizes alone. Scores that are not finite need the direct algorithm, which
// follows IEEE arithmetic; the others would order or centre them.
template <class T>
Algorithm choose_algorithm(const PairwiseSpec& spec, int64_t anchors, int64_t items,
                           int64_t channels);

// spec.algorithm must be resolved; needs at least one anchor. The scratch and the executor must
// outlive the result.
template <class T>
std::unique_ptr<PairwiseSums<T>> make_pairwise_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                    Scratch& scratch, const Executor& executor);

// One maker per algorithm, for make_pairwise_sums.
template <class T>
std::unique_ptr<PairwiseSums<T>> make_direct_sums(const PairwiseSpec&, Anchors<T>, Scratch&,
                                                  const Executor&);
template <class T>
std::unique_ptr<PairwiseSums<T>> make_sorted_sums(const PairwiseSpec&, Anchors<T>, Scratch&,
                                                  const Executor&);
template <class T>
std::unique_ptr<PairwiseSums<T>> make_squared_sums(const PairwiseSpec&, Anchors<T>, Scratch&,
                                                   const Executor&);
template <class T>
std::unique_ptr<PairwiseSums<T>> make_exponential_sums(const PairwiseSpec&, Anchors<T>, Scratch&,
                                                       const Executor&);
template <class T>
std::unique_ptr<PairwiseSums<T>> make_smooth_sums(const PairwiseSpec&, Anchors<T>, Scratch&,
                                                  const Executor&);

// Whether pair terms of float scores of this magnitude may leave the range of float on the way (a
// million squares of 1e15 still fit): the same computation on doubles is needed then.
bool leaves_float(const PairwiseSpec& spec, double largest_magnitude);

// max |score|; infinite if one is infinite or NaN.
template <class T>
T largest_magnitude(const T* scores, int64_t count, const Executor& executor);

}  // namespace xrisk::cpu
