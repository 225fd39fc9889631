// Atomics: exactly CUDA's overloads, so that atomicMax(float*) fails here as it does under nvcc.
#pragma once

#include <type_traits>

#include "simt/schedule.h"
#include "simt/scheduler.h"

namespace xrisk::simt {

// Tells the race detector of an access that the compiler does not instrument.
inline void note_access(const void* p, size_t bytes, bool write, bool atomic, void* pc) {
  if (machine.current != nullptr && machine.hooks.access != nullptr) {
    machine.hooks.access(p, bytes, write, atomic, pc);
  }
}

// Under a random schedule any atomic may hand over to another thread first.
template <class T, class F>
__attribute__((noinline)) T atomic_update(T* p, F update) {
  Quiet quiet;
  note_access(p, sizeof(T), true, true, __builtin_return_address(0));
  if (machine.order == Order::kRandom && machine.current != nullptr && next_random() % 4 == 0) {
    yield();
  }
  const T old = *p;
  *p = update(old);
  return old;
}

// Integers wrap around, as the hardware's do.
template <class T>
T wrapping_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

template <class T>
T wrapping_subtract(T a, T b) {
  using U = std::make_unsigned_t<T>;
  return static_cast<T>(static_cast<U>(a) - static_cast<U>(b));
}

// A swap that fails lets others run, so that spinning on it ends.
template <class T>
T compare_and_swap(T* p, T expected, T value) {
  const T old = atomic_update(p, [=](T current) { return current == expected ? value : current; });
  if (old != expected && machine.current != nullptr) yield();
  return old;
}

}  // namespace xrisk::simt

#define XRISK_SIMT_ATOMIC(T, name, expression)                                    \
  inline T name(T* p, T value) {                                                  \
    return xrisk::simt::atomic_update(p, [=](T old) -> T { return expression; }); \
  }
#define XRISK_SIMT_ATOMIC_INTS(name, expression) \
  XRISK_SIMT_ATOMIC(int, name, expression)       \
  XRISK_SIMT_ATOMIC(unsigned, name, expression)  \
  XRISK_SIMT_ATOMIC(unsigned long long, name, expression)
#define XRISK_SIMT_ATOMIC_CAS(T)                              \
  inline T atomicCAS(T* p, T expected, T value) {             \
    return xrisk::simt::compare_and_swap(p, expected, value); \
  }

XRISK_SIMT_ATOMIC_INTS(atomicAdd, xrisk::simt::wrapping_add(old, value))
XRISK_SIMT_ATOMIC(float, atomicAdd, old + value)
XRISK_SIMT_ATOMIC(double, atomicAdd, old + value)
XRISK_SIMT_ATOMIC(int, atomicSub, xrisk::simt::wrapping_subtract(old, value))
XRISK_SIMT_ATOMIC(unsigned, atomicSub, old - value)
XRISK_SIMT_ATOMIC_INTS(atomicMin, old < value ? old : value)
XRISK_SIMT_ATOMIC(long long, atomicMin, old < value ? old : value)
XRISK_SIMT_ATOMIC_INTS(atomicMax, old > value ? old : value)
XRISK_SIMT_ATOMIC(long long, atomicMax, old > value ? old : value)
XRISK_SIMT_ATOMIC_INTS(atomicExch, (static_cast<void>(old), value))
XRISK_SIMT_ATOMIC(float, atomicExch, (static_cast<void>(old), value))
XRISK_SIMT_ATOMIC_INTS(atomicAnd, old& value)
XRISK_SIMT_ATOMIC_INTS(atomicOr, old | value)
XRISK_SIMT_ATOMIC_INTS(atomicXor, old ^ value)
XRISK_SIMT_ATOMIC(unsigned, atomicInc, old >= value ? 0 : old + 1)
XRISK_SIMT_ATOMIC(unsigned, atomicDec, old == 0 || old > value ? value : old - 1)
XRISK_SIMT_ATOMIC_CAS(int)
XRISK_SIMT_ATOMIC_CAS(unsigned)
XRISK_SIMT_ATOMIC_CAS(unsigned long long)
XRISK_SIMT_ATOMIC_CAS(unsigned short)

#undef XRISK_SIMT_ATOMIC
#undef XRISK_SIMT_ATOMIC_INTS
#undef XRISK_SIMT_ATOMIC_CAS
