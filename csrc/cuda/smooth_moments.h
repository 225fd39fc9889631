// Moments of the smooth algorithm's bins, sum w t^l over the sources of a bin, in a time that does
// not depend on how the sources spread: a block sorts a tile of them by bin, then lanes walk equal
// shares of the sorted tile.
//   Hazard: a fixed order without atomics; sums of doubles.
#pragma once

#include "cuda/smooth_plan.h"

namespace xrisk::cuda {

// A source in its bin.
struct __align__(16) BinnedSource {
  double t, weight;
};

// Tile of a block. Four lanes walk a run of the sorted tile, each with every fourth moment.
template <int kBlockThreads, int kItemCount, int kBitCount>
struct SmoothTile {
  static constexpr int kBlock = kBlockThreads;
  static constexpr int kItems = kItemCount;  // sources a thread
  static constexpr int kBits = kBitCount;    // of the bin, in one pass of the sort
  static constexpr int kDigits = 1 << kBits;
  static constexpr int kLanes = 4;
  static constexpr int kSources = kBlock * kItems;
  static constexpr int kRun = kLanes * kItems;
  static constexpr int kSlots = kSources + kSources / kRun;
  static constexpr int kWarps = kBlock / 32;
  static_assert(kDigits % 32 == 0 && kSources < 1 << 16, "counts of 16 bits");

  // A gap after each run: runs then start in different banks.
  static __device__ __forceinline__ int slot(int position) { return position + position / kRun; }
};

// Chunks of the sources of a problem with bins: tiles in strides. As many as there are tiles,
// blocks and memory for.
template <class Tile>
__device__ __forceinline__ int64_t chunks_of(const SmoothBins& grid, int64_t live, int64_t most) {
  int64_t chunks = (live + Tile::kSources - 1) / Tile::kSources;
  if (chunks > most) chunks = most;
  if (chunks > grid.most_chunks) chunks = grid.most_chunks;
  return chunks < 1 ? 1 : chunks;
}

// Stable counting sort by `bins` bins: of a warp's item r, lane l, into sources and source_bins.
// Bin -1: none. The caller's last reads of both end before the block's next barrier; a barrier ends
// the sort.
//   Mapping: counts [digit, warp]; a lane's rank among the lanes of its digit by a match.
template <class Tile>
__device__ __forceinline__ void sort_by_bin(BinnedSource (&items)[Tile::kItems],
                                            int (&bin_of)[Tile::kItems], int count, int64_t bins,
                                            BinnedSource* sources, uint16_t* source_bins) {
  constexpr int kWarps = Tile::kWarps, kItems = Tile::kItems, kDigits = Tile::kDigits;
  constexpr int kEach = kDigits / 32;  // counts a thread
  XRISK_SHARED(uint16_t, counts, [kDigits * kWarps]);
  const int lane = lane_index(), warp = warp_index();
  const unsigned earlier_lanes = (1u << lane) - 1;
  for (int shift = 0;;) {
    for (int digit = lane; digit < kDigits; digit += 32) counts[digit * kWarps + warp] = 0;
    __syncwarp();
    int at[kItems], rank[kItems];
#pragma unroll
    for (int r = 0; r < kItems; ++r) {
      const int digit = bin_of[r] < 0 ? kDigits : (bin_of[r] >> shift) % kDigits;
      at[r] = digit * kWarps + warp;
      const unsigned same = __match_any_sync(kWholeWarp, digit);
      const int before = __popc(same & earlier_lanes);
      const int upto = digit < kDigits ? counts[at[r]] : 0;
      rank[r] = upto + before;
      __syncwarp();
      if (before == 0 && digit < kDigits) {
        counts[at[r]] = static_cast<uint16_t>(upto + __popc(same));
      }
      __syncwarp();
    }
    __syncthreads();
    int mine[kEach], total = 0;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      mine[k] = counts[static_cast<int>(threadIdx.x) * kEach + k];
      total += mine[k];
    }
    int before = block_exclusive_scan<Tile::kBlock>(total, 0, Sum());
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      counts[static_cast<int>(threadIdx.x) * kEach + k] = static_cast<uint16_t>(before);
      before += mine[k];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kItems; ++r) {
      if (bin_of[r] < 0) continue;
      const int slot = Tile::slot(counts[at[r]] + rank[r]);
      sources[slot] = items[r];
      source_bins[slot] = static_cast<uint16_t>(bin_of[r]);
    }
    __syncthreads();
    shift += Tile::kBits;
    if ((bins - 1) >> shift == 0) return;
#pragma unroll
    for (int r = 0; r < kItems; ++r) {  // by the next digit, too
      const int position = (warp * kItems + r) * 32 + lane;
      bin_of[r] = position < count ? source_bins[Tile::slot(position)] : -1;
      if (position < count) items[r] = sources[Tile::slot(position)];
    }
  }
}

// Adds the moments of a sorted tile to out [bins, terms]. A bin's sources within a run make a
// piece; what a piece carries over from the run before goes to the run where the bin starts, along
// the lanes of a warp and then along the warps. So each bin is added to once.
template <class Tile, int kTerms>
__device__ __forceinline__ void add_moments(const BinnedSource* sources,
                                            const uint16_t* source_bins, int count,
                                            double* __restrict__ out) {
  constexpr int kWarps = Tile::kWarps, kLanes = Tile::kLanes, kRun = Tile::kRun;
  constexpr int kMine = kTerms / kLanes;
  XRISK_SHARED(double, carried, [kWarps * kTerms]);
  XRISK_SHARED(int32_t, passed_on, [kWarps]);
  const int lane = lane_index(), warp = warp_index();
  const int which = static_cast<int>(threadIdx.x) % kLanes;
  const int run = static_cast<int>(threadIdx.x) / kLanes, begin = run * kRun;
  const int length = count - begin < kRun ? count - begin : kRun;
  const BinnedSource* my_sources = sources + run * (kRun + 1);
  const uint16_t* my_bins = source_bins + run * (kRun + 1);
  const auto add = [&](int bin, const double (&sums)[kMine]) {
    double* to = out + bin * kTerms + which;
#pragma unroll
    for (int m = 0; m < kMine; ++m) to[kLanes * m] += sums[m];
  };

  double head[kMine] = {}, sums[kMine] = {};
  int bin = length > 0 ? my_bins[0] : -1;
  bool in_head = length > 0 && begin > 0 && source_bins[Tile::slot(begin - 1)] == bin;
#pragma unroll 4
  for (int k = 0; k < length; ++k) {
    if (my_bins[k] != bin) {
      if (!in_head) add(bin, sums);
#pragma unroll
      for (int m = 0; m < kMine; ++m) {
        if (in_head) head[m] = sums[m];
        sums[m] = 0.0;
      }
      in_head = false;
      bin = my_bins[k];
    }
    const BinnedSource source = my_sources[k];
    const double t = source.t, square = t * t, fourth = square * square;
    double term = source.weight * (which % 2 == 1 ? t : 1.0) * (which >= 2 ? square : 1.0);
    sums[0] += term;
#pragma unroll
    for (int m = 1; m < kMine; ++m) {
      term *= fourth;
      sums[m] += term;
    }
  }
  const bool owner = length > 0 && !in_head;  // of its last bin
  bool through = in_head;                     // all of the run belongs to the run before
  if (in_head) {
#pragma unroll
    for (int m = 0; m < kMine; ++m) head[m] = sums[m];
  }
  // head: of all runs of the warp from here on that pass on what they have
  for (int distance = kLanes; distance < 32; distance *= 2) {
    const bool more = through && lane + distance < 32;
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const double other = __shfl_down_sync(kWholeWarp, head[m], distance);
      if (more) head[m] += other;
    }
    const bool further = __shfl_down_sync(kWholeWarp, through ? 1 : 0, distance) != 0;
    if (more) through = further;
  }
  if (lane < kLanes) {
#pragma unroll
    for (int m = 0; m < kMine; ++m) carried[warp * kTerms + kLanes * m + which] = head[m];
    if (lane == 0) passed_on[warp] = through ? 1 : 0;
  }
  const bool last_run = lane >= 32 - kLanes;
#pragma unroll
  for (int m = 0; m < kMine; ++m) {
    const double next = __shfl_down_sync(kWholeWarp, head[m], kLanes);
    if (!last_run) sums[m] += next;
  }
  bool beyond = __shfl_down_sync(kWholeWarp, through ? 1 : 0, kLanes) != 0 || last_run;
  __syncthreads();
  if (!owner) return;
  for (int w = warp + 1; beyond && w < kWarps; ++w) {
#pragma unroll
    for (int m = 0; m < kMine; ++m) sums[m] += carried[w * kTerms + kLanes * m + which];
    beyond = passed_on[w] != 0;
  }
  add(bin, sums);
}

// partial [problems, cells, terms], of a problem [chunks, bins, terms]: moments of the sources of a
// chunk.
//   Mapping: a block a chunk, blockIdx.y the problem. Bytes: a score and a weight an entry.
template <class Tile, class T, class W>
__global__ void __launch_bounds__(Tile::kBlock, 2)
    smooth_moments_kernel(const SmoothBins* __restrict__ plans, Side<T> sources,
                          const W* __restrict__ weights, int channels, int64_t cells,
                          double* __restrict__ partial) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kItems = Tile::kItems;
  XRISK_SHARED(BinnedSource, sorted, [Tile::kSlots]);
  XRISK_SHARED(uint16_t, sorted_bins, [Tile::kSlots]);
  const int64_t problem = blockIdx.y, segment = blockIdx.y / static_cast<unsigned>(channels);
  const SmoothBins grid = plans[segment];
  const int64_t live = live_of(sources, segment);
  const int64_t chunks = chunks_of<Tile>(grid, live, gridDim.x);
  if (grid.bins == 0 || blockIdx.x >= chunks) return;  // the whole block
  double* out = partial + (problem * cells + blockIdx.x * grid.bins) * kTerms;
  for (int64_t k = threadIdx.x; k < grid.bins * kTerms; k += Tile::kBlock) out[k] = 0.0;
  const T* __restrict__ scores = sources.scores + segment * sources.capacity;
  const W* __restrict__ mine = weights == nullptr ? nullptr : weights + problem * sources.capacity;
  for (int64_t begin = int64_t{blockIdx.x} * Tile::kSources; begin < live;
       begin += chunks * Tile::kSources) {
    const int count =
        static_cast<int>(live - begin < Tile::kSources ? live - begin : int64_t{Tile::kSources});
    BinnedSource items[kItems];
    int bin_of[kItems];
#pragma unroll
    for (int r = 0; r < kItems; ++r) {
      const int position = (warp_index() * kItems + r) * 32 + lane_index();
      items[r] = {0.0, 1.0};
      bin_of[r] = -1;
      if (position < count) {
        items[r].t = static_cast<double>(scores[begin + position]);
        if (mine != nullptr) items[r].weight = static_cast<double>(mine[begin + position]);
        bin_of[r] = 0;
      }
    }
#pragma unroll
    for (int r = 0; r < kItems; ++r) {
      if (bin_of[r] == 0) bin_of[r] = static_cast<int>(locate(grid, items[r].t, items[r].t));
    }
    sort_by_bin<Tile>(items, bin_of, count, grid.bins, sorted, sorted_bins);
    add_moments<Tile, kTerms>(sorted, sorted_bins, count, out);
  }
}

// moments [problems, max_bins, terms]: the chunks'. At most `most` of them.
//   Mapping: a lane a number, the warps share the chunks; blockIdx.y the problem. Bytes: the
//   partial moments once.
template <int kBlock, class Tile, class T>
__global__ void __launch_bounds__(kBlock)
    smooth_join_kernel(const SmoothBins* __restrict__ plans, Side<T> sources,
                       const double* __restrict__ partial, int channels, int64_t cells,
                       int64_t most, int64_t max_bins, double* __restrict__ moments) {
  constexpr int kTerms = SmoothFit<T>::kTerms, kWarps = kBlock / 32;
  XRISK_SHARED(double, sums, [kBlock]);
  const int64_t problem = blockIdx.y, segment = blockIdx.y / static_cast<unsigned>(channels);
  const SmoothBins grid = plans[segment];
  const int64_t numbers = grid.bins * kTerms;
  const int64_t chunks = chunks_of<Tile>(grid, live_of(sources, segment), most);
  const double* of_problem = partial + problem * cells * kTerms;
  for (int64_t first = int64_t{blockIdx.x} * 32; first < numbers;
       first += int64_t{gridDim.x} * 32) {
    const int64_t k = first + lane_index();
    double total = 0.0;
    if (k < numbers) {
#pragma unroll 8
      for (int64_t chunk = warp_index(); chunk < chunks; chunk += kWarps) {
        total += of_problem[chunk * numbers + k];
      }
    }
    __syncthreads();  // the sums before may still be read
    sums[threadIdx.x] = total;
    __syncthreads();
    if (warp_index() == 0 && k < numbers) {
      for (int w = 1; w < kWarps; ++w) total += sums[w * 32 + lane_index()];
      moments[problem * max_bins * kTerms + k] = total;
    }
  }
}

}  // namespace xrisk::cuda
