// In which order threads and blocks run. A correct kernel gives the same under every schedule.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "simt/machine.h"

namespace xrisk::simt {

inline void set_schedule(Order order, uint64_t seed = 1) {
  machine.order = order;
  machine.seed = (seed * 0x9E3779B97F4A7C15ull) | 1;
}

// XRISK_SIMT_SCHEDULE=sequential|reverse|<seed>, unless the program has chosen.
inline void default_schedule() {
  if (machine.order != Order::kUnset) return;
  const char* choice = getenv("XRISK_SIMT_SCHEDULE");
  if (choice == nullptr || strcmp(choice, "sequential") == 0) {
    set_schedule(Order::kSequential);
  } else if (strcmp(choice, "reverse") == 0) {
    set_schedule(Order::kReverse);
  } else {
    set_schedule(Order::kRandom, strtoull(choice, nullptr, 10));
  }
}

// What the race detector and the sanitizers find hardly depends on the schedule, and they are slow.
// The sequential one is left out: what only its order would show, the race detector sees under any.
#if defined(XRISK_SIMT_RACE) || defined(__SANITIZE_ADDRESS__)
constexpr int kRandomSchedules = 1;
constexpr bool kWithSequential = false;
#else
constexpr int kRandomSchedules = 4;
constexpr bool kWithSequential = true;
#endif

// Calls f() under the sequential, the reverse and some random schedules.
template <class F>
void for_each_schedule(F&& f, int random_schedules = kRandomSchedules) {
  const Order order = machine.order;
  const uint64_t seed = machine.seed;
  if (kWithSequential) {
    set_schedule(Order::kSequential);
    f();
  }
  set_schedule(Order::kReverse);
  f();
  for (int k = 1; k <= random_schedules; ++k) {
    set_schedule(Order::kRandom, static_cast<uint64_t>(k));
    f();
  }
  machine.order = order;
  machine.seed = seed;
}

inline uint64_t next_random() {
  uint64_t& state = machine.random_state;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

}  // namespace xrisk::simt
