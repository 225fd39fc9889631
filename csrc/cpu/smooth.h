// The three ways of the smooth algorithm, and what a set of anchors and items is prepared with.
#pragma once

#include "cpu/pairwise.h"
#include "cpu/smooth_grid.h"

namespace xrisk::cpu {

struct SmoothPlan {
  SmoothWay way = SmoothWay::kBins;
  // kBins, kScattered
  SmoothGrid grid;
  int64_t bins = 0;
  const double* positions = nullptr;      // kScattered: of the occupied bins
  const int32_t* anchor_slots = nullptr;  // kScattered: [P], [M], places among them
  const int32_t* item_slots = nullptr;
  // kScan
  static constexpr int64_t kScanGrain = 16384;
  const uint32_t* order = nullptr;         // [P + M], anchors and then items, by ascending score
  const void* scores = nullptr;            // [P + M] T, sorted
  const uint8_t* is_anchor = nullptr;      // [P + M]
  const int64_t* anchors_below = nullptr;  // of every kScanGrain-th of the sorted scores
  void* spare = nullptr;                   // memory that the sort has left, if there was one
  int64_t spare_bytes = 0;
};

// Whether rows of so many scores are worth keeping their order for the columns.
inline bool keeps_order(const PairwiseSpec& spec, int64_t anchors, int64_t items) {
  constexpr int64_t kMany = 2048;
  return has_smooth(spec.surrogate) && spec.algorithm != Algorithm::kDirect &&
         anchors + items >= kMany;
}

// The cheapest way, unless spec.way names one; its plan, in the scratch. With the order of an
// earlier plan for the same scores (null: none), which was for the scan, it is for the scan.
template <class T>
const SmoothPlan* make_smooth_plan(const PairwiseSpec& spec, Anchors<T> anchors,
                                   const Items<T>& items, const uint32_t* order, Scratch& scratch,
                                   const Executor& executor);

}  // namespace xrisk::cpu
