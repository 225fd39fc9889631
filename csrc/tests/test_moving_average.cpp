// The state update: first touch, duplicates, non-finite observations, log domain, no write.
#include "cpu/moving_average.h"

#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

std::vector<double> update(std::vector<float>& state, const std::vector<int64_t>& index,
                           const std::vector<double>& values, double gamma, bool log, bool write) {
  std::vector<double> stored(values.size());
  cpu::MovingAverage<float, double, double> call;
  call.state = state.data();
  call.rows = static_cast<int64_t>(state.size());
  call.index = index.data();
  call.values = values.data();
  call.entries = static_cast<int64_t>(index.size());
  call.gamma = &gamma;
  call.log_domain = log;
  call.write = write;
  call.stored = stored.data();
  cpu::Scratch scratch;
  cpu::moving_average_update(call, scratch, TwoThreads());
  return stored;
}

}  // namespace

int main() {
  std::vector<float> state = {NAN, 2.0f, NAN, 4.0f};
  auto stored = update(state, {0, 1, 1, 3}, {8, 4, 8, INFINITY}, 0.5, false, true);
  CHECK(state[0] == 8.0f && stored[0] == 8.0);  // first touch
  CHECK(state[1] == 4.0f && stored[1] == 4.0);  // mean of 3 and 5
  CHECK(stored[2] == 4.0);
  CHECK(std::isnan(state[2]));                       // untouched
  CHECK(state[3] == 4.0f && std::isinf(stored[3]));  // never written

  stored = update(state, {0}, {0}, 0.5, false, false);
  CHECK(state[0] == 8.0f && stored[0] == 4.0);

  std::vector<float> logs = {-INFINITY, 1000.0f};
  stored = update(logs, {0, 1, 1}, {-3, 1000, 1000}, 0.25, true, true);
  CHECK(logs[0] == -3.0f);
  CHECK(std::fabs(logs[1] - 1000.0f) < 1e-3f);
  stored = update(logs, {0}, {NAN}, 0.25, true, true);
  CHECK(logs[0] == -3.0f && std::isnan(stored[0]));

  // Many entries with duplicates: the order of the entries must not matter.
  std::mt19937_64 random(11);
  std::vector<int64_t> index(100000);
  std::vector<double> values(index.size());
  for (size_t b = 0; b < index.size(); ++b) {
    index[b] = static_cast<int64_t>(random() % 150000);
    values[b] = static_cast<double>(random() % 1024);
  }
  std::vector<float> forward(150000, 1.0f), backward(150000, 1.0f);
  update(forward, index, values, 0.5, false, true);
  std::vector<double> total(150000, 0.0), count(150000, 0.0);
  for (size_t b = 0; b < index.size(); ++b) {
    total[static_cast<size_t>(index[b])] += 0.5 + 0.5 * values[b];
    count[static_cast<size_t>(index[b])] += 1;
  }
  std::vector<int64_t> reversed(index.rbegin(), index.rend());
  update(backward, reversed, {values.rbegin(), values.rend()}, 0.5, false, true);
  CHECK(forward == backward);
  for (size_t row = 0; row < forward.size(); ++row) {
    const double expected = count[row] == 0 ? 1.0 : total[row] / count[row];
    CHECK(std::fabs(forward[row] - expected) <= 1e-6 * expected);
  }
  CHECK(cpu::find_out_of_range(index.data(), 100000, 150000, TwoThreads()) == -1);
  index[99999] = -1;
  CHECK(cpu::find_out_of_range(index.data(), 100000, 150000, TwoThreads()) == 99999);
  return report();
}
