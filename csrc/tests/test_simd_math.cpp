// Surrogates of every SIMD variant against libm in long double: values, slopes, extremes.
#include "core/params.h"
#include "tests/check.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

long double phi(Surrogate kind, long double d, long double m, long double s) {
  switch (kind) {
    case Surrogate::kLogistic:
      return std::max(s * d, 0.0L) + log1pl(expl(-fabsl(s * d)));
    case Surrogate::kSigmoid:
      return 1.0L / (1.0L + expl(-s * d));
    case Surrogate::kExponential:
      return expl(s * d);
    case Surrogate::kSquaredHinge:
      return std::max(m + d, 0.0L) * std::max(m + d, 0.0L);
    default:
      return std::max(m + d, 0.0L);
  }
}

template <class T>
void compare(Surrogate kind, double limit, double tolerance) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform(-limit, limit);
  std::vector<T> d(1003);
  for (T& x : d) x = static_cast<T>(uniform(random));
  d[0] = T(0);
  std::vector<T> value(d.size()), slope(d.size());
  const SurrogateParams params{0.5, 1.0};
  cpu::kernels<T>().surrogate(kind, params, d.data(), static_cast<int64_t>(d.size()), value.data(),
                              slope.data());
  for (size_t k = 0; k < d.size(); ++k) {
    const long double expected = phi(kind, d[k], 0.5L, 1.0L);
    CHECK(fabsl(value[k] - expected) <= tolerance * fabsl(expected));
  }
}

template <class T>
T exponential_of(T x) {
  T value, slope;
  cpu::kernels<T>().surrogate(Surrogate::kExponential, {1.0, 1.0}, &x, 1, &value, &slope);
  return value;
}

}  // namespace

int main() {
  for_each_simd([](const char*) {
    for (Surrogate kind : {Surrogate::kLogistic, Surrogate::kSigmoid, Surrogate::kExponential,
                           Surrogate::kSquaredHinge, Surrogate::kHinge}) {
      compare<float>(kind, 80.0, 4e-7);
      compare<double>(kind, 600.0, 1e-15);
    }
    CHECK(exponential_of(0.0f) == 1.0f);
    CHECK(exponential_of(89.5f) == INFINITY);
    CHECK(exponential_of(1e30f) == INFINITY);
    CHECK(exponential_of(-1e30f) == 0.0f);
    CHECK(std::fabs(exponential_of(-100.0f) - std::exp(-100.0f)) <= 2e-45f);  // subnormal
    CHECK(std::isnan(exponential_of(NAN)));
    CHECK(exponential_of(710.0) == INFINITY);
    CHECK(exponential_of(-1000.0) == 0.0);
    CHECK(std::isnan(exponential_of(static_cast<double>(NAN))));
    for (int kind = 0; kind < kSurrogateCount; ++kind) {
      float d = NAN, value, slope;
      cpu::kernels<float>().surrogate(static_cast<Surrogate>(kind), {1.0, 1.0}, &d, 1, &value,
                                      &slope);
      CHECK(std::isnan(value));
    }
  });
  return report();
}
