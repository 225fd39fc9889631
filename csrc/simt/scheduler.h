// Runs the threads of one block: who is next, barriers, warp-level gatherings, deadlock, errors.
#pragma once

#include "simt/machine.h"

namespace xrisk::simt {

// Stops the launch with an Error. In a thread: it never goes on, and the scheduler throws.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(Location at, const char* format, ...);

// Lets another thread go first; this one stays ready.
void yield();

// __syncthreads
BarrierResult block_barrier(bool predicate, Location at);

// A lane deposits its bytes; returns when every lane that the mask names has. Lanes that have
// returned count as arrived.
Gathering& gather(WarpOp op, unsigned mask, const void* value, size_t bytes, Location at);

// What a warp-level operation is made of: gathers, and goes on with use(values, lanes that took
// part).
template <class F>
auto warp_operation(WarpOp op, unsigned mask, const void* value, size_t bytes, Location at,
                    F&& use) {
  Quiet quiet;
  struct Leave {
    Gathering& gathering;
    ~Leave() { --gathering.readers; }
  } leave{gather(op, mask, value, bytes, at)};
  return use(leave.gathering.values, leave.gathering.arrived);
}

// The memory of a block's static shared variable, made when the first thread comes to it.
void* shared_variable(const void* key, size_t bytes);

}  // namespace xrisk::simt
