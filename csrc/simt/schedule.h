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

struct Schedules {
  bool sequential, reverse;
  int random;
};
constexpr Schedules kEverySchedule{true, true, 4};

// What the race detector and the sanitizers find hardly depends on the schedule, and they are slow:
// one each, and not the same.
#if defined(XRISK_SIMT_RACE)
constexpr Schedules kSchedules{false, false, 1};
#elif XRISK_SIMT_ASAN
constexpr Schedules kSchedules{false, true, 0};
#else
constexpr Schedules kSchedules = kEverySchedule;
#endif

// Calls f() under each of the schedules.
template <class F>
void for_each_schedule(F&& f, Schedules schedules = kSchedules) {
  const Order order = machine.order;
  const uint64_t seed = machine.seed;
  const auto run = [&](Order which, int k) {
    set_schedule(which, static_cast<uint64_t>(k));
    f();
  };
  if (schedules.sequential) run(Order::kSequential, 1);
  if (schedules.reverse) run(Order::kReverse, 1);
  for (int k = 1; k <= schedules.random; ++k) run(Order::kRandom, k);
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
