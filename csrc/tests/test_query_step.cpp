// The step of queries against keys, InfoNCE and the entropic risk, and the latter on logits,
// against plain loops: blocks, kept similarities, threads and ids that come twice change nothing.
#include <algorithm>

#include "cpu/entropic_step.h"
#include "cpu/query_step.h"
#include "cpu/queue.h"
#include "tests/check.h"
#include "tests/plain_products.h"

using namespace xrisk;
using namespace xrisk::test;

constexpr int64_t kWidth = 5, kSamples = 40;

// log((1 - gamma) e^nu + gamma e^x), of all entries of one id the mean; x where nothing was seen.
std::vector<double> averaged(const std::vector<float>& state, const std::vector<int64_t>& index,
                             const std::vector<double>& x, const EntropicSchedule& schedule) {
  std::vector<double> blends(x.size()), out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double old = static_cast<double>(state[static_cast<size_t>(index[i])]);
    const double z = schedule.alpha + schedule.kappa * old;
    const double gamma = schedule.scent ? 1 / (1 + std::exp(-z)) : schedule.gamma;
    blends[i] =
        std::isinf(old) ? std::exp(x[i]) : (1 - gamma) * std::exp(old) + gamma * std::exp(x[i]);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    double total = 0, count = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      if (index[k] != index[i]) continue;
      total += blends[k];
      count += 1;
    }
    out[i] = std::log(total / count);
  }
  return out;
}

struct Case {
  int64_t batch, keys;
  bool entropic, normalize;
  EntropicSchedule schedule;
  double temperature;
};

struct Truth {
  double value = 0, slope = 0;
  std::vector<double> by_queries, by_keys, nu;
};

Truth truth_of(const Case& c, const std::vector<double>& x, const std::vector<double>& keys,
               std::vector<double> positives, const std::vector<int64_t>& targets,
               const std::vector<int64_t>& index, const std::vector<float>& state) {
  Truth out;
  std::vector<double> e = x, norms(static_cast<size_t>(c.batch), 1.0), log_g;
  const auto dot = [&](const double* a, const double* b) {
    double total = 0;
    for (int64_t d = 0; d < kWidth; ++d) total += a[d] * b[d];
    return total;
  };
  for (int64_t i = 0; i < c.batch && c.normalize; ++i) {
    double* row = e.data() + i * kWidth;
    const double norm = norms[static_cast<size_t>(i)] = std::sqrt(dot(row, row));
    for (int64_t d = 0; d < kWidth; ++d) row[d] /= norm;
    double* other = positives.data() + i * kWidth;
    const double length = std::sqrt(dot(other, other));
    for (int64_t d = 0; d < kWidth; ++d) other[d] /= length;
  }
  const auto positive = [&](int64_t i) {
    return c.entropic ? keys.data() + targets[static_cast<size_t>(i)] * kWidth
                      : positives.data() + i * kWidth;
  };
  const auto h = [&](int64_t i, int64_t j) {
    const double* row = e.data() + i * kWidth;
    return (dot(row, keys.data() + j * kWidth) - dot(row, positive(i))) / c.temperature;
  };
  const double others = static_cast<double>(c.keys - 1);
  for (int64_t i = 0; i < c.batch; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < c.keys; ++j) sum += std::exp(h(i, j));
    log_g.push_back(std::log(c.entropic ? sum / others : 1 + sum));
  }
  out.nu = c.entropic ? averaged(state, index, log_g, c.schedule) : log_g;
  out.by_queries.assign(x.size(), 0.0);
  out.by_keys.assign(keys.size(), 0.0);
  const double batch = static_cast<double>(c.batch);
  for (int64_t i = 0; i < c.batch; ++i) {
    const double nu = out.nu[static_cast<size_t>(i)];
    out.value += (c.entropic ? nu + std::log(others) : nu) / batch;
    double* by_query = out.by_queries.data() + i * kWidth;
    for (int64_t j = 0; j < c.keys; ++j) {
      const double p = std::exp(h(i, j) - nu) / (c.entropic ? others : 1) / batch / c.temperature;
      out.slope -= p * h(i, j);
      for (int64_t d = 0; d < kWidth; ++d) {
        const double x_d = e[static_cast<size_t>(i * kWidth + d)];
        by_query[d] += p * (keys[static_cast<size_t>(j * kWidth + d)] - positive(i)[d]);
        out.by_keys[static_cast<size_t>(j * kWidth + d)] += p * x_d;
        if (c.entropic) {
          out.by_keys[static_cast<size_t>(targets[static_cast<size_t>(i)] * kWidth + d)] -= p * x_d;
        }
      }
    }
    const double* row = e.data() + i * kWidth;
    const double along = c.normalize ? dot(by_query, row) : 0.0;
    for (int64_t d = 0; d < kWidth; ++d) {
      by_query[d] = (by_query[d] - along * row[d]) / norms[static_cast<size_t>(i)];
    }
  }
  return out;
}

template <class T>
std::vector<double> widened(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}

template <class T>
void check_all(const std::vector<T>& found, const std::vector<double>& expected, double tolerance) {
  double size = 1e-6;
  for (const double g : expected) size = std::fmax(size, std::fabs(g));
  CHECK(found.size() == expected.size());
  for (size_t k = 0; k < found.size(); ++k) CHECK(close(found[k], expected[k], tolerance, size));
}

// Half of them seen.
std::vector<float> some_state(std::mt19937_64& random) {
  std::vector<float> state = normal<float>(random, kSamples, 0.3, 0.5);
  for (size_t k = 0; k < state.size(); k += 2) state[k] = -INFINITY;
  return state;
}

std::vector<int64_t> some_ids(int64_t count, bool twice) {
  std::vector<int64_t> index(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) index[static_cast<size_t>(i)] = (7 * i) % kSamples;
  if (twice && count > 1) index[1] = index[static_cast<size_t>(count - 1)] = index[0];
  return index;
}

template <class T>
void queries(const Case& c, double tolerance) {
  std::mt19937_64 random(3);
  const auto x = normal<T>(random, c.batch * kWidth, 0, 1),
             keys = normal<T>(random, c.keys * kWidth, 0, 1),
             positives = normal<T>(random, c.batch * kWidth, 0, 1);
  std::vector<int64_t> targets(static_cast<size_t>(c.batch));
  for (int64_t i = 0; i < c.batch; ++i) targets[static_cast<size_t>(i)] = (3 * i + 1) % c.keys;
  const std::vector<int64_t> index = some_ids(c.batch, true);
  const std::vector<float> before = some_state(random);
  const Truth expected =
      truth_of(c, widened(x), widened(keys), widened(positives), targets, index, before);
  std::vector<T> first, first_keys;
  for (const int64_t store : {int64_t{0}, int64_t{3000}, int64_t{1} << 20}) {
    std::vector<float> state = before;
    std::vector<T> by_queries(x.size()), by_keys(keys.size());
    cpu::QueryStep<T, float> call;
    call.queries = x.data();
    call.keys = keys.data();
    call.batch = c.batch;
    call.keys_count = c.keys;
    call.width = kWidth;
    call.normalize = c.normalize;
    call.temperature = c.temperature;
    if (c.entropic) {
      call.targets = targets.data();
      call.state = {state.data(), kSamples, index.data(), c.schedule, true};
    } else {
      call.positives = positives.data();
    }
    call.by_queries = by_queries.data();
    call.by_keys = by_keys.data();
    // blocks of 8 rows and 32 columns, tiles of 16
    const cpu::SimilaritySizes sizes{8, 16, 2048, store};
    const cpu::SerialExecutor serial;
    const TwoThreads two;
    const cpu::Executor& executor = store == 0 ? static_cast<const cpu::Executor&>(serial) : two;
    const cpu::QueryResult result = cpu::query_step(call, sizes, PlainProducts<T>(), executor);
    CHECK(close(result.value, expected.value, tolerance, 1 + std::fabs(expected.value)));
    CHECK(
        close(result.temperature_slope, expected.slope, tolerance, 1 + std::fabs(expected.slope)));
    check_all(by_queries, expected.by_queries, tolerance);
    check_all(by_keys, expected.by_keys, tolerance);
    for (size_t i = 0; c.entropic && i < index.size(); ++i) {
      CHECK(close(state[static_cast<size_t>(index[i])], expected.nu[i], 1e-5, 1));
    }
    if (first.empty()) first = by_queries, first_keys = by_keys;
    CHECK(by_queries == first && by_keys == first_keys);
    call.by_queries = call.by_keys = nullptr;  // the value alone
    state = before;
    const double alone = cpu::query_step(call, sizes, PlainProducts<T>(), executor).value;
    CHECK(close(alone, result.value, tolerance, 1));
  }
}

template <class T>
void logits(int64_t batch, int64_t classes, const EntropicSchedule& schedule, bool twice,
            double tolerance) {
  std::mt19937_64 random(5);
  const auto x = normal<T>(random, batch * classes, 0, 3);
  const std::vector<int64_t> index = some_ids(batch, twice);
  const std::vector<float> before = some_state(random);
  const double others = static_cast<double>(std::max<int64_t>(classes - 1, 1));
  std::vector<double> log_g, expected(x.size());
  const auto at = [&](int64_t i, int64_t k) { return static_cast<size_t>(i * classes + k); };
  for (int64_t i = 0; i < batch; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(x[at(i, k)]));
    log_g.push_back(std::log(sum / others));
  }
  const std::vector<double> nu = averaged(before, index, log_g, schedule);
  double value = 0;
  for (int64_t i = 0; i < batch; ++i) {
    const double of_row = nu[static_cast<size_t>(i)], share = 1.0 / static_cast<double>(batch);
    value += share * std::exp(log_g[static_cast<size_t>(i)] - of_row);
    for (int64_t k = 0; k < classes; ++k) {
      expected[at(i, k)] = share * std::exp(static_cast<double>(x[at(i, k)]) - of_row) / others;
    }
  }
  std::vector<T> first;
  std::vector<float> first_state;
  const cpu::SerialExecutor serial;
  const TwoThreads two;
  for (const cpu::Executor* executor :
       {static_cast<const cpu::Executor*>(&serial), static_cast<const cpu::Executor*>(&two)}) {
    std::vector<float> state = before;
    std::vector<T> gradient(x.size());
    cpu::EntropicStep<T, float> call;
    call.logits = x.data();
    call.batch = batch;
    call.classes = classes;
    call.state = {state.data(), kSamples, index.data(), schedule, true};
    call.gradient = gradient.data();
    const double found = cpu::entropic_step(call, *executor);
    CHECK(close(found, value, tolerance, 1 + value));
    check_all(gradient, expected, tolerance);
    for (size_t i = 0; i < index.size(); ++i) {
      CHECK(close(state[static_cast<size_t>(index[i])], nu[i], 1e-5, 1));
    }
    if (first.empty()) first = gradient, first_state = state;
    CHECK(gradient == first && state == first_state);
    state = before;
    call.gradient = nullptr;
    CHECK(cpu::entropic_step(call, *executor) == found && state == first_state);
    state = before;
    call.state.write = false;
    CHECK(cpu::entropic_step(call, *executor) == found && state == before);
  }
}

// A row with one number that is none leaves its own state alone, and no other.
template <class T>
void not_a_number() {
  std::vector<T> x(3 * 70, T(0.5)), gradient(x.size());
  x[70 + 33] = static_cast<T>(NAN);
  std::vector<float> state(kSamples, -INFINITY);
  const std::vector<int64_t> index = some_ids(3, false);
  cpu::EntropicStep<T, float> call;
  call.logits = x.data();
  call.batch = 3;
  call.classes = 70;
  call.state = {state.data(), kSamples, index.data(), {}, true};
  call.gradient = gradient.data();
  CHECK(std::isnan(cpu::entropic_step(call, TwoThreads())));
  for (size_t i = 0; i < 3; ++i) {
    CHECK(std::isnan(gradient[70 * i]) == (i == 1));
    CHECK(std::isinf(state[static_cast<size_t>(index[i])]) == (i == 1));
  }
  call.batch = 0;
  CHECK(cpu::entropic_step(call, TwoThreads()) == 0.0);
}

// A ring of 4 rows: wraps, keeps the last where there are too many, skips what is not finite.
void queue() {
  std::vector<float> ring(8, 0.0f);
  std::vector<double> rows = {3, 4, NAN, 1, 0, 0, 5, 12, 8, 6};
  cpu::Enqueue<double, float> call{ring.data(), 4, 2, 3, rows.data(), 2, true};
  CHECK(cpu::enqueue(call, TwoThreads()) == 1);
  CHECK(ring == std::vector<float>({0, 0, 0, 0, 0, 0, 0.6f, 0.8f}));
  call = {ring.data(), 4, 2, 1, rows.data(), 5, false};
  CHECK(cpu::enqueue(call, TwoThreads()) == 2);
  CHECK(ring == std::vector<float>({5, 12, 8, 6, 0, 0, 0, 0}));
}

int main() {
  EntropicSchedule sox, scent;
  sox.gamma = 0.6;
  scent.scent = true;
  scent.alpha = 0.4;
  scent.kappa = 1.3;
  for_each_simd([&](const char*) {
    for (const Case& c :
         {Case{11, 101, false, true, sox, 0.3}, Case{1, 3, false, false, sox, 1.5},
          Case{19, 37, true, false, sox, 1.0}, Case{9, 2, true, false, scent, 1.0}}) {
      queries<float>(c, 3e-5);
      queries<double>(c, 1e-6);  // the state is float
    }
    for (const bool twice : {false, true}) {
      logits<float>(33, 70, sox, twice, 1e-5);
      logits<double>(33, 70, scent, twice, 1e-6);
      logits<float>(3, small_cases ? 700 : 40000, scent, twice, 1e-5);
      logits<double>(3, 1, sox, twice, 1e-6);
    }
    not_a_number<float>();
    not_a_number<double>();
    queue();
  });
  return report();
}
