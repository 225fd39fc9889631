// The little that the C++ tests need: a check that counts, every SIMD variant, an executor on real
// threads, and a repeatable random source.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "cpu/executor.h"
#include "cpu/kernel_table.h"

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

// Calls f(name) under every SIMD variant that this machine has.
template <class F>
void for_each_simd(F&& f) {
  for (const char* name : {"baseline", "avx2", "avx512"}) {
    if (cpu::select_simd(name)) f(name);
  }
}

// Two threads, whose tasks are dealt out in turn: enough to see a race or an order dependence.
class TwoThreads final : public cpu::Executor {
 public:
  void run(int64_t count, const cpu::Task& task) const override {
    std::thread other([&] {
      for (int64_t k = 1; k < count; k += 2) task(k);
    });
    for (int64_t k = 0; k < count; k += 2) task(k);
    other.join();
  }
};

template <class T>
std::vector<T> normal(std::mt19937_64& random, int64_t count, double centre, double spread) {
  std::normal_distribution<double> distribution(centre, spread);
  std::vector<T> x(static_cast<size_t>(count));
  for (T& value : x) value = static_cast<T>(distribution(random));
  return x;
}

}  // namespace xrisk::test
