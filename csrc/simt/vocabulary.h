// Synchronisation, votes and shuffles as CUDA spells them. The default arguments note the caller.
#pragma once

#include <array>
#include <cstring>
#include <type_traits>

#include "simt/scheduler.h"

#define XRISK_SIMT_CALLER ::xrisk::simt::Location at = {__builtin_FILE(), __builtin_LINE()}

namespace xrisk::simt {

// The value of lane `source`, or the own one where the shuffle's segment ends before it.
template <class T>
T shuffle(unsigned mask, T value, int source, bool own, Location at) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "not a type that __shfl_sync takes");
  return warp_operation(
      WarpOp::kShuffle, mask, &value, sizeof(value), at, [&](auto& values, unsigned lanes) {
        if (own) return value;
        if (!(lanes >> source & 1)) {
          fail(at, "shuffle reads lane %d, which takes no part (mask %08x)", source, mask);
        }
        T other;
        memcpy(&other, values[source], sizeof(other));
        return other;
      });
}

inline unsigned vote(unsigned mask, bool predicate, Location at) {
  return warp_operation(WarpOp::kVote, mask, &predicate, 1, at, [](auto& values, unsigned lanes) {
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if ((lanes >> lane & 1) && values[lane][0]) ballot |= 1u << lane;
    }
    return ballot;
  });
}

template <class T, class F>
T reduce(unsigned mask, T value, Location at, F combine) {
  return warp_operation(WarpOp::kReduce, mask, &value, sizeof(value), at,
                        [&](auto& values, unsigned lanes) {
                          T result{};
                          bool first = true;
                          for (unsigned lane = 0; lane < 32; ++lane) {
                            if (!(lanes >> lane & 1)) continue;
                            T other;
                            memcpy(&other, values[lane], sizeof(other));
                            result = first ? other : combine(result, other);
                            first = false;
                          }
                          return result;
                        });
}

// What every lane of the whole warp holds, in the order of the lanes: for operations on matrices.
template <class T>
std::array<T, 32> gather_warp(const T& value, Location at) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(Gathering::values[0]));
  return warp_operation(WarpOp::kMatrix, ~0u, &value, sizeof(value), at,
                        [&](auto& values, unsigned lanes) {
                          if (lanes != ~0u) fail(at, "matrix operation of lanes %08x alone", lanes);
                          std::array<T, 32> all;
                          for (int lane = 0; lane < 32; ++lane) {
                            memcpy(&all[lane], values[lane], sizeof(T));
                          }
                          return all;
                        });
}

inline int current_lane() { return static_cast<int>(machine.current->lane); }

}  // namespace xrisk::simt

// ----------------------------------------------------------------------------------- barriers

inline void __syncthreads(XRISK_SIMT_CALLER) { xrisk::simt::block_barrier(false, at); }
inline int __syncthreads_count(int predicate, XRISK_SIMT_CALLER) {
  return xrisk::simt::block_barrier(predicate != 0, at).count;
}
inline int __syncthreads_and(int predicate, XRISK_SIMT_CALLER) {
  return xrisk::simt::block_barrier(predicate != 0, at).all;
}
inline int __syncthreads_or(int predicate, XRISK_SIMT_CALLER) {
  return xrisk::simt::block_barrier(predicate != 0, at).any;
}
inline void __syncwarp(unsigned mask = ~0u, XRISK_SIMT_CALLER) {
  xrisk::simt::warp_operation(xrisk::simt::WarpOp::kSync, mask, nullptr, 0, at,
                              [](auto&, unsigned) {});
}

// Blocks run one after the other, so a fence orders nothing here; the race detector wants it.
inline void __threadfence() {
  xrisk::simt::Quiet quiet;
  if (xrisk::simt::machine.hooks.fence != nullptr) xrisk::simt::machine.hooks.fence();
}
inline void __threadfence_block() {}

// -------------------------------------------------------------------------------------- votes

inline unsigned __ballot_sync(unsigned mask, int predicate, XRISK_SIMT_CALLER) {
  return xrisk::simt::vote(mask, predicate != 0, at);
}
inline int __any_sync(unsigned mask, int predicate, XRISK_SIMT_CALLER) {
  return xrisk::simt::vote(mask, predicate != 0, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate, XRISK_SIMT_CALLER) {
  return xrisk::simt::vote(mask, predicate == 0, at) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, XRISK_SIMT_CALLER) {
  return xrisk::simt::warp_operation(
      xrisk::simt::WarpOp::kMatch, mask, &value, sizeof(value), at,
      [&](auto& values, unsigned lanes) {
        unsigned same = 0;
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((lanes >> lane & 1) && memcmp(values[lane], &value, sizeof(value)) == 0) {
            same |= 1u << lane;
          }
        }
        return same;
      });
}

// ----------------------------------------------------------------------------------- shuffles

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, XRISK_SIMT_CALLER) {
  const int segment = xrisk::simt::current_lane() & ~(width - 1);
  return xrisk::simt::shuffle(mask, value, segment | (source & (width - 1)), false, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, XRISK_SIMT_CALLER) {
  const int lane = xrisk::simt::current_lane(), source = lane - static_cast<int>(delta);
  return xrisk::simt::shuffle(mask, value, source, source < (lane & ~(width - 1)), at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, XRISK_SIMT_CALLER) {
  const int lane = xrisk::simt::current_lane(), source = lane + static_cast<int>(delta);
  return xrisk::simt::shuffle(mask, value, source, source > (lane | (width - 1)), at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, XRISK_SIMT_CALLER) {
  const int lane = xrisk::simt::current_lane(), source = lane ^ bits;
  return xrisk::simt::shuffle(mask, value, source, source > (lane | (width - 1)), at);
}

// --------------------------------------------------------------- reductions (sm_80: integers only)

#define XRISK_SIMT_REDUCE(T, name, expression)                                             \
  inline T name(unsigned mask, T value, XRISK_SIMT_CALLER) {                               \
    return xrisk::simt::reduce(mask, value, at, [](T a, T b) -> T { return expression; }); \
  }
XRISK_SIMT_REDUCE(unsigned, __reduce_add_sync, a + b)
XRISK_SIMT_REDUCE(int, __reduce_add_sync,
                  static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
XRISK_SIMT_REDUCE(unsigned, __reduce_min_sync, a < b ? a : b)
XRISK_SIMT_REDUCE(int, __reduce_min_sync, a < b ? a : b)
XRISK_SIMT_REDUCE(unsigned, __reduce_max_sync, a > b ? a : b)
XRISK_SIMT_REDUCE(int, __reduce_max_sync, a > b ? a : b)
XRISK_SIMT_REDUCE(unsigned, __reduce_and_sync, a& b)
XRISK_SIMT_REDUCE(unsigned, __reduce_or_sync, a | b)
XRISK_SIMT_REDUCE(unsigned, __reduce_xor_sync, a ^ b)
#undef XRISK_SIMT_REDUCE
