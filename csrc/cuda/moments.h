// Moments of weighted positions on a line about a reference that stands on one side of all of them:
// every distance is >= 0, so with weights of one sign nothing ever cancels.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/sort_key.h"
#include "cuda/platform.h"

#define XRISK_RETURN_IF_ERROR(call)           \
  do {                                        \
    const cudaError_t error_ = (call);        \
    if (error_ != cudaSuccess) return error_; \
  } while (false)

namespace xrisk::cuda {

// Of kernels whose threads do not talk to each other; the heavier ones would spill at 256.
constexpr int kPlainBlock = 256, kHeavyBlock = 128;

inline unsigned blocks_for(int64_t count, int block) {
  return static_cast<unsigned>((count + block - 1) / block);
}

// sum_j w_j |p_j - at|^k for k = 0, 1, 2. `at` is NaN where there is no position at all.
struct __align__(32) Moments {
  double at, m0, m1, m2;
};

__device__ __forceinline__ Moments no_moments() {
  return {__longlong_as_double(0x7FF8000000000000ll), 0.0, 0.0, 0.0};
}

__device__ __forceinline__ void add_entry(Moments& m, double weight, double distance) {
  if (weight == 0.0) return;  // whatever its score is
  m.m0 += weight;
  m.m1 += weight * distance;
  m.m2 += weight * distance * distance;
}

// Adds moments whose reference lies `distance` farther off.
__device__ __forceinline__ void add_shifted(Moments& m, const Moments& far, double distance) {
  if (distance != distance) distance = 0.0;  // no positions, or NaN among them: m0 to m2 tell
  m.m2 += far.m2 + distance * (2.0 * far.m1 + distance * far.m0);
  m.m1 += far.m1 + distance * far.m0;
  m.m0 += far.m0;
}

// Associative. The positions of `far` lie beyond those of `near`, on the same side of its
// reference.
__device__ __forceinline__ Moments join(Moments near, const Moments& far) {
  add_shifted(near, far, fabs(far.at - near.at));
  if (near.at != near.at) near.at = far.at;
  return near;
}

template <bool kAbove>
__device__ __forceinline__ Moments from_farther_lane(const Moments& m, int delta) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  if (kAbove) {
    return {__shfl_down_sync(kAll, m.at, delta), __shfl_down_sync(kAll, m.m0, delta),
            __shfl_down_sync(kAll, m.m1, delta), __shfl_down_sync(kAll, m.m2, delta)};
  }
  return {__shfl_up_sync(kAll, m.at, delta), __shfl_up_sync(kAll, m.m0, delta),
          __shfl_up_sync(kAll, m.m1, delta), __shfl_up_sync(kAll, m.m2, delta)};
}

// Positions ascend with the thread. The joined moments of all threads after this one (kAbove,
// references are lowest positions) or before it (references are highest positions).
template <int kBlock, bool kAbove>
__device__ __forceinline__ Moments join_beyond(const Moments& mine) {
  static_assert(kBlock % 32 == 0, "whole warps");
  constexpr int kWarps = kBlock / 32;
  XRISK_SHARED(Moments, of_warp, [kWarps]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Moments joined = mine;
  for (int delta = 1; delta < 32; delta *= 2) {
    const Moments other = from_farther_lane<kAbove>(joined, delta);
    if (kAbove ? lane + delta < 32 : lane >= delta) joined = join(joined, other);
  }
  Moments beyond = from_farther_lane<kAbove>(joined, 1);
  if (lane == (kAbove ? 31 : 0)) beyond = no_moments();
  __syncthreads();  // an earlier call may still be reading
  if (lane == (kAbove ? 0 : 31)) of_warp[warp] = joined;
  __syncthreads();
  if (kAbove) {
    for (int w = warp + 1; w < kWarps; ++w) beyond = join(beyond, of_warp[w]);
  } else {
    for (int w = warp - 1; w >= 0; --w) beyond = join(beyond, of_warp[w]);
  }
  return beyond;
}

template <class T>
using SortKey = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// Where a line of sorted entries is split: at score + offset, as if in exact arithmetic.
template <class T>
struct SplitPoint {
  SortKey<T> last_below;  // entries with keys up to this one lie below
  double position, lost;  // score + offset = position + lost

  // Exact where the two are close; never negative through rounding.
  __device__ __forceinline__ double distance_to_above(double p) const {
    return (p - position) - lost;
  }
  __device__ __forceinline__ double distance_to_below(double p) const {
    return (position - p) + lost;
  }
};

template <class T>
__device__ __forceinline__ SplitPoint<T> split_at(T score, double offset, bool ties_below) {
  const double x = static_cast<double>(score);
  const double sum = x + offset;
  const double added = sum - x;
  const double lost = (x - (sum - added)) + (offset - added);  // TwoSum
  const T nearest = static_cast<T>(sum);
  const double rest = (sum - static_cast<double>(nearest)) + lost;
  // An entry is in T, so it lies at or below the exact point where it lies at or below the point
  // rounded down to T. Adding 0 makes -0 a +0, as among the entries.
  const bool down = ties_below ? rest < 0.0 : rest <= 0.0;
  const auto key = sort_key(nearest + T(0));
  return {static_cast<SortKey<T>>(down ? key - 1 : key), sum, lost};
}

}  // namespace xrisk::cuda
