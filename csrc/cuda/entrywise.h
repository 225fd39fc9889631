// Losses that need no pairs on CUDA: see cpu/entrywise.h for what they are.
//
// Mapping: a block of kEntrywiseThreads a label; its threads walk down the label's column of
// entries [B, L] twice, for the sums and for the gradient, and meet in block sums of doubles in one
// fixed order. One launch, no workspace. Bytes: as on the CPU, the second read from the cache.
// Hazard: one block cannot saturate the memory; past some 1e5 entries of one label the launch is
// latency bound.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/auc_margin.h"

namespace xrisk::cuda {

constexpr int kEntrywiseThreads = 512;

template <class T>
struct LabelledEntries {
  const T* scores = nullptr;          // [B, L]
  const uint8_t* positive = nullptr;  // [B, L]
  const T* weights = nullptr;         // [B, L], >= 0, or null
  int64_t batch = 0;
  int labels = 1;
};

template <class T>
struct AucMarginStep {
  LabelledEntries<T> entries;
  AucMargin kind = AucMargin::kV2;
  double margin = 1;
  const double* a = nullptr;  // [L] each
  const double* b = nullptr;
  const double* alpha = nullptr;
  const double* priors = nullptr;  // [L] or null
  double share = 1;                // factor on all gradients
  T* values = nullptr;             // [L]
  T* by_parameters = nullptr;      // [3, L]
  T* gradient = nullptr;           // [B, L] or null
};

template <class T>
cudaError_t launch_auc_margin_step(const AucMarginStep<T>& call, cudaStream_t stream);

template <class T>
struct CrossEntropyStep {
  LabelledEntries<T> entries;
  const double* class_weights = nullptr;  // [2, L]: of negatives, of positives; null: 1
  const double* margins = nullptr;        // [2, L]; null: 0
  double scale = 1, focus = 0;
  double share = 1;
  T* values = nullptr;    // [L]
  T* gradient = nullptr;  // [B, L] or null
};

template <class T>
cudaError_t launch_cross_entropy_step(const CrossEntropyStep<T>& call, cudaStream_t stream);

}  // namespace xrisk::cuda
