// The fused step of a global contrastive loss: similarities -> sums -> rule and state -> gradients.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/contrastive.h"
#include "core/info_nce.h"
#include "cpu/executor.h"
#include "cpu/similarity.h"

namespace xrisk::cpu {

// One modality: the anchors are the 2B rows of both views, the negatives of each are both views of
// the other items. Two modalities: row i of view1 against the rows j != i of view2, and the other
// way round; each side has its own state.
template <class T, class State>
struct ContrastiveStep {
  bool bimodal = false;
  int64_t batch = 0;
  int64_t width = 0;
  const T* view1 = nullptr;  // [B, D]
  const T* view2 = nullptr;
  bool normalize = true;
  // Views hold numbers that bfloat16 has: products may run on units for it (T = float).
  bool bfloat16 = false;

  const int64_t* index = nullptr;  // [B], each in [0, rows)
  State* state = nullptr;          // [sides, rows] log u, or null
  State* temperatures = nullptr;   // [sides, rows] individual temperatures and their momenta
  State* momenta = nullptr;        // (Adam: [3 sides, rows]), or null: `temperature` for all
  int64_t rows = 0;
  bool write_state = true;

  double gamma = 1.0;
  double temperature = 0.1;
  ContrastiveOptions options;
  const InfoNce* info_nce = nullptr;  // this rule instead; no state
  // Of the samples [B], each in [0, class_count), or null. One modality: all rows of a class are
  // the positives of each other (SupCon), where otherwise a sample's two rows are.
  const int64_t* classes = nullptr;
  int64_t class_count = 0;
  bool per_view = false;  // one modality: each view is divided by its own average
  bool relative = false;  // exponents are relative to the positive pair; always so if bimodal
  double eta = 0.0, beta = 0.0, lowest = 0.0, highest = 0.0;
  double second_beta = 0.0;  // > 0: Adam; momenta are [3 sides, rows]: first and second moments,
                             // then numbers of steps
  double slope_limit = INFINITY;

  T* embeddings = nullptr;  // [2, B, D], scratch
  T* gradient = nullptr;    // [2, B, D], or null: not wanted
};

struct ContrastiveResult {
  double value = 0.0;
  double temperature_slope = 0.0;
};

// Fewer than two entries: all zero. An embedding that is not finite: all NaN. The state is left
// alone in both cases.
template <class T, class State>
ContrastiveResult contrastive_step(const ContrastiveStep<T, State>& call,
                                   const SimilaritySizes& sizes, const Products<T>& products,
                                   const Executor& executor);

}  // namespace xrisk::cpu
