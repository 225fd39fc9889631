// The pretended GPU's own code: compiled once, optimized, and in no build instrumented.
#include "simt/scheduler.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "simt/launch.h"
#include "simt/schedule.h"

namespace xrisk::simt {

namespace {

const char* name_of(WarpOp op) {
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
void suspend() {
  Thread& me = *machine.current;
  const unsigned quiet = machine.quiet;
  leave_fiber(me.fiber, me.status == Status::kDone);
  machine.quiet = quiet;
}

}  // namespace

[[noreturn]] void fail(Location at, const char* format, ...) {
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

namespace {

void wake(Thread& thread) {
  thread.status = Status::kReady;
  machine.ready.push_back(thread.index);
  machine.idle = 0;
}

}  // namespace

void yield() {
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

namespace {

// Opens the barrier if the last thread that lives has arrived, or has just returned.
void check_barrier() {
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

}  // namespace

BarrierResult block_barrier(bool predicate, Location at) {
  Quiet quiet;
  Barrier& barrier = machine.barrier;
  if (barrier.arrived == 0) {
    barrier.at = at;
  } else if (barrier.at.line != at.line ||
             (barrier.at.file != at.file && strcmp(barrier.at.file, at.file) != 0)) {
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

// -------------------------------------------------------------------------- warp-level operations

namespace {

// Completes a gathering once every living lane of its mask is there.
void check_gathering(unsigned warp, Gathering& gathering) {
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

Gathering& find_gathering(Warp& warp, WarpOp op, unsigned mask, unsigned lane) {
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

}  // namespace

Gathering& gather(WarpOp op, unsigned mask, const void* value, size_t bytes, Location at) {
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
  return gathering;
}

// ------------------------------------------------------------------------------------- one block

namespace {

[[noreturn]] void fail_stuck(const char* why) {
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
void thread_main() {
  begin_fiber();
  machine.quiet = 0;
  try {
    machine.body.run(machine.body.call);
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

Thread& next_thread() {
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

void begin_block() {
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

void run_block() {
  begin_block();
  struct Release {
    ~Release() {
      for (Thread& thread : machine.threads) release_fiber(thread.fiber);
    }
  } release;
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

// ------------------------------------------------------------------------------------ one launch

constexpr size_t kDefaultSharedBytes = 48 * 1024;

void check_configuration(const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes) {
  const Location at{machine.site.file, machine.site.line};
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool block_fits = threads > 0 && threads <= 1024 && block.z <= 64;
  const bool grid_fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7FFFFFFFu &&
                         grid.y <= 0xFFFFu && grid.z <= 0xFFFFu;
  if (!block_fits || !grid_fits) {
    fail(at, "invalid configuration: grid %u,%u,%u block %u,%u,%u", grid.x, grid.y, grid.z, block.x,
         block.y, block.z);
  }
  const auto limit = machine.dynamic_limit.find(kernel);
  const size_t most = limit == machine.dynamic_limit.end() ? kDefaultSharedBytes : limit->second;
  if (dynamic_bytes > most) {
    fail(at, "%zu bytes of dynamic shared memory; cudaFuncSetAttribute allows %zu", dynamic_bytes,
         most);
  }
}

// Which block comes k-th. Random: an affine permutation, so that no list of blocks is needed.
uint64_t block_at(uint64_t k, uint64_t blocks) {
  if (machine.order == Order::kSequential) return k;
  if (machine.order == Order::kReverse) return blocks - 1 - k;
  uint64_t stride = (blocks / 2) | 1;
  while (std::gcd(stride, blocks) != 1) stride += 2;
  const auto wide = static_cast<unsigned __int128>(k) * stride + machine.seed % blocks;
  return static_cast<uint64_t>(wide % blocks);
}

}  // namespace

void run_grid(LaunchSite site, const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
              Body body) {
  machine.site = site;
  machine.error.clear();
  machine.exception = nullptr;
  machine.current = nullptr;
  blockIdx = {};
  check_configuration(kernel, grid, block, dynamic_bytes);
  default_schedule();
  machine.random_state = machine.seed;
  machine.body = body;
  machine.block_size = block.x * block.y * block.z;
  machine.stacks.reserve(machine.block_size);
  machine.threads.assign(machine.block_size, {});
  machine.warps.resize((machine.block_size + 31) / 32);
  machine.static_shared.clear();
  machine.static_shared_bytes = 0;
  machine.dynamic_shared = Poisoned(dynamic_bytes);
  blockDim = block;
  gridDim = grid;
  if (machine.hooks.launch != nullptr) machine.hooks.launch();
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t k = 0; k < blocks; ++k) {
    const uint64_t b = block_at(k, blocks);
    machine.block_number = b;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    run_block();
  }
  if (machine.hooks.finish != nullptr) machine.hooks.finish();
}

void* shared_variable(const void* key, size_t bytes) {
  constexpr size_t kMostBytes = 48 * 1024;
  Quiet quiet;
  for (StaticShared& shared : machine.static_shared) {
    if (shared.key == key) return shared.memory.data();
  }
  machine.static_shared_bytes += bytes;
  if (machine.static_shared_bytes > kMostBytes) {
    fail({machine.site.file, machine.site.line}, "more than %zu bytes of static shared memory",
         kMostBytes);
  }
  machine.static_shared.push_back({key, Poisoned(bytes)});
  return machine.static_shared.back().memory.data();
}

}  // namespace xrisk::simt
