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
  const uint8_t* is_anchor = nullptr;      // of the sorted scores
  const uint32_t* anchor_order = nullptr;  // [P], [M], ascending
  const uint32_t* item_order = nullptr;
  const double* gaps = nullptr;
  const double* decays = nullptr;
};

// The cheapest way, unless spec.way names one; its plan, in the scratch.
template <class T>
const SmoothPlan* make_smooth_plan(const PairwiseSpec& spec, Anchors<T> anchors,
                                   const Items<T>& items, Scratch& scratch,
                                   const Executor& executor);

}  // namespace xrisk::cpu
