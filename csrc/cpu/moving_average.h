// P2: gather, blend and scatter of state rows in one pass.
//
//   state[index_b] <- blend(state[index_b], values_b, gamma_b)
//
// A row that several entries name: each reads the old state, the mean of their blends is stored and
// returned for all of them (in the log domain the log of the mean of the exponentials). A blend
// that is not finite is returned but never stored.
#pragma once

#include <cstdint>

#include "cpu/executor.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class State, class Value, class Out>
struct MovingAverage {
  State* state = nullptr;  // [N, C]
  int64_t rows = 0;
  int64_t columns = 1;
  const int64_t* index = nullptr;  // [B], each in [0, N): see find_out_of_range
  const Value* values = nullptr;   // [B, C]
  int64_t entries = 0;
  const double* gamma = nullptr;  // one, or [B]
  bool gamma_per_entry = false;
  bool log_domain = false;
  bool write = true;  // false: blend, but leave the state alone
  // false: gives the blends back as they are before the state's type rounds them
  bool rounded = true;
  Out* stored = nullptr;  // [B, C]
};

template <class State, class Value, class Out>
void moving_average_update(const MovingAverage<State, Value, Out>& call, Scratch& scratch,
                           const Executor& executor);

// The first entry whose index is outside [0, rows), or -1. To be asked before anything is written.
int64_t find_out_of_range(const int64_t* index, int64_t entries, int64_t rows,
                          const Executor& executor);

}  // namespace xrisk::cpu
