#include "cpu/smooth_table.h"

#include <cmath>

#include "core/surrogate.h"

namespace xrisk::cpu {
namespace {

constexpr double kPi = 3.14159265358979323846;

double softplus(double z) {
  double value, slope;
  Logistic<double>{1.0}(z, value, slope);
  return value;
}
double sigma(double z) {
  double value, slope;
  Sigmoid<double>{1.0}(z, value, slope);
  return value;
}
double sigma_slope(double z) {
  double value, slope;
  Sigmoid<double>{1.0}(z, value, slope);
  return slope;
}

// out = left^T . in . right
template <int kTerms>
void sandwich(const double (&left)[kTerms][kTerms], const double (&in)[kTerms][kTerms],
              const double (&right)[kTerms][kTerms], double (&out)[kTerms][kTerms]) {
  double half[kTerms][kTerms] = {};
  for (int i = 0; i < kTerms; ++i) {
    for (int a = 0; a < kTerms; ++a) {
      for (int j = 0; j < kTerms; ++j) half[i][j] += in[i][a] * right[a][j];
    }
  }
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j < kTerms; ++j) out[i][j] = 0.0;
    for (int a = 0; a < kTerms; ++a) {
      for (int j = 0; j < kTerms; ++j) out[i][j] += left[a][i] * half[a][j];
    }
  }
}

template <int kTerms>
struct Basis {
  double nodes[kTerms];
  double to_chebyshev[kTerms][kTerms];    // [node][coefficient]
  double to_powers[kTerms][kTerms] = {};  // [coefficient][power]

  Basis() {
    for (int a = 0; a < kTerms; ++a) {
      const double angle = kPi * (2 * a + 1) / (2 * kTerms);
      nodes[a] = std::cos(angle);
      for (int k = 0; k < kTerms; ++k) {
        to_chebyshev[a][k] = (k == 0 ? 1.0 : 2.0) / kTerms * std::cos(k * angle);
      }
    }
    to_powers[0][0] = to_powers[1][1] = 1.0;
    for (int k = 2; k < kTerms; ++k) {  // T_k = 2 t T_(k-1) - T_(k-2)
      for (int l = 0; l < kTerms; ++l) {
        to_powers[k][l] = (l > 0 ? 2 * to_powers[k - 1][l - 1] : 0.0) - to_powers[k - 2][l];
      }
    }
  }
};

}  // namespace

template <class T>
SmoothTables<T>::SmoothTables() {
  const Basis<kTerms> basis;
  const auto build = [&](double (*phi)(double), Matrices& matrices) {
    for (int apart = -kReach; apart <= kReach; ++apart) {
      double values[kTerms][kTerms], coefficients[kTerms][kTerms];  // [source][target]
      for (int s = 0; s < kTerms; ++s) {
        for (int t = 0; t < kTerms; ++t) {
          const double distance = apart + 0.5 * (basis.nodes[s] - basis.nodes[t]);
          values[s][t] = phi(SmoothFit<T>::kWidth * distance);
        }
      }
      sandwich(basis.to_chebyshev, values, basis.to_chebyshev, coefficients);
      sandwich(basis.to_powers, coefficients, basis.to_powers, matrices[apart + kReach]);
    }
  };
  build(&cpu::softplus, softplus);
  build(&cpu::sigma, sigma);
  build(&cpu::sigma_slope, sigma_slope);
  for (int bin = 0; bin <= 2 * kReach; ++bin) {  // the line reflected
    for (int l = 0; l < kTerms; ++l) {
      for (int k = 0; k < kTerms; ++k) {
        const double mirrored = sigma[2 * kReach - bin][l][k];
        sigma_of_columns[bin][l][k] = (l + k) % 2 == 0 ? mirrored : -mirrored;
      }
    }
  }
}

template <class T>
const SmoothTables<T>& smooth_tables() {
  static const SmoothTables<T> tables;
  return tables;
}

template const SmoothTables<float>& smooth_tables();
template const SmoothTables<double>& smooth_tables();

}  // namespace xrisk::cpu
