// The kernels of the state update.
//
//   stored_b = mean over the entries of b's row of blend(state[row], values, gamma)
//
// Few entries: a warp compares the ids of kEntries entries with all others, staged in shared
// memory as 32-bit keys; the first entry of a row updates it for all: B^2 integer compares, one
// launch, no workspace. Many entries: the ids are sorted with their positions (stable), and the
// first of a group updates it: a thread a short group, a warp or the block a longer one.
// A row is read and written by the threads that update it alone: no entry sees another's result.
// Bytes of the update itself: 8 for the id, the value, the result, and a sector of the state read
// and written. Sums are in double: free where memory bounds. Hazard: log domain, where means are
// taken relative to the largest blend.
#pragma once

#include "core/moving_average.h"
#include "cuda/block.h"
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
  __device__ double value(int segment, int64_t entry, int column) const {
    return static_cast<double>(
        call.values[(segment * call.entries + entry) * call.columns + column]);
  }
  __device__ BlendFactors factors(int64_t entry) const {
    const double gamma = call.gamma[call.gamma_per_entry ? entry : 0];
    return call.log_domain ? log_factors(gamma) : linear_factors(gamma);
  }
  __device__ double blend(double old, double value, BlendFactors f) const {
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

// ---- the update of one group of entries, by a thread, a warp or a block. What a team agrees on is
// the same bits in all its threads.
struct ThreadTeam {
  static __device__ double largest(double x) { return x; }
  static __device__ double total(double x) { return x; }
  static __device__ bool leads() { return true; }
  static __device__ void sync() {}
};
struct WarpTeam {
  static __device__ double largest(double x) { return warp_max(x); }
  static __device__ double total(double x) { return warp_sum(x); }
  static __device__ bool leads() { return lane_index() == 0; }
  static __device__ void sync() { __syncwarp(); }
};
template <int kThreads>
struct BlockTeam {
  static __device__ double largest(double x) {
    return block_max<kThreads>(x, static_cast<double>(-INFINITY));
  }
  static __device__ double total(double x) { return block_sum<kThreads>(x); }
  static __device__ bool leads() { return threadIdx.x == 0; }
  static __device__ void sync() { __syncthreads(); }
};

// The mean of what the team's threads have added, `count` blends in all.
template <class Team>
__device__ double mean_of_shares(const BlendMean& mine, int64_t count) {
  if (!mine.log_domain) {
    const double total = Team::total(mine.total);
    return count == 1 ? total : total / static_cast<double>(count);
  }
  const double peak = Team::largest(mine.peak);
  // an empty share, or one of -inf alone, adds nothing; a NaN stays
  const bool nothing = mine.peak == -INFINITY && mine.total == 0.0;
  const double scale = mine.peak == peak ? 1.0 : exp(mine.peak - peak);
  const double total = Team::total(nothing ? 0.0 : mine.total * scale);
  if (total == 0.0) return -INFINITY;
  const double all = static_cast<double>(count);
  return total == all ? peak : peak + log(total / all);
}

// Updates a row and gives its entries the result; each(f) calls f(entry) for this thread's share of
// the `count` entries, always in one order.
template <class Team, class Access, class Each>
__device__ void update_group(const Access& access, int segment, int64_t row, int64_t count,
                             Each each) {
  const bool own_factors = access.call.gamma_per_entry;
  const BlendFactors shared = own_factors ? BlendFactors{} : access.factors(0);
  for (int column = 0; column < access.call.columns; ++column) {
    const double old = access.old(segment, row, column);
    BlendMean mean(access.call.log_domain);
    each([&](int64_t entry) {
      mean.add(access.blend(old, access.value(segment, entry, column),
                            own_factors ? access.factors(entry) : shared));
    });
    const auto result = access.rounded(mean_of_shares<Team>(mean, count));
    each([&](int64_t entry) { access.stored(segment, entry, column) = result; });
    Team::sync();  // all have read the old state
    if (Team::leads() && access.call.write) access.write(segment, row, column, result);
  }
}

// Whether any two of the `count` keys are equal, as far as this thread has looked: the threads of a
// block together look at every pair.
template <int kThreads, class Key>
__device__ __forceinline__ bool meets_equal(const Key* keys, int count) {
  int width = 32;  // keys side by side, a power of two
  while (width < count && width < kThreads) width *= 2;
  const int t = static_cast<int>(threadIdx.x);
  bool met = false;
  for (int i = t & (width - 1); i < count; i += width) {
    const Key mine = keys[i];
#pragma unroll 4
    for (int k = t / width; k < i; k += kThreads / width) met |= keys[k] == mine;
  }
  return met;
}

__device__ __forceinline__ void prefetch_to_l2(const void* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
#else
  (void)address;
#endif
}

// ---- few entries, of fewer than 2^31 rows. A warp kEntries entries, blockIdx.y the segment.
template <int kThreadCount, int kTileKeys>
struct CompareShape {
  static constexpr int kThreads = kThreadCount, kTile = kTileKeys;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kEntries = 4;         // of a warp
  static constexpr int kKeys = 4;            // of a lane at once: 16 bytes
  static constexpr int kChunk = 32 * kKeys;  // of a warp at once
  static constexpr int kGroup = 32;          // members that are kept
  static_assert(kTile % kChunk == 0);
};

// What the entries of a warp have met, others of their row: entry e's part is lane e's.
struct Meetings {
  int32_t key;    // -2: of no row
  int32_t count;  // of the row's entries from this one on
  bool earlier;

  // `begin`: the position of this lane's keys; members[e]: positions. All lanes of the warp call.
  template <int kEntries, int kKeys, int kGroup>
  __device__ void note(const int32_t (&keys)[kKeys], int32_t begin, int32_t first,
                       int32_t (*members)[kGroup]) {
    const unsigned below = (1u << lane_index()) - 1;
#pragma unroll 1
    for (int e = 0; e < kEntries; ++e) {
      const int32_t wanted = __shfl_sync(kWholeWarp, key, e);
      int32_t met = __shfl_sync(kWholeWarp, count, e);
      bool before = false;
#pragma unroll
      for (int c = 0; c < kKeys; ++c) {
        const bool meets = keys[c] == wanted && begin + c != first + e;
        before = before || (meets && begin + c < first + e);
        const unsigned which = __ballot_sync(kWholeWarp, meets);
        const int rank = met + __popc(which & below);
        if (meets && rank < kGroup) members[e][rank] = begin + c;
        met += __popc(which);
      }
      before = __any_sync(kWholeWarp, before);
      if (lane_index() != e) continue;
      count = met;
      earlier = earlier || before;
    }
  }
};

template <class Shape, class State, class Value, class Out>
__global__ void __launch_bounds__(Shape::kThreads)
    compare_all_kernel(StateAccess<State, Value, Out> access) {
  constexpr int kEntries = Shape::kEntries, kKeys = Shape::kKeys;
  XRISK_SHARED(int32_t, keys, [Shape::kTile]);
  XRISK_SHARED(int32_t, members, [Shape::kWarps * kEntries][Shape::kGroup]);
  XRISK_SHARED(int32_t, long_counts, [Shape::kWarps * kEntries]);
  const int segment = static_cast<int>(blockIdx.y), t = static_cast<int>(threadIdx.x);
  const int lane = lane_index(), slot = warp_index() * kEntries, columns = access.call.columns;
  const int32_t live = static_cast<int32_t>(access.live(segment));
  const int32_t block_first = static_cast<int32_t>(blockIdx.x) * Shape::kWarps * kEntries;
  if (block_first >= live) return;  // the whole block
  const int32_t first = block_first + slot;

  // lane e: the row of entry e, -1 where it belongs to none
  const bool exists = lane < kEntries && first + lane < live;
  int64_t row = exists ? access.row(segment, first + lane) : -1;
  const auto stage = [&](int32_t tile) {
    const int32_t size = live - tile < Shape::kTile ? live - tile : Shape::kTile;
    const int32_t padded = (size + Shape::kChunk - 1) / Shape::kChunk * Shape::kChunk;
#pragma unroll 8
    for (int32_t k = t; k < padded; k += Shape::kThreads) {
      const int64_t other = k < size ? access.row(segment, tile + k) : -1;
      keys[k] = access.in_range(other) ? static_cast<int32_t>(other) : -1;
    }
    return padded;
  };
  int32_t padded = stage(0);
  if (!access.in_range(row)) row = -1;

  // Most entries are alone in their row: what these need is on its way while ids are compared, the
  // row no further than to the L2 cache, since another block may write it. Lane p: pair p of
  // (entry, column).
  const int pairs = kEntries * columns;
  const int64_t early_row = __shfl_sync(kWholeWarp, row, lane / columns % kEntries);
  const int64_t early_entry = first + lane / columns;
  Value early_value = Value(0);
  if (lane < pairs && early_entry < live) {
    const int64_t at = segment * access.call.entries + early_entry;
    early_value = access.call.values[at * columns + lane % columns];
    if (early_row >= 0) prefetch_to_l2(&access.at(segment, early_row, lane % columns));
  }

  Meetings met = {row < 0 ? -2 : static_cast<int32_t>(row), 1, false};
  if (lane < kEntries) members[slot + lane][0] = first + lane;
  int32_t wanted[kEntries];
#pragma unroll
  for (int e = 0; e < kEntries; ++e) wanted[e] = __shfl_sync(kWholeWarp, met.key, e);
  for (int32_t tile = 0; tile < live; tile += Shape::kTile) {
    if (tile > 0) {
      __syncthreads();  // the tile before may still be read
      padded = stage(tile);
    }
    __syncthreads();
    for (int32_t k = lane * kKeys; k < padded; k += Shape::kChunk) {
      const int4 four = *reinterpret_cast<const int4*>(keys + k);
      const int32_t these[kKeys] = {four.x, four.y, four.z, four.w};
      bool meets[kKeys] = {};  // chains of their own
#pragma unroll
      for (int e = 0; e < kEntries; ++e) {
#pragma unroll
        for (int c = 0; c < kKeys; ++c) meets[c] |= these[c] == wanted[e];
      }
      if (__any_sync(kWholeWarp, meets[0] | meets[1] | meets[2] | meets[3])) {
        met.note<kEntries>(these, tile + k, first, members + slot);
      }
    }
  }

  const bool updates = exists && !met.earlier, is_long = updates && met.count > Shape::kGroup;
  const unsigned alone = __ballot_sync(kWholeWarp, updates && met.count == 1);
  unsigned few = __ballot_sync(kWholeWarp, updates && met.count > 1 && !is_long);
  if (lane < kEntries) long_counts[slot + lane] = is_long ? met.count : 0;
  // Every lane of the warp has the pairs p, p + 32, ...; the shuffles need them all.
  for (int p = lane; p - lane < pairs; p += 32) {
    const int e = p / columns % kEntries, column = p % columns;
    const int64_t row_of = __shfl_sync(kWholeWarp, row, e);
    if (p >= pairs || ((alone >> e) & 1) == 0) continue;
    const double old = access.old(segment, row_of, column);
    const double value =
        p == lane ? static_cast<double>(early_value) : access.value(segment, first + e, column);
    const Out result = access.rounded(access.blend(old, value, access.factors(first + e)));
    access.stored(segment, first + e, column) = result;
    if (row_of >= 0 && access.call.write) access.write(segment, row_of, column, result);
  }
  __syncwarp();  // the members are written
  for (; few != 0; few &= few - 1) {
    const int e = __ffs(static_cast<int>(few)) - 1;
    const int32_t count = __shfl_sync(kWholeWarp, met.count, e);
    const int64_t row_of = __shfl_sync(kWholeWarp, row, e);
    const int64_t member = lane < count ? members[slot + e][lane] : -1;
    update_group<WarpTeam>(access, segment, row_of, count, [&](auto f) {
      if (member >= 0) f(member);
    });
  }
  if (!__syncthreads_or(is_long)) return;
  for (int k = 0; k < Shape::kWarps * kEntries; ++k) {
    if (long_counts[k] == 0) continue;  // the same in all threads
    const int32_t head = block_first + k;
    const int64_t row_of = access.row(segment, head);
    update_group<BlockTeam<Shape::kThreads>>(access, segment, row_of, long_counts[k], [&](auto f) {
      for (int32_t other = head + t; other < live; other += Shape::kThreads) {
        if (access.row(segment, other) == row_of) f(int64_t{other});
      }
    });
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
    access.stored(segment, entry, column) = access.rounded(
        access.blend(old, access.value(segment, entry, column), access.factors(entry)));
  }
}

// A thread a sorted entry. The first of a group updates it: alone up to kWalk entries, with its
// warp up to where the keys of the next 32 entries end it, else with the block.
template <int kThreads, class State, class Value, class Out>
__global__ void __launch_bounds__(kThreads)
    update_groups_kernel(StateAccess<State, Value, Out> access, const uint64_t* __restrict__ keys,
                         const uint32_t* __restrict__ positions, int64_t count) {
  constexpr int kWalk = 4;
  XRISK_SHARED(int64_t, long_heads, [kThreads / 32]);  // a warp's last group may be long
  const MovingAverage<State, Value, Out>& call = access.call;
  const int lane = lane_index(), t = static_cast<int>(threadIdx.x);
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + t;
  const uint64_t rows = static_cast<uint64_t>(call.rows), nowhere = call.segments * rows;
  const uint64_t key = k < count ? keys[k] : nowhere;
  const uint64_t ahead = k + 32 < count ? keys[k + 32] : nowhere;
  const uint64_t edge = lane == 0 && k > 0 && k < count ? keys[k - 1] : nowhere;
  const int64_t position = k < count ? positions[k] : 0;
  // each(f) calls f(position) for this thread's share of the entries of key `of`.
  const auto update = [&](auto team, uint64_t of, int64_t size, auto each) {
    const int segment = call.segments == 1 ? 0 : static_cast<int>(of / rows);
    const int64_t before = segment * call.entries;
    update_group<decltype(team)>(access, segment, static_cast<int64_t>(of - segment * rows), size,
                                 [&](auto f) { each([&](int64_t at) { f(at - before); }); });
  };

  const uint64_t left = shuffle_up(key, 1);
  const bool begins = key == nowhere || (lane == 0 ? edge : left) != key;
  const bool head = begins && key != nowhere;
  const unsigned later = __ballot_sync(kWholeWarp, begins) >> lane >> 1;
  const uint64_t last = __shfl_sync(kWholeWarp, key, 31);
  const unsigned onward = __ballot_sync(kWholeWarp, ahead == last && last != nowhere);
  const int beyond = onward == kWholeWarp ? 32 : __ffs(static_cast<int>(~onward)) - 1;
  const int size = later != 0 ? __ffs(static_cast<int>(later)) : 32 - lane + beyond;
  const bool is_long = head && later == 0 && beyond == 32;
  const unsigned longs = __ballot_sync(kWholeWarp, is_long);
  if (lane == 0)
    long_heads[warp_index()] = longs == 0 ? -1 : k + __ffs(static_cast<int>(longs)) - 1;

  if (head && size <= kWalk) {
    update(ThreadTeam(), key, size, [&](auto f) {
      f(position);
      for (int64_t at = k + 1; at < k + size; ++at) f(int64_t{positions[at]});
    });
  }
  unsigned waiting = __ballot_sync(kWholeWarp, head && size > kWalk && !is_long);
  for (; waiting != 0; waiting &= waiting - 1) {
    const int source = __ffs(static_cast<int>(waiting)) - 1;
    const int members = __shfl_sync(kWholeWarp, size, source);
    const uint64_t of = __shfl_sync(kWholeWarp, key, source);
    const int64_t begin = k - lane + source;
    update(WarpTeam(), of, members, [&](auto f) {
      for (int64_t at = begin + lane; at < begin + members; at += 32) f(int64_t{positions[at]});
    });
  }
  if (!__syncthreads_or(is_long)) return;
  for (int w = 0; w < kThreads / 32; ++w) {
    const int64_t begin = long_heads[w];
    if (begin < 0) continue;  // the same in all threads
    const uint64_t of = keys[begin];
    int64_t low = begin + 1, high = count;  // the group's end
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (keys[middle] == of) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    update(BlockTeam<kThreads>(), of, low - begin, [&](auto f) {
#pragma unroll 4
      for (int64_t at = begin + t; at < low; at += kThreads) f(int64_t{positions[at]});
    });
  }
}

}  // namespace xrisk::cuda
