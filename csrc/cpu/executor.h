// How CPU code runs in parallel without owning threads: the caller lends an executor.
//
// Results must not depend on the number of threads, so work is cut into chunks by size alone and
// partial results are combined in the order of the chunks.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace xrisk::cpu {

// A borrowed callable: void(int64_t task).
class Task {
 public:
  template <class F>
  explicit Task(F& f)
      : object_(std::addressof(f)),
        call_([](void* object, int64_t task) { (*static_cast<F*>(object))(task); }) {}
  void operator()(int64_t task) const { call_(object_, task); }

 private:
  void* object_;
  void (*call_)(void*, int64_t);
};

class Executor {
 public:
  virtual ~Executor() = default;
  // Calls task(0 .. count - 1), in any order, perhaps at the same time; returns when all are done.
  virtual void run(int64_t count, const Task& task) const = 0;

  template <class F>
  void for_each(int64_t count, F&& f) const {
    if (count == 1) return f(int64_t{0});
    if (count > 0) run(count, Task(f));
  }

  // f(chunk, begin, end) over [0, size) in chunks of `grain`.
  template <class F>
  void for_range(int64_t size, int64_t grain, F&& f) const {
    for_each((size + grain - 1) / grain, [&](int64_t chunk) {
      const int64_t begin = chunk * grain;
      f(chunk, begin, begin + grain < size ? begin + grain : size);
    });
  }
};

class SerialExecutor final : public Executor {
 public:
  void run(int64_t count, const Task& task) const override {
    for (int64_t k = 0; k < count; ++k) task(k);
  }
};

}  // namespace xrisk::cpu
