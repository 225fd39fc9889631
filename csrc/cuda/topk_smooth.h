// The smoothed problem:  L'(t) = kappa + tau2 t - mean_j sigma((h_j - t) / tau1) = 0.
//
// Newton's method (core/topk.h) over the scores for which the sigmoid is neither 0 nor 1 near the
// root; those above count as one. Short rows: a warp or a block per row copies them into shared
// memory, from around the exact threshold. Long rows (topk_long.h): the sample's own root, with as
// much more and less above it as luck allows for, says where they are; a block finishes a row with
// few of them, the others take a step a launch over many blocks. Whether the root lies where all
// that counts was copied is known when it is found; if not, and where most of the row is within
// reach, the steps are over the whole row. Launches without work leave at once.
//
// What is copied comes in any order, so that sums are of integers: the same bits every run.
#pragma once

#include "core/topk.h"
#include "cuda/topk_long.h"

namespace xrisk::cuda {

constexpr int kMostNewtonSteps = 200;  // in one launch
constexpr int kSampleSteps = 12;

// sigma and its slope at one threshold, in T.
template <class T>
struct SoftPoint {
  T rounded, rest, inverse;

  __device__ __forceinline__ SoftPoint(double at, double tau1)
      : rounded(static_cast<T>(at)),
        rest(static_cast<T>(at - static_cast<double>(static_cast<T>(at)))),
        inverse(static_cast<T>(1.0 / tau1)) {}
  __device__ __forceinline__ T slope_at(T x, T& share) const {
    T steepness;
    soft_indicator(((x - rounded) - rest) * inverse, share, steepness);
    return steepness;
  }
};

// How finely shares of at most one are counted, so that `count` of them fit 64 bits.
template <class T>
__device__ __forceinline__ double fixed_scale(int64_t count) {
  if (sizeof(T) == 4) return static_cast<double>(1 << 30);  // below the rounding of T
  return static_cast<double>(1ull << (62 - bit_width(static_cast<uint64_t>(count))));
}
__device__ __forceinline__ unsigned long long to_fixed(float share, float scale) {
  return static_cast<unsigned>(__float2int_rn(share * scale));
}
__device__ __forceinline__ unsigned long long to_fixed(double share, double scale) {
  return static_cast<unsigned long long>(share * scale + 0.5);
}

template <class T>
struct FixedSums {
  SoftPoint<T> point;
  T scale;
  unsigned long long above = 0, slope = 0;

  __device__ __forceinline__ FixedSums(double at, double tau1, int64_t count)
      : point(at, tau1), scale(static_cast<T>(fixed_scale<T>(count))) {}
  __device__ __forceinline__ void add(T x) {
    T share;
    const T steepness = point.slope_at(x, share);
    above += to_fixed(share, scale);
    slope += to_fixed(steepness, scale);
  }
};

template <class T>
__device__ __forceinline__ SmoothTopK problem_of(const TopK<T>& call, int64_t count) {
  return {(static_cast<double>(call.k) + call.epsilon) / static_cast<double>(count), call.tau1,
          call.tau2};
}

__device__ __forceinline__ double newton_start(double exact) {
  return is_finite(exact) ? exact : 0.0;
}

// What Newton's method works on: `visited` scores, `counted` more that stand above them all, and
// `count` in all. The sample's problems are biased by `bias` and only roughly solved.
struct SoftRow {
  int64_t visited, counted, count;
  double bias = 0.0, rough = 0.0;  // least tolerance
  int most = kMostNewtonSteps;
};

// One step from the sums; true at the root.
template <class T>
__device__ __forceinline__ bool newton_step(NewtonSearch& search, const SmoothTopK& problem,
                                            const SoftRow& row, unsigned long long above,
                                            unsigned long long slope) {
  const double n = static_cast<double>(row.count), scale = fixed_scale<T>(row.visited);
  const double share =
      (static_cast<double>(row.counted) + static_cast<double>(above) / scale) / n + row.bias;
  const double tolerance = newton_tolerance<T>(search.at, problem.tau1);
  return search.advance(problem.derivative(search.at, share),
                        problem.curvature(static_cast<double>(slope) / scale / n),
                        tolerance > row.rough ? tolerance : row.rough);
}

// The whole search; visit(f) calls f(score) for each score that is this thread's. False: it did not
// end.
template <int kBlock, class T, class Visit>
__device__ __forceinline__ bool newton_in_block(NewtonSearch& search, const Visit& visit,
                                                const SmoothTopK& problem, const SoftRow& row) {
  for (int step = 0; step < row.most; ++step) {
    FixedSums<T> sums(search.at, problem.tau1, row.visited);
    visit([&](T x) { sums.add(x); });
    const unsigned long long above = block_sum<kBlock>(sums.above);
    const unsigned long long slope = block_sum<kBlock>(sums.slope);
    // the same in every thread: all leave together
    if (newton_step<T>(search, problem, row, above, slope)) return true;
  }
  return false;
}

// Whether all that counts at `at` is between the edges of what was copied.
template <class T>
__device__ __forceinline__ bool sees_enough(double at, T low, T high, double tau1) {
  const double reach = soft_reach<T>() * tau1;
  return at - reach >= static_cast<double>(low) && at + reach <= static_cast<double>(high);
}

// Rows of `least` + 1 to `most` scores, from the exact threshold in out.roots, which it replaces.
template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock)
    newton_short_rows_kernel(TopK<T> call, int64_t least, int64_t most, Thresholds<T> out) {
  constexpr unsigned kNear = 4 * kBlock;
  XRISK_SHARED(T, near, [kNear]);
  XRISK_SHARED(unsigned, taken, [1]);
  const int64_t row = blockIdx.x;
  const RowSpan span = span_of(call, row);
  if (span.count <= call.k || span.count <= least || span.count > most) return;
  const SmoothTopK problem = problem_of(call, span.count);
  const double start = newton_start(out.roots[row]), reach = 2.0 * soft_reach<T>() * call.tau1;
  const T low = static_cast<T>(start - reach), high = static_cast<T>(start + reach);
  if (threadIdx.x == 0) taken[0] = 0;
  __syncthreads();
  unsigned counted = 0;
#pragma unroll 4
  for (int64_t k = threadIdx.x; k < span.count; k += kBlock) {
    const T x = call.scores[span.begin + k];
    counted += !(x < high);
    if (x > low && x < high) {
      const unsigned at = atomicAdd(&taken[0], 1u);
      if (at < kNear) near[at] = x;
    }
  }
  counted = block_sum<kBlock>(counted);  // a barrier, too
  __syncthreads();
  const unsigned visited = taken[0];
  NewtonSearch search(start, 4.0 * call.tau1);
  bool found = false;
  if (visited <= kNear) {
    const auto visit = [&](const auto& take) {
      for (unsigned k = threadIdx.x; k < visited; k += kBlock) take(near[k]);
    };
    newton_in_block<kBlock, T>(search, visit, problem, {visited, counted, span.count});
    found = sees_enough(search.at, low, high, call.tau1);
  }
  if (!found) {
    const auto visit = [&](const auto& take) {
      for (int64_t k = threadIdx.x; k < span.count; k += kBlock) take(call.scores[span.begin + k]);
    };
    search = NewtonSearch(start, 4.0 * call.tau1);
    newton_in_block<kBlock, T>(search, visit, problem, {span.count, 0, span.count});
  }
  __syncthreads();  // every thread has read its start
  if (threadIdx.x == 0) put(out, row, search.at);
}

// Where the search of a long row stands.
struct LongSearch {
  NewtonSearch search;
  int done, stored;  // whether it ended; whether it works on the copied keys alone
};

struct LongSearches {
  LongSearch* searches = nullptr;       // [capacity]
  unsigned long long* parts = nullptr;  // [capacity, blocks, 2]
  unsigned* counters = nullptr;         // [capacity], for last_block_done
  unsigned* open = nullptr;             // rows that a block alone has not finished
  int blocks = 1;                       // for each row
};

template <class Shape, int kPlaces, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    sample_smooth_rows_kernel(TopK<T> call, LongRows<T> longs, RadixRows<KeyOf<T>> missed,
                              LongSearches searches) {
  using Sample = RowSample<Shape, kPlaces, T>;
  int64_t row;
  if (!begin_long_row<Shape>(longs, missed, row)) return;
  const RowSpan span = span_of(call, row);
  const Sample sample(call, span);
  const SmoothTopK problem = problem_of(call, span.count);
  const double size = Sample::kSize;
  // The score with as many above it as the problem wants; how many depends on the score.
  double quantile = 0.0, mean = 0.0;
  int64_t rank = -1;
  for (int pass = 0; pass < 2; ++pass) {
    const double wanted = problem.kappa + problem.tau2 * quantile;
    mean = wanted > 0.0 ? (wanted < 1.0 ? wanted : 1.0) : 0.0;
    const auto next = static_cast<int64_t>(mean * size);
    if (next == rank) break;
    rank = next;
    const auto key = sample.select(rank < Sample::kSize ? rank : Sample::kSize - 1);
    quantile = newton_start(static_cast<double>(score_of_key(key)));
  }
  const double luck = Shape::kDeviations * sqrt(mean * (1.0 - mean) / size) + 1.0 / size;
  const auto visit = [&](const auto& take) {
    sample([&](KeyOf<T> each) { take(static_cast<T>(score_of_key(each))); });
  };
  double edges[2] = {-INFINITY, INFINITY};
  for (int side = 0; side < 2; ++side) {
    if (side == 0 ? mean + luck >= 1.0 : mean - luck <= 0.0) continue;  // no root, or a far one
    NewtonSearch search(quantile, 4.0 * call.tau1);
    const SoftRow biased = {Sample::kSize, 0,           Sample::kSize, side == 0 ? -luck : luck,
                            call.tau1,     kSampleSteps};
    const bool found = newton_in_block<Shape::kBlock, T>(search, visit, problem, biased);
    edges[side] = found ? search.at : (side == 0 ? search.low : search.high);
  }
  if (threadIdx.x > 0) return;
  const double low = edges[0], high = edges[1], slack = (soft_reach<T>() + 1.0) * call.tau1;
  double start = quantile < low ? low : (quantile > high ? high : quantile);
  if (high - low <= 8.0 * call.tau1) start = low + 0.5 * (high - low);
  longs.rows[blockIdx.x] = {row, static_cast<T>(low - slack), static_cast<T>(high + slack), {}, 0};
  searches.searches[blockIdx.x] = {NewtonSearch(newton_start(start), 4.0 * call.tau1), 0, 1};
}

// Takes an end of the search over the copied keys: true if it is the root; else it goes on over
// the whole row.
template <class T>
__device__ __forceinline__ bool accept(LongSearch& search, const LongRow<T>& row, double tau1) {
  if (search.stored == 0 || sees_enough(search.search.at, row.low, row.high, tau1)) return true;
  search.stored = 0;
  search.search = NewtonSearch(search.search.at, 4.0 * tau1);
  return false;
}

template <class T>
__device__ __forceinline__ SoftRow soft_row(const LongRow<T>& row, int64_t count, bool stored) {
  if (!stored) return {count, 0, count};
  return {static_cast<int64_t>(row.written), static_cast<int64_t>(row.reach_high()), count};
}

// One block a row. kLast: whatever is left; else rows of few copied keys, the others are opened.
template <class Shape, bool kLast, class T>
__global__ void __launch_bounds__(Shape::kBlock)
    finish_smooth_rows_kernel(TopK<T> call, LongRows<T> longs, LongSearches searches,
                              Thresholds<T> out) {
  constexpr int kBlock = Shape::kBlock;
  if (kLast && *searches.open == 0) return;
  if (!longs.has(blockIdx.x)) return;
  LongSearch mine = searches.searches[blockIdx.x];
  if (mine.done != 0) return;
  const LongRow<T> row = longs.rows[blockIdx.x];
  const RowSpan span = span_of(call, row.row);
  const KeyRoom room = key_room<Shape>(span);
  const SmoothTopK problem = problem_of(call, span.count);
  const auto written = static_cast<int64_t>(row.written);
  if (written > room.count) mine.stored = 0;
  bool done = false;
  if (mine.stored != 0 && (kLast || written <= Shape::kMost)) {
    const auto visit = [&](const auto& take) {
      visit_stored<kBlock>(longs.buffer + room.begin, written,
                           [&](KeyOf<T> key) { take(static_cast<T>(score_of_key(key))); });
    };
    newton_in_block<kBlock, T>(mine.search, visit, problem, soft_row(row, span.count, true));
    done = accept(mine, row, call.tau1);
  }
  if (kLast && !done) {
    const auto visit = [&](const auto& take) {
#pragma unroll 4
      for (int64_t k = threadIdx.x; k < span.count; k += kBlock) take(call.scores[span.begin + k]);
    };
    newton_in_block<kBlock, T>(mine.search, visit, problem, soft_row(row, span.count, false));
    done = true;
  }
  __syncthreads();  // every thread has read what the first one writes
  if (threadIdx.x > 0) return;
  mine.done = done;
  searches.searches[blockIdx.x] = mine;
  if (done) {
    put(out, row.row, mine.search.at);
  } else {
    atomicAdd(searches.open, 1u);
  }
}

template <class Shape, class T>
__global__ void __launch_bounds__(Shape::kPartBlock)
    newton_step_kernel(TopK<T> call, LongRows<T> longs, LongSearches searches, Thresholds<T> out) {
  constexpr int kBlock = Shape::kPartBlock;
  if (*searches.open == 0) return;
  const int64_t slot = blockIdx.x / searches.blocks, part = blockIdx.x % searches.blocks;
  if (!longs.has(slot) || searches.searches[slot].done != 0) return;
  const double at = searches.searches[slot].search.at;
  const bool stored = searches.searches[slot].stored != 0;
  const LongRow<T>& mine = longs.rows[slot];
  const RowSpan span = span_of(call, mine.row);
  const SoftRow row = soft_row(mine, span.count, stored);
  FixedSums<T> sums(at, call.tau1, row.visited);
  const int64_t first = part * kBlock + static_cast<int>(threadIdx.x);
  const int64_t stride = static_cast<int64_t>(searches.blocks) * kBlock;
  if (stored) {
    const KeyOf<T>* const buffer = longs.buffer + key_room<Shape>(span).begin;
    for (int64_t k = first; k < row.visited; k += stride) sums.add(score_of_key(buffer[k]));
  } else {
#pragma unroll 4
    for (int64_t k = first; k < row.visited; k += stride) sums.add(call.scores[span.begin + k]);
  }
  unsigned long long* const parts = searches.parts + slot * searches.blocks * 2;
  unsigned long long above = block_sum<kBlock>(sums.above), slope = block_sum<kBlock>(sums.slope);
  if (threadIdx.x == 0) {
    parts[2 * part] = above;
    parts[2 * part + 1] = slope;
  }
  if (!last_block_done(&searches.counters[slot], static_cast<unsigned>(searches.blocks))) return;
  above = slope = 0;
  for (int k = static_cast<int>(threadIdx.x); k < searches.blocks; k += kBlock) {
    above += parts[2 * k];
    slope += parts[2 * k + 1];
  }
  above = block_sum<kBlock>(above);
  slope = block_sum<kBlock>(slope);
  if (threadIdx.x > 0) return;
  LongSearch search = searches.searches[slot];
  const SmoothTopK problem = problem_of(call, span.count);
  search.done =
      newton_step<T>(search.search, problem, row, above, slope) && accept(search, mine, call.tau1);
  searches.searches[slot] = search;
  if (search.done != 0) put(out, mine.row, search.search.at);
}

}  // namespace xrisk::cuda
