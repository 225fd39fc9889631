// A matrix in strips of four rows, whose rows are cut to bands, in a block's shared memory as far
// as that reaches and in the workspace beyond; and products with it.
//
// Mapping: a strip is a warp's, whose lanes stand at the columns lane + 32 c: a band is of whole
// chunks c. One reading of a strip serves a product with the matrix and one with its transpose;
// sums over the rows stay in the lanes' registers until all strips are through. Bytes: the bands
// once a pass. Hazard: the barriers that each function names.
#pragma once

#include "core/macros.h"
#include "cuda/block.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

constexpr int kStripRows = 4;

// A column of a strip.
template <class T>
struct __align__(16) StripColumn {
  T row[kStripRows];
};

// Elements of a matrix in strips, whose columns come in chunks of 32.
XRISK_HD constexpr int64_t strip_matrix_size(int64_t length) {
  return (length + kStripRows - 1) / kStripRows * kStripRows * ((length + 31) / 32 * 32);
}

// What StripMatrix takes of dynamic shared memory beside the matrix.
template <int kThreads, int kChunks, class T>
constexpr int64_t strip_vector_bytes() {
  return int64_t{kThreads / 32 + 2} * 32 * kChunks * static_cast<int64_t>(sizeof(T));
}

// Of up to 32 * kChunks rows and columns.
template <int kThreads, int kChunks, class T>
class StripMatrix {
 public:
  static constexpr int kColumns = 32 * kChunks;
  static_assert(kColumns <= kThreads, "a thread for every column");

 protected:
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kStrips = kColumns / kStripRows;

  // `room`: bytes of `shared` beside the vectors; `bands`: [3, kStrips], shared, too.
  __device__ StripMatrix(int32_t count, char* shared, int32_t room, int32_t* bands, T* workspace)
      : n_(count),
        strips_((count + kStripRows - 1) / kStripRows),
        partial_(reinterpret_cast<T*>(shared)),
        columns_(partial_ + kWarps * kColumns),
        rows_(columns_ + kColumns),
        near_(reinterpret_cast<StripColumn<T>*>(rows_ + kColumns)),
        far_(reinterpret_cast<StripColumn<T>*>(workspace)),
        room_(room / static_cast<int32_t>(sizeof(StripColumn<T>))),
        begins_(bands),
        ends_(bands + kStrips),
        offsets_(bands + 2 * kStrips) {}

  // The lane's first column, were it in the band.
  __device__ StripColumn<T>* strip(int32_t s) const {
    const int32_t size = 32 * (ends_[s] - begins_[s]);
    return (offsets_[s] + size <= room_ ? near_ : far_) + offsets_[s] + lane_index() -
           32 * begins_[s];
  }

  // Of four sums over the warp the one that belongs to the lane, of row lane / 8.
  __device__ static int row_of_lane() { return lane_index() / 8; }
  __device__ static bool speaks_for_row() { return lane_index() % 8 == 0; }
  __device__ static T strip_sum(const T (&sums)[kStripRows]) {
    const bool second_half = (lane_index() & 16) != 0, second = (lane_index() & 8) != 0;
    const T even = (second_half ? sums[2] : sums[0]) +
                   __shfl_xor_sync(kWholeWarp, second_half ? sums[0] : sums[2], 16);
    const T odd = (second_half ? sums[3] : sums[1]) +
                  __shfl_xor_sync(kWholeWarp, second_half ? sums[1] : sums[3], 16);
    T sum = (second ? odd : even) + __shfl_xor_sync(kWholeWarp, second ? even : odd, 8);
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(kWholeWarp, sum, distance);
    }
    return sum;
  }
  __device__ static void to_all_lanes(T of_lane, T (&of_row)[kStripRows]) {
#pragma unroll
    for (int r = 0; r < kStripRows; ++r) of_row[r] = __shfl_sync(kWholeWarp, of_lane, 8 * r);
  }

  // scale_k = row(k, sum_j P_kj columns_j), 0 for k >= n; then column_sum() of thread j is
  // sum_k scale_k P_kj. Ends with a barrier; wants one between writing columns_ and itself.
  template <class F>
  __device__ void pass(F&& row) {
    T in[kChunks], out[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      in[c] = columns_[lane_index() + 32 * c];
      out[c] = T(0);
    }
    for (int32_t s = warp_index(); s < strips_; s += kWarps) {
      const StripColumn<T>* p = strip(s);
      const int32_t begin = begins_[s], end = ends_[s];
      StripColumn<T> kept[kChunks];
      T sums[kStripRows] = {}, scales[kStripRows];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (c < begin || c >= end) continue;  // the whole warp
        kept[c] = p[32 * c];
#pragma unroll
        for (int r = 0; r < kStripRows; ++r) sums[r] += kept[c].row[r] * in[c];
      }
      to_all_lanes(row(kStripRows * s + row_of_lane(), strip_sum(sums)), scales);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (c < begin || c >= end) continue;
#pragma unroll
        for (int r = 0; r < kStripRows; ++r) out[c] += kept[c].row[r] * scales[r];
      }
    }
    give_columns(out);
  }
  __device__ void give_columns(const T (&out)[kChunks]) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      partial_[warp_index() * kColumns + lane_index() + 32 * c] = out[c];
    }
    __syncthreads();
  }
  __device__ T column_sum() const {
    T sum = T(0);
    if (thread() < n_) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += partial_[w * kColumns + thread()];
    }
    return sum;
  }
  __device__ static int32_t thread() { return static_cast<int32_t>(threadIdx.x); }
  // The next pass's, of the thread's column.
  __device__ void set_column(T* kept, T x) {
    if (thread() < kColumns) columns_[thread()] = x;
    if (thread() < n_) kept[thread()] = x;
  }

  const int32_t n_, strips_;
  T *const partial_, *const columns_, *const rows_;  // [kWarps, kColumns], [kColumns] each
  StripColumn<T>*const near_, *const far_;
  const int32_t room_;                                    // columns of a strip in near_
  int32_t *const begins_, *const ends_, *const offsets_;  // [kStrips], of the chunks
};

}  // namespace xrisk::cuda
