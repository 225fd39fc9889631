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
#include "core/sampling.h"
#include "core/sort_key.h"
#include "cpu/kernel_table.h"

namespace xrisk::cpu {

constexpr int kSampledPasses = 8;

// An edge of the bracket from a number of the sample.
template <class T>
XRISK_HD T edge_of(T x) {
  return x == x ? x : static_cast<T>(INFINITY);
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
