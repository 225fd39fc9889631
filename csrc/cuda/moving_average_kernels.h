// The kernels of the state update.
//
//   stored_b = mean over the entries of b's row of blend(state[row], values, gamma)
//
// Few entries: every entry compares its id with all others, staged in shared memory: B^2 integer
// compares, no sort, no workspace beyond a flag. Many entries: the ids are sorted with their
// positions (stable), and a group is handled by its first entry, or by the whole block if long.
// Bytes of the update itself: 8 for the id, the value, the result, and a sector of the state read
// and written. State is read by the first kernel and written by the last: no entry sees another's
// result. Hazard: log domain, where means are taken relative to the largest blend.
#pragma once

#include "core/moving_average.h"
#include "cuda/moving_average.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

// Running mean of blends, linear or of exponentials, in the order in which they are added.
struct BlendMean {
  double total, peak;
  int64_t count;
  bool log_domain;

  __device__ explicit BlendMean(bool log)
      : total(0.0), peak(-INFINITY), count(0), log_domain(log) {}

  __device__ void add(double blend) {
    ++count;
    if (!log_domain) {
      total += blend;
    } else if (blend > peak) {  // rescale what was summed to the new peak
      total = total * (peak == -INFINITY ? 0.0 : exp(peak - blend)) + 1.0;
      peak = blend;
    } else {
      // two -inf have no difference; a NaN stays
      total += blend == peak ? (peak == -INFINITY ? 0.0 : 1.0) : exp(blend - peak);
    }
  }

  __device__ double mean() const {
    if (!log_domain) return count == 1 ? total : total / static_cast<double>(count);
    if (count == 1 && total == 1.0) return peak;
    return peak == -INFINITY && total == 0.0 ? peak
                                             : peak + log(total / static_cast<double>(count));
  }
};

template <class State, class Value, class Out>
struct StateAccess {
  MovingAverage<State, Value, Out> call;

  __device__ int64_t live(int segment) const {
    return call.live == nullptr ? call.entries : call.live[segment];
  }
  __device__ int64_t row(int segment, int64_t entry) const {
    return call.index[segment * call.entries + entry];
  }
  __device__ bool in_range(int64_t row) const { return row >= 0 && row < call.rows; }
  __device__ State& at(int segment, int64_t row, int column) const {
    return call.state[(segment * call.rows + row) * call.columns + column];
  }
  __device__ Out& stored(int segment, int64_t entry, int column) const {
    return call.stored[(segment * call.entries + entry) * call.columns + column];
  }
  __device__ double old(int segment, int64_t row, int column) const {
    if (in_range(row)) return static_cast<double>(at(segment, row, column));
    return call.log_domain ? -INFINITY : NAN;
  }
  __device__ double blend(int segment, int64_t entry, double old, int column) const {
    const double gamma = call.gamma[call.gamma_per_entry ? entry : 0];
    const double value =
        static_cast<double>(call.values[(segment * call.entries + entry) * call.columns + column]);
    const BlendFactors f = call.log_domain ? log_factors(gamma) : linear_factors(gamma);
    return call.log_domain ? blend_log(old, value, f.keep, f.add)
                           : blend_linear(old, value, f.keep, f.add);
  }
  // What is stored in the row, or given back alone where the state's type cannot hold it.
  __device__ Out rounded(double blend) const {
    const State narrow = static_cast<State>(blend);
    const bool storable = is_storable(static_cast<double>(narrow), call.log_domain);
    return storable && call.rounded ? static_cast<Out>(narrow) : static_cast<Out>(blend);
  }
  __device__ void write(int segment, int64_t row, int column, Out value) const {
    const State narrow = static_cast<State>(value);
    if (is_storable(static_cast<double>(narrow), call.log_domain))
      at(segment, row, column) = narrow;
  }
};

// ---- few entries. A thread an entry, blockIdx.y the segment. first[b]: b is the first of its row.
template <int kThreads, class State, class Value, class Out>
__global__ void __launch_bounds__(kThreads)
    compare_all_kernel(StateAccess<State, Value, Out> access, uint8_t* first) {
  XRISK_SHARED(int64_t, rows, [kThreads]);
  const int segment = static_cast<int>(blockIdx.y), t = static_cast<int>(threadIdx.x);
  const int64_t live = access.live(segment);
  const int64_t block_begin = static_cast<int64_t>(blockIdx.x) * kThreads;
  if (block_begin >= live) return;  // the whole block
  const int64_t entry = block_begin + t;
  const int64_t mine = entry < live ? access.row(segment, entry) : -1;
  const bool grouped = access.in_range(mine);
  bool is_first = true;
  for (int column = 0; column < access.call.columns; ++column) {
    const double old = access.old(segment, mine, column);
    BlendMean mean(access.call.log_domain);
    for (int64_t tile = 0; tile < live; tile += kThreads) {
      __syncthreads();
      if (tile + t < live) rows[t] = access.row(segment, tile + t);
      __syncthreads();
      const int size = static_cast<int>(live - tile < kThreads ? live - tile : kThreads);
      for (int k = 0; grouped && k < size; ++k) {
        if (rows[k] != mine) continue;
        mean.add(access.blend(segment, tile + k, old, column));
        is_first = is_first && tile + k >= entry;
      }
    }
    if (entry >= live) continue;
    if (!grouped) mean.add(access.blend(segment, entry, old, column));
    access.stored(segment, entry, column) = access.rounded(mean.mean());
  }
  if (entry < live) first[segment * access.call.entries + entry] = grouped && is_first;
}

// Writes the rows, each by its first entry.
template <class State, class Value, class Out>
__global__ void scatter_kernel(StateAccess<State, Value, Out> access, const uint8_t* first) {
  const int segment = static_cast<int>(blockIdx.y);
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (entry >= access.live(segment)) return;
  if (first[segment * access.call.entries + entry] == 0) return;
  const int64_t row = access.row(segment, entry);
  for (int column = 0; column < access.call.columns; ++column) {
    access.write(segment, row, column, access.stored(segment, entry, column));
  }
}

// ---- many entries: sorted by (segment, row). Entries that belong to no row sort last.
template <class State, class Value, class Out>
__global__ void make_keys_kernel(StateAccess<State, Value, Out> access, uint64_t* keys,
                                 uint32_t* positions) {
  const int segment = static_cast<int>(blockIdx.y);
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (entry >= access.call.entries) return;
  const int64_t at = segment * access.call.entries + entry;
  const uint64_t nowhere = static_cast<uint64_t>(access.call.segments) * access.call.rows;
  const bool counts = entry < access.live(segment);
  const int64_t row = counts ? access.row(segment, entry) : -1;
  const bool grouped = access.in_range(row);
  keys[at] = grouped ? static_cast<uint64_t>(segment) * access.call.rows + row : nowhere;
  positions[at] = static_cast<uint32_t>(at);
  for (int column = 0; counts && !grouped && column < access.call.columns; ++column) {
    const double old = access.old(segment, row, column);
    access.stored(segment, entry, column) =
        access.rounded(access.blend(segment, entry, old, column));
  }
}

constexpr int kShortGroup = 32;

// A thread a sorted entry; the first of a group handles it. Groups beyond kShortGroup are shared by
// the block, thread t taking every kThreads-th member: an order that the data alone decide.
template <int kThreads, class State, class Value, class Out>
__global__ void __launch_bounds__(kThreads)
    update_groups_kernel(StateAccess<State, Value, Out> access, const uint64_t* keys,
                         const uint32_t* positions, int64_t count) {
  XRISK_SHARED(int, waiting, [kThreads]);  // is thread k's entry the head of a long group?
  XRISK_SHARED(double, totals, [kThreads]);
  XRISK_SHARED(double, peaks, [kThreads]);
  const MovingAverage<State, Value, Out>& call = access.call;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t block_begin = static_cast<int64_t>(blockIdx.x) * kThreads, k = block_begin + t;
  const uint64_t nowhere = static_cast<uint64_t>(call.segments) * call.rows;
  const auto entry_of = [&](int64_t at) { return static_cast<int64_t>(positions[at]); };

  const bool head = k < count && keys[k] != nowhere && (k == 0 || keys[k - 1] != keys[k]);
  int64_t end = k + 1;
  while (head && end < count && end - k <= kShortGroup && keys[end] == keys[k]) ++end;
  const bool is_long = head && end - k > kShortGroup;
  waiting[t] = is_long;
  if (head && !is_long) {
    const int segment = static_cast<int>(keys[k] / call.rows);
    const int64_t row = static_cast<int64_t>(keys[k] % call.rows);
    for (int column = 0; column < call.columns; ++column) {
      const double old = access.old(segment, row, column);
      BlendMean mean(call.log_domain);
      for (int64_t at = k; at < end; ++at) {
        mean.add(access.blend(segment, entry_of(at) - segment * call.entries, old, column));
      }
      const Out result = access.rounded(mean.mean());
      for (int64_t at = k; at < end; ++at) {
        access.stored(segment, entry_of(at) - segment * call.entries, column) = result;
      }
      if (call.write) access.write(segment, row, column, result);
    }
  }

  __syncthreads();
  for (int w = 0; w < kThreads; ++w) {
    if (waiting[w] == 0) continue;  // the same in all threads
    const int64_t begin = block_begin + w;
    const uint64_t key = keys[begin];
    int64_t low = begin + 1, high = count;  // the group's end
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (keys[middle] == key) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const int segment = static_cast<int>(key / call.rows);
    const int64_t row = static_cast<int64_t>(key % call.rows);
    for (int column = 0; column < call.columns; ++column) {
      const double old = access.old(segment, row, column);
      BlendMean mean(call.log_domain);
      for (int64_t at = begin + t; at < low; at += kThreads) {
        mean.add(access.blend(segment, entry_of(at) - segment * call.entries, old, column));
      }
      __syncthreads();  // the totals before may still be read
      totals[t] = mean.total;
      peaks[t] = mean.peak;
      __syncthreads();
      double total = 0.0, peak = -INFINITY;
      for (int other = 0; other < kThreads; ++other) {
        peak = peaks[other] > peak ? peaks[other] : peak;
      }
      for (int other = 0; other < kThreads; ++other) {
        // an empty share, or one of -inf alone, adds nothing; a NaN stays
        const bool nothing = call.log_domain && peaks[other] == -INFINITY && totals[other] == 0.0;
        const double scale =
            !call.log_domain || peaks[other] == peak ? 1.0 : exp(peaks[other] - peak);
        if (!nothing) total += totals[other] * scale;
      }
      const double average = total / static_cast<double>(low - begin);
      const Out result = access.rounded(!call.log_domain ? average
                                        : average == 0.0 ? -INFINITY
                                                         : peak + log(average));
      for (int64_t at = begin + t; at < low; at += kThreads) {
        access.stored(segment, entry_of(at) - segment * call.entries, column) = result;
      }
      __syncthreads();  // all have read the old state
      if (t == 0 && call.write) access.write(segment, row, column, result);
    }
  }
}

}  // namespace xrisk::cuda
