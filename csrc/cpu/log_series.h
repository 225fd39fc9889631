// The series of cpu/binned_log_sums.cpp: moments and power series of the items of a bin, Chebyshev
// interpolation over the anchors of a cell. Loops over kLane numbers are vectorised.
#pragma once

#include <cmath>
#include <cstdint>

namespace xrisk::cpu {

constexpr int64_t kLane = 8;

// A range of the anchors' tops, and the local coordinate in it.
struct LogCell {
  double centre = 0.0, half = 1.0;
  double local(double top) const { return (top - centre) / half; }
};

// sums[n] = sum_k terms[k] x[k]^n / n!, n = 0 .. most.
template <int kMost>
void power_series(const double* terms, const double* x, int64_t count, double* sums) {
  double lanes[kMost + 1][kLane] = {};
  const auto add = [&](const double* term, const double* at) {
    double power[kLane];
    for (int64_t q = 0; q < kLane; ++q) power[q] = term[q];
    for (int n = 0; n <= kMost; ++n) {
      for (int64_t q = 0; q < kLane; ++q) {
        lanes[n][q] += power[q];
        power[q] *= at[q];
      }
    }
  };
  int64_t k = 0;
  for (; k + kLane <= count; k += kLane) add(terms + k, x + k);
  if (k < count) {
    double term[kLane] = {}, at[kLane] = {};
    for (int64_t q = 0; k + q < count; ++q) {
      term[q] = terms[k + q];
      at[q] = x[k + q];
    }
    add(term, at);
  }
  double factorial = 1.0;
  for (int n = 0; n <= kMost; ++n) {
    double sum = 0.0;
    for (int64_t q = 0; q < kLane; ++q) sum += lanes[n][q];
    sums[n] = sum / factorial;
    factorial *= n + 1;
  }
}

// out[k] += factors[k] * sum_n coefficients[n] x[k]^n, n = 0 .. most
template <int kMost>
void add_polynomial(const double* coefficients, const double* x, const double* factors,
                    int64_t count, double* out) {
  int64_t k = 0;
  for (; k + kLane <= count; k += kLane) {
    double value[kLane] = {};
    for (int n = kMost; n >= 0; --n) {
      for (int64_t q = 0; q < kLane; ++q) value[q] = value[q] * x[k + q] + coefficients[n];
    }
    for (int64_t q = 0; q < kLane; ++q) out[k + q] += value[q] * factors[k + q];
  }
  for (; k < count; ++k) {
    double value = 0.0;
    for (int n = kMost; n >= 0; --n) value = value * x[k] + coefficients[n];
    out[k] += value * factors[k];
  }
}

// T_n at the roots of T_kNodes.
template <int kNodes>
struct ChebyshevTable {
  double value[kNodes][kNodes];  // [n][root]
  ChebyshevTable() {
    const double pi = 3.14159265358979323846;
    for (int n = 0; n < kNodes; ++n) {
      for (int q = 0; q < kNodes; ++q) value[n][q] = std::cos(n * (q + 0.5) * pi / kNodes);
    }
  }
  static const ChebyshevTable& get() {
    static const ChebyshevTable table;
    return table;
  }
};

// Values at the roots to coefficients of T_n, in place.
template <int kNodes>
void chebyshev_coefficients(double* values) {
  const auto& table = ChebyshevTable<kNodes>::get();
  double coefficients[kNodes];
  for (int n = 0; n < kNodes; ++n) {
    double sum = 0.0;
    for (int q = 0; q < kNodes; ++q) sum += values[q] * table.value[n][q];
    coefficients[n] = (n == 0 ? 1.0 : 2.0) / kNodes * sum;
  }
  for (int n = 0; n < kNodes; ++n) values[n] = coefficients[n];
}

// sum_n coefficients[n] T_n by Clenshaw's recurrence: in powers the last digits would be lost.
template <int kNodes>
void chebyshev_values(const double* coefficients, const LogCell& cell, const double* tops,
                      int64_t count, double* out) {
  for (int64_t k = 0; k < count; k += kLane) {
    const int64_t size = count - k < kLane ? count - k : kLane;
    double u[kLane] = {}, one[kLane] = {}, two[kLane] = {};
    for (int64_t q = 0; q < size; ++q) u[q] = cell.local(tops[k + q]);
    for (int n = kNodes - 1; n > 0; --n) {
      for (int64_t q = 0; q < kLane; ++q) {
        const double next = 2.0 * u[q] * one[q] - two[q] + coefficients[n];
        two[q] = one[q];
        one[q] = next;
      }
    }
    for (int64_t q = 0; q < size; ++q) out[k + q] = u[q] * one[q] - two[q] + coefficients[0];
  }
}

// The transpose: sums[n] = sum_k weights[k] T_n(local coordinate).
template <int kNodes>
void chebyshev_moments(const LogCell& cell, const double* tops, const double* weights,
                       int64_t count, double* sums) {
  double lanes[kNodes][kLane] = {};
  for (int64_t k = 0; k < count; k += kLane) {
    const int64_t size = count - k < kLane ? count - k : kLane;
    double u[kLane] = {}, now[kLane] = {}, last[kLane] = {};
    for (int64_t q = 0; q < size; ++q) {
      u[q] = cell.local(tops[k + q]);
      now[q] = weights[k + q];
      last[q] = u[q] * weights[k + q];  // T_{-1} = T_1
    }
    for (int n = 0; n < kNodes; ++n) {
      for (int64_t q = 0; q < kLane; ++q) {
        lanes[n][q] += now[q];
        const double next = 2.0 * u[q] * now[q] - last[q];
        last[q] = now[q];
        now[q] = next;
      }
    }
  }
  for (int n = 0; n < kNodes; ++n) {
    sums[n] = 0.0;
    for (int64_t q = 0; q < kLane; ++q) sums[n] += lanes[n][q];
  }
}

// The weights of the roots that stand for those of all entries.
template <int kNodes>
void chebyshev_weights(const double* sums, double* weights) {
  const auto& table = ChebyshevTable<kNodes>::get();
  for (int q = 0; q < kNodes; ++q) {
    double sum = sums[0];
    for (int n = 1; n < kNodes; ++n) sum += 2.0 * sums[n] * table.value[n][q];
    weights[q] = sum / kNodes;
  }
}

}  // namespace xrisk::cpu
