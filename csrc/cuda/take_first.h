// Selection by weight in one block: the first entries in the order of their keys, from the highest,
// as many as a given weight is.
//
// The threshold is found bit by bit: each of the key's 32 or 64 bits takes one sum over the
// entries. Bytes: the keys once a bit, from the caches. No atomics: one result, whatever the order.
#pragma once

#include "core/sort_key.h"
#include "cuda/block.h"

namespace xrisk::cuda {

// x + 0: -0 and 0 are one score.
__device__ __forceinline__ uint32_t order_key(float x) { return sort_key(x + 0.0f); }
__device__ __forceinline__ uint64_t order_key(double x) { return sort_key(x + 0.0); }

// weights[k] becomes what is taken of it; of a tie the first comes first. `sign` -1: the lowest
// scores first. Entries of weight 0 have no part. Returns the weight taken in all.
template <int kThreads, class T>
__device__ double take_first(const T* scores, T* weights, int64_t count, T sign, double total,
                             double amount) {
  if (!(amount < total)) return total;
  const int t = static_cast<int>(threadIdx.x);
  using Key = decltype(order_key(T(0)));
  const auto sum_of = [&](auto&& counts) {
    double sum = 0.0;
    for (int64_t k = t; k < count; k += kThreads) {
      if (weights[k] > T(0) && counts(order_key(sign * scores[k]))) {
        sum += static_cast<double>(weights[k]);
      }
    }
    return block_sum<kThreads>(sum);  // the same in all threads
  };
  Key threshold = 0;
  for (int bit = 8 * static_cast<int>(sizeof(Key)) - 1; bit >= 0; --bit) {
    const Key candidate = threshold | Key(Key(1) << bit);
    if (sum_of([&](Key key) { return key >= candidate; }) >= amount) threshold = candidate;
  }
  const double left = amount - sum_of([&](Key key) { return key > threshold; });
  double before = 0.0;  // of the ties
  for (int64_t first = 0; first < count; first += kThreads) {
    const int64_t k = first + t;
    const Key key = k < count ? order_key(sign * scores[k]) : 0;
    const bool tie = k < count && key == threshold;
    double earlier, sum;
    block_scan<kThreads>(tie ? static_cast<double>(weights[k]) : 0.0, 0.0, Sum(), earlier, sum);
    if (k < count && key < threshold) weights[k] = T(0);
    if (tie) {
      const double rest = left - before - earlier;
      const double most = static_cast<double>(weights[k]);
      weights[k] = static_cast<T>(rest <= 0.0 ? 0.0 : rest < most ? rest : most);
    }
    before += sum;
  }
  __syncthreads();  // the weights are there
  return amount;
}

}  // namespace xrisk::cuda
