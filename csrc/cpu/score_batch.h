// A batch of scores as the fused steps take it, and its entries by class.
#pragma once

#include <cstdint>

#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T>
struct ScoreBatch {
  int64_t batch = 0;
  int64_t labels = 1;
  const T* scores = nullptr;          // [B, L]
  const uint8_t* positive = nullptr;  // [B, L]
  // An entry of weight w counts as w entries, as an item and as an anchor; 0 removes it.
  const T* weights = nullptr;  // [B, L], [B] or null
  bool weights_per_label = false;
  const int64_t* index = nullptr;  // [B]; read where an entry is an anchor
  int64_t rows = 0;                // of the state
  double* values = nullptr;        // [L]
  T* gradient = nullptr;           // [B, L]: column l is d value_l / d scores; null: not wanted

  int64_t offset(int64_t entry, int64_t label) const { return entry * labels + label; }
  T weight(int64_t entry, int64_t label) const {
    if (weights == nullptr) return T(1);
    return weights[weights_per_label ? offset(entry, label) : entry];
  }
  bool belongs(int64_t entry, int64_t label, bool to_positives) const {
    return (positive[offset(entry, label)] != 0) == to_positives && weight(entry, label) > T(0);
  }
};

// The entries of one class of a label that weigh something, in their order.
template <class T>
struct Entries {
  T* scores = nullptr;
  T* weights = nullptr;  // null: ones
  int32_t* positions = nullptr;
  int64_t count = 0;
  double weight = 0.0;  // in total

  double share(int64_t k) const {
    return (weights == nullptr ? 1.0 : static_cast<double>(weights[k])) / weight;
  }
};

// `sign` multiplies the scores: -1 turns "outranks" round.
template <class T, class U>
Entries<T> entries_of(const ScoreBatch<U>& batch, int64_t label, bool positives, T sign,
                      Scratch& scratch) {
  Entries<T> entries;
  entries.scores = scratch.allocate<T>(batch.batch);
  entries.positions = scratch.allocate<int32_t>(batch.batch);
  if (batch.weights != nullptr) entries.weights = scratch.allocate<T>(batch.batch);
  int64_t count = 0;
  for (int64_t b = 0; b < batch.batch; ++b) {  // written where it may not stay: no branch
    const U weight = batch.weight(b, label);
    entries.scores[count] = sign * static_cast<T>(batch.scores[batch.offset(b, label)]);
    entries.positions[count] = static_cast<int32_t>(b);
    if (entries.weights != nullptr) entries.weights[count] = static_cast<T>(weight);
    count += batch.belongs(b, label, positives);
  }
  entries.count = count;
  entries.weight = static_cast<double>(count);
  if (entries.weights != nullptr) {
    entries.weight = 0.0;
    for (int64_t k = 0; k < count; ++k) entries.weight += static_cast<double>(entries.weights[k]);
  }
  return entries;
}

}  // namespace xrisk::cpu
