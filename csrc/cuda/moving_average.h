// P2 on CUDA: gather, blend and scatter of state rows; semantics as cpu/moving_average.h, for
// several states (labels) at once. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace xrisk::cuda {

// A row outside [0, rows) is never read or written: its entry is given back as if it were
// untouched.
template <class State, class Value, class Out>
struct MovingAverage {
  State* state = nullptr;  // [segments, N, C]
  int64_t rows = 0;
  int columns = 1;
  const int64_t* index = nullptr;  // [segments, B]
  const Value* values = nullptr;   // [segments, B, C]
  int64_t entries = 0;             // B
  const int32_t* live = nullptr;   // [segments] entries that count, on the device; null: all
  int segments = 1;
  const double* gamma = nullptr;  // one, or [B], on the device
  bool gamma_per_entry = false;
  bool log_domain = false;
  bool write = true;  // false: blend, but leave the state alone
  // false: gives the blends back as they are before the state's type rounds them
  bool rounded = true;
  Out* stored = nullptr;  // [segments, B, C]
};

template <class State, class Value, class Out>
size_t moving_average_workspace_bytes(const MovingAverage<State, Value, Out>& call);

// Deterministic: duplicates are combined in an order that their positions alone decide.
template <class State, class Value, class Out>
cudaError_t launch_moving_average(const MovingAverage<State, Value, Out>& call, void* workspace,
                                  size_t workspace_bytes, cudaStream_t stream);

}  // namespace xrisk::cuda
