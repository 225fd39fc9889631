// The little that the C++ tests need: a check that counts, every SIMD variant, an executor on real
// threads, and a repeatable random source.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::test {

inline int failures = 0;
inline int checks = 0;

inline void check(bool good, const char* what, const char* file, int line) {
  ++checks;
  if (good) return;
  if (++failures <= 20) std::printf("%s:%d: failed: %s\n", file, line, what);
}

#define CHECK(condition) ::xrisk::test::check((condition), #condition, __FILE__, __LINE__)

// To be returned from main.
inline int report() {
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

inline bool close(double value, double expected, double tolerance, double scale) {
  return std::fabs(value - expected) <= tolerance * scale;
}

// Calls f(name) under every SIMD variant that this machine has, or under the one of XRISK_SIMD.
template <class F>
void for_each_simd(F&& f) {
  const char* only = std::getenv("XRISK_SIMD");
  for (const char* name : {"baseline", "avx2", "avx512"}) {
    if (only != nullptr && std::strcmp(only, name) != 0) continue;
    if (cpu::select_simd(name)) f(name);
  }
}

// XRISK_SMALL_CASES=1 leaves out what takes valgrind minutes, and takes every scratch array from
// the heap by itself, so that valgrind sees its end and that it is fresh.
inline const bool small_cases = [] {
  if (std::getenv("XRISK_SMALL_CASES") == nullptr) return false;
  cpu::Scratch::block_bytes = 0;
  return true;
}();

// XRISK_SMALL_CASES=2: still less, of the kinds of numbers and of the lengths. Valgrind takes fifty
// times as long as the program by itself.
inline const bool tiny_cases = [] {
  const char* small = std::getenv("XRISK_SMALL_CASES");
  return small != nullptr && std::strcmp(small, "2") == 0;
}();

// Threads whose tasks are dealt out in turn: two are enough to see a race or an order dependence.
class Threads : public cpu::Executor {
 public:
  explicit Threads(int64_t threads) : threads_(threads) {}
  void run(int64_t count, const cpu::Task& task) const override {
    const auto every = [&](int64_t first) {
      for (int64_t k = first; k < count; k += threads_) task(k);
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads_; ++t) others.emplace_back(every, t);
    every(0);
    for (std::thread& other : others) other.join();
  }

 private:
  int64_t threads_;
};

struct TwoThreads final : Threads {
  TwoThreads() : Threads(2) {}
};

template <class T>
std::vector<T> normal(std::mt19937_64& random, int64_t count, double centre, double spread) {
  std::normal_distribution<double> distribution(centre, spread);
  std::vector<T> x(static_cast<size_t>(count));
  for (T& value : x) value = static_cast<T>(distribution(random));
  return x;
}

}  // namespace xrisk::test
