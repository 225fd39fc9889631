// Products of bfloat16 against float32 on the same numbers: sums, gradients and whole steps, of
// sizes that are no multiple of a tile, and of numbers that the units do not take as they are.
#include <algorithm>

#include "cpu/contrastive_step.h"
#include "tests/check.h"
#include "tests/plain_products.h"

using namespace xrisk;
using namespace xrisk::test;

// Blocks of 32 rows and 96 columns, tiles of 32 columns.
cpu::SimilaritySizes tiny(int64_t store_bytes) {
  return {32, 32, 32 * (96 + 16) * static_cast<int64_t>(sizeof(float)), store_bytes};
}

// What bfloat16 holds of x, times a power of two.
std::vector<float> halves(std::mt19937_64& random, int64_t count, int exponent = 0) {
  std::vector<float> x = normal<float>(random, count, 0, 1);
  for (float& value : x) {
    value = std::ldexp(value, exponent);
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits &= 0xffff0000u;
    memcpy(&value, &bits, sizeof(bits));
  }
  return x;
}

double largest(const std::vector<float>& x) {
  double size = 0;
  for (const float value : x) size = std::max(size, std::fabs(static_cast<double>(value)));
  return size;
}

void check_close(const std::vector<float>& found, const std::vector<float>& expected,
                 double tolerance, double scale) {
  for (size_t k = 0; k < expected.size(); ++k) {
    CHECK(close(found[k], expected[k], tolerance, scale));
  }
}

struct Outcome {
  std::vector<float> peaks, dx, dy;
  std::vector<double> masses;
};

// Sums by row, and gradients of both; kernels null: in float32.
Outcome rectangle(const cpu::Bfloat16Kernels* kernels, const std::vector<float>& x,
                  const std::vector<float>& y, int64_t width, int64_t store,
                  const cpu::Executor& executor) {
  const auto rows = static_cast<int64_t>(x.size()) / width;
  const auto columns = static_cast<int64_t>(y.size()) / width;
  const std::vector<float> inverse(static_cast<size_t>(std::max(rows, columns)), 0.3f);
  std::vector<int64_t> exclude(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) exclude[static_cast<size_t>(i)] = i % (columns + 1) - 1;
  cpu::Similarities<float> problem;
  problem.x = x.data();
  problem.y = y.data();
  problem.rows = rows;
  problem.columns = columns;
  problem.width = width;
  problem.exclude = exclude.data();
  problem.exclusions = 1;
  cpu::Scratch scratch;
  const PlainProducts<float> products;
  cpu::SimilarityBlocks<float> blocks(problem, tiny(store), products, scratch, executor);
  if (kernels != nullptr) {
    const auto packed = [&](const std::vector<float>& from, int64_t count, bool left) {
      return pack_bfloat16(*kernels, {from.data(), nullptr, count, nullptr}, count, width,
                           {left, !left, true}, scratch, executor);
    };
    const cpu::PackedRows left = packed(x, rows, true), right = packed(y, columns, false);
    CHECK(left.whole && right.whole);
    blocks.use(*kernels, left.rows, right.rows);
  }
  Outcome out{std::vector<float>(static_cast<size_t>(rows)), std::vector<float>(x.size()),
              std::vector<float>(y.size()), std::vector<double>(static_cast<size_t>(rows))};
  std::vector<double> moments(static_cast<size_t>(rows));
  blocks.sums(inverse.data(), {out.peaks.data(), out.masses.data(), moments.data()}, inverse.data(),
              nullptr);
  const std::vector<float> shifts(inverse.size(), 0.0f), weights(inverse.size(), 0.7f);
  std::vector<float> peaks = out.peaks;
  for (float& peak : peaks) peak = peak > -INFINITY ? peak : 0.0f;
  blocks.gradients({inverse.data(), peaks.data(), shifts.data(), weights.data()}, nullptr,
                   out.dx.data(), out.dy.data());
  return out;
}

void rectangles(const cpu::Bfloat16Kernels& kernels) {
  for (const int64_t width : {1, 7, 33, 256}) {
    for (const auto& [rows, columns] :
         {std::pair<int64_t, int64_t>{1, 1}, {17, 5}, {37, 101}, {70, 300}}) {
      if (small_cases && width * columns > 4000) continue;
      std::mt19937_64 random(11);
      const auto x = halves(random, rows * width), y = halves(random, columns * width);
      const cpu::SerialExecutor serial;
      const Outcome expected = rectangle(nullptr, x, y, width, 0, serial);
      const Outcome found = rectangle(&kernels, x, y, width, 0, serial);
      const double size = static_cast<double>(width);
      check_close(found.peaks, expected.peaks, 1e-6, size);
      for (size_t i = 0; i < found.masses.size(); ++i) {
        CHECK(close(found.masses[i], expected.masses[i], 1e-6 * size, expected.masses[i]));
      }
      check_close(found.dx, expected.dx, 1e-5 + 1e-6 * size, largest(expected.dx));
      check_close(found.dy, expected.dy, 1e-5 + 1e-6 * size, largest(expected.dy));
      const Outcome again = rectangle(&kernels, x, y, width, int64_t{1} << 20, TwoThreads());
      CHECK(again.peaks == found.peaks && again.dx == found.dx && again.dy == found.dy);
    }
  }
}

struct Step {
  double value;
  std::vector<float> gradient;
};

Step step(bool bfloat16, bool bimodal, bool normalize, int64_t batch, int64_t width, int exponent,
          const cpu::Executor& executor) {
  std::mt19937_64 random(13);
  const auto first = halves(random, batch * width, exponent);
  const auto second = halves(random, batch * width, exponent);
  std::vector<float> embeddings(first.size() * 2), gradient(first.size() * 2);
  cpu::ContrastiveStep<float, float> call;
  call.bimodal = bimodal;
  call.batch = batch;
  call.width = width;
  call.view1 = first.data();
  call.view2 = second.data();
  call.normalize = normalize;
  call.bfloat16 = bfloat16;
  call.temperature = normalize ? 0.1 : 1.0;
  call.embeddings = embeddings.data();
  call.gradient = gradient.data();
  const double value = cpu::contrastive_step(call, tiny(0), PlainProducts<float>(), executor).value;
  return {value, gradient};
}

void steps() {
  const cpu::SerialExecutor serial;
  for (const bool bimodal : {false, true}) {
    for (const bool normalize : {false, true}) {
      for (const int64_t batch : {2, 17, 70}) {
        for (const int64_t width : {7, 33}) {
          const Step expected = step(false, bimodal, normalize, batch, width, 0, serial);
          const Step found = step(true, bimodal, normalize, batch, width, 0, serial);
          CHECK(close(found.value, expected.value, 2e-6, 1 + std::fabs(expected.value)));
          check_close(found.gradient, expected.gradient, 4e-5, largest(expected.gradient));
          CHECK(batch == 2 || found.gradient != expected.gradient);  // or nothing was compared
          const Step again = step(true, bimodal, normalize, batch, width, 0, TwoThreads());
          CHECK(found.value == again.value && found.gradient == again.gradient);
        }
      }
    }
    // Rows of tiny numbers, all or some below the normal range, and of huge ones: directions are
    // what counts. 2^-100 is exact in both.
    const Step plain = step(true, bimodal, true, 40, 9, 0, serial);
    for (const int exponent : {-100, 100}) {
      CHECK(step(true, bimodal, true, 40, 9, exponent, serial).value == plain.value);
    }
    for (const int exponent : {-127, 126}) {
      const Step expected = step(false, bimodal, true, 40, 9, exponent, serial);
      const Step found = step(true, bimodal, true, 40, 9, exponent, serial);
      CHECK(close(found.value, expected.value, 2e-6, 1 + std::fabs(expected.value)));
      check_close(found.gradient, expected.gradient, 4e-5, largest(expected.gradient));
    }
  }
}

// Not normalised, a number below the normal range would be lost: float32 takes over, bit for bit.
void small_numbers(const cpu::Bfloat16Kernels& kernels) {
  const cpu::SerialExecutor serial;
  cpu::Scratch scratch;
  const float smallest = std::ldexp(1.0f, -126);
  for (const float value : {0.0f, -smallest, smallest, smallest / 2, -smallest / 64}) {
    const float row[3] = {1.0f, value, 2.0f};
    const cpu::PackedRows packed = pack_bfloat16(kernels, {row, nullptr, 1, nullptr}, 1, 3,
                                                 {true, true, true}, scratch, serial);
    CHECK(packed.whole == (value == 0.0f || std::fabs(value) >= smallest));
  }
  const Step expected = step(false, true, false, 20, 9, -126, serial);
  const Step found = step(true, true, false, 20, 9, -126, serial);
  CHECK(found.value == expected.value && found.gradient == expected.gradient);
}

void not_finite(const cpu::Bfloat16Kernels& kernels) {
  constexpr int64_t kWidth = 5;
  const cpu::SerialExecutor serial;
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::mt19937_64 random(17);
    auto x = halves(random, 40 * kWidth);
    const auto y = halves(random, 50 * kWidth);
    x[33 * kWidth + 2] = bad;
    const Outcome expected = rectangle(nullptr, x, y, kWidth, 0, serial);
    const Outcome found = rectangle(&kernels, x, y, kWidth, 0, serial);
    for (size_t i = 0; i < expected.peaks.size(); ++i) {
      CHECK(std::isfinite(found.masses[i]) == std::isfinite(expected.masses[i]));
      CHECK(std::isfinite(found.masses[i]) == (i != 33));
    }
    for (size_t k = 0; k < expected.dy.size(); ++k) {
      CHECK(std::isfinite(found.dy[k]) == std::isfinite(expected.dy[k]));
    }
  }
}

int main() {
  CHECK(!cpu::select_bfloat16("avx2") && cpu::select_bfloat16("float32"));
  CHECK(cpu::bfloat16_kernels() == nullptr);
  if (!cpu::select_simd("avx512") || !cpu::select_bfloat16("amx")) {
    std::printf("this CPU or build has no tiles for bfloat16: nothing to compare\n");
    return report();
  }
  CHECK(cpu::bfloat16_kernels() != nullptr);
  rectangles(*cpu::bfloat16_kernels());
  steps();
  small_numbers(*cpu::bfloat16_kernels());
  not_finite(*cpu::bfloat16_kernels());
  CHECK(cpu::select_simd("avx2") && cpu::bfloat16_kernels() == nullptr);
  return report();
}
