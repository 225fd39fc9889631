// The interface between the kernels (compiled per SIMD variant) and the code that schedules them.
//
// Kernels work on ranges over raw pointers and start no threads. Sums come back as doubles.
#pragma once

#include <cstdint>

#include "core/params.h"
#include "cpu/list_kernels.h"
#include "cpu/relevance.h"
#include "cpu/smooth_grid.h"
#include "cpu/tile_kernels.h"

namespace xrisk::cpu {

// Items: scores [M] and weights [C, M] (null: one channel of ones).
template <class T>
struct Items {
  const T* scores = nullptr;
  const T* weights = nullptr;
  int64_t count = 0;
  int64_t channels = 1;
};

// Against the shift of the anchor, as a threshold: what of phi lies above it, or whether it does.
enum class Above { kNone, kExcess, kCount };

// What is summed over pairs. With inverse_temperature > 0 it is exp((phi - shift of the anchor) *
// inverse_temperature), otherwise phi, or what `above` says.
struct PairTermParams {
  Surrogate surrogate = Surrogate::kSquaredHinge;
  SurrogateParams params;
  double inverse_temperature = 0.0;
  Above above = Above::kNone;
};

template <class T>
struct DirectRows {
  PairTermParams term;
  const T* anchors = nullptr;      // [P]
  const double* shifts = nullptr;  // [P], exponential and threshold terms only
  Items<T> items;
  double* sums = nullptr;    // [C, P]
  double* slopes = nullptr;  // [C, P]
  int64_t stride = 0;        // between channels of sums and slopes
};

template <class T>
struct DirectColumns {
  PairTermParams term;
  const T* anchors = nullptr;              // [P]
  const double* shifts = nullptr;          // [P], exponential and threshold terms only
  const double* anchor_weights = nullptr;  // [C, P]
  int64_t anchor_count = 0;
  Items<T> items;
  T* out = nullptr;  // [M]: sum_c w_cj sum_i a_ci slope_ij
};

// Sorted keys with a table that finds the rank of a score: #{keys < score}.
template <class T>
struct RankIndex {
  const T* keys = nullptr;        // keys[1..count] ascending, keys[0] = keys[1], +inf padding
  const T* references = nullptr;  // what distances are measured from: the keys, rounded to nearest
  int64_t count = 0;
  const int32_t* bucket_start = nullptr;  // keys in lower buckets
  int32_t buckets = 0;
  T low = 0;
  T inverse_width = 0;
  bool crowded = false;  // too many keys share a bucket: descend the tree instead
  static constexpr int kMaxLevels = 10;
  const T* tree = nullptr;  // 16-ary: the last key of every child block, level by level
  int levels = 0;
  int64_t level_offset[kMaxLevels] = {};
  int64_t level_blocks[kMaxLevels] = {};
};

// Per interval between two keys and channel: sums of w, w d, w d^2 with d the distance to the lower
// key, and the weight that stands exactly on that key (zero_one only).
constexpr int kMomentSlots = 4;

// Where a selection looks for its answer (cpu/selection.h), and what it finds there.
template <class T>
struct Bracket {
  T low, high;
};

struct SplitCounts {
  int64_t above = 0;   // not below `high`: at least as large, or NaN
  int64_t inside = 0;  // above `low` and below `high`
};
// The cross entropy family over entries [B, L], row by row; core/cross_entropy.h.
template <class T>
struct CrossEntropyRange {
  const T* scores = nullptr;
  const uint8_t* positive = nullptr;
  const T* weights = nullptr;  // one an entry, or null
  int64_t labels = 1;          // L
  // Of the labels, repeated for a register's length beyond L: [period] for the negatives, then
  // [period] for the positives; `factors`, on the gradient, [period] alone.
  const T* class_weights = nullptr;
  const T* margins = nullptr;
  const T* factors = nullptr;
  int64_t period = 0;
  T scale = 1, focus = 0;
  T* losses = nullptr;    // not multiplied by the factors
  T* gradient = nullptr;  // may be null
};
constexpr int64_t kMostLanes = 16;

template <class T>
struct Kernels {
  // For anchors [anchor_begin, anchor_end): sums and slopes over items [item_begin, item_end).
  void (*direct_rows)(const DirectRows<T>&, int64_t anchor_begin, int64_t anchor_end,
                      int64_t item_begin, int64_t item_end);
  void (*direct_columns)(const DirectColumns<T>&, int64_t item_begin, int64_t item_end);
  // The same for terms with a threshold, which need weights.
  void (*threshold_rows)(const DirectRows<T>&, int64_t anchor_begin, int64_t anchor_end,
                         int64_t item_begin, int64_t item_end);
  void (*threshold_columns)(const DirectColumns<T>&, int64_t item_begin, int64_t item_end);

  // ranks [M] of items [begin, end).
  void (*rank_items)(const RankIndex<T>&, const T* scores, int64_t begin, int64_t end,
                     int32_t* ranks);
  // The same, and adds the items' moments to [intervals, C, kMomentSlots].
  void (*accumulate_moments)(const RankIndex<T>&, const Items<T>&, int64_t begin, int64_t end,
                             bool ties, int32_t* ranks, double* moments);
  // out[j] (+)= sum_c w_cj (linear_c (y_j - key) + constant_c); table [intervals, stride] holds
  // {key, linear_0, constant_0, linear_1, ...} of the item's interval.
  void (*evaluate_intervals)(const T* table, int64_t stride, const int32_t* ranks, const Items<T>&,
                             int64_t begin, int64_t end, bool add, T* out);

  // out = {sum w, sum w (x - centre), sum w (x - centre)^2}; weights may be null.
  void (*power_sums)(const T* x, const T* weights, int64_t count, double centre, double out[3]);
  // sum w exp(scale (x - centre))
  double (*exponential_sum)(const T* x, const T* weights, int64_t count, double scale,
                            double centre);
  // out = factor * exp(scale (x - centre))
  void (*scaled_exponentials)(const T* x, int64_t count, double scale, double centre, double factor,
                              double* out);
  // max |x|; infinite if an x is infinite or NaN
  T (*largest_magnitude)(const T* x, int64_t count);
  // min and max of x; count > 0
  void (*score_range)(const T* x, int64_t count, T* range);

  // The smooth algorithm (cpu/smooth_inl.h). Ranges of scores; of bins in translate.
  void (*smooth_bins)(const SmoothGrid&, const T* scores, int64_t begin, int64_t end,
                      int32_t* bins);
  void (*smooth_moments)(const SmoothGrid&, const T* scores, const T* weights, const int32_t* slots,
                         int64_t begin, int64_t end, int64_t bins, double* moments);
  void (*smooth_translate)(const SmoothTranslation&, int sign, int64_t begin, int64_t end,
                           T* local);
  void (*smooth_rows)(const SmoothGrid&, const T* local, int64_t bins, const T* scores,
                      const int32_t* slots, double scale, int64_t begin, int64_t end, T* sums,
                      T* slopes);
  void (*smooth_columns)(const SmoothGrid&, const T* local, int64_t bins, const T* scores,
                         const T* weights, const int32_t* slots, double scale, bool add,
                         int64_t begin, int64_t end, T* out);
  // cpu/scan_inl.h
  void (*smooth_scan)(const ScanPass&, const T* scores, const T* weights, T* values, T* slopes);
  // Surrogate value and slope, for the op that shows them to the tests.
  void (*surrogate)(Surrogate, const SurrogateParams&, const T* differences, int64_t count,
                    T* values, T* slopes);

  // Selection and the smoothed top-K problem; see select_inl.h and soft_inl.h.
  SplitCounts (*split_range)(const T* x, int64_t count, Bracket<T>, T* out, int64_t capacity);
  T (*select_in_row)(const T* x, int64_t count, int64_t rank, T* buffers);
  int64_t (*find_first)(const T* x, int64_t count, T value);
  void (*soft_sums)(const T* x, const T* weights, int64_t count, double at, double tau1,
                    double sums[3]);
  void (*soft_slopes)(const T* x, int64_t count, double at, double tau1, double factor, T* out);
  // Positions of x in [low, high), how many, and how many are >= high (cpu/near_inl.h).
  int64_t (*near_items)(const T* x, int64_t count, T low, T high, int32_t* positions,
                        int64_t* above);
  ListKernels<T> lists;
  void (*cross_entropy)(const CrossEntropyRange<T>&, int64_t begin, int64_t end);
  // Of logits [rows, width], see softmax_inl.h; `out` may be null.
  void (*row_exponentials)(const T* x, int64_t rows, int64_t width, T* out, double* peaks,
                           double* masses);
  void (*scale_rows)(const T* factors, int64_t rows, int64_t width, T* out);
};

// Entries of a state on their way through a blend. `old` and `values` are read up to `count`; the
// others are padded to a multiple of 8.
template <class State, class Value>
struct StateBlock {
  bool log_domain;
  const State* old;
  const Value* values;
  const double* keep;  // factors of the old state and of the value
  const double* add;
  int64_t count;
  double* blends;  // out
  State* rounded;  // out: the same in the type of the state
};

struct KernelTable {
  const char* name;
  int lanes;  // floats in a register
  Kernels<float> single;
  Kernels<double> twice;
  // State float or double, value float or double. True if every rounded blend is finite.
  bool (*blend_ff)(const StateBlock<float, float>&);
  bool (*blend_fd)(const StateBlock<float, double>&);
  bool (*blend_df)(const StateBlock<double, float>&);
  bool (*blend_dd)(const StateBlock<double, double>&);
  TileKernels<float> tiles_single;
  TileKernels<double> tiles_twice;
  // Ascending positions where the relevance at [begin, begin + count) is > 0, from `begin`; returns
  // how many. `positions` has room for all.
  int64_t (*relevant_items)(RelevanceType, const void* relevance, int64_t begin, int64_t count,
                            int32_t* positions);

  bool blend(const StateBlock<float, float>& block) const { return blend_ff(block); }
  bool blend(const StateBlock<float, double>& block) const { return blend_fd(block); }
  bool blend(const StateBlock<double, float>& block) const { return blend_df(block); }
  bool blend(const StateBlock<double, double>& block) const { return blend_dd(block); }
};

namespace baseline {
const KernelTable& kernel_table();
}
#if defined(__x86_64__)
namespace avx2 {
const KernelTable& kernel_table();
}
namespace avx512 {
const KernelTable& kernel_table();
}
#endif

// The variant in use: the best that the CPU has, or the one that XRISK_SIMD or select_simd named.
const KernelTable& kernel_table();
// "baseline", "avx2", "avx512" or "auto"; false if this CPU or build does not have it.
bool select_simd(const char* name);

template <class T>
const Kernels<T>& kernels() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return kernel_table().single;
  } else {
    return kernel_table().twice;
  }
}

template <class T>
const TileKernels<T>& tile_kernels() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return kernel_table().tiles_single;
  } else {
    return kernel_table().tiles_twice;
  }
}

}  // namespace xrisk::cpu
