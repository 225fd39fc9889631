// Losses that need no pairs: sums over the entries of each label, then a gradient an entry.
//
//   auc_margin:     moments of the scores of each class (core/auc_margin.h); two reads of the
//   scores cross_entropy:  the weighted mean of a loss an entry (core/cross_entropy.h); one read
//
// Mapping: entries [B, L] cut into chunks of rows by size alone, their sums, in double, added in
// the order of the chunks. Bytes: a step over 1e6 floats reads 4 + 1 (+ 4 weights) an entry twice,
// and writes 4 once. An entry of weight 0 is not looked at; where another score is NaN or infinite,
// the value and the whole gradient of its label are NaN.
#pragma once

#include <cstdint>

#include "core/auc_margin.h"
#include "cpu/executor.h"

namespace xrisk::cpu {

template <class T>
struct LabelledEntries {
  const T* scores = nullptr;          // [B, L]
  const uint8_t* positive = nullptr;  // [B, L]
  const T* weights = nullptr;         // [B, L], >= 0, or null
  int64_t batch = 0, labels = 1;
};

template <class T>
struct AucMarginStep {
  LabelledEntries<T> entries;
  AucMargin kind = AucMargin::kV2;
  double margin = 1;
  const double* parameters = nullptr;  // [3, L]: a, b, alpha
  const double* priors = nullptr;      // [L] or null
  double share = 1;                    // factor on all gradients
  double* values = nullptr;            // [L]
  double* by_parameters = nullptr;     // [3, L]
  T* gradient = nullptr;               // [B, L] or null
};

template <class T>
void auc_margin_step(const AucMarginStep<T>& call, const Executor& executor);

template <class T>
struct CrossEntropyStep {
  LabelledEntries<T> entries;
  const double* class_weights = nullptr;  // [2, L]: of negatives, of positives; null: 1
  const double* margins = nullptr;        // [2, L]; null: 0
  double scale = 1, focus = 0;
  double share = 1;
  double* values = nullptr;  // [L]
  T* gradient = nullptr;     // [B, L] or null
};

template <class T>
void cross_entropy_step(const CrossEntropyStep<T>& call, const Executor& executor);

}  // namespace xrisk::cpu
