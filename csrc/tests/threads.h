// Every parallel path at sizes that make several tasks, on two and four threads, against one: what
// the programs test_threads* share.
//
// Under ThreadSanitizer (`make test-threads`) a race is seen whether or not it happens to bite; the
// comparison holds the threads to the promise that their number changes no bit.
#pragma once

#include "tests/check.h"

namespace xrisk::test {

// Counts the loops that several threads shared: of one task there is nothing to race with.
class CountingThreads final : public Threads {
 public:
  using Threads::Threads;
  void run(int64_t count, const cpu::Task& task) const override {
    shared_loops_ += count > 1;
    Threads::run(count, task);
  }
  int64_t shared_loops() const { return shared_loops_; }

 private:
  mutable int64_t shared_loops_ = 0;  // a task that opened a loop would be a race here
};

// f(executor) returns what was computed; bit patterns are compared, since NaN is a state's start.
// ThreadSanitizer compares nothing: four threads do for it, which keep apart whatever two tasks two
// threads keep apart. The other builds compare.
template <class F>
void check_same_on_all(const char* what, F&& f) {
#if defined(__SANITIZE_THREAD__)
  const CountingThreads threads(4);
  const bool computed = !f(threads).empty();
  if (!computed) std::printf("%s computed nothing\n", what);
  CHECK(computed);
  if (threads.shared_loops() == 0) std::printf("%s kept to one thread\n", what);
  CHECK(threads.shared_loops() > 0);
#else
#if defined(__SANITIZE_ADDRESS__)  // what four threads touch, two do
  const std::vector<int64_t> counts = {2};
#else
  const std::vector<int64_t> counts = {2, 4};
#endif
  const auto expected = f(cpu::SerialExecutor());
  for (const int64_t count : counts) {
    const CountingThreads threads(count);
    const auto result = f(threads);
    const bool same =
        result.size() == expected.size() &&
        std::memcmp(result.data(), expected.data(), result.size() * sizeof(result[0])) == 0;
    if (!same) std::printf("%s differs on %d threads\n", what, static_cast<int>(count));
    CHECK(same);
    if (threads.shared_loops() == 0) std::printf("%s kept to one thread\n", what);
    CHECK(threads.shared_loops() > 0);
  }
#endif
}

inline std::vector<double> random_values(int64_t count) {
  std::mt19937_64 random(static_cast<uint64_t>(count));
  return normal<double>(random, count, 0.0, 1.0);
}

inline std::vector<float> random_floats(int64_t count) {
  const std::vector<double> x = random_values(count);
  return {x.begin(), x.end()};
}

// 1 in every `of` on average.
inline std::vector<uint8_t> random_flags(int64_t count, uint64_t of) {
  std::mt19937_64 random(of);
  std::vector<uint8_t> flags(static_cast<size_t>(count));
  for (uint8_t& flag : flags) flag = random() % of == 0;
  return flags;
}

// In [0, rows), many of them twice.
inline std::vector<int64_t> random_ids(int64_t count, int64_t rows) {
  std::mt19937_64 random(8);
  std::vector<int64_t> ids(static_cast<size_t>(count));
  for (int64_t& id : ids) id = static_cast<int64_t>(random() % static_cast<uint64_t>(rows));
  return ids;
}

// The bytes of all, one behind the other: what a check compares.
template <class... Parts>
std::vector<uint8_t> joined(const Parts&... parts) {
  std::vector<uint8_t> all;
  const auto append = [&](const auto& part) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(part.data());
    all.insert(all.end(), bytes, bytes + part.size() * sizeof(part[0]));
  };
  (append(parts), ...);
  return all;
}

}  // namespace xrisk::test
