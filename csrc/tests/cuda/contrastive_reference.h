// The contrastive step in plain double loops, and its check on the device, under every schedule.
#pragma once

#include "cuda/contrastive_step.h"
#include "tests/cuda/half_reference.h"

namespace xrisk::test {

inline double dot(const Doubles& a, int64_t i, const Doubles& b, int64_t j, int64_t width) {
  double total = 0.0;
  for (int64_t k = 0; k < width; ++k) total += a[i * width + k] * b[j * width + k];
  return total;
}

inline Doubles widened(const std::vector<float>& x) { return Doubles(x.begin(), x.end()); }

inline bool all_close(const std::vector<float>& actual, const Doubles& expected, double tolerance) {
  double size = 1e-6;
  for (const double x : expected) size = std::fmax(size, std::fabs(x));
  bool good = actual.size() == expected.size();
  for (size_t k = 0; good && k < actual.size(); ++k) {
    good = close(actual[k], expected[k], tolerance, size);
  }
  return good;
}

struct StepCase {
  bool bimodal = false, per_view = false, individual = false, relative = false, normalize = true;
  bool write = true, adam = false;
  int64_t batch = 0;
  float poison = 0.0f;  // added to one entry
  enum Type { kFloat, kBfloat16, kFloat16 } type = kFloat;
  bool streamed = false, small = false;
  int64_t width = 4, few_entries = 0;
};

constexpr int64_t kIds = 7;
constexpr double kGamma = 0.3, kTau = 0.25, kRho = 0.3, kEta = 0.05, kBeta = 0.8;
constexpr double kSecondBeta = 0.4, kLimit = 0.9;  // Adam's, some slopes being larger

// Means over the entries of an id of what they would store; all read the old state.
inline void scatter_means(const std::vector<int64_t>& index, const Doubles& blends, bool log,
                          Doubles& state, Doubles& stored) {
  stored.assign(index.size(), 0.0);
  for (size_t i = 0; i < index.size(); ++i) {
    double total = 0.0, count = 0.0;
    for (size_t k = 0; k < index.size(); ++k) {
      if (index[k] != index[i]) continue;
      total += log ? std::exp(blends[k]) : blends[k];
      ++count;
    }
    stored[i] = log ? std::log(total / count) : total / count;
  }
  for (size_t i = 0; i < index.size(); ++i) state[index[i]] = stored[i];
}

inline Doubles blended(const std::vector<int64_t>& index, const Doubles& old, const Doubles& seen) {
  Doubles blends(seen.size());
  for (size_t i = 0; i < seen.size(); ++i) {
    const double u = old[index[i]];
    blends[i] = u == -INFINITY ? seen[i]
                               : std::log((1 - kGamma) * std::exp(u) + kGamma * std::exp(seen[i]));
  }
  return blends;
}

struct Expected {
  double value = 0.0;
  Doubles gradient, state, tau, momentum;
};

// The step in plain loops; the gradient by the chain rule, pair by pair.
inline Expected truth(const StepCase& c, const std::vector<float>& views,
                      const std::vector<int64_t>& index, const Doubles& state, const Doubles& tau,
                      const Doubles& momentum) {
  const int64_t batch = c.batch, anchors = 2 * batch, width = c.width;
  Expected out{0.0, Doubles(views.size(), 0.0), state, tau, momentum};
  Doubles e = widened(views), norms(anchors, 1.0);
  for (int64_t a = 0; a < anchors && c.normalize; ++a) {
    norms[a] = std::sqrt(dot(e, a, e, a, width));
    for (int64_t k = 0; k < width; ++k) e[a * width + k] /= norms[a];
  }
  const double count = static_cast<double>(c.bimodal ? batch - 1 : 2 * (batch - 1));
  const double share = 1.0 / static_cast<double>(c.bimodal ? 2 * batch : batch);
  const bool relative = c.bimodal || c.relative;
  const auto negative = [&](int64_t a, int64_t b) {
    return a % batch != b % batch && (!c.bimodal || (a < batch) != (b < batch));
  };
  Doubles log_g(anchors), temperature(anchors), positive(anchors);
  for (int64_t a = 0; a < anchors; ++a) {
    const int64_t side = c.bimodal && a >= batch ? kIds : 0;
    temperature[a] = c.individual ? tau[side + index[a % batch]] : kTau;
    positive[a] = dot(e, a % batch, e, a % batch + batch, width);
    double total = 0.0;
    for (int64_t b = 0; b < anchors; ++b) {
      if (!negative(a, b)) continue;
      const double h = dot(e, a, e, b, width) - (relative ? positive[a] : 0.0);
      total += std::exp(h / temperature[a]);
    }
    log_g[a] = std::log(total / count);
  }
  Doubles log_u(anchors);
  const auto half = [&](int64_t view) {
    return Doubles(log_g.begin() + view * batch, log_g.begin() + (view + 1) * batch);
  };
  Doubles shared(batch), stored;
  for (int64_t i = 0; i < batch; ++i) {
    shared[i] = std::log((std::exp(log_g[i]) + std::exp(log_g[batch + i])) / 2);
  }
  for (int64_t view = 0; view < 2; ++view) {
    Doubles old(state.begin() + (c.bimodal ? view * kIds : 0),
                state.begin() + (c.bimodal ? (view + 1) * kIds : kIds));
    const bool apart = c.bimodal || c.per_view;
    scatter_means(index, blended(index, old, apart ? half(view) : shared), true, old, stored);
    std::copy(stored.begin(), stored.end(), log_u.begin() + view * batch);
    if (c.bimodal) std::copy(old.begin(), old.end(), out.state.begin() + view * kIds);
  }
  if (!c.bimodal) scatter_means(index, blended(index, state, shared), true, out.state, stored);
  Doubles g(views.size(), 0.0), slopes(anchors);
  const auto pull = [&](int64_t a, int64_t b, double weight) {  // d / d e of weight <e_a, e_b>
    for (int64_t k = 0; k < width; ++k) {
      g[a * width + k] += weight * e[b * width + k];
      g[b * width + k] += weight * e[a * width + k];
    }
  };
  const double rho = c.individual ? kRho : 0.0;
  for (int64_t a = 0; a < anchors; ++a) {
    const int64_t partner = (a + batch) % anchors;
    double mean = 0.0;
    for (int64_t b = 0; b < anchors; ++b) {
      if (!negative(a, b)) continue;
      const double h = dot(e, a, e, b, width) - (relative ? positive[a] : 0.0);
      const double weight = std::exp(h / temperature[a] - log_u[a]) / count;
      mean += weight * h / temperature[a];
      pull(a, b, weight * share);
      if (relative) pull(a, partner, -weight * share);
    }
    if (!relative) pull(a, partner, -share);
    out.value += share * (temperature[a] * (log_u[a] + rho) - (relative ? 0.0 : positive[a]));
    slopes[a] = log_u[a] + rho - mean;
  }
  for (int64_t a = 0; a < anchors; ++a) {
    const double along = c.normalize ? dot(g, a, e, a, width) : 0.0;
    for (int64_t k = 0; k < width; ++k) {
      out.gradient[a * width + k] = (g[a * width + k] - along * e[a * width + k]) / norms[a];
    }
  }
  const int64_t sides = c.bimodal ? 2 : 1;
  for (int64_t side = 0; side < sides && c.individual; ++side) {
    Doubles seen(batch), direction(batch);
    for (int64_t i = 0; i < batch; ++i) {
      seen[i] = c.bimodal ? slopes[side * batch + i] : (slopes[i] + slopes[batch + i]) / 2;
      if (c.adam) seen[i] = std::fmin(std::fmax(seen[i], -kLimit), kLimit);
    }
    // what the rows of a moment get, and what they store for each entry
    const auto average = [&](int64_t moment, double weight, auto&& observation) {
      const int64_t start = (moment * sides + side) * kIds;
      Doubles blends(batch), old(momentum.begin() + start, momentum.begin() + start + kIds);
      for (int64_t i = 0; i < batch; ++i) {
        blends[i] = (1 - weight) * old[index[i]] + weight * observation(i, old[index[i]]);
      }
      scatter_means(index, blends, false, old, stored);
      std::copy(old.begin(), old.end(), out.momentum.begin() + start);
      return stored;
    };
    direction = average(0, kBeta, [&](int64_t i, double) { return seen[i]; });
    if (c.adam) {
      const Doubles squares =
          average(1, kSecondBeta, [&](int64_t i, double) { return seen[i] * seen[i]; });
      const Doubles steps = average(2, 1.0, [&](int64_t, double before) { return before + 1; });
      for (int64_t i = 0; i < batch; ++i) {
        direction[i] /= 1 - std::pow(1 - kBeta, steps[i]);
        direction[i] /= std::sqrt(squares[i] / (1 - std::pow(1 - kSecondBeta, steps[i]))) + 1e-8;
      }
    }
    for (int64_t i = 0; i < batch; ++i) {
      const double next = tau[side * kIds + index[i]] - kEta * direction[i];
      out.tau[side * kIds + index[i]] = std::fmin(std::fmax(next, 0.1), 0.6);
    }
  }
  if (!c.write) {
    out.state = state;
    out.tau = tau;
    out.momentum = momentum;
  }
  return out;
}

inline void check_step(const StepCase& c) {
  std::mt19937_64 random(13);
  const bool halves = c.type != StepCase::kFloat, bfloat16 = c.type == StepCase::kBfloat16;
  const int64_t numbers = 2 * c.batch * c.width;
  HalfNumbers all;  // without bits if not halves
  if (halves) {
    all = half_numbers(random, numbers, bfloat16);
  } else {
    all.values = normal<float>(random, numbers, 0, 1);
    all.bits.resize(all.values.size());
  }
  if (c.poison != 0.0f) poison(all, all.values.size() - 3, c.poison, bfloat16);
  const std::vector<float>& views = all.values;
  std::vector<int64_t> index(c.batch);
  for (int64_t i = 0; i < c.batch; ++i) index[i] = (3 * i) % (kIds - 1);  // one id stays untouched
  const int64_t sides = c.bimodal ? 2 : 1;
  std::vector<float> state(sides * kIds), tau(sides * kIds);
  std::vector<float> momentum((c.adam ? 3 : 1) * sides * kIds);
  for (size_t k = 0; k < state.size(); ++k) {
    state[k] = k % 3 == 0 ? -INFINITY : 0.2f * static_cast<float>(k % 5);
    tau[k] = 0.2f + 0.05f * static_cast<float>(k % 4);
  }
  for (size_t k = 0; k < momentum.size(); ++k) {
    const bool counts = c.adam && k >= state.size() * 2;
    momentum[k] = (counts ? 1.0f : 0.1f) * static_cast<float>(k % 3);
  }
  const bool untouched = c.poison != 0.0f || c.batch < 2;
  Expected expected;
  if (!untouched) {
    expected = truth(c, views, index, widened(state), widened(tau), widened(momentum));
  }
  const DeviceArray<float> device_views(views);
  const DeviceArray<uint16_t> device_halves(all.bits);
  const DeviceArray<int64_t> device_index(index);
  const DeviceArray<double> schedules(std::vector<double>{kGamma, kTau, kEta});
  for_each_schedule([&] {
    DeviceArray<float> device_state(state), device_tau(tau), device_momentum(momentum);
    DeviceArray<float> embeddings(views.size()), gradient(views.size()), value(1), slope(1);
    cuda::ContrastiveStep<float, float> call;
    call.bimodal = c.bimodal;
    call.batch = c.batch;
    call.width = c.width;
    if (halves) {
      call.half_view1 = device_halves.data();
      call.half_view2 = device_halves.data() + c.batch * c.width;
      call.bfloat16 = bfloat16;
      call.streamed = c.streamed;
      call.half_block = 128;
      call.small_anchors = c.small ? 2048 : 0;
    } else {
      call.view1 = device_views.data();
      call.view2 = device_views.data() + c.batch * c.width;
      call.embeddings = embeddings.data();
    }
    call.normalize = c.normalize;
    call.index = device_index.data();
    call.state = device_state.data();
    if (c.individual) {
      call.temperatures = device_tau.data();
      call.momenta = device_momentum.data();
    }
    call.rows = kIds;
    call.write_state = c.write;
    call.gamma = schedules.data();
    call.temperature = schedules.data() + 1;
    call.eta = schedules.data() + 2;
    call.options.rho = c.individual ? kRho : 0.0;
    call.per_view = c.per_view;
    call.relative = c.relative;
    call.beta = kBeta;
    if (c.adam) {
      call.second_beta = kSecondBeta;
      call.slope_limit = kLimit;
    }
    call.lowest = 0.1;
    call.highest = 0.6;
    call.block = 8;
    call.few_entries = c.few_entries;
    call.value = value.data();
    call.temperature_slope = slope.data();
    call.gradient = gradient.data();
    const size_t bytes = cuda::contrastive_step_workspace_bytes(call);
    DeviceArray<char> space(static_cast<int64_t>(bytes));
    CHECK((halves ? cuda::launch_contrastive_step(call, HalfKernelProducts(bfloat16), space.data(),
                                                  bytes, nullptr)
                  : cuda::launch_contrastive_step(call, KernelProducts<float>(), space.data(),
                                                  bytes, nullptr)) == cudaSuccess);
    if (untouched) {
      const bool nan = c.batch >= 2;
      for (const float g : gradient.read()) CHECK(nan ? std::isnan(g) : g == 0.0f);
      CHECK(nan ? std::isnan(value.read()[0]) : value.read()[0] == 0.0f);
      CHECK(device_state.read() == state && device_tau.read() == tau);
      CHECK(device_momentum.read() == momentum);
      return;
    }
    CHECK(close(value.read()[0], expected.value, 2e-5, 1 + std::fabs(expected.value)));
    const double rounding = bfloat16 ? 0x1p-8 : 0x1p-11;  // of the weights
    CHECK(all_close(gradient.read(), expected.gradient,
                    halves && !c.streamed && !c.small ? rounding : 3e-5));
    const auto found = device_state.read();
    for (size_t k = 0; k < state.size(); ++k) {
      CHECK(found[k] == expected.state[k] || close(found[k], expected.state[k], 2e-5, 1));
    }
    CHECK(all_close(device_tau.read(), expected.tau, 2e-5));
    CHECK(all_close(device_momentum.read(), expected.momentum, 5e-5));
  });
}

}  // namespace xrisk::test
