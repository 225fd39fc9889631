// The direct algorithm: one kernel for rows and columns, a template on the pair term.
//
//   rows:     out_i = sum_j w_j term(y_j - x_i), outer = anchors, inner = items
//   columns:  out_j = sum_i a_i slope(y_j - x_i), outer = items, inner = anchors
//
// Mapping: a thread holds kOuter outer scores in registers; a block walks over its split of the
// inner side in tiles of kInner entries, staged in shared memory, every entry read by all threads
// at once (a broadcast). Entries of weight 0 are left out when a tile is staged. The inner loops
// are in direct_tiles.h.
// Grid: (blocks, 1, parts x segments x channels); which blocks have work, and what, follows from
// the live counts (DirectSplits), which the device alone may know; the others leave at once. Bytes:
// the inner side once per outer tile; pairs are never stored. Bound by instructions. Hazard: long
// float sums. A tile's sum is in T, the sum of the tiles in double; the splits' partial sums are
// added in order by a second kernel, so that the result is the same every run.
#pragma once

#include <algorithm>

#include "core/pair_term.h"
#include "cuda/block.h"
#include "cuda/direct_tiles.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

// kFewBlocks are wanted even if splits get short (kShort entries), kManyBlocks if they stay long.
template <int kThreadCount, int kOuterCount, int kInnerCount, int kFew, int kMany>
struct DirectTile {
  static constexpr int kThreads = kThreadCount;
  static constexpr int kOuter = kOuterCount;
  static constexpr int kInner = kInnerCount;
  static constexpr int kOuters = kThreads * kOuter;
  static constexpr int kFewBlocks = kFew, kManyBlocks = kMany;
  static constexpr int kShort = kInner / 8, kLong = 2 * kInner;
};
using DefaultTile = DirectTile<128, 4, 256, 264, 1056>;  // 2 and 8 blocks on each of 132 SMs

// How a problem's inner side is split; from the counts alone, so that a shape has one result.
template <class Tile>
struct DirectSplits {
  int tiles, splits, length;

  XRISK_HD DirectSplits(int outers, int inners, int problems) : tiles(up(outers, Tile::kOuters)) {
    const int64_t all = int64_t{tiles} * problems;
    const int blocks = all < 1                   ? 1
                       : all > Tile::kManyBlocks ? Tile::kManyBlocks
                                                 : static_cast<int>(all);
    const int few = least(Tile::kFewBlocks / blocks, up(inners, Tile::kShort));
    const int many = least(Tile::kManyBlocks / blocks, up(inners, Tile::kLong));
    splits = few > many ? few : many;
    if (splits < 1) splits = 1;
    length = up(up(inners, splits), 4) * 4;
    splits = length == 0 ? 1 : up(inners, length);
  }
  XRISK_HD int blocks() const { return tiles * splits; }
  // The most that a problem of at most these sizes has.
  static int most_blocks(int outers, int inners, int problems) {
    const int64_t tiles = up(outers, Tile::kOuters);
    const int64_t few = tiles * up(inners, Tile::kShort), many = tiles * up(inners, Tile::kLong);
    return static_cast<int>(std::max({tiles, std::min<int64_t>(few, Tile::kFewBlocks / problems),
                                      std::min<int64_t>(many, Tile::kManyBlocks / problems)}));
  }

 private:
  XRISK_HD static int up(int a, int b) { return (a + b - 1) / b; }
  XRISK_HD static int least(int a, int b) { return a < b ? a : b; }
};

template <class T>
struct DirectArgs {
  const T* outer = nullptr;  // [segments, outer_capacity]
  const T* inner = nullptr;
  const T* outer_weights = nullptr;        // columns: [segments, channels, outer_capacity] or null
  const T* inner_weights = nullptr;        // rows: [segments, channels, inner_capacity] or null
  const double* anchor_weights = nullptr;  // columns: the same, as doubles
  const double* masses = nullptr;  // exponential columns: [segments, inner_capacity], divide them
  const int32_t* outer_live = nullptr;  // [segments] or null
  const int32_t* inner_live = nullptr;
  int64_t outer_capacity = 0;
  int64_t inner_capacity = 0;
  int channels = 1;
  int problems = 1;  // segments x channels
  int blocks = 0;    // of a problem
  double margin = 1.0;
  const double* scale = nullptr;
  const double* temperature = nullptr;  // exponential term only
  const T* extremes = nullptr;          // {lowest, highest} item, exponential term only
  double* partial = nullptr;            // [problems, blocks, kRows ? 2 : 1, kOuters]

  __device__ int outers(int segment) const {
    return outer_live == nullptr ? static_cast<int>(outer_capacity) : outer_live[segment];
  }
  __device__ int inners(int segment) const {
    return inner_live == nullptr ? static_cast<int>(inner_capacity) : inner_live[segment];
  }
  template <bool kExponential, bool kRows>
  __device__ T weight(int64_t problem, int64_t segment, int64_t j) const {
    const int64_t at = problem * inner_capacity + j;
    if constexpr (kRows) {
      return inner_weights == nullptr ? T(1) : inner_weights[at];
    } else {
      double weight = anchor_weights[at];
      if constexpr (kExponential) weight /= masses[segment * inner_capacity + j];
      return static_cast<T>(weight);
    }
  }
};

// One problem of pairs, or two in one launch, one after the other in the grid's z: alike but for
// the scores, weights and sums. What is small shares the device.
template <class T>
struct DirectParts {
  DirectArgs<T> part[2];
};

// The peak of an anchor: every surrogate is convex or monotone, so its largest value over the items
// is at the lowest or the highest. NaN where an infinite score meets one of its own sign.
template <class T, class Phi>
__device__ __forceinline__ T peak_of(const Phi& phi, T anchor, T lowest, T highest) {
  T low, high, slope;
  phi(lowest - anchor, low, slope);
  phi(highest - anchor, high, slope);
  low = rounded(low);
  high = rounded(high);
  const T sum = low + high;
  return sum != sum ? sum : low > high ? low : high;
}

// The ends of the finite outer scores of a block.
template <class T>
struct OuterRange {
  T low, high;

  // The number of the range that is nearest to 0: a difference from it is never less exact than
  // the scores are.
  __device__ __forceinline__ T nearest() const {
    return low > high ? T(0) : low > T(0) ? low : high < T(0) ? high : T(0);
  }
  __device__ __forceinline__ T middle() const {
    return low > high ? T(0) : low + (high - low) * T(0.5);
  }
};

template <class Tile, class T>
__device__ __forceinline__ OuterRange<T> outer_range(const T (&x)[Tile::kOuter]) {
  constexpr T kNone = -static_cast<T>(INFINITY);
  T low = kNone, high = kNone;  // of -x and of x
#pragma unroll
  for (int a = 0; a < Tile::kOuter; ++a) {
    if (!(x[a] - x[a] == T(0))) continue;
    low = -x[a] > low ? -x[a] : low;
    high = x[a] > high ? x[a] : high;
  }
  low = -block_max<Tile::kThreads>(low, kNone);
  high = block_max<Tile::kThreads>(high, kNone);
  return {low, high};
}

// What the threads tell each other of a tile before it is written to shared memory.
template <class Tile, class T>
struct TileNews {
  static constexpr int kWarps = Tile::kThreads / 32;
  static constexpr int kRounds = (Tile::kInner + Tile::kThreads - 1) / Tile::kThreads;
  static constexpr int kParts = kRounds * kWarps;

  int kept[kParts];   // entries that weigh something, by round and warp
  T weights[kWarps];  // the first of a warp's
  int alike[kWarps];  // all of a warp's weights are it
  int fits[kWarps];
};

template <class T>
struct TileSummary {
  int count;         // entries that weigh something
  bool alike, fits;  // they weigh the same; they fit what the caller asked of them
  T weight;          // the first's
};

// In a warp's lane: where its entry of round r goes is before[r], if keep[r].
template <class Tile, class T>
__device__ __forceinline__ TileSummary<T> survey_tile(
    TileNews<Tile, T>& news, const bool (&keep)[TileNews<Tile, T>::kRounds],
    const T (&weight)[TileNews<Tile, T>::kRounds], bool fits,
    int (&before)[TileNews<Tile, T>::kRounds]) {
  using News = TileNews<Tile, T>;
  const int warp = warp_index(), lane = lane_index();
  T first = T(0);
  bool any = false;
#pragma unroll
  for (int r = 0; r < News::kRounds; ++r) {
    const unsigned lanes = __ballot_sync(kWholeWarp, keep[r]);
    before[r] = __popc(lanes & ((1u << lane) - 1u));
    if (lane == 0) news.kept[r * News::kWarps + warp] = __popc(lanes);
    const T here = __shfl_sync(kWholeWarp, weight[r], lanes == 0 ? 0 : __ffs(lanes) - 1);
    if (!any) first = here;
    any = any || lanes != 0;
  }
  bool alike = true;
#pragma unroll
  for (int r = 0; r < News::kRounds; ++r) alike = alike && (!keep[r] || weight[r] == first);
  alike = __all_sync(kWholeWarp, alike) != 0;
  fits = __all_sync(kWholeWarp, fits) != 0;
  if (lane == 0) {
    news.weights[warp] = first;
    news.alike[warp] = alike;
    news.fits[warp] = fits;
  }
  __syncthreads();  // and the tile before is read
  TileSummary<T> all = {0, true, true, T(0)};
#pragma unroll
  for (int part = 0; part < News::kParts; ++part) {
    const int kept = news.kept[part], its_warp = part % News::kWarps;
#pragma unroll
    for (int r = 0; r < News::kRounds; ++r) {
      if (part < r * News::kWarps + warp) before[r] += kept;
    }
    if (kept == 0) continue;
    if (all.count == 0) all.weight = news.weights[its_warp];
    all.alike = all.alike && news.alike[its_warp] != 0 && news.weights[its_warp] == all.weight;
    all.fits = all.fits && news.fits[its_warp] != 0;
    all.count += kept;
  }
  return all;
}

template <class Tile, Surrogate kKind, bool kExponential, bool kRows, class T>
__global__ void __launch_bounds__(Tile::kThreads) direct_kernel(const DirectParts<T> parts) {
  constexpr int kOuter = Tile::kOuter, kInner = Tile::kInner, kThreads = Tile::kThreads;
  constexpr bool kCentred =
      !kExponential && (kKind == Surrogate::kSquared || kKind == Surrogate::kSquaredHinge);
  constexpr bool kGrouped = !kExponential && sizeof(T) == sizeof(float) &&
                            (kKind == Surrogate::kLogistic || kKind == Surrogate::kSigmoid);
  using News = TileNews<Tile, T>;
  constexpr int kRounds = News::kRounds;
  const int problems = parts.part[0].problems, z = static_cast<int>(blockIdx.z);
  const DirectArgs<T>& args = parts.part[z < problems ? 0 : 1];
  const int problem = z < problems ? z : z - problems, segment = problem / args.channels;
  const int outers = args.outers(segment), inners = args.inners(segment);
  const DirectSplits<Tile> plan(outers, inners, args.problems);
  const int block = static_cast<int>(blockIdx.x);
  if (block >= plan.blocks()) return;  // all its threads
  const int first = block % plan.tiles * Tile::kOuters, begin = block / plan.tiles * plan.length;
  const int end = begin + plan.length < inners ? begin + plan.length : inners;

  XRISK_SHARED(T, scores, [kInner]);
  XRISK_SHARED(T, weights, [kInner]);
  XRISK_SHARED(T, shifts, [kExponential && !kRows ? kInner : 1]);
  XRISK_SHARED(News, news, [1]);
  const int t = static_cast<int>(threadIdx.x);
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{args.margin, *args.scale});
  using Phi = std::decay_t<decltype(phi)>;
  const T margin = static_cast<T>(args.margin), scale = static_cast<T>(*args.scale);
  T inverse_temperature = T(0), lowest = T(0), highest = T(0);
  if constexpr (kExponential) {
    inverse_temperature = static_cast<T>(1.0 / *args.temperature);
    lowest = args.extremes[2 * segment];
    highest = args.extremes[2 * segment + 1];
  }
  (void)margin, (void)scale, (void)inverse_temperature, (void)lowest, (void)highest;

  const T* outer = args.outer + segment * args.outer_capacity;
  T x[kOuter], shift[kOuter] = {}, factor[kOuter] = {};
  double sums[kOuter] = {}, slopes[kOuter] = {};
#pragma unroll
  for (int a = 0; a < kOuter; ++a) {
    const int o = first + a * kThreads + t;
    x[a] = outer[o < outers ? o : first];
    if constexpr (kExponential && kRows) shift[a] = peak_of(phi, x[a], lowest, highest);
  }
  T centre = T(0), room = T(0);
  if constexpr (kCentred) {
    centre = outer_range<Tile>(x).nearest();
#pragma unroll
    for (int a = 0; a < kOuter; ++a) x[a] = (x[a] - centre) + (kRows ? -margin : margin);
  }
  if constexpr (kGrouped) {
    const OuterRange<T> range = outer_range<Tile>(x);
    centre = range.middle();
    bool infinite = false;
#pragma unroll
    for (int a = 0; a < kOuter; ++a) {
      infinite = infinite || absolute(x[a]) == static_cast<T>(INFINITY);
    }
    room = kMostExponent - absolute(scale * (range.high - centre));
    if (__syncthreads_or(infinite) != 0) room = T(-1);  // nothing fits
#pragma unroll
    for (int a = 0; a < kOuter; ++a) factor[a] = score_factor(kRows ? -scale : scale, x[a], centre);
  }
  (void)centre, (void)room, (void)factor;

  const T* inner = args.inner + segment * args.inner_capacity;
  T score[kRounds], weight[kRounds];
  const auto load = [&](int tile) {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int j = tile + r * kThreads + t;
      const bool here = r * kThreads + t < kInner && j < end;
      score[r] = here ? inner[j] : T(0);
      weight[r] = here ? args.template weight<kExponential, kRows>(problem, segment, j) : T(0);
    }
  };
  load(begin);
  for (int tile = begin; tile < end; tile += kInner) {
    bool keep[kRounds], fits = true;
    int at[kRounds];
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      keep[r] = weight[r] != T(0);  // 0 times inf is not 0
      if constexpr (kGrouped) {
        bool good = absolute(scale * (score[r] - centre)) <= room;
        if (!kRows) {
          good = good && absolute(weight[r]) >= kLeastWeight && absolute(weight[r]) <= kMostWeight;
        }
        fits = fits && (good || !keep[r]);
      }
    }
    const TileSummary<T> all = survey_tile<Tile>(news[0], keep, weight, fits, at);
    // Of no entries none fits: 0 times a factor beyond the range is not 0.
    const bool grouped = kGrouped && all.count > 0 && all.fits && (all.alike || !kRows);
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (!keep[r]) continue;
      T y = score[r];
      if constexpr (kCentred) y = y - centre;
      if constexpr (kGrouped) {
        if (grouped) y = score_factor(kRows ? scale : -scale, y, centre);
      }
      scores[at[r]] = y;
      weights[at[r]] = weight[r];
      if constexpr (kExponential && !kRows) shifts[at[r]] = peak_of(phi, y, lowest, highest);
    }
    load(tile + kInner);  // while this one is computed
    if constexpr (kGrouped) {
      if (t < 4 && all.count + t < kInner) scores[all.count + t] = weights[all.count + t] = T(0);
    }
    __syncthreads();

    T tile_sums[kOuter] = {}, tile_slopes[kOuter] = {};
    double sum_scale = 1.0;
    bool done = false;
    if constexpr (kCentred) {
      constexpr bool kHinge = kKind == Surrogate::kSquaredHinge;
      done = true;
      if (kRows && all.alike) {
        centred_tile<kHinge, kRows, false>(scores, weights, all.count, x, tile_sums, tile_slopes);
        sum_scale = static_cast<double>(all.weight);
      } else {
        centred_tile<kHinge, kRows, true>(scores, weights, all.count, x, tile_sums, tile_slopes);
      }
    }
    if constexpr (kGrouped) {
      if (grouped) {
        done = true;
        using Group = PairGroup<kKind, kRows>;
        XRISK_SHARED(Group, groups, [kInner / Group::kSize]);
        for (int k = t; k * Group::kSize < all.count; k += kThreads) {
          groups[k] = Group(scores + k * Group::kSize, weights + k * Group::kSize);
        }
        __syncthreads();
        grouped_tile<kKind, kRows>(groups, all.count, factor, tile_sums, tile_slopes);
        if (kRows) sum_scale = static_cast<double>(all.weight);
#pragma unroll
        for (int a = 0; a < kOuter; ++a) tile_slopes[a] *= factor[a] * scale;
      }
    }
    if constexpr (!kCentred) {
      if (!done) {
        if constexpr (kExponential) {
          termwise_tile<kRows, true>(ExponentialTerm<T, Phi>{phi, inverse_temperature}, scores,
                                     weights, shifts, all.count, x, shift, tile_sums, tile_slopes);
        } else {
          termwise_tile<kRows, false>(PlainTerm<T, Phi>{phi}, scores, weights, shifts, all.count, x,
                                      shift, tile_sums, tile_slopes);
        }
      }
    }
#pragma unroll
    for (int a = 0; a < kOuter; ++a) {
      sums[a] += static_cast<double>(tile_sums[a]) * sum_scale;
      slopes[a] += static_cast<double>(tile_slopes[a]) * sum_scale;
    }
  }

  double slope_scale = kSlopeScale<Phi>;
  if constexpr (kExponential) slope_scale *= static_cast<double>(inverse_temperature);
  constexpr int kOutputs = kRows ? 2 : 1;
  double* out = args.partial + (int64_t{problem} * args.blocks + block) * kOutputs * Tile::kOuters;
#pragma unroll
  for (int a = 0; a < kOuter; ++a) {
    if (kRows) out[a * kThreads + t] = sums[a];
    out[(kOutputs - 1) * Tile::kOuters + a * kThreads + t] = slopes[a] * slope_scale;
  }
}

}  // namespace xrisk::cuda
