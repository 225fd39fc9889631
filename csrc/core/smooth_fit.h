// The constants of the smooth algorithm for logistic and sigmoid pair sums.
//
// The line is cut into bins. In a pair of bins a pair term is a polynomial of both local
// coordinates, with an error of 3e-7 (float) and 1e-13 (double) of its size there:
// docs/algorithms.md derives it. Beyond the reach a pair term is 0, 1 or linear to e^-28 (e^-36).
#pragma once

namespace xrisk {

template <class T>
struct SmoothFit;
template <>
struct SmoothFit<float> {
  static constexpr int kTerms = 8;        // of the polynomials
  static constexpr double kWidth = 1.25;  // of a bin, times scale
  static constexpr int kReach = 23;       // bins on either side that interact as polynomials
  static constexpr int kScanTerms = 16;   // of the exponential scans
};
template <>
struct SmoothFit<double> {
  static constexpr int kTerms = 16;
  static constexpr double kWidth = 1.5;
  static constexpr int kReach = 25;
  static constexpr int kScanTerms = 24;
};

}  // namespace xrisk
