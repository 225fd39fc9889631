// Selection by weight in one block: the first entries in the order of their keys, from the highest,
// as many as a given weight is.
//
// The threshold is found two bits at a time: each step takes three sums over the entries, reduced
// together. Bytes: the keys once a step, from the caches. No atomics: one result, whatever the
// order.
#pragma once

#include "core/sort_key.h"
#include "cuda/block.h"

namespace xrisk::cuda {

// x + 0: -0 and 0 are one score.
__device__ __forceinline__ uint32_t order_key(float x) { return sort_key(x + 0.0f); }
__device__ __forceinline__ uint64_t order_key(double x) { return sort_key(x + 0.0); }

// The sums over the block's threads, the same in all of them.
template <int kThreads, int kSums>
__device__ __forceinline__ void block_sums(double (&sums)[kSums]) {
  constexpr int kWarps = kThreads / 32;
  XRISK_SHARED(double, partial, [kSums * kWarps]);
  const int lane = lane_index();
  for (double& sum : sums) sum = warp_sum(sum);
  __syncthreads();  // an earlier call may still be reading
  for (int k = 0; k < kSums; ++k) {
    if (lane == k) partial[k * kWarps + warp_index()] = sums[k];
  }
  __syncthreads();
  for (int k = 0; k < kSums; ++k) {
    sums[k] = warp_sum(lane < kWarps ? partial[k * kWarps + lane] : 0.0);
  }
}

// weights[k] becomes what is taken of it; of a tie the first comes first. `sign` -1: the lowest
// scores first. Entries of weight 0 have no part. Returns the weight taken in all.
template <int kThreads, class T>
__device__ double take_first(const T* scores, T* weights, int64_t count, T sign, double total,
                             double amount) {
  if (!(amount < total)) return total;
  const int t = static_cast<int>(threadIdx.x);
  using Key = decltype(order_key(T(0)));
  const auto key_of = [&](int64_t k) { return order_key(sign * scores[k]); };
  Key threshold = 0;
  for (int bit = 8 * static_cast<int>(sizeof(Key)) - 2; bit >= 0; bit -= 2) {
    double sums[3] = {};
    for (int64_t k = t; k < count; k += kThreads) {
      const T weight = weights[k];
      if (!(weight > T(0))) continue;
      const Key key = key_of(k);
#pragma unroll
      for (int digit = 1; digit <= 3; ++digit) {
        if (key >= (threshold | (Key(digit) << bit)))
          sums[digit - 1] += static_cast<double>(weight);
      }
    }
    block_sums<kThreads>(sums);
    int digit = 0;  // the largest that leaves enough
    for (int k = 0; k < 3; ++k) digit += sums[k] >= amount ? 1 : 0;
    threshold |= Key(digit) << bit;
  }
  // Each thread's ties are neighbours, so that one scan says what is taken before them.
  const int64_t chunk = (count + kThreads - 1) / kThreads;
  const int64_t first = t * chunk, end = first + chunk < count ? first + chunk : count;
  double above[1] = {}, ties = 0.0;
  for (int64_t k = first; k < end; ++k) {
    const Key key = key_of(k);
    if (key > threshold && weights[k] > T(0)) above[0] += static_cast<double>(weights[k]);
    if (key == threshold) ties += static_cast<double>(weights[k]);
  }
  block_sums<kThreads>(above);
  double earlier, all_ties;
  block_scan<kThreads>(ties, 0.0, Sum(), earlier, all_ties);
  double rest = amount - above[0] - earlier;
  for (int64_t k = first; k < end; ++k) {
    const Key key = key_of(k);
    if (key < threshold) weights[k] = T(0);
    if (key != threshold) continue;
    const double most = static_cast<double>(weights[k]);
    weights[k] = static_cast<T>(rest <= 0.0 ? 0.0 : rest < most ? rest : most);
    rest -= most;
  }
  __syncthreads();  // the weights are there
  return amount;
}

}  // namespace xrisk::cuda
