// Runs the threads of one block: who is next, barriers, warp-level gatherings, deadlock, errors.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "simt/machine.h"
#include "simt/schedule.h"

namespace xrisk::simt {

inline const char* name_of(WarpOp op) {
  switch (op) {
    case WarpOp::kShuffle:
      return "shuffle";
    case WarpOp::kVote:
      return "vote";
    case WarpOp::kReduce:
      return "reduce";
    case WarpOp::kMatch:
      return "match";
    case WarpOp::kMatrix:
      return "matrix operation";
    case WarpOp::kSync:
      return "syncwarp";
  }
  return "?";
}

// Back to the scheduler, until the running thread is chosen again.
inline void suspend() {
  Thread& me = *machine.current;
  const unsigned quiet = machine.quiet;
  leave_fiber(me.fiber, me.status == Status::kDone);
  machine.quiet = quiet;
}

// Stops the launch with an Error. In a thread: it never goes on, and the scheduler throws.
[[noreturn]] __attribute__((format(printf, 2, 3))) inline void fail(Location at, const char* format,
                                                                    ...) {
  Quiet quiet;
  char what[2048], where[512], thread[32] = "";
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof(what), format, arguments);
  va_end(arguments);
  snprintf(where, sizeof(where), "%s:%d: kernel %s, block %u,%u,%u", at.file, at.line,
           machine.site.kernel, blockIdx.x, blockIdx.y, blockIdx.z);
  if (machine.current != nullptr) {
    snprintf(thread, sizeof(thread), ", thread %u", machine.current->index);
  }
  machine.error = std::string(where) + thread + ": " + what;
  if (machine.current == nullptr) throw Error(machine.error);
  machine.current->status = Status::kDone;
  suspend();
  std::abort();
}

inline void wake(Thread& thread) {
  thread.status = Status::kReady;
  machine.ready.push_back(thread.index);
  machine.idle = 0;
}

// Lets another thread go first; this one stays ready.
inline void yield() {
  Quiet quiet;
  const unsigned me = machine.current->index;
  // the reverse schedule takes from the back
  if (machine.order == Order::kReverse) {
    machine.ready.push_front(me);
  } else {
    machine.ready.push_back(me);
  }
  suspend();
}

// --------------------------------------------------------------------------------- __syncthreads

// Opens the barrier if the last thread that lives has arrived, or has just returned.
inline void check_barrier() {
  Barrier& barrier = machine.barrier;
  if (barrier.arrived == 0 || barrier.arrived < machine.alive) return;
  if (machine.alive < machine.block_size) {
    fail(barrier.at, "divergent __syncthreads: %u of %u threads have returned before it",
         machine.block_size - machine.alive, machine.block_size);
  }
  machine.barrier_result = {static_cast<int>(barrier.count), barrier.all, barrier.any};
  barrier = {0, 0, true, false, {}};
  if (machine.hooks.barrier != nullptr) machine.hooks.barrier();
  for (Thread& thread : machine.threads) wake(thread);
}

inline BarrierResult block_barrier(bool predicate, Location at) {
  Quiet quiet;
  Barrier& barrier = machine.barrier;
  if (barrier.arrived == 0) {
    barrier.at = at;
  } else if (barrier.at.line != at.line || strcmp(barrier.at.file, at.file) != 0) {
    fail(at, "divergent __syncthreads: other threads of the block wait at %s:%d", barrier.at.file,
         barrier.at.line);
  }
  machine.current->status = Status::kAtBarrier;
  machine.current->waits_at = at;
  ++barrier.arrived;
  barrier.count += predicate;
  barrier.all = barrier.all && predicate;
  barrier.any = barrier.any || predicate;
  check_barrier();
  suspend();
  return machine.barrier_result;
}

// ---------------------------------------------------------------------------- warp-level
// operations

// Completes a gathering once every living lane of its mask is there.
inline void check_gathering(unsigned warp, Gathering& gathering) {
  if (!gathering.open || gathering.arrived != (gathering.mask & machine.warps[warp].alive)) return;
  gathering.open = false;
  gathering.readers = static_cast<unsigned>(__builtin_popcount(gathering.arrived));
  if (gathering.op == WarpOp::kSync && machine.hooks.warp != nullptr) {
    machine.hooks.warp(warp, gathering.arrived);
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (gathering.arrived >> lane & 1) wake(machine.threads[warp * 32 + lane]);
  }
}

inline Gathering& find_gathering(Warp& warp, WarpOp op, unsigned mask, unsigned lane) {
  for (auto& g : warp.gatherings) {
    if (g->open && g->mask == mask && g->op == op && !(g->arrived >> lane & 1)) return *g;
  }
  Gathering* unused = nullptr;
  for (auto& g : warp.gatherings) {
    if (!g->open && g->readers == 0) unused = g.get();
  }
  if (unused == nullptr) {
    warp.gatherings.push_back(std::make_unique<Gathering>());
    unused = warp.gatherings.back().get();
  }
  unused->op = op;
  unused->open = true;
  unused->mask = mask;
  unused->arrived = 0;
  return *unused;
}

// Every lane that the mask names deposits its bytes; when the last has, each goes on with
// use(values, lanes that took part). Lanes that have returned count as arrived.
template <class F>
auto warp_operation(WarpOp op, unsigned mask, const void* value, size_t bytes, Location at,
                    F&& use) {
  Quiet quiet;
  Thread& me = *machine.current;
  const unsigned warp = me.index / 32;
  if (!(mask >> me.lane & 1)) {
    fail(at, "%s: the calling lane %u is not in the mask %08x", name_of(op), me.lane, mask);
  }
  Gathering& gathering = find_gathering(machine.warps[warp], op, mask, me.lane);
  gathering.arrived |= 1u << me.lane;
  if (bytes > 0) memcpy(gathering.values[me.lane], value, bytes);
  me.status = Status::kInWarp;
  me.gathering = &gathering;
  me.waits_at = at;
  check_gathering(warp, gathering);
  suspend();
  struct Leave {
    Gathering& gathering;
    ~Leave() { --gathering.readers; }
  } leave{gathering};
  return use(gathering.values, gathering.arrived);
}

// ------------------------------------------------------------------------------------- one block

[[noreturn]] inline void fail_stuck(const char* why) {
  constexpr int kMostShown = 6;
  std::string what = why;
  int shown = 0;
  for (const Thread& thread : machine.threads) {
    if (thread.status != Status::kAtBarrier && thread.status != Status::kInWarp) continue;
    if (++shown > kMostShown) {
      what += "; ...";
      break;
    }
    char text[384], in[96] = "__syncthreads";
    if (thread.status == Status::kInWarp) {
      snprintf(in, sizeof(in), "%s with mask %08x, of which %08x arrived",
               name_of(thread.gathering->op), thread.gathering->mask, thread.gathering->arrived);
    }
    snprintf(text, sizeof(text), "; thread %u waits in %s at %s:%d", thread.index, in,
             thread.waits_at.file, thread.waits_at.line);
    what += text;
  }
  fail({machine.site.file, machine.site.line}, "%s", what.c_str());
}

// What a fiber runs: the kernel, then the news that its thread has returned.
inline void thread_main() {
  begin_fiber();
  machine.quiet = 0;
  try {
    machine.body();
  } catch (...) {
    machine.exception = std::current_exception();
  }
  machine.quiet = 1;
  Thread& me = *machine.current;
  const unsigned warp = me.index / 32;
  me.status = Status::kDone;
  machine.idle = 0;
  --machine.alive;
  machine.warps[warp].alive &= ~(1u << me.lane);
  check_barrier();
  for (auto& gathering : machine.warps[warp].gatherings) check_gathering(warp, *gathering);
  suspend();
  std::abort();
}

inline Thread& next_thread() {
  constexpr uint64_t kMostIdle = 2000000;
  std::deque<unsigned>& ready = machine.ready;
  if (ready.empty()) fail_stuck("deadlock");
  if (++machine.idle > kMostIdle) fail_stuck("livelock: threads run, but none makes progress");
  if (machine.order == Order::kSequential) {
    const unsigned index = ready.front();
    ready.pop_front();
    return machine.threads[index];
  }
  if (machine.order == Order::kRandom) std::swap(ready[next_random() % ready.size()], ready.back());
  const unsigned index = ready.back();
  ready.pop_back();
  return machine.threads[index];
}

inline void begin_block() {
  machine.alive = machine.block_size;
  machine.barrier = {0, 0, true, false, {}};
  machine.ready.clear();
  machine.dynamic_shared.poison();
  for (StaticShared& shared : machine.static_shared) shared.memory.poison();
  for (unsigned w = 0; w < machine.warps.size(); ++w) {
    const unsigned lanes = machine.block_size - w * 32;
    machine.warps[w].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    for (auto& gathering : machine.warps[w].gatherings) {
      gathering->open = false;
      gathering->readers = 0;
    }
  }
  for (unsigned i = 0; i < machine.block_size; ++i) {
    Thread& thread = machine.threads[i];
    thread.index = i;
    thread.lane = i % 32;
    thread.coordinates = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    prepare_fiber(thread.fiber, machine.stacks.at(i), thread_main);
    wake(thread);
  }
  if (machine.hooks.block != nullptr) machine.hooks.block();
}

inline void run_block() {
  begin_block();
  while (machine.alive > 0) {
    Thread& thread = next_thread();
    machine.quiet = 1;
    machine.current = &thread;
    threadIdx = thread.coordinates;
    enter_fiber(thread.fiber);
    machine.current = nullptr;
    machine.quiet = 0;
    if (!machine.error.empty()) throw Error(machine.error);
    if (machine.exception) std::rethrow_exception(std::exchange(machine.exception, nullptr));
  }
}

}  // namespace xrisk::simt
