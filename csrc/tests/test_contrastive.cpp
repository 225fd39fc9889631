// Sums and gradients of similarities in many small blocks against long double, and the whole step:
// blocks, tiles, threads and kept similarities change nothing. The step without state against plain
// loops.
#include <algorithm>

#include "cpu/contrastive_step.h"
#include "tests/check.h"
#include "tests/info_nce_reference.h"
#include "tests/plain_products.h"

using namespace xrisk;
using namespace xrisk::test;

// Blocks of 8 rows and 32 columns, tiles of 16; `store_bytes` of them are kept.
cpu::SimilaritySizes tiny(int64_t store_bytes) { return {8, 16, 2048, store_bytes}; }

template <class T>
struct Sums {
  std::vector<T> peaks;
  std::vector<double> masses, moments;
  explicit Sums(int64_t count)
      : peaks(static_cast<size_t>(count)), masses(peaks.size()), moments(peaks.size()) {}
  cpu::ExpSums<T, double> view() { return {peaks.data(), masses.data(), moments.data()}; }
};

// One anchor's sums over the similarities that `included` says.
template <class T, class Included>
void check_anchor(const cpu::ExpSums<T, double>& sums, int64_t anchor, const T* x, const T* others,
                  int64_t count, int64_t width, T inverse, double tolerance, Included&& included) {
  long double peak = -INFINITY, mass = 0, moment = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t j = 0; j < count; ++j) {
      if (!included(j)) continue;
      long double s = 0;
      for (int64_t k = 0; k < width; ++k) {
        s += static_cast<long double>(x[k]) * static_cast<long double>(others[j * width + k]);
      }
      if (pass == 0) {
        peak = std::max(peak, s);
      } else {
        const long double z = (s - peak) * static_cast<long double>(inverse);
        mass += expl(z);
        moment += expl(z) * z;
      }
    }
  }
  if (mass == 0) {
    CHECK(sums.peaks[anchor] == -INFINITY && sums.masses[anchor] == 0 && sums.moments[anchor] == 0);
    return;
  }
  const double size = static_cast<double>(mass);
  CHECK(close(sums.peaks[anchor], static_cast<double>(peak), tolerance, 1));
  CHECK(close(sums.masses[anchor], size, tolerance * inverse, size));
  CHECK(close(sums.moments[anchor], static_cast<double>(moment), 10 * tolerance * inverse, size));
}

template <class T>
void rectangle(int64_t rows, int64_t columns, double tolerance) {
  constexpr int64_t kWidth = 7, kExclusions = 2;
  std::mt19937_64 random(5);
  const auto x = normal<T>(random, rows * kWidth, 0, 1),
             y = normal<T>(random, columns * kWidth, 0, 1);
  std::vector<int64_t> exclude(static_cast<size_t>(rows * kExclusions), -1);
  for (int64_t i = 0; i < rows; ++i) exclude[static_cast<size_t>(i * kExclusions)] = i % columns;
  std::vector<T> inverse(static_cast<size_t>(std::max(rows, columns)));
  for (size_t k = 0; k < inverse.size(); ++k) inverse[k] = static_cast<T>(0.5 + 0.1 * (k % 30));
  cpu::Similarities<T> problem;
  problem.x = x.data();
  problem.y = y.data();
  problem.rows = rows;
  problem.columns = columns;
  problem.width = kWidth;
  problem.exclude = exclude.data();
  problem.exclusions = kExclusions;
  const auto kept = [&](int64_t i, int64_t j) { return i % columns != j; };
  Sums<T> by_row(rows), by_column(columns);
  std::vector<T> first_dx, first_dy;
  for (const int64_t store : {int64_t{0}, int64_t{3000}, int64_t{1} << 20}) {
    cpu::Scratch scratch;
    const PlainProducts<T> products;
    const TwoThreads executor;
    cpu::SimilarityBlocks<T> blocks(problem, tiny(store), products, scratch, executor);
    const cpu::ExpSums<T, double> columns_view = by_column.view();
    blocks.sums(inverse.data(), by_row.view(), inverse.data(), &columns_view);
    std::vector<T> shifts(inverse.size(), T(0)), weights(inverse.size(), T(1));
    std::vector<T> row_peaks = by_row.peaks, column_peaks = by_column.peaks;
    for (auto* peaks : {&row_peaks, &column_peaks}) {
      for (T& peak : *peaks) peak = peak > -INFINITY ? peak : T(0);
    }
    const cpu::PairWeights<T> r{inverse.data(), row_peaks.data(), shifts.data(), weights.data()};
    const cpu::PairWeights<T> c{inverse.data(), column_peaks.data(), shifts.data(), weights.data()};
    std::vector<T> dx(x.size()), dy(y.size());
    blocks.gradients(r, &c, dx.data(), dy.data());
    if (first_dx.empty()) {
      first_dx = dx;
      first_dy = dy;
    }
    CHECK(dx == first_dx && dy == first_dy);  // also where similarities were kept
  }
  for (int64_t i = 0; i < rows; ++i) {
    check_anchor(by_row.view(), i, &x[static_cast<size_t>(i * kWidth)], y.data(), columns, kWidth,
                 inverse[static_cast<size_t>(i)], tolerance, [&](int64_t j) { return kept(i, j); });
  }
  for (int64_t j = 0; j < columns; ++j) {
    check_anchor(by_column.view(), j, &y[static_cast<size_t>(j * kWidth)], x.data(), rows, kWidth,
                 inverse[static_cast<size_t>(j)], tolerance, [&](int64_t i) { return kept(i, j); });
  }
  // sum_i <x_i, dx_i> = sum_j <y_j, dy_j>: both are sums of R_ij s_ij
  double by_x = 0, by_y = 0, size = 0;
  for (size_t k = 0; k < x.size(); ++k) {
    by_x += static_cast<double>(x[k]) * static_cast<double>(first_dx[k]);
    size += std::fabs(static_cast<double>(x[k]) * static_cast<double>(first_dx[k]));
  }
  for (size_t k = 0; k < y.size(); ++k) {
    by_y += static_cast<double>(y[k]) * static_cast<double>(first_dy[k]);
  }
  CHECK(close(by_x, by_y, 20 * tolerance, size));
}

template <class T>
std::vector<T> step(bool bimodal, int64_t batch, int64_t store, const cpu::Executor& executor,
                    double* value, std::vector<float>* state) {
  constexpr int64_t kWidth = 9;
  std::mt19937_64 random(7);
  const auto first = normal<T>(random, batch * kWidth, 0, 1);
  const auto second = normal<T>(random, batch * kWidth, 0, 1);
  std::vector<int64_t> index(static_cast<size_t>(batch));
  for (size_t k = 0; k < index.size(); ++k) index[k] = static_cast<int64_t>(k % 11);
  std::vector<T> embeddings(first.size() * 2), gradient(first.size() * 2);
  cpu::ContrastiveStep<T, float> call;
  call.bimodal = bimodal;
  call.batch = batch;
  call.width = kWidth;
  call.view1 = first.data();
  call.view2 = second.data();
  call.index = index.data();
  call.state = state->data();
  call.rows = 11;
  call.gamma = 0.3;
  call.temperature = 0.2;
  call.embeddings = embeddings.data();
  call.gradient = gradient.data();
  *value = cpu::contrastive_step(call, tiny(store), PlainProducts<T>(), executor).value;
  // the gradient passed a normalisation: it is orthogonal to the embedding
  for (int64_t i = 0; i < 2 * batch; ++i) {
    double along = 0, size = 1e-30;
    for (int64_t k = 0; k < kWidth; ++k) {
      const size_t at = static_cast<size_t>(i * kWidth + k);
      along += static_cast<double>(embeddings[at]) * static_cast<double>(gradient[at]);
      size += std::fabs(static_cast<double>(gradient[at]));
    }
    CHECK(close(along, 0, 1e-5, size));
  }
  return gradient;
}

template <class T>
void steps() {
  for (const bool bimodal : {false, true}) {
    for (const int64_t batch : {int64_t{2}, int64_t{3}, int64_t{33}}) {
      double value = 0, other = 0;
      std::vector<float> state(22, -INFINITY), other_state = state;
      const cpu::SerialExecutor serial;
      const auto gradient = step<T>(bimodal, batch, 0, serial, &value, &state);
      const auto again = step<T>(bimodal, batch, 1 << 20, TwoThreads(), &other, &other_state);
      CHECK(gradient == again && value == other && state == other_state);
      CHECK(std::isfinite(value));
    }
    double value = 1;
    std::vector<float> state(22, -INFINITY);
    const auto alone = step<T>(bimodal, 1, 0, TwoThreads(), &value, &state);
    CHECK(value == 0 && std::count(alone.begin(), alone.end(), T(0)) == 18);
    CHECK(std::count(state.begin(), state.end(), -INFINITY) == 22);
  }
}

template <class T>
void info_nce(const InfoNceCase& c, double tolerance) {
  std::mt19937_64 random(17);
  const auto views = normal<T>(random, 2 * c.batch * c.width, 0, 1);
  const InfoNceTruth expected = info_nce_truth(c, views);
  double size = 1e-6;
  for (const double g : expected.gradient) size = std::fmax(size, std::fabs(g));
  const double negatives = static_cast<double>((c.bimodal ? 1 : 2) * (c.batch - 1));
  const InfoNce loss{std::log(c.alpha > 0.0 ? c.alpha : negatives), c.bimodal ? 1.0 : 0.5, c.flat};
  std::vector<T> embeddings(views.size()), gradient(views.size()), first;
  for (const int64_t store : {int64_t{0}, int64_t{1} << 20}) {
    cpu::ContrastiveStep<T, float> call;
    call.bimodal = c.bimodal;
    call.batch = c.batch;
    call.width = c.width;
    call.view1 = views.data();
    call.view2 = views.data() + c.batch * c.width;
    call.normalize = c.normalize;
    call.temperature = c.temperature;
    call.info_nce = &loss;
    call.per_view = call.relative = true;
    call.embeddings = embeddings.data();
    call.gradient = gradient.data();
    const cpu::ContrastiveResult result =
        cpu::contrastive_step(call, tiny(store), PlainProducts<T>(), TwoThreads());
    CHECK(close(result.value, expected.value, tolerance, 1 + std::fabs(expected.value)));
    CHECK(
        close(result.temperature_slope, expected.slope, tolerance, 1 + std::fabs(expected.slope)));
    for (size_t k = 0; k < gradient.size(); ++k) {
      CHECK(close(gradient[k], expected.gradient[k], tolerance, size));
    }
    if (first.empty()) first = gradient;
    CHECK(gradient == first);
  }
}

int main() {
  for_each_simd([](const char*) {
    rectangle<float>(37, 101, 1e-5);
    rectangle<double>(37, 101, 1e-13);
    rectangle<double>(5, 1, 1e-13);
    rectangle<double>(1, 40, 1e-13);
    steps<float>();
    steps<double>();
    for (const InfoNceCase& c : info_nce_cases()) {
      info_nce<float>(c, 3e-5);
      info_nce<double>(c, 1e-12);
    }
  });
  return report();
}
