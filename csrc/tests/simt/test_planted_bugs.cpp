// Proves that the harness bites: runs kernels with one bug each, every one in a process of its own,
// and asserts which of the builds (plain, asan, race) find it and what they say.
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/cuda/device.h"
#include "tests/simt/planted_bugs.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

enum Build { kPlain, kAsan, kRace };

#if XRISK_SIMT_ASAN
constexpr Build kThisBuild = kAsan;
#elif defined(XRISK_SIMT_RACE)
constexpr Build kThisBuild = kRace;
#else
constexpr Build kThisBuild = kPlain;
#endif

// What a correct kernel writes to y[i].
float same(int i) { return static_cast<float>(i + 1); }
float swapped(int i) { return same(i ^ 1); }
float rotated(int i) { return same((i + 37) % kBlock); }
float three_rotated(int i) { return 3 * rotated(i) + 3 * kBlock; }
float sum(int) { return kBlock * (kBlock + 1) / 2; }

struct Bug {
  const char* name;
  Kernel kernel;
  float (*expected)(int);
  const char* found_by[3];  // what each build says; null: it finds nothing
  unsigned blocks = 1;
  unsigned threads = kBlock;
  size_t dynamic_bytes = 0;
};

constexpr const char* kWrong = "wrong value";

#define BUG(kernel) #kernel, kernel
const Bug kBugs[] = {
    // the value shows it under some schedule, the race detector under any
    {BUG(missing_barrier), rotated, {kWrong, kWrong, "race: "}},
    {BUG(missing_barrier_of_loop), three_rotated, {kWrong, kWrong, "race: "}},
    {BUG(missing_leading_barrier), sum, {kWrong, kWrong, "race: "}},
    {BUG(missing_syncwarp), swapped, {kWrong, kWrong, "race: "}},
    {BUG(reads_the_block_before), same, {kWrong, kWrong, "race: "}, 2},
    {"flag before the barrier",
     last_block<true, true, true, false>,
     same,
     {kWrong, kWrong, "race: "},
     2},
    // no value shows it
    {BUG(shuffle_as_fence), swapped, {nullptr, nullptr, "race: "}},
    {BUG(all_write_the_same), same, {nullptr, nullptr, "race: "}},
    {BUG(counting_without_atomic), same, {nullptr, nullptr, "race: "}},
    {BUG(both_blocks_write), same, {nullptr, nullptr, "race: "}, 2},
    {"count before the barrier",
     last_block<false, true, true, true>,
     same,
     {nullptr, nullptr, "race: "},
     2},
    {"no fence before the count",
     last_block<true, false, true, true>,
     same,
     {nullptr, nullptr, "race: "},
     2},
    {"no fence after the count",
     last_block<true, true, false, true>,
     same,
     {nullptr, nullptr, "race: "},
     2},
    {BUG(uninitialised_unseen), same, {nullptr, nullptr, "uninitialised shared memory: "}},
    // poison shows it
    {BUG(uninitialised), same, {kWrong, kWrong, "uninitialised shared memory: "}},
    // the scheduler refuses
    {BUG(divergent_barrier),
     same,
     {"threads of the block wait at csrc/tests/simt/planted_bugs.h:", "planted_bugs.h:",
      "wait at"}},
    {BUG(early_return), same, {"56 of 256 threads have returned", "56 of", "56 of"}},
    {BUG(deadlock), same, {"deadlock; thread ", "deadlock", "deadlock"}},
    {BUG(livelock), same, {"livelock", "livelock", "livelock"}},
    {BUG(mask_without_source),
     same,
     {"thread 8: shuffle reads lane 16, which takes no part", "no part", "no part"}},
    {BUG(mask_without_caller), same, {"is not in the mask", "not in", "not in"}},
    {"too many threads",
     all_write_the_same,
     same,
     {"invalid conf", "invalid conf", "invalid conf"},
     1,
     1025},
    {"no blocks", all_write_the_same, same, {"invalid conf", "invalid conf", "invalid conf"}, 0},
    {"too much shared memory",
     beyond_dynamic_shared,
     same,
     {"cudaFuncSetAttribute", "cudaFuncSetAttribute", "cudaFuncSetAttribute"},
     1,
     kBlock,
     50000},
    // the sanitizers'
    {BUG(beyond_static_shared), same, {nullptr, "index 256 out of bounds", nullptr}},
    {BUG(beyond_dynamic_shared),
     same,
     {nullptr, "heap-buffer-overflow", nullptr},
     1,
     kBlock,
     kBlock * sizeof(float)},
    {BUG(beyond_global), same, {nullptr, "heap-buffer-overflow", nullptr}},
    {BUG(beyond_local), same, {nullptr, "index 4 out of bounds", nullptr}},
    {BUG(misaligned), same, {nullptr, "misaligned address", nullptr}},
    {BUG(signed_overflow), same, {nullptr, "signed integer overflow", nullptr}},
    // and the whole last_block is right
    {"no bug", last_block<true, true, true, true>, same, {nullptr, nullptr, nullptr}, 2},
};

// Runs the kernel under every schedule until something goes wrong, and prints that.
void run(const Bug& bug) {
  std::vector<float> numbers(3 * kBlock);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i + 1);
  bool found = false;
  simt::for_each_schedule(
      [&] {
        if (found) return;
        const DeviceArray<float> x(numbers);
        DeviceArray<float> y(kBlock);
        DeviceArray<unsigned> counter(std::vector<unsigned>{0});
        try {
          simt::launch({bug.name, __FILE__, __LINE__}, bug.kernel, bug.blocks, bug.threads,
                       bug.dynamic_bytes, nullptr, x.data(), y.data(), counter.data());
        } catch (const simt::Error& error) {
          std::printf("%s\n", error.what());
          found = true;
          return;
        }
        const auto values = y.read();
        for (int i = 0; i < kBlock; ++i) {
          if (values[i] == bug.expected(i)) continue;
          std::printf("%s: y[%d] = %g\n", kWrong, i, values[i]);
          found = true;
          return;
        }
      },
      simt::kEverySchedule);
}

// What a child process says that runs it. A sanitizer ends the child at its first finding.
std::string outcome_of(const Bug& bug) {
  int ends[2];
  if (pipe(ends) != 0) return "pipe failed";
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    run(bug);
    std::fflush(stdout);
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) {
    said.append(buffer, static_cast<size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (said.empty() && status != 0) said = "died silently with status " + std::to_string(status);
  return said;
}

}  // namespace

int main() {
  for (const Bug& bug : kBugs) {
    const std::string said = outcome_of(bug);
    const char* expected = bug.found_by[kThisBuild];
    const size_t found = expected == nullptr ? std::string::npos : said.find(expected);
    const bool good = expected == nullptr ? said.empty() : found != std::string::npos;
    // the line that says it; of a report that is long, its beginning
    const size_t begin = good && !said.empty() ? said.rfind('\n', found) + 1 : 0;
    const std::string line = said.substr(begin, said.find('\n', begin) - begin);
    std::printf("%-26s %s\n", bug.name, said.empty() ? "-" : line.substr(0, 400).c_str());
    if (!good) std::printf("EXPECTED: %s\n", expected == nullptr ? "nothing" : expected);
    CHECK(good);
  }
  return report();
}
