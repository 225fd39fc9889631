// A happens-before race detector for kernels: the race build's, and nobody else's.
//
// Kernels are compiled with g++'s -fsanitize=thread and linked without its runtime: the compiler
// then calls the __tsan_* functions below on every memory access. Two accesses of which one writes,
// not both atomic, are a race unless one of these lies between them:
//   - they are the same thread's;
//   - same block: a __syncthreads, or within a warp a __syncwarp that both joined;
//   - two blocks: one thread of the first passed a __syncthreads, a __threadfence and an atomic,
//   one
//     of the second an atomic on the same address, a __threadfence and a __syncthreads. That is
//     last_block_done of cuda/block.h; leave out a fence or a barrier there and it is a race.
// Shuffles and votes order no memory. Reading shared memory that nobody wrote is reported as well.
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "simt/scheduler.h"

namespace xrisk::simt {
namespace {

struct Access {
  uint32_t thread_plus_1;  // 0: there was none
  uint32_t clock, phase;   // of the thread within its warp, of the block
  bool atomic;
  uint64_t block;
  void* pc;
};

// What happened to a byte: the last write, and the last reads by two threads.
struct History {
  Access write;
  Access read[2];
};

// Four neighbouring bytes: of one history until something touches but a part of them.
struct Cell {
  History whole;
  std::unique_ptr<std::array<History, 4>> bytes;
};

// By block: the phases (counted by its barriers) before which everything it did is known.
using Knowledge = std::unordered_map<uint64_t, uint32_t>;

constexpr size_t kMostReports = 8;

// The cells of what was touched, 256 bytes at a time, and which of them were used last.
using Page = std::array<Cell, 64>;
struct PageAt {
  uintptr_t number;
  Page* page;
};
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
std::array<PageAt, 64> recent;

std::unordered_set<uint64_t> reported;
std::vector<std::string> reports;

// the running block
uint32_t phase;
std::vector<std::array<uint32_t, 32>> clocks;  // vector clocks, each over the thread's own warp
std::vector<uint32_t> fenced;                  // by thread: the phase of its last fence
std::vector<Knowledge> pending;                // by thread: learnt at an atomic, no fence since
std::vector<Knowledge> known_to_thread;
Knowledge known_to_block;
// by address of the atomic
std::unordered_map<uintptr_t, Knowledge> released;

Cell& cell_at(uintptr_t p) {
  const uintptr_t number = p / 256;
  PageAt& at = recent[number % recent.size()];
  if (at.page == nullptr || at.number != number) {
    std::unique_ptr<Page>& page = pages[number];
    if (page == nullptr) page = std::make_unique<Page>();
    at = {number, page.get()};
  }
  return (*at.page)[p % 256 / 4];
}

void merge(Knowledge& into, const Knowledge& from) {
  for (const auto& [block, known] : from) into[block] = std::max(into[block], known);
}

bool knows(const Knowledge& knowledge, const Access& access) {
  const auto found = knowledge.find(access.block);
  return found != knowledge.end() && access.phase < found->second;
}

bool ordered(const Access& earlier) {
  const Thread& me = *machine.current;
  if (earlier.thread_plus_1 == 0) return true;
  if (earlier.block != machine.block_number) {
    return knows(known_to_block, earlier) || knows(known_to_thread[me.index], earlier);
  }
  const uint32_t other = earlier.thread_plus_1 - 1;
  if (other == me.index || earlier.phase < phase) return true;
  return other / 32 == me.index / 32 && clocks[me.index][other % 32] >= earlier.clock;
}

// file:line of an instruction, by binutils' addr2line if it is there.
std::string source_of(void* pc) {
  Dl_info library{};
  if (pc == nullptr || dladdr(pc, &library) == 0) return "?";
  char command[512], line[512] = "";
  const auto offset = static_cast<char*>(pc) - 1 - static_cast<char*>(library.dli_fbase);
  snprintf(command, sizeof(command), "addr2line -Cse '%s' %#lx 2>/dev/null", library.dli_fname,
           static_cast<unsigned long>(offset));
  if (FILE* output = popen(command, "r")) {
    if (fgets(line, sizeof(line), output) == nullptr) line[0] = '\0';
    pclose(output);
  }
  line[strcspn(line, " \n")] = '\0';  // " (discriminator 1)"
  return line[0] != '\0' ? line : "?";
}

bool is_new(void* earlier, void* now) {
  const auto pair = reinterpret_cast<uintptr_t>(earlier) * 31 + reinterpret_cast<uintptr_t>(now);
  return reported.insert(pair).second && reports.size() < kMostReports;
}

std::string describe(bool write, uint64_t block, uint32_t thread, void* pc) {
  return std::string(write ? "write" : "read") + " by block " + std::to_string(block) +
         ", thread " + std::to_string(thread) + " at " + source_of(pc);
}

void report_race(const Access& earlier, bool earlier_writes, bool writes, void* pc) {
  if (!is_new(earlier.pc, pc)) return;
  reports.push_back(
      "race: " + describe(earlier_writes, earlier.block, earlier.thread_plus_1 - 1, earlier.pc) +
      "; " + describe(writes, machine.block_number, machine.current->index, pc));
}

template <class T>
bool lies_in(const void* p, const T& object) {
  const auto* begin = reinterpret_cast<const char*>(&object);
  return p >= begin && p < begin + sizeof(T);
}

bool is_shared(const char* p) {
  const auto in = [p](const Poisoned& memory) {
    return p >= memory.data() && p < memory.data() + memory.size();
  };
  for (const StaticShared& shared : machine.static_shared) {
    if (in(shared.memory)) return true;
  }
  return in(machine.dynamic_shared);
}

// The thread's own stack, and what the shim itself keeps.
bool is_private(const void* p) {
  const char* stack = machine.current->fiber.stack;
  return (p >= stack && p < stack + kStackBytes) || lies_in(p, threadIdx) || lies_in(p, blockIdx) ||
         lies_in(p, blockDim) || lies_in(p, gridDim) || lies_in(p, machine) || lies_in(p, home);
}

// Release and acquire by an atomic on p.
void pass_knowledge(uintptr_t p) {
  const uint32_t me = machine.current->index;
  Knowledge& here = released[p];
  merge(pending[me], here);
  if (fenced[me] == 0) return;
  here[machine.block_number] = std::max(here[machine.block_number], fenced[me]);
  merge(here, known_to_block);
  merge(here, known_to_thread[me]);
}

// Compares an access with what was before it, and notes it. False if nothing was ever written
// there.
bool visit(History& before, const Access& me, bool write) {
  const bool written = before.write.thread_plus_1 != 0;
  if (!(before.write.atomic && me.atomic) && !ordered(before.write)) {
    report_race(before.write, true, write, me.pc);
  }
  if (write) {
    for (const Access& read : before.read) {
      if (!(read.atomic && me.atomic) && !ordered(read)) report_race(read, false, true, me.pc);
    }
    before.write = me;
  }
  if (!write || me.atomic) {
    if (before.read[0].thread_plus_1 != me.thread_plus_1) before.read[1] = before.read[0];
    before.read[0] = me;
  }
  return written;
}

void on_access(const void* pointer, size_t bytes, bool write, bool atomic, void* pc) {
  if (machine.current == nullptr || is_private(pointer)) return;
  const auto begin = reinterpret_cast<uintptr_t>(pointer), end = begin + bytes;
  const Thread& thread = *machine.current;
  const Access me{
      thread.index + 1, clocks[thread.index][thread.lane], phase, atomic, machine.block_number, pc};
  bool anything_written = false;
  for (uintptr_t p = begin & ~uintptr_t{3}; p < end; p += 4) {
    Cell& cell = cell_at(p);
    if (cell.bytes == nullptr && p >= begin && p + 4 <= end) {
      anything_written |= visit(cell.whole, me, write);
      continue;
    }
    if (cell.bytes == nullptr) {
      cell.bytes = std::make_unique<std::array<History, 4>>();
      cell.bytes->fill(cell.whole);
    }
    for (uintptr_t q = std::max(p, begin); q < std::min(p + 4, end); ++q) {
      anything_written |= visit((*cell.bytes)[q - p], me, write);
    }
  }
  const bool reads_memory = !write || atomic;
  if (reads_memory && !anything_written && is_shared(static_cast<const char*>(pointer)) &&
      is_new(nullptr, pc)) {
    reports.push_back("uninitialised shared memory: " +
                      describe(false, machine.block_number, thread.index, pc));
  }
  if (atomic) pass_knowledge(begin);
}

void on_launch() {
  pages.clear();
  recent = {};
  released.clear();
  reported.clear();
  reports.clear();
}

void on_finish() {
  if (reports.empty()) return;
  std::string all = std::string(machine.site.file) + ":" + std::to_string(machine.site.line) +
                    ": kernel " + machine.site.kernel;
  for (const std::string& text : reports) all += ": " + text;
  throw Error(all);
}

void forget(const Poisoned& memory) {
  const auto begin = reinterpret_cast<uintptr_t>(memory.data());
  for (uintptr_t p = begin & ~uintptr_t{3}; p < begin + memory.size(); p += 4) cell_at(p) = Cell{};
}

void on_block() {
  phase = 1;
  clocks.assign(machine.block_size, {});
  for (unsigned i = 0; i < machine.block_size; ++i) clocks[i][i % 32] = 1;
  fenced.assign(machine.block_size, 0);
  pending.assign(machine.block_size, {});
  known_to_thread.assign(machine.block_size, {});
  known_to_block.clear();
  for (const StaticShared& shared : machine.static_shared) forget(shared.memory);
  forget(machine.dynamic_shared);
}

void on_barrier() {
  ++phase;
  for (const Knowledge& knowledge : known_to_thread) merge(known_to_block, knowledge);
}

void on_warp(unsigned warp, unsigned lanes) {
  std::array<uint32_t, 32> joined{};
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    const auto& clock = clocks[warp * 32 + lane];
    for (unsigned k = 0; k < 32; ++k) joined[k] = std::max(joined[k], clock[k]);
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    clocks[warp * 32 + lane] = joined;
    ++clocks[warp * 32 + lane][lane];
  }
}

void on_fence() {
  const uint32_t me = machine.current->index;
  fenced[me] = phase;
  merge(known_to_thread[me], pending[me]);
  pending[me].clear();
}

[[maybe_unused]] const bool installed = [] {
  machine.hooks = {on_launch, on_finish, on_block, on_barrier, on_warp, on_access, on_fence};
  return true;
}();

void compiled_access(void* p, size_t bytes, bool write, void* pc) {
  if (machine.current == nullptr || machine.quiet > 0) return;
  Quiet quiet;
  on_access(p, bytes, write, false, pc);
}

}  // namespace
}  // namespace xrisk::simt

// ------------------------------------------------------- what g++ -fsanitize=thread makes code
// call

#define XRISK_ACCESS(name, bytes, write) \
  void name(void* p) { xrisk::simt::compiled_access(p, bytes, write, __builtin_return_address(0)); }
#define XRISK_ACCESSES(bytes)                              \
  XRISK_ACCESS(__tsan_read##bytes, bytes, false)           \
  XRISK_ACCESS(__tsan_write##bytes, bytes, true)           \
  XRISK_ACCESS(__tsan_unaligned_read##bytes, bytes, false) \
  XRISK_ACCESS(__tsan_unaligned_write##bytes, bytes, true) \
  XRISK_ACCESS(__tsan_volatile_read##bytes, bytes, false)  \
  XRISK_ACCESS(__tsan_volatile_write##bytes, bytes, true)

extern "C" {
XRISK_ACCESSES(1)
XRISK_ACCESSES(2)
XRISK_ACCESSES(4)
XRISK_ACCESSES(8)
XRISK_ACCESSES(16)
void __tsan_read_range(void* p, size_t bytes) {
  xrisk::simt::compiled_access(p, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t bytes) {
  xrisk::simt::compiled_access(p, bytes, true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
// std::shared_ptr and the guards of static variables, in the tests' own code
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_load(const volatile int* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_fetch_add(volatile int* p, int value, int) {
  return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_fetch_sub(volatile int* p, int value, int) {
  return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);
}
}  // extern "C"
