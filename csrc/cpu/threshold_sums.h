// Sums over the items whose pair term lies above a threshold of the anchor.
//
//   excess_i = sum_j w_j (phi_ij - s_i)+
//   slopes_i = sum_j w_j phi'_ij 1[phi_ij > s_i],  counts_i = sum_j w_j 1[phi_ij > s_i]
//   out_j    = w_j sum_i a_i phi'_ij 1[phi_ij > s_i]
//
// The hinges: phi > s where the item is above a key of the anchor, so that plain sums of margin 0
// against the keys do it, by whichever algorithm is the best for them. With k = x - margin + g the
// key and g = sqrt(s) (squared hinge) or s (hinge), phi = (y - k + g)^2 or y - k + g. Bytes and
// hazards: those of the plain sums; the key's own rounding is put back, so that scores near 30 keep
// their last bits. The others: direct.
#pragma once

#include <memory>

#include "cpu/pairwise.h"

namespace xrisk::cpu {

template <class T>
class ThresholdSums {
 public:
  // thresholds [P]. The arguments must outlive the object.
  ThresholdSums(const PairwiseSpec& spec, Anchors<T> anchors, const double* thresholds,
                const Items<T>& items, double item_weight, Scratch& scratch,
                const Executor& executor);

  void rows(double* excess, double* slopes, double* counts);
  void columns(const double* anchor_weights, T* out);

 private:
  bool by_keys() const { return hinge_.pairs != nullptr; }

  // One set of plain sums and its pass over the items.
  struct Part {
    std::unique_ptr<PairwiseSums<T>> pairs;
    ItemPass<T> pass;
  };
  Part part(Surrogate surrogate, const T* keys);
  void direct_rows_of(Above above, double* sums, double* slopes);

  PairwiseSpec spec_;
  Anchors<T> anchors_;
  const double* thresholds_;
  Items<T> items_;
  double item_weight_;
  Scratch& scratch_;
  const Executor& executor_;
  double* gaps_ = nullptr;       // g [P]
  double* residuals_ = nullptr;  // exact key - rounded key [P]
  Part hinge_, squared_;
};

}  // namespace xrisk::cpu
