// Pairwise log sums: log sum_j w_j exp(phi(y_j - x_i) / temperature), shifted so that nothing
// overflows. One interface, one class per algorithm, and what they are chosen by.
#pragma once

#include <memory>

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T>
struct LogSums {
  PairTermParams term;         // inverse_temperature > 0
  const T* anchors = nullptr;  // [P]
  int64_t anchor_count = 0;
  Items<T> items;  // one channel; weights >= 0; null: ones
};

template <class T>
class LogPairs {
 public:
  virtual ~LogPairs() = default;
  // log_sums [P] (-inf without items of positive weight); masses [P]: sum_j w exp((phi - peak) /
  // temperature), peak the anchor's largest phi; slopes [P]: the same with the slope over the
  // temperature, over the mass. A log sum of 1e5 has lost its last bits in float32; the mass is
  // what the columns need.
  virtual void rows(double* log_sums, double* slopes, double* masses) = 0;
  // out [M]: w_j sum_i a_i / masses_i exp((phi_ij - peak_i) / temperature) phi'_ij / temperature
  virtual void columns(const double* anchor_weights, const double* masses, T* out) = 0;
};

// Whether a near-linear algorithm exists for a pair term, for scores of type T. kSort, exact:
// hinge, barrier hinge, and logistic where 1 / temperature is a whole number (to T's rounding).
// kSmooth, with a stated error: squared hinge.
template <class T>
bool has_sorted_log_sums(const PairTermParams& term);
bool has_smooth_log_sums(const PairTermParams& term);

// Resolves kAuto, by the sizes. Scores that are not finite, or whose exponents are not, need the
// direct algorithm, whatever was asked for.
template <class T>
Algorithm choose_log_algorithm(const LogSums<T>& call, Algorithm wanted);

// `algorithm` must be resolved; call, scratch and executor must outlive the result. Nothing but
// direct works without anchors or items of positive weight.
template <class T>
std::unique_ptr<LogPairs<T>> make_log_sums(const LogSums<T>& call, Algorithm algorithm,
                                           Scratch& scratch, const Executor& executor);

// One maker per algorithm, for make_log_sums.
template <class T>
std::unique_ptr<LogPairs<T>> make_direct_log_sums(const LogSums<T>&, Scratch&, const Executor&);
template <class T>
std::unique_ptr<LogPairs<T>> make_linear_log_sums(const LogSums<T>&, Scratch&, const Executor&);
template <class T>
std::unique_ptr<LogPairs<T>> make_power_log_sums(const LogSums<T>&, Scratch&, const Executor&);
template <class T>
std::unique_ptr<LogPairs<T>> make_binned_log_sums(const LogSums<T>&, Scratch&, const Executor&);

}  // namespace xrisk::cpu
