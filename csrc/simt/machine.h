// The state of the pretended GPU: the running launch, its block, warps and threads, shared memory,
// and the error that stopped it. One of it; the shim is not thread-safe.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "simt/fiber.h"
#include "simt/toolkit.h"

inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim{}, gridDim{};
constexpr int warpSize = 32;

namespace xrisk::simt {

// What a kernel did wrong: "file:line: kernel k, block x,y,z, thread t: what".
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Location {
  const char* file;
  int line;
};

struct LaunchSite {
  const char* kernel;
  const char* file;
  int line;
};

// Memory of exactly the asked size, 128-byte aligned, that is all ones until it is written: NaN as
// a float, -1 as an int. Being a heap block of its own, AddressSanitizer checks its bounds.
class Poisoned {
 public:
  explicit Poisoned(size_t bytes = 0) : bytes_(bytes) {
    if (bytes > 0) memory_.reset(static_cast<char*>(::operator new[](bytes, kAlignment)));
    poison();
  }
  char* data() const { return memory_.get(); }
  size_t size() const { return bytes_; }
  void poison() {
    if (bytes_ > 0) memset(memory_.get(), 0xFF, bytes_);
  }

 private:
  static constexpr std::align_val_t kAlignment{128};
  struct Free {
    void operator()(char* memory) const { ::operator delete[](memory, kAlignment); }
  };
  std::unique_ptr<char[], Free> memory_;
  size_t bytes_;
};

enum class WarpOp { kShuffle, kVote, kReduce, kMatch, kMatrix, kSync };

// One warp-level operation for which lanes are gathering, or whose result they are fetching.
struct Gathering {
  WarpOp op;
  bool open;  // lanes are still arriving
  unsigned mask, arrived, readers;
  alignas(16) unsigned char values[32][32];
};

struct Warp {
  unsigned alive;  // lanes that have not returned
  std::vector<std::unique_ptr<Gathering>> gatherings;
};

enum class Status : unsigned char { kReady, kAtBarrier, kInWarp, kDone };

struct Thread {
  Fiber fiber;
  Status status;
  unsigned index, lane;
  uint3 coordinates;
  const Gathering* gathering;  // valid while kInWarp
  Location waits_at;
};

// __syncthreads: who has arrived, and what the predicates say.
struct Barrier {
  unsigned arrived, count;
  bool all, any;
  Location at;  // where the first thread arrived
};

struct BarrierResult {
  int count, all, any;
};

// What the race detector listens to; null in the other builds.
struct Hooks {
  void (*launch)();
  void (*finish)();
  void (*block)();
  void (*barrier)();
  void (*warp)(unsigned warp, unsigned lanes);
  void (*access)(const void* p, size_t bytes, bool write, bool atomic, void* pc);
  void (*fence)();
};

enum class Order { kUnset, kSequential, kReverse, kRandom };

struct StaticShared {
  const void* key;
  Poisoned memory;
};

// A kernel with its arguments, both in `call`, which lives as long as the launch. (A std::function
// would be a twentieth of the code.)
struct Body {
  void (*run)(const void* call);
  const void* call;
};

struct Machine {
  // the launch
  LaunchSite site{"", "", 0};
  Body body{};
  unsigned block_size = 0;
  uint64_t block_number = 0;
  Stacks stacks;
  Poisoned dynamic_shared;
  std::vector<StaticShared> static_shared;
  size_t static_shared_bytes = 0;
  std::map<const void*, size_t> dynamic_limit;  // as set by cudaFuncSetAttribute

  // the block
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::deque<unsigned> ready;
  Thread* current = nullptr;
  unsigned alive = 0;
  Barrier barrier{};
  BarrierResult barrier_result{};
  uint64_t idle = 0;  // switches since some thread last made progress

  // the schedule
  Order order = Order::kUnset;
  uint64_t seed = 1, random_state = 1;

  // what went wrong
  std::string error;
  std::exception_ptr exception;
  unsigned quiet = 0;
  Hooks hooks{};
};

inline Machine machine;

// While one lives, memory accesses are the shim's own and not shown to the race detector.
class Quiet {
 public:
  Quiet() { ++machine.quiet; }
  ~Quiet() { --machine.quiet; }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

}  // namespace xrisk::simt
