// The state update within one thread block, of at most kBlock entries: semantics as
// cuda/moving_average_kernels.h, whose updates of one row these are.
//
// Mapping: a thread an entry; a table in shared memory finds the entries of one id, the first of
// which updates the row: alone, or with its warp if it is not the only one.
#pragma once

#include "cuda/moving_average_kernels.h"

namespace xrisk::cuda {

template <int kBlock>
class FewAverages {
 public:
  // All threads call; `index` has `entries` ids.
  __device__ __forceinline__ FewAverages(const int64_t* index, int64_t entries, int64_t rows)
      : places_(shared_places()), heads_(shared_heads()) {
    const int t = static_cast<int>(threadIdx.x);
    entries_ = static_cast<int>(entries);
    XRISK_SHARED(unsigned long long, keys, [kPlaces]);
    for (int k = t; k < kPlaces; k += kBlock) {
      keys[k] = kNone;
      heads_[k] = make_int2(kBlock, 0);
    }
    const bool mine = t < entries_;
    row_ = mine ? index[t] : -1;
    if (row_ >= rows) row_ = -1;
    __syncthreads();
    if (mine) {
      // entries of no row are alone
      const unsigned long long key =
          row_ >= 0 ? static_cast<unsigned long long>(row_) : kNone - 1 - static_cast<unsigned>(t);
      int place = static_cast<int>((key * 0x9e3779b97f4a7c15ull) >> 32) & (kPlaces - 1);
      while (true) {
        const unsigned long long found = atomicCAS(&keys[place], kNone, key);
        if (found == kNone || found == key) break;
        place = (place + 1) & (kPlaces - 1);
      }
      atomicMin(&heads_[place].x, t);
      atomicAdd(&heads_[place].y, 1);
      places_[t] = place;
    }
    __syncthreads();
    const int2 head = mine ? heads_[places_[t]] : make_int2(-1, 0);
    leads_ = head.x == t;
    count_ = head.y;
  }

  // Begins and ends with a barrier.
  template <class State, class Value, class Out>
  __device__ __forceinline__ void update(const MovingAverage<State, Value, Out>& average) const {
    const StateAccess<State, Value, Out> access{average};
    const int t = static_cast<int>(threadIdx.x), lane = lane_index();
    const unsigned groups = __ballot_sync(kWholeWarp, leads_ && count_ > 1);
    __syncthreads();
    for (int segment = 0; segment < average.segments; ++segment) {
      if (leads_ && count_ == 1) {
        StateAccess<State, Value, Out> own = access;
        own.call.write = average.write && row_ >= 0;
        update_group<ThreadTeam>(own, segment, row_, 1, [&](auto f) { f(int64_t{t}); });
      }
      for (unsigned waiting = groups; waiting != 0; waiting &= waiting - 1) {
        const int source = __ffs(static_cast<int>(waiting)) - 1;
        const int64_t row = __shfl_sync(kWholeWarp, row_, source);
        const int count = __shfl_sync(kWholeWarp, count_, source), head = t - lane + source;
        const int place = places_[head];
        update_group<WarpTeam>(access, segment, row, count, [&](auto f) {
          for (int k = head + lane; k < entries_; k += 32) {
            if (places_[k] == place) f(int64_t{k});
          }
        });
      }
    }
    __syncthreads();
  }

 private:
  static constexpr int kPlaces = 2 * kBlock;
  static constexpr unsigned long long kNone = ~0ull;
  static_assert((kPlaces & (kPlaces - 1)) == 0);

  static __device__ __forceinline__ int* shared_places() {
    XRISK_SHARED(int, places, [kBlock]);
    return places;
  }
  static __device__ __forceinline__ int2* shared_heads() {
    XRISK_SHARED(int2, heads, [kPlaces]);
    return heads;
  }

  int* places_;  // of the entries
  int2* heads_;  // of a place: its first entry, and how many there are
  int entries_, count_;
  int64_t row_;
  bool leads_;
};

}  // namespace xrisk::cuda
