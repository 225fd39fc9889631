// Selection by narrowing a bracket: the (rank+1)-th largest of many numbers, without sorting them.
//
// Each pass takes a bracket (low, high) from a sample and splits the numbers in three: at or above
// `high`, inside, and at or below `low`. What is inside, usually a few percent, is the input of the
// next pass. If the answer turns out to stand on an edge or beyond it (ties do that), one more
// split finds out. After kSampledPasses, which adversarial inputs alone need, the bracket is halved
// by its bits instead, so that the number of passes is bounded.
//
// NaN stand above +inf, as in torch.topk; -0 equals +0. Edges are numbers: a NaN in the sample
// becomes +inf, which is why nothing below asks for NaN but the last line.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/sort_key.h"
#include "cpu/kernel_table.h"

namespace xrisk::cpu {

constexpr int kSampledPasses = 8;

// The ranks in a sample of `sample` numbers out of `count` between which that of the answer lies,
// but for `deviations` of luck. -1 and `sample` mean the two infinities.
struct SampleRanks {
  int64_t high, low;
};
XRISK_HD SampleRanks sample_ranks(int64_t count, int64_t rank, int64_t sample, double deviations) {
  const double share = (static_cast<double>(rank) + 0.5) / static_cast<double>(count);
  const double expected = share * static_cast<double>(sample);
  const double margin = deviations * sqrt(expected * (1.0 - share)) + 1.0;
  const double high = floor(expected - margin), low = ceil(expected + margin);
  const double last = static_cast<double>(sample);
  return {static_cast<int64_t>(high < 0 ? -1.0 : high),
          static_cast<int64_t>(low > last ? last : low)};
}

// An edge of the bracket from a number of the sample.
template <class T>
XRISK_HD T edge_of(T x) {
  return x == x ? x : static_cast<T>(INFINITY);
}

// Where the k-th number of a sample of `sample` out of `count` stands: one in each of `sample`
// equal pieces, at a place that no pattern of the input repeats.
XRISK_HD int64_t sample_place(int64_t k, int64_t sample, int64_t count, int pass) {
  const uint64_t piece = static_cast<uint64_t>(count / sample);
  const uint64_t mixed =
      (static_cast<uint64_t>(k) + 1 + (static_cast<uint64_t>(pass) << 20)) * 0x9E3779B97F4A7C15ull;
  return k * static_cast<int64_t>(piece) +
         static_cast<int64_t>(((mixed >> 32) * (piece & 0xffffffffull)) >> 32);
}

// Source: count(), bracket(rank, pass), split(Bracket) -> SplitCounts, keep_inside() (of the last
// split), finish(rank) for the few numbers that are left, and kFew, at most so many.
// 0 <= rank < source.count().
template <class T, class Source>
XRISK_HD T select_largest(Source& source, int64_t rank) {
  constexpr T kInfinity = static_cast<T>(INFINITY);
  Bracket<T> bounds{-kInfinity, kInfinity};  // from the second pass on, all stand between
  for (int pass = 0; source.count() > Source::kFew; ++pass) {
    Bracket<T> bracket;
    if (pass < kSampledPasses) {
      bracket = source.bracket(rank, pass);
    } else {
      const auto low = sort_key(bounds.low), high = sort_key(bounds.high);
      bracket.low = bracket.high = score_of_key(low + (high - low) / 2);
    }
    SplitCounts counts = source.split(bracket);
    if (rank < counts.above) {
      if (bracket.high < kInfinity) {
        const T edge = bracket.high;
        bracket = {edge, kInfinity};
        counts = source.split(bracket);
        if (rank >= counts.above + counts.inside) return edge;
      }
    } else if (rank >= counts.above + counts.inside) {
      const T edge = bracket.low;
      bracket = {-kInfinity, edge};
      counts = source.split(bracket);
      if (rank < counts.above) return edge;
      if (rank >= counts.above + counts.inside) return -kInfinity;
    }
    if (rank < counts.above) return rank < source.nans() ? static_cast<T>(NAN) : kInfinity;
    rank -= counts.above;
    bounds = bracket;
    source.keep_inside();
  }
  return source.finish(rank);
}

}  // namespace xrisk::cpu
