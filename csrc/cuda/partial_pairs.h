// Rows and columns of the partial AUC step, direct, O(P B): every rule and surrogate in 32 kernels,
// since what is summed is chosen when they run. Host interface.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/params.h"

namespace xrisk::cuda {

// Of phi against the anchor's shift: itself, exp((phi - shift) / temperature), or what lies above.
enum class PairKind : int { kPlain, kExponential, kThreshold };

template <class T>
struct PartialPairs {
  Surrogate surrogate = Surrogate::kSquaredHinge;
  PairKind kind = PairKind::kPlain;
  double margin = 1.0;
  const double* scale = nullptr;
  const double* temperature = nullptr;  // kExponential
  int labels = 1;
  int64_t batch = 0;
  const T* items = nullptr;                // [L, B]
  const T* item_weights = nullptr;         // [L, B]
  const T* anchors = nullptr;              // [L, B], live[l] of them
  const double* shifts = nullptr;          // [L, B]
  const int32_t* live = nullptr;           // [L]
  const double* column_weights = nullptr;  // [L, B] of the anchors
  double* sums = nullptr;                  // [L, B]
  double* slopes = nullptr;                // [L, B]
  double* above = nullptr;                 // [L, B], kThreshold: sum_j w_j 1[phi_ij > shift_i]
  T* columns = nullptr;                    // [L, B]: w_j sum_i a_i slope_ij
};

template <class T>
cudaError_t launch_partial_rows(const PartialPairs<T>& call, cudaStream_t stream);
template <class T>
cudaError_t launch_partial_columns(const PartialPairs<T>& call, cudaStream_t stream);

}  // namespace xrisk::cuda
