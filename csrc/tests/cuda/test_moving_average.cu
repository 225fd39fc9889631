// The state update: both ways (compare all, sort), first touch, duplicates, long groups, log
// domain, ids that are out of range, several states, no write.
#include <map>

#include "cuda/moving_average_launch.h"
#include "tests/cuda/device.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

struct Case {
  int segments = 1, columns = 1;
  int64_t entries = 0, rows = 0;
  int64_t distinct = 0;  // ids are drawn from this many rows
  bool log = false, per_entry = false, write = true, limited = false;
};

// blend -> mean per row, in doubles.
void expected(const Case& c, const std::vector<float>& state, const std::vector<int64_t>& index,
              const std::vector<double>& values, const std::vector<double>& gamma,
              const std::vector<int32_t>& live, std::vector<double>& stored,
              std::vector<double>& new_state) {
  new_state.assign(state.begin(), state.end());
  stored.assign(values.size(), 0.0);
  for (int s = 0; s < c.segments; ++s) {
    for (int k = 0; k < c.columns; ++k) {
      std::map<int64_t, std::vector<double>> blends;
      std::vector<double> mine(c.entries);
      for (int64_t b = 0; b < live[s]; ++b) {
        const int64_t row = index[s * c.entries + b];
        const bool inside = row >= 0 && row < c.rows;
        const double old =
            inside ? state[(s * c.rows + row) * c.columns + k] : (c.log ? -INFINITY : NAN);
        const double x = values[(s * c.entries + b) * c.columns + k];
        const double g = gamma[c.per_entry ? b : 0];
        const bool fresh = c.log ? old == -INFINITY : std::isnan(old);
        double blend = (1 - g) * old + g * x;
        if (c.log) {
          const double top = std::fmax(old, x);
          blend = top + std::log((1 - g) * std::exp(old - top) + g * std::exp(x - top));
        }
        mine[b] = fresh ? x : blend;
        if (inside) blends[row].push_back(mine[b]);
      }
      for (int64_t b = 0; b < live[s]; ++b) {
        const int64_t row = index[s * c.entries + b];
        double result = mine[b];
        if (row >= 0 && row < c.rows) {
          const auto& group = blends[row];
          double top = group[0], total = 0.0;
          for (const double x : group) top = std::fmax(top, x);
          for (const double x : group) total += c.log ? std::exp(x - top) : x;
          result = total / static_cast<double>(group.size());
          if (c.log) result = top + std::log(result);
          if (std::isfinite(static_cast<float>(result)) && c.write) {
            new_state[(s * c.rows + row) * c.columns + k] = result;
          }
        }
        stored[(s * c.entries + b) * c.columns + k] = result;
      }
    }
  }
}

template <int64_t kCompareAll>
void run(const Case& c, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> state(c.segments * c.rows * c.columns);
  for (float& x : state) {
    const bool fresh = random() % 4 == 0;
    x = fresh ? (c.log ? -INFINITY : NAN) : static_cast<float>(random() % 1000) / 10 - 30;
  }
  std::vector<int64_t> index(c.segments * c.entries);
  for (int64_t& row : index) {
    row = static_cast<int64_t>(random() % c.distinct) * (c.rows / c.distinct);
    if (random() % 29 == 0) row = random() % 2 == 0 ? -1 : c.rows;
  }
  std::vector<double> values(index.size() * c.columns), gamma(c.per_entry ? c.entries : 1);
  for (double& x : values) x = static_cast<double>(random() % 1000) / 10 - 30;
  if (!values.empty()) values[values.size() / 2] = 1e300;  // not storable in float
  for (double& g : gamma) g = 0.1 + static_cast<double>(random() % 9) / 10;
  std::vector<int32_t> live(c.segments, static_cast<int32_t>(c.entries));
  if (c.limited) live.back() = static_cast<int32_t>(c.entries / 3);

  DeviceArray<float> device_state(state);
  const DeviceArray<int64_t> device_index(index);
  const DeviceArray<double> device_values(values), device_gamma(gamma);
  const DeviceArray<int32_t> device_live(live);
  DeviceArray<double> device_stored(static_cast<int64_t>(values.size()));
  cuda::MovingAverage<float, double, double> call;
  call.state = device_state.data();
  call.rows = c.rows;
  call.columns = c.columns;
  call.index = device_index.data();
  call.values = device_values.data();
  call.entries = c.entries;
  call.live = c.limited ? device_live.data() : nullptr;
  call.segments = c.segments;
  call.gamma = device_gamma.data();
  call.gamma_per_entry = c.per_entry;
  call.log_domain = c.log;
  call.write = c.write;
  call.stored = device_stored.data();
  const size_t bytes = cuda::moving_average_bytes<kCompareAll>(call);
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  using Shape = cuda::CompareShape<64, 128>;
  CHECK((cuda::update_moving_average<kCompareAll, Shape>(call, workspace.data(), bytes, nullptr) ==
         cudaSuccess));

  std::vector<double> stored, new_state;
  expected(c, state, index, values, gamma, live, stored, new_state);
  const auto got = device_stored.read();
  const auto got_state = device_state.read();
  const auto same = [](double a, double b) {
    if (std::isnan(b) || std::isinf(b)) return std::isnan(b) ? std::isnan(a) : a == b;
    return std::fabs(a - b) <= 2e-6 * (1 + std::fabs(b));
  };
  for (int s = 0; s < c.segments; ++s) {
    for (int64_t k = 0; k < live[s] * c.columns; ++k) {
      const size_t at = s * c.entries * c.columns + k;
      CHECK(same(got[at], stored[at]));
    }
  }
  for (size_t k = 0; k < new_state.size(); ++k) {
    CHECK(std::isnan(new_state[k]) ? std::isnan(got_state[k]) : same(got_state[k], new_state[k]));
  }
}

void run_both(const Case& c) {
  run<1 << 20>(c, 7);
  run<0>(c, 7);
}

}  // namespace

int main() {
  for_each_schedule([] {
    for (const bool log : {false, true}) {
      Case c;
      c.log = log;
      c.rows = 100;
      c.distinct = 100;
      for (const int64_t entries : {0, 1, 31, 150}) {
        c.entries = entries;
        run_both(c);
      }
      for (const int64_t distinct : {60, 20, 5}) {  // groups of about 2, 7 and 30
        c.distinct = distinct;
        run_both(c);
      }
      c.entries = 300;  // groups of about 60: some are beyond a warp
      run_both(c);
      c.entries = 150;
      c.distinct = 1;
      run_both(c);
      c.distinct = 20;
      c.columns = 2;
      c.per_entry = true;
      run_both(c);
      c.segments = 3;
      c.limited = true;
      run_both(c);
      c.write = false;
      run_both(c);
    }
  });
  return report();
}
