// The direct algorithm: one kernel for rows and columns, a template on the pair term.
//
//   rows:     out_i = sum_j w_j term(y_j - x_i), outer = anchors, inner = items
//   columns:  out_j = sum_i a_i slope(y_j - x_i), outer = items, inner = anchors
//
// Mapping: a thread holds kOuter outer scores in registers; a block walks over its share of the
// inner side in tiles of kInner entries, staged in shared memory, every entry read by all threads
// at once (a broadcast). grid = (outer tiles, splits of the inner side, segments x channels).
// Bytes: the inner side once per outer tile; pairs are never stored. Arithmetic bound: about
// 8 instructions a pair for the hinges.
// Hazard: long float sums. A tile's sum is in T, the sum of the tiles in double; the splits'
// partial sums are added in order by a second kernel, so that the result is the same every run.
#pragma once

#include "core/pair_term.h"
#include "cuda/platform.h"

namespace xrisk::cuda {

template <int kThreadCount, int kOuterCount, int kInnerCount>
struct DirectTile {
  static constexpr int kThreads = kThreadCount;
  static constexpr int kOuter = kOuterCount;
  static constexpr int kInner = kInnerCount;
  static constexpr int kOuters = kThreads * kOuter;
};
using DefaultTile = DirectTile<128, 4, 256>;

template <class T>
struct DirectArgs {
  const T* outer = nullptr;  // [segments, outer_capacity]
  const T* inner = nullptr;
  const T* inner_weights = nullptr;            // [segments, channels, inner_capacity] or null
  const double* inner_weights_wide = nullptr;  // the same as doubles, or null
  const double* inner_masses = nullptr;        // [segments, inner_capacity]: divides them, or null
  const int32_t* outer_live = nullptr;         // [segments] or null
  const int32_t* inner_live = nullptr;
  int64_t outer_capacity = 0;
  int64_t inner_capacity = 0;
  int64_t split_length = 0;  // inner entries of a split
  int splits = 1;
  int channels = 1;
  double margin = 1.0;
  const double* scale = nullptr;
  const double* temperature = nullptr;  // exponential term only
  const T* extremes = nullptr;          // {lowest, highest} item, exponential term only
  double* partial = nullptr;  // [segments, channels, splits, kRows ? 2 : 1, outer_capacity]
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

template <class Tile, Surrogate kKind, bool kExponential, bool kRows, class T>
__global__ void __launch_bounds__(Tile::kThreads) direct_kernel(const DirectArgs<T> args) {
  const int problem = static_cast<int>(blockIdx.z), segment = problem / args.channels;
  const int64_t outers =
      args.outer_live == nullptr ? args.outer_capacity : args.outer_live[segment];
  const int64_t inners =
      args.inner_live == nullptr ? args.inner_capacity : args.inner_live[segment];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Tile::kOuters;
  if (first >= outers) return;  // the whole block
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * args.split_length;
  const int64_t end = begin + args.split_length < inners ? begin + args.split_length : inners;

  XRISK_SHARED(T, scores, [Tile::kInner]);
  XRISK_SHARED(T, weights, [Tile::kInner]);
  XRISK_SHARED(T, shifts, [kExponential && !kRows ? Tile::kInner : 1]);
  const int t = static_cast<int>(threadIdx.x);
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{args.margin, *args.scale});
  const PlainTerm<T, std::decay_t<decltype(phi)>> plain{phi};
  T inverse_temperature = T(0), lowest = T(0), highest = T(0);
  if constexpr (kExponential) {
    inverse_temperature = static_cast<T>(1.0 / *args.temperature);
    lowest = args.extremes[2 * segment];
    highest = args.extremes[2 * segment + 1];
  }
  const ExponentialTerm<T, std::decay_t<decltype(phi)>> exponential{phi, inverse_temperature};
  (void)plain, (void)exponential, (void)lowest, (void)highest;

  const T* outer = args.outer + segment * args.outer_capacity;
  T x[Tile::kOuter], shift[Tile::kOuter];
  double sums[Tile::kOuter] = {}, slopes[Tile::kOuter] = {};
#pragma unroll
  for (int a = 0; a < Tile::kOuter; ++a) {
    const int64_t o = first + a * Tile::kThreads + t;
    x[a] = outer[o < outers ? o : first];
    shift[a] = T(0);
    if constexpr (kExponential && kRows) shift[a] = peak_of(phi, x[a], lowest, highest);
  }

  const T* inner = args.inner + segment * args.inner_capacity;
  for (int64_t tile = begin; tile < end; tile += Tile::kInner) {
    __syncthreads();  // the tile before may still be read
    for (int k = t; k < Tile::kInner; k += Tile::kThreads) {
      const int64_t j = tile + k;
      T weight = T(0), score = T(0);
      if (j < end) {
        const int64_t at = problem * args.inner_capacity + j;
        weight = args.inner_weights != nullptr ? args.inner_weights[at] : T(1);
        if (args.inner_weights_wide != nullptr) {
          double wide = args.inner_weights_wide[at];
          if (args.inner_masses != nullptr) {
            wide /= args.inner_masses[segment * args.inner_capacity + j];
          }
          weight = static_cast<T>(wide);
        }
        score = inner[j];
      }
      scores[k] = score;
      weights[k] = weight;
      if constexpr (kExponential && !kRows) shifts[k] = peak_of(phi, score, lowest, highest);
    }
    __syncthreads();
    T tile_sums[Tile::kOuter] = {}, tile_slopes[Tile::kOuter] = {};
#pragma unroll 4
    for (int k = 0; k < Tile::kInner; ++k) {
      const T weight = weights[k];
      if (weight == T(0)) continue;  // all threads alike; 0 times inf is not 0
      const T y = scores[k];
#pragma unroll
      for (int a = 0; a < Tile::kOuter; ++a) {
        const T d = kRows ? y - x[a] : x[a] - y;
        T value, slope;
        if constexpr (kExponential) {
          exponential(d, kRows ? shift[a] : shifts[k], value, slope);
        } else {
          plain(d, T(0), value, slope);
        }
        if constexpr (kRows) tile_sums[a] += weight * value;
        tile_slopes[a] += weight * slope;
      }
    }
#pragma unroll
    for (int a = 0; a < Tile::kOuter; ++a) {
      sums[a] += static_cast<double>(tile_sums[a]);
      slopes[a] += static_cast<double>(tile_slopes[a]);
    }
  }

  constexpr int kOutputs = kRows ? 2 : 1;
  double* out = args.partial + (static_cast<int64_t>(problem) * args.splits + blockIdx.y) *
                                   kOutputs * args.outer_capacity;
#pragma unroll
  for (int a = 0; a < Tile::kOuter; ++a) {
    const int64_t o = first + a * Tile::kThreads + t;
    if (o >= outers) continue;
    if constexpr (kRows) out[o] = sums[a];
    out[(kOutputs - 1) * args.outer_capacity + o] = slopes[a];
  }
}

}  // namespace xrisk::cuda
