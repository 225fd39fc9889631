// NeuralNDCG: NeuralSort, Sinkhorn, DCG, and back, for one list.
//
//   P = softmax_j(((n + 1 - 2 k) h_j - A_j) / T), A_j = sum_l |h_l - h_j|, doubly stochastic as
//   u_k P_kj v_j by v = 1 / (P^T u), u = 1 / (P v), repeated from u = 1; value
//   -sum_k u_k (P (v g))_k / log2(1 + k)
//
// Mapping: scaling vectors instead of scaled matrices, so Sinkhorn only reads P, once an iteration
// and direction. Backward goes through every iteration; what the softmax needs of it is a sum of
// two outer products an iteration, formed row by row as a matrix product. Bytes: P (n^2 of T) twice
// per iteration from L2, and two vectors kept of each. Hazard: the exponents cancel; they are
// formed in double from centred scores, and A by prefix sums of the sorted list, O(n log n).
#include <algorithm>
#include <cmath>

#include "cpu/flush_denormals.h"
#include "cpu/kernel_table.h"
#include "cpu/listwise_step.h"

namespace xrisk::cpu {
namespace {

template <class T>
class NeuralList {
 public:
  NeuralList(const ListwiseStep<T>& call, const RankedList<T>& list)
      : call_(call), list_(list), n_(list.count) {}

  ListResult run() {
    double* gains = scratch_.allocate<double>(n_);
    const int64_t top_k = call_.options.top_k > 0 ? std::min(call_.options.top_k, n_) : n_;
    const double inverse_ideal =
        relative_gains(list_.relevance, n_, top_k, gains, SerialExecutor());
    if (inverse_ideal == 0.0) return {0.0, 1.0};
    constexpr int64_t kLanes = 64 / sizeof(T);
    p_.size = n_;
    p_.stride = (n_ + kLanes - 1) / kLanes * kLanes;
    p_.data = scratch_.allocate<T>(n_ * p_.stride);
    sort();
    kernels<T>().lists.neural_sort(scores_, distances_, 1.0 / call_.temperature, p_);
    // Of each iteration two outer products, and one of the DCG itself.
    const int64_t most = call_.options.max_iterations;
    left_ = vectors(2 * most + 1);
    right_ = vectors(2 * most + 1);
    u_ = vectors(most + 1);
    sinkhorn();

    T* scaled_gains = vectors(1);
    for (int64_t j = 0; j < n_; ++j) {
      scaled_gains[j] = static_cast<T>(gains[j] * inverse_ideal) * v(iterations_)[j];
    }
    double value = 0.0;
    T *outer = left_ + 2 * iterations_ * p_.stride, *rows = vectors(1), *pull = vectors(1);
    for (int64_t k = 0; k < n_; ++k) {
      const T discount =
          k < top_k ? static_cast<T>(-rank_discount(static_cast<double>(k + 1))) : T(0);
      T dot = T(0);
      for (int64_t j = 0; j < n_; ++j) dot += p_.row(k)[j] * scaled_gains[j];
      outer[k] = discount * u(iterations_)[k];
      value += static_cast<double>(outer[k]) * static_cast<double>(dot);
      rows[k] = discount * dot;  // d value / d u_k
      for (int64_t j = 0; j < n_; ++j) pull[j] += outer[k] * p_.row(k)[j];
    }
    if (list_.gradient == nullptr) return {value, 1.0};
    std::copy(scaled_gains, scaled_gains + p_.stride, right_ + 2 * iterations_ * p_.stride);
    for (int64_t j = 0; j < n_; ++j) {  // d value / d v_j
      pull[j] *= static_cast<T>(gains[j] * inverse_ideal);
    }
    back(rows, pull);
    scores_gradient();
    return {value, 1.0};
  }

 private:
  T* vectors(int64_t count) {
    T* result = scratch_.allocate<T>(count * p_.stride);
    std::fill(result, result + count * p_.stride, T(0));
    return result;
  }
  T* u(int64_t iteration) { return u_ + iteration * p_.stride; }
  // v_t is the right side of the first outer product of iteration t (from 1), u_(t-1) the left side
  // of the second one.
  T* v(int64_t iteration) { return right_ + 2 * (iteration - 1) * p_.stride; }

  // Centred scores and their sums of distances.
  void sort() {
    scores_ = scratch_.allocate<double>(n_);
    distances_ = scratch_.allocate<double>(n_);
    order_ = descending_places(list_.scores, n_, scratch_, SerialExecutor());
    const double centre = static_cast<double>(list_.scores[order_[n_ / 2]]);
    double total = 0.0;
    for (int64_t j = 0; j < n_; ++j) {
      scores_[j] = static_cast<double>(list_.scores[j]) - centre;
      total += scores_[j];
    }
    double above = 0.0;
    for (int64_t r = 0; r < n_;) {  // ties at once: their exponents must be the same
      const double h = scores_[order_[r]];
      const int64_t end = level_end(r);
      const double level = static_cast<double>(end - r) * h, below = total - above - level;
      const double distance =
          above - static_cast<double>(r) * h + static_cast<double>(n_ - end) * h - below;
      for (; r < end; ++r) distances_[order_[r]] = distance;
      above += level;
    }
  }

  // Where the ties of the score at place r of the order end.
  int64_t level_end(int64_t r) const {
    const double h = scores_[order_[r]];
    while (r < n_ && scores_[order_[r]] == h) ++r;
    return r;
  }

  // u_0 = 1; v_t = 1 / (P^T u_(t-1)), u_t = 1 / (P v_t) until the columns sum to 1.
  void sinkhorn() {
    T* columns = vectors(1);
    for (int64_t k = 0; k < n_; ++k) {
      u(0)[k] = T(1);
      for (int64_t j = 0; j < n_; ++j) columns[j] += p_.row(k)[j];
    }
    const int64_t most = call_.options.max_iterations;
    for (iterations_ = 1;; ++iterations_) {
      T* scale = v(iterations_);
      for (int64_t j = 0; j < n_; ++j) scale[j] = T(1) / std::max(columns[j], T(1e-30));
      kernels<T>().lists.dot_and_add(p_, scale, nullptr, u(iterations_), columns);
      double off = 0.0;
      for (int64_t j = 0; j < n_; ++j) {
        off = std::max(off, std::fabs(static_cast<double>(columns[j] * scale[j]) - 1.0));
      }
      if (off < call_.options.tolerance || iterations_ == most) return;
    }
  }

  // rows: d value / d u, pull: d value / d v of the last iteration.
  void back(const T* rows, T* pull) {
    T* first = left_ + 2 * (iterations_ - 1) * p_.stride;
    for (int64_t k = 0; k < n_; ++k) first[k] = -rows[k] * u(iterations_)[k] * u(iterations_)[k];
    for (int64_t k = 0; k < n_; ++k) {
      for (int64_t j = 0; j < n_; ++j) pull[j] += first[k] * p_.row(k)[j];
    }
    for (int64_t t = iterations_; t >= 1; --t) {
      T* to_columns = right_ + (2 * (t - 1) + 1) * p_.stride;
      for (int64_t j = 0; j < n_; ++j) to_columns[j] = -pull[j] * v(t)[j] * v(t)[j];
      std::copy(u(t - 1), u(t - 1) + p_.stride, left_ + (2 * (t - 1) + 1) * p_.stride);
      if (t == 1) break;
      kernels<T>().lists.dot_and_add(p_, to_columns, u(t - 1), left_ + 2 * (t - 2) * p_.stride,
                                     pull);
    }
  }

  void scores_gradient() {
    double* plain = scratch_.allocate<double>(n_);
    double* ranked = scratch_.allocate<double>(n_);
    kernels<T>().lists.softmax_gradient(p_, 2 * iterations_ + 1, left_, right_, vectors(4), plain,
                                        ranked);
    // d A_j / d h_m = sign(h_m - h_j), and its sum over m = j itself; ties have sign 0.
    double total = 0.0, higher = 0.0;
    for (int64_t j = 0; j < n_; ++j) total += plain[j];
    for (int64_t r = 0; r < n_;) {
      const int64_t end = level_end(r);
      double level = 0.0;
      for (int64_t k = r; k < end; ++k) level += plain[order_[k]];
      const double lower = total - higher - level;
      const double above = static_cast<double>(r), below = static_cast<double>(n_ - end);
      for (int64_t k = r; k < end; ++k) {
        const int32_t j = order_[k];
        const double gradient = ranked[j] - (lower - higher) - plain[j] * (below - above);
        list_.gradient[j] = static_cast<T>(gradient / call_.temperature);
      }
      higher += level;
      r = end;
    }
  }

  const ListwiseStep<T>& call_;
  const RankedList<T>& list_;
  const int64_t n_;
  Scratch scratch_;
  SquareMatrix<T> p_;
  double *scores_ = nullptr, *distances_ = nullptr;
  const int32_t* order_ = nullptr;
  int64_t iterations_ = 0;
  T *left_ = nullptr, *right_ = nullptr, *u_ = nullptr;
};

}  // namespace

template <class T>
ListResult neural_list(const ListwiseStep<T>& call, const RankedList<T>& list) {
  const FlushDenormals flush;
  return NeuralList<T>(call, list).run();
}

template ListResult neural_list(const ListwiseStep<float>&, const RankedList<float>&);
template ListResult neural_list(const ListwiseStep<double>&, const RankedList<double>&);

}  // namespace xrisk::cpu
