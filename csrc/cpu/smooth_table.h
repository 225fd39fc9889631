// Matrices that carry moments of a source bin to the local polynomial of a target bin.
//
//   phi(h (apart + (s - t) / 2)) ~ sum_lk K[apart][l][k] s^l t^k,  |s|, |t| <= 1
//
// the interpolant at the Chebyshev points of both variables. It is formed in Chebyshev polynomials,
// where it is well conditioned, and then written in powers. Built once, at first use: 0.2 ms for
// float, 3 ms for double.
#pragma once

#include "cpu/smooth_grid.h"

namespace xrisk::cpu {

template <class T>
struct SmoothTables {
  static constexpr int kTerms = SmoothFit<T>::kTerms, kReach = SmoothFit<T>::kReach;
  using Matrices = double[2 * kReach + 1][kTerms][kTerms];

  alignas(64) Matrices softplus;          // log(1 + exp(z)), z = scale * (source - target)
  alignas(64) Matrices sigma;             // its slope
  alignas(64) Matrices sigma_slope;       // an even function of z: the same in rows and columns
  alignas(64) Matrices sigma_of_columns;  // z = scale * (target - source)

  SmoothTables();
};

template <class T>
const SmoothTables<T>& smooth_tables();

}  // namespace xrisk::cpu
