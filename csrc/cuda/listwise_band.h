// NeuralNDCG of a list of up to 32 * kChunks items by one block, which keeps the matrix in shared
// memory: the formulas of cpu/listwise_neural.cpp.
//
// The items stand in descending order of their scores. Row k of NeuralSort then has its largest
// entry on the diagonal and falls to both sides (its exponent is concave), so what counts of the
// matrix is a band: entries beyond exp(-reach) of their row's largest are left out, in float 1e-13,
// where every column sums to 1 / n at least.
//
// Mapping: cuda/strip_matrix.h; one of its passes is the second half of an iteration of Sinkhorn
// and the first half of the next, and so on the way back. Elsewhere a thread is that of an item.
// Bytes: the band once an iteration and direction. Hazard: the exponents cancel, and are formed in
// double.
#pragma once

#include "cuda/listwise_list.h"
#include "cuda/strip_matrix.h"

namespace xrisk::cuda {

template <int kThreads, int kChunks, class T>
class BandNeural : private StripMatrix<kThreads, kChunks, T> {
  using Matrix = StripMatrix<kThreads, kChunks, T>;

 public:
  // `shared`, `room`, `bands`: as StripMatrix.
  __device__ BandNeural(const BlockList<T>& list, char* shared, int32_t room, int32_t* bands)
      : Matrix(list.count, shared, room, bands, list.space.matrix), list_(list) {}
  static constexpr int kBandNumbers = 3 * Matrix::kStrips;

  __device__ ListResult run() {
    double* gains = list_.space.numbers[0];
    const double inverse_ideal = list_gains<kThreads>(list_, list_.call.options.top_k, gains);
    sort();
    cut_bands();
    neural_sort();
    sinkhorn();
    T pull = T(0);
    const double value = discounted_gain(gains, inverse_ideal, pull);
    if (list_.gradient == nullptr) return {value, 1.0};  // all threads
    back(pull);
    scores_gradient();
    return {value, 1.0};
  }

 private:
  using Matrix::begins_, Matrix::column_sum, Matrix::columns_, Matrix::ends_, Matrix::give_columns;
  using Matrix::kColumns, Matrix::kWarps, Matrix::n_, Matrix::offsets_, Matrix::partial_;
  using Matrix::pass, Matrix::row_of_lane, Matrix::rows_, Matrix::set_column, Matrix::strip;
  using Matrix::speaks_for_row, Matrix::strip_sum, Matrix::strips_, Matrix::thread;
  using Matrix::to_all_lanes;
  static constexpr int kTile = kWarps / 4;  // iterations whose vectors fit the partial sums' place
  static constexpr double kReach = sizeof(T) == 4 ? 30.0 : 700.0;

  // Of iteration t: u_t, v_t, and the gradients that pass through their denominators. Those of
  // t = 0 are an outer product, too: of the discounted gain itself.
  enum Slot { kU = 0, kV = 1, kToRows = 2, kToColumns = 3 };
  __device__ T* vector(Slot slot, int64_t t) const {
    return list_.space.vectors + (4 * t + slot) * list_.call.length;
  }
  __device__ static T inverse(T sum) {
    constexpr T kLeast = T(1e-30);
    return T(1) / (sum > kLeast ? sum : kLeast);
  }

  // The thread becomes that of the k-th largest score: numbers[1], [2] are the scores, less that of
  // the first item, and the distances.
  __device__ void sort() {
    int32_t* const order = reinterpret_cast<int32_t*>(partial_);
    int32_t *const above_of = order + kColumns, *const below_of = above_of + kColumns;
    const int32_t i = thread();
    const T* h = list_.space.scores;
    if (i < n_) columns_[i] = h[i];
    __syncthreads();
    if (i < n_) {
      const T mine = columns_[i];
      int32_t above = 0, below = 0, before = 0;
      for (int32_t j = 0; j < n_; ++j) {
        above += columns_[j] > mine;
        below += columns_[j] < mine;
        before += columns_[j] == mine && j < i;
      }
      order[above + before] = i;
      above_of[above + before] = above;
      below_of[above + before] = below;
    }
    __syncthreads();
    double score = 0.0;
    if (i < n_) {
      item_ = order[i];
      above_ = above_of[i];
      below_ = below_of[i];
      score = static_cast<double>(h[item_]) - static_cast<double>(h[0]);
    }
    double before, total;
    block_scan<kThreads>(score, 0.0, Sum(), before, total);
    if (i < n_) {
      const double behind = total - before - score, items_behind = static_cast<double>(n_ - 1 - i);
      list_.space.numbers[1][i] = score;
      list_.space.numbers[2][i] =
          (before - static_cast<double>(i) * score) + (items_behind * score - behind);
    }
    inverse_ = 1.0 / *list_.call.temperature;
    __syncthreads();
  }

  // Exponent of an entry less that on the diagonal. Above zero it is by rounding alone, which for
  // scores many orders above the temperature is more than an exponential holds.
  __device__ double exponent(int32_t k, double mine, double own_distance, double score,
                             double distance) const {
    const double factor = static_cast<double>(n_ - 1 - 2 * k);
    return fmin((factor * (score - mine) - (distance - own_distance)) * inverse_, 0.0);
  }

  // Where the strips' chunks begin and end: concave rows, whose bands move to the right.
  __device__ void cut_bands() {
    const double *scores = list_.space.numbers[1], *distances = list_.space.numbers[2];
    const auto inside = [&](int32_t k, int32_t j) {
      return exponent(k, scores[k], distances[k], scores[j], distances[j]) >= -kReach;
    };
    const int32_t s = thread();
    int32_t size = 0;
    if (s < strips_) {
      const int32_t first = kStripRows * s, after = first + kStripRows;
      const int32_t last = (after < n_ ? after : n_) - 1;
      int32_t low = 0, high = first;  // the first inside is in [low, high]
      while (low < high) {
        const int32_t middle = (low + high) / 2;
        inside(first, middle) ? high = middle : low = middle + 1;
      }
      begins_[s] = low / 32;
      low = last, high = n_ - 1;  // the last inside
      while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        inside(last, middle) ? low = middle : high = middle - 1;
      }
      ends_[s] = low / 32 + 1;
      size = 32 * (ends_[s] - begins_[s]);
    }
    const int32_t offset = block_exclusive_scan<kThreads>(size, 0, Sum());
    if (s < strips_) offsets_[s] = offset;
    __syncthreads();
  }

  // The matrix, and its column sums.
  __device__ void neural_sort() {
    const double *scores = list_.space.numbers[1], *distances = list_.space.numbers[2];
    T out[kChunks] = {};
    for (int32_t s = warp_index(); s < strips_; s += kWarps) {
      StripColumn<T>* p = strip(s);
      const int32_t begin = begins_[s], end = ends_[s];
      T sums[kStripRows] = {}, scales[kStripRows];
      double mine[kStripRows], own_distance[kStripRows];
#pragma unroll
      for (int r = 0; r < kStripRows; ++r) {
        const int32_t k = kStripRows * s + r < n_ ? kStripRows * s + r : n_ - 1;
        mine[r] = scores[k];
        own_distance[r] = distances[k];
      }
      for (int c = begin; c < end; ++c) {
        const int32_t j = lane_index() + 32 * c;
        StripColumn<T> column = {};
        if (j < n_) {
#pragma unroll
          for (int r = 0; r < kStripRows; ++r) {
            const int32_t k = kStripRows * s + r;
            if (k >= n_) continue;
            column.row[r] = exponential(
                static_cast<T>(exponent(k, mine[r], own_distance[r], scores[j], distances[j])));
            sums[r] += column.row[r];
          }
        }
        p[32 * c] = column;
      }
      to_all_lanes(T(1) / strip_sum(sums), scales);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (c < begin || c >= end) continue;
        StripColumn<T> column = p[32 * c];
#pragma unroll
        for (int r = 0; r < kStripRows; ++r) {
          if (kStripRows * s + r < n_) column.row[r] *= scales[r];
          out[c] += column.row[r];
        }
        p[32 * c] = column;
      }
    }
    give_columns(out);
  }

  __device__ void sinkhorn() {
    const ListOptions& options = list_.call.options;
    const T tolerance = static_cast<T>(options.tolerance);
    if (thread() < n_) vector(kU, 0)[thread()] = T(1);
    set_column(vector(kV, 1), thread() < n_ ? inverse(column_sum()) : T(0));
    __syncthreads();
    for (iterations_ = 1;; ++iterations_) {
      T* scales = vector(kU, iterations_);
      pass([&](int32_t k, T sum) {
        if (k >= n_) return T(0);
        const T scale = inverse(sum);
        if (speaks_for_row()) scales[k] = scale;
        return scale;
      });
      if (iterations_ == options.max_iterations) return;
      bool open = false;
      if (thread() < n_) {
        const T sum = column_sum();
        const T off = sum * columns_[thread()] - T(1);
        open = !((off < T(0) ? -off : off) < tolerance);
        set_column(vector(kV, iterations_ + 1), inverse(sum));
      }
      if (!__syncthreads_or(open)) return;
    }
  }

  // The value, in every thread, and of the thread's column d value / d v of the last iteration.
  __device__ double discounted_gain(const double* gains, double inverse_ideal, T& pull) {
    const int64_t top_k = list_.call.options.top_k;
    const T *last_u = vector(kU, iterations_), *last_v = vector(kV, iterations_);
    T *outer = vector(kToRows, 0), *to_rows = vector(kToRows, iterations_);
    const T gain = thread() < n_ ? static_cast<T>(gains[item_] * inverse_ideal) : T(0);
    set_column(vector(kV, 0), thread() < n_ ? gain * last_v[thread()] : T(0));
    __syncthreads();
    double value = 0.0;
    pass([&](int32_t k, T sum) {
      if (k >= n_ || (top_k > 0 && k >= top_k)) {
        if (k < n_ && speaks_for_row()) outer[k] = to_rows[k] = T(0);
        return T(0);
      }
      const T discount = static_cast<T>(-rank_discount(static_cast<double>(k + 1)));
      const T scale = last_u[k];
      if (speaks_for_row()) {
        outer[k] = discount * scale;
        to_rows[k] = -discount * sum * scale * scale;
        value += static_cast<double>(discount * scale) * static_cast<double>(sum);
      }
      return discount * scale;
    });
    pull = gain * column_sum();
    return block_sum<kThreads>(value);  // a barrier, too
  }

  __device__ void back(T pull) {
    const T* to_rows = vector(kToRows, iterations_);
    pass([&](int32_t k, T) { return k < n_ ? to_rows[k] : T(0); });
    for (int64_t t = iterations_;; --t) {
      if (thread() < kColumns) {
        const T scale = thread() < n_ ? vector(kV, t)[thread()] : T(0);
        set_column(vector(kToColumns, t), -(pull + column_sum()) * scale * scale);
        rows_[thread()] = thread() < n_ ? vector(kU, t - 1)[thread()] : T(0);
      }
      __syncthreads();
      if (t == 1) return;
      pull = T(0);
      T* next = vector(kToRows, t - 1);
      pass([&](int32_t k, T sum) {
        const T scale = rows_[k], gradient = -sum * scale * scale;
        if (speaks_for_row() && k < n_) next[k] = gradient;
        return gradient;
      });
    }
  }

  // Of a warp's part of the tile that begins at iteration `first`: a vector each.
  __device__ void fetch(int64_t first, T (&part)[kChunks]) const {
    const int64_t t = first + warp_index() / 4;
    const int which = warp_index() % 4;
    const bool there = t <= iterations_ && (t > 0 || which < 2);
    const T* source = !there       ? nullptr
                      : which == 0 ? vector(kToRows, t)
                      : which == 1 ? vector(kV, t)
                      : which == 2 ? vector(kU, t - 1)
                                   : vector(kToColumns, t);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int32_t j = lane_index() + 32 * c;
      part[c] = there && j < n_ ? source[j] : T(0);
    }
  }

  // The gradient of the softmax is P (G - mean), with G the sum of the outer products
  // to_rows_t v_t + u_(t-1) to_columns_t; of that the sums over rows, and those weighted by what
  // d exponent / d score is.
  __device__ void scores_gradient() {
    if (thread() < kColumns) rows_[thread()] = static_cast<T>(above_ - below_);
    T plain[kChunks] = {}, ranked[kChunks] = {};
    for (int32_t group = 0; group < strips_; group += kWarps) {
      const int32_t s = group + warp_index();
      const int32_t begin = s < strips_ ? begins_[s] : 0, end = s < strips_ ? ends_[s] : 0;
      T through[kChunks][kStripRows] = {};
      T part[kChunks];
      fetch(0, part);
      for (int64_t first = 0; first <= iterations_; first += kTile) {
        __syncthreads();  // an earlier tile may still be read
        give_columns(part);
        if (first + kTile <= iterations_) fetch(first + kTile, part);
        if (s >= strips_) continue;
#pragma unroll
        for (int t = 0; t < kTile; ++t) {
          const T* tile = partial_ + 4 * t * kColumns;
          const auto of_rows = reinterpret_cast<const StripColumn<T>*>(tile)[s];
          const auto us = reinterpret_cast<const StripColumn<T>*>(tile + 2 * kColumns)[s];
#pragma unroll
          for (int c = 0; c < kChunks; ++c) {
            if (c < begin || c >= end) continue;
            const T v = tile[kColumns + lane_index() + 32 * c];
            const T of_column = tile[3 * kColumns + lane_index() + 32 * c];
#pragma unroll
            for (int r = 0; r < kStripRows; ++r) {
              through[c][r] += of_rows.row[r] * v;
              through[c][r] += us.row[r] * of_column;
            }
          }
        }
      }
      if (s >= strips_) continue;  // the whole warp; the barriers are of all groups alike
      const StripColumn<T>* p = strip(s);
      T sums[kStripRows] = {}, means[kStripRows];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (c < begin || c >= end) continue;
        const StripColumn<T> column = p[32 * c];
#pragma unroll
        for (int r = 0; r < kStripRows; ++r) sums[r] += column.row[r] * through[c][r];
      }
      to_all_lanes(strip_sum(sums), means);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (c < begin || c >= end) continue;
        const StripColumn<T> column = p[32 * c];
        const T balance = rows_[lane_index() + 32 * c];
#pragma unroll
        for (int r = 0; r < kStripRows; ++r) {
          const T g = column.row[r] * (through[c][r] - means[r]);
          plain[c] += g;
          ranked[c] += g * (static_cast<T>(n_ - 1 - 2 * (kStripRows * s + r)) + balance);
        }
      }
    }
    __syncthreads();
    give_columns(plain);
    const double of_column = static_cast<double>(column_sum());
    __syncthreads();
    give_columns(ranked);
    // The distance of a score to another one changes by the sign of their difference.
    double* sums = list_.space.numbers[1];
    double before, total;
    block_scan<kThreads>(of_column, 0.0, Sum(), before, total);
    if (thread() < n_) sums[thread()] = before;
    __syncthreads();
    if (thread() >= n_) return;
    const double above = sums[above_];
    const double below = below_ == 0 ? 0.0 : total - sums[n_ - below_];
    list_.gradient[list_.space.places[item_]] =
        static_cast<T>((static_cast<double>(column_sum()) - (below - above)) * inverse_);
  }

  const BlockList<T>& list_;
  int64_t iterations_ = 0;
  double inverse_ = 0.0;  // of the temperature
  // Of the thread's item, in the order of the scores.
  int32_t item_ = 0, above_ = 0, below_ = 0;
};

}  // namespace xrisk::cuda
