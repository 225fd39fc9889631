// NeuralNDCG of one list by one block: the formulas of cpu/listwise_neural.cpp.
//
// Mapping: rows of the matrix a warp each, columns a thread each, so that both read it coalesced.
// Bytes: the matrix twice per iteration and direction, from L2 for lists of some hundred items.
// Hazard: the exponents cancel, and are formed in double.
#pragma once

#include "cuda/listwise_list.h"

namespace xrisk::cuda {

template <int kThreads, class T>
class BlockNeural {
 public:
  __device__ explicit BlockNeural(const BlockList<T>& list)
      : list_(list), n_(list.count), p_(list.space.matrix) {}

  __device__ ListResult run() {
    const ListOptions& options = list_.call.options;
    double* gains = list_.space.numbers[0];
    const double inverse_ideal = list_gains<kThreads>(list_, options.top_k, gains);
    neural_sort();
    sinkhorn();
    double *rows = list_.space.numbers[2], *pull = list_.space.numbers[3];
    double* discounted = list_.space.numbers[4];
    const T *last_u = u(iterations_), *last_v = v(iterations_);
    double value = 0.0;
    each_by_warp<kThreads>(n_, [&](int32_t k) {
      const bool counts = options.top_k == 0 || k < options.top_k;
      const double discount = counts ? -rank_discount(static_cast<double>(k + 1)) : 0.0;
      const double dot = warp_sum_over(n_, [&](int32_t j) {
        return static_cast<double>(p_[at(k, j)]) * static_cast<double>(last_v[j]) * gains[j];
      });
      if (lane_index() != 0) return;
      rows[k] = discount * inverse_ideal * dot;  // d value / d u_k
      discounted[k] = discount * inverse_ideal * static_cast<double>(last_u[k]);
      value += rows[k] * static_cast<double>(last_u[k]);
    });
    value = block_sum<kThreads>(value);
    if (list_.gradient == nullptr) return {value, 1.0};  // all threads
    __syncthreads();
    each_by_thread<kThreads>(n_, [&](int32_t j) {  // d value / d v_j
      double sum = 0.0;
      for (int32_t k = 0; k < n_; ++k) sum += discounted[k] * static_cast<double>(p_[at(k, j)]);
      pull[j] = gains[j] * sum;
    });
    back(rows, pull);
    softmax_gradient(discounted, gains);
    scores_gradient();
    return {value, 1.0};
  }

 private:
  __device__ int64_t at(int32_t k, int32_t j) const { return static_cast<int64_t>(k) * n_ + j; }
  // Of iteration t: u_t, v_t, and the gradients that pass through their denominators.
  __device__ T* vector(int64_t slot, int64_t t) const {
    return list_.space.vectors + (4 * t + slot) * list_.call.length;
  }
  __device__ T* u(int64_t t) const { return vector(0, t); }
  __device__ T* v(int64_t t) const { return vector(1, t); }
  __device__ T* to_rows(int64_t t) const { return vector(2, t); }
  __device__ T* to_columns(int64_t t) const { return vector(3, t); }
  __device__ double score(int32_t j) const {  // the differences count
    return static_cast<double>(list_.space.scores[j]) - static_cast<double>(list_.space.scores[0]);
  }

  // From the distances in numbers[1], with a barrier before and after.
  __device__ void neural_sort() {
    double* distances = list_.space.numbers[1];
    each_by_warp<kThreads>(n_, [&](int32_t j) {
      const double mine = score(j);
      const double sum = warp_sum_over(n_, [&](int32_t l) { return fabs(score(l) - mine); });
      if (lane_index() == 0) distances[j] = sum;
    });
    __syncthreads();
    const double inverse = 1.0 / *list_.call.temperature;
    each_by_warp<kThreads>(n_, [&](int32_t k) {
      const double factor = static_cast<double>(n_ - 1 - 2 * k);
      const auto exponent = [&](int32_t j) { return factor * score(j) - distances[j]; };
      double top = -INFINITY;
      for (int32_t j = lane_index(); j < n_; j += 32) top = fmax(top, exponent(j));
      top = warp_max(top);
      const auto power = [&](int32_t j) { return exp((exponent(j) - top) * inverse); };
      const double total = warp_sum_over(n_, power);
      for (int32_t j = lane_index(); j < n_; j += 32) {
        p_[at(k, j)] = static_cast<T>(power(j) / total);
      }
    });
    __syncthreads();
  }

  __device__ void sinkhorn() {
    const ListOptions& options = list_.call.options;
    each_by_thread<kThreads>(n_, [&](int32_t k) { u(0)[k] = T(1); });
    __syncthreads();
    for (iterations_ = 1;; ++iterations_) {
      const T* before = u(iterations_ - 1);
      T* scale = v(iterations_);
      double off = 0.0;  // of the columns after the iteration before
      each_by_thread<kThreads>(n_, [&](int32_t j) {
        double sum = 0.0;
        for (int32_t k = 0; k < n_; ++k) {
          sum += static_cast<double>(before[k]) * static_cast<double>(p_[at(k, j)]);
        }
        if (iterations_ > 1) {
          off = fmax(off, fabs(sum * static_cast<double>(v(iterations_ - 1)[j]) - 1.0));
        }
        scale[j] = static_cast<T>(1.0 / fmax(sum, 1e-30));
      });
      off = block_max<kThreads>(off, 0.0);  // a barrier, too
      if (iterations_ > 1 && off < options.tolerance) {
        --iterations_;
        return;
      }
      __syncthreads();
      each_by_warp<kThreads>(n_, [&](int32_t k) {
        const double sum = warp_sum_over(n_, [&](int32_t j) {
          return static_cast<double>(p_[at(k, j)]) * static_cast<double>(scale[j]);
        });
        if (lane_index() == 0) u(iterations_)[k] = static_cast<T>(1.0 / fmax(sum, 1e-30));
      });
      __syncthreads();
      if (iterations_ == options.max_iterations) return;
    }
  }

  // rows: d value / d u, pull: d value / d v of the last iteration, both its own thread's or read
  // after a barrier.
  __device__ void back(double* rows, double* pull) {
    for (int64_t t = iterations_; t >= 1; --t) {
      each_by_thread<kThreads>(n_, [&](int32_t k) {
        const double scale = static_cast<double>(u(t)[k]);
        to_rows(t)[k] = static_cast<T>(-rows[k] * scale * scale);
      });
      __syncthreads();
      each_by_thread<kThreads>(n_, [&](int32_t j) {
        double sum = t == iterations_ ? pull[j] : 0.0;
        for (int32_t k = 0; k < n_; ++k) {
          sum += static_cast<double>(to_rows(t)[k]) * static_cast<double>(p_[at(k, j)]);
        }
        const double scale = static_cast<double>(v(t)[j]);
        to_columns(t)[j] = static_cast<T>(-sum * scale * scale);
      });
      __syncthreads();
      each_by_warp<kThreads>(n_, [&](int32_t k) {
        const double sum = warp_sum_over(n_, [&](int32_t j) {
          return static_cast<double>(p_[at(k, j)]) * static_cast<double>(to_columns(t)[j]);
        });
        if (lane_index() == 0) rows[k] = sum;
      });
      __syncthreads();
    }
  }

  // The matrix becomes the gradient of the exponents.
  __device__ void softmax_gradient(const double* discounted, const double* gains) {
    each_by_warp<kThreads>(n_, [&](int32_t k) {
      const auto through = [&](int32_t j) {
        double sum = discounted[k] * static_cast<double>(v(iterations_)[j]) * gains[j];
        for (int64_t t = 1; t <= iterations_; ++t) {
          sum += static_cast<double>(to_rows(t)[k]) * static_cast<double>(v(t)[j]) +
                 static_cast<double>(u(t - 1)[k]) * static_cast<double>(to_columns(t)[j]);
        }
        return sum;
      };
      // Twice rather than stored: the row is still needed as it was.
      const double mean = warp_sum_over(
          n_, [&](int32_t j) { return static_cast<double>(p_[at(k, j)]) * through(j); });
      for (int32_t j = lane_index(); j < n_; j += 32) {
        p_[at(k, j)] = static_cast<T>(static_cast<double>(p_[at(k, j)]) * (through(j) - mean));
      }
    });
    __syncthreads();
  }

  __device__ void scores_gradient() {
    double *plain = list_.space.numbers[0], *ranked = list_.space.numbers[1];
    double* gradient = list_.space.numbers[2];
    each_by_thread<kThreads>(n_, [&](int32_t j) {
      double sum = 0.0, with_rank = 0.0;
      for (int32_t k = 0; k < n_; ++k) {
        const double g = static_cast<double>(p_[at(k, j)]);
        sum += g;
        with_rank += static_cast<double>(n_ - 1 - 2 * k) * g;
      }
      plain[j] = sum;
      ranked[j] = with_rank;
    });
    __syncthreads();
    const double inverse = 1.0 / *list_.call.temperature;
    const T* h = list_.space.scores;
    each_by_warp<kThreads>(n_, [&](int32_t m) {
      const double sum = warp_sum_over(n_, [&](int32_t j) {
        const double sign = static_cast<double>((h[m] > h[j]) - (h[m] < h[j]));
        return sign * (plain[j] + plain[m]);
      });
      if (lane_index() == 0) gradient[m] = (ranked[m] - sum) * inverse;
    });
    __syncthreads();
    write_gradient<kThreads>(list_, gradient);
  }

  const BlockList<T>& list_;
  const int32_t n_;
  T* p_;
  int64_t iterations_ = 0;
};

}  // namespace xrisk::cuda
