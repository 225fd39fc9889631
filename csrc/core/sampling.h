// A sample of many numbers that says between which two of it the answer of a selection stands.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace xrisk {

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

// Where the k-th number of a sample of `sample` out of `count` stands: one in each of `sample`
// equal pieces, at a place that no pattern of the input repeats.
XRISK_HD int64_t sample_place(int64_t k, int64_t sample, int64_t count, int pass) {
  const uint64_t piece = static_cast<uint64_t>(count / sample);
  const uint64_t mixed =
      (static_cast<uint64_t>(k) + 1 + (static_cast<uint64_t>(pass) << 20)) * 0x9E3779B97F4A7C15ull;
  return k * static_cast<int64_t>(piece) +
         static_cast<int64_t>(((mixed >> 32) * (piece & 0xffffffffull)) >> 32);
}

}  // namespace xrisk
