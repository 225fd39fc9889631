// P1 on CUDA: sums of a pair term over (anchor, item) pairs. Host interface, torch-free.
//
// Nothing here waits for the device: sizes that only the device knows (how many positives a batch
// has) are read there, and hyper-parameters that may change between replays of a CUDA graph (scale,
// temperature) are device pointers. Launchers return what cudaGetLastError() says.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/params.h"

namespace xrisk::cuda {

// One side of the pairs, for `segments` independent problems (labels) at once. Arrays are laid out
// [segments, channels, capacity]; a segment has live[s] entries, or `capacity` where live is null.
template <class T>
struct Side {
  const T* scores = nullptr;   // [segments, capacity]
  const T* weights = nullptr;  // [segments, channels, capacity]; null: ones
  int64_t capacity = 0;
  const int32_t* live = nullptr;  // [segments], on the device
};

template <class T>
struct PairProblem {
  Surrogate surrogate = Surrogate::kSquaredHinge;
  double margin = 1.0;
  const double* scale = nullptr;        // one number on the device
  const double* temperature = nullptr;  // null: phi itself; else log sums of exp(phi / temperature)
  Side<T> anchors;                      // its weights are not used
  Side<T> items;
  int segments = 1;
  int channels = 1;
};

// sums, slopes [segments, channels, P]: sum_j w_cj phi(y_j - x_i) and the same with its slope. With
// a temperature (one channel): sums are logs of the sums, slopes those of the logs, and masses what
// is summed after the shift; the columns need it.
template <class T>
struct PairRows {
  PairProblem<T> problem;
  double* sums = nullptr;
  double* slopes = nullptr;
  double* masses = nullptr;
};

// out [segments, M]: sum_c w_cj sum_i a_ci slope(y_j - x_i); with a temperature, slopes of the log
// sums.
template <class T>
struct PairColumns {
  PairProblem<T> problem;
  const double* anchor_weights = nullptr;  // [segments, channels, P]
  const double* masses = nullptr;          // [segments, P], with a temperature
  T* out = nullptr;
};

// The direct algorithm, O(P M), any surrogate.
template <class T>
size_t direct_rows_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_direct_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream);
template <class T>
size_t direct_columns_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_direct_columns(const PairColumns<T>& call, void* workspace, cudaStream_t stream);

// Two problems alike in surrogate, segments and channels, without a temperature, in one launch:
// small ones share the device. The workspace is both's together.
template <class T>
cudaError_t launch_direct_rows_of_two(const PairRows<T> (&calls)[2], void* workspace,
                                      cudaStream_t stream);
template <class T>
cudaError_t launch_direct_columns_of_two(const PairColumns<T> (&calls)[2], void* workspace,
                                         cudaStream_t stream);

// The exact near-linear algorithm, for the piecewise-polynomial surrogates (squared, squared hinge,
// hinge, barrier hinge, zero_one) without a temperature. Columns may be called with other items
// than the rows.
template <class T>
size_t sorted_rows_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_sorted_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream);
template <class T>
size_t sorted_columns_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_sorted_columns(const PairColumns<T>& call, void* workspace, cudaStream_t stream);

// The near-linear algorithm for logistic and sigmoid, with the error of the CPU's (xrisk_ext/ops/
// pairwise.py states it). Segments whose scores span too many bins, or are not finite, take the
// direct one on the device's own decision.
template <class T>
size_t smooth_rows_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_smooth_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream);
template <class T>
size_t smooth_columns_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_smooth_columns(const PairColumns<T>& call, void* workspace, cudaStream_t stream);

// The near-linear algorithms of the log sums, with a temperature and one channel: exact for hinge,
// barrier hinge, and logistic where 1 / temperature is a whole number up to 512; with the error of
// the CPU's for the squared hinge. Segments whose temperature is none such, whose scores are not
// finite or span 2^31 layers of the squared hinge, take the direct algorithm on the device's own
// decision.
inline bool has_sorted_log_sums(Surrogate surrogate) {
  return surrogate == Surrogate::kHinge || surrogate == Surrogate::kBarrierHinge ||
         surrogate == Surrogate::kLogistic;
}
inline bool has_smooth_log_sums(Surrogate surrogate) {
  return surrogate == Surrogate::kSquaredHinge;
}
inline bool has_near_log_sums(Surrogate surrogate) {
  return has_sorted_log_sums(surrogate) || has_smooth_log_sums(surrogate);
}
template <class T>
size_t near_log_rows_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_near_log_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream);
template <class T>
size_t near_log_columns_workspace_bytes(const PairProblem<T>& problem);
template <class T>
cudaError_t launch_near_log_columns(const PairColumns<T>& call, void* workspace,
                                    cudaStream_t stream);

}  // namespace xrisk::cuda
