// How cpu/binned_log_sums.cpp cuts anchors into groups, and items into the bins of a group.
#pragma once

#include <vector>

#include "cpu/log_pairs.h"
#include "cpu/log_series.h"

namespace xrisk::cpu {

constexpr int64_t kPiece = 4096;  // entries of a bin or cell that are a task
constexpr double kReach = 1.25;   // of the exponents in the series

struct LogGroup {
  int64_t begin = 0, end = 0;  // anchors
  bool kink = false;           // then its cells are its bins
  bool by_nodes = false;       // rather than anchor by anchor
  double width = 0.0;          // of a bin
  int64_t bins = 0;
  std::vector<int64_t> bin_starts;  // [bins + 1], items
  double low = 0.0, cell_width = 1.0;
  int64_t cells = 1;
  std::vector<int64_t> cell_starts;  // [cells + 1], anchors

  int64_t bin_of(double depth) const {
    return std::min(static_cast<int64_t>(depth / width), bins - 1);
  }
  int64_t cell_of(double top) const {
    return std::min(static_cast<int64_t>((top - low) / cell_width), cells - 1);
  }
  double centre(int64_t bin) const { return (static_cast<double>(bin) + 0.5) * width; }
  LogCell cell(int64_t k) const {
    return {low + (static_cast<double>(k) + 0.5) * cell_width, 0.5 * cell_width};
  }
};

inline size_t at(int64_t k) { return static_cast<size_t>(k); }

// Where each of the numbers 0 .. count - 1 begins; `number` ascends over [begin, end).
template <class F>
std::vector<int64_t> starts_of(int64_t begin, int64_t end, int64_t count, F&& number) {
  std::vector<int64_t> starts(at(count + 1), end);
  for (int64_t k = 0; k < count; ++k) {
    int64_t low = k == 0 ? begin : starts[at(k - 1)], high = end;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (number(middle) < k) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    starts[at(k)] = low;
  }
  return starts;
}

// A part of range k.
struct Piece {
  int64_t k, begin, end;
};
inline std::vector<Piece> pieces_of(const std::vector<int64_t>& starts) {
  std::vector<Piece> pieces;
  for (size_t k = 0; k + 1 < starts.size(); ++k) {
    for (int64_t begin = starts[k]; begin < starts[k + 1]; begin += kPiece) {
      pieces.push_back({static_cast<int64_t>(k), begin, std::min(begin + kPiece, starts[k + 1])});
    }
  }
  return pieces;
}

// Anchors [begin, end) see the items before `items`.
inline void place_in(LogGroup& group, const LogPlaces& places, int64_t begin, int64_t end,
                     int64_t items) {
  group.begin = begin;
  group.end = end;
  group.bin_starts =
      starts_of(0, items, group.bins, [&](int64_t j) { return group.bin_of(places.depths[j]); });
  group.cell_starts =
      starts_of(begin, end, group.cells, [&](int64_t i) { return group.cell_of(places.tops[i]); });
}

// The lowest group: tops below `layer`, where layer^2 / T is the cut.
inline LogGroup make_kink_group(const LogPlaces& places, int64_t begin, int64_t end, double layer,
                                double cut) {
  LogGroup group;
  group.kink = true;
  group.bins = group.cells = static_cast<int64_t>(std::ceil(cut / kReach));
  group.width = group.cell_width = layer / static_cast<double>(group.bins);
  place_in(group, places, begin, end, first_from(places.depths, places.items, layer));
  return group;
}

// Tops from that of anchor `begin` to twice as much; `squared`: cut T.
inline LogGroup make_far_group(const LogPlaces& places, int64_t begin, double squared,
                               double inverse) {
  LogGroup group;
  const double low = places.tops[begin];
  const int64_t end =
      std::upper_bound(places.tops + begin, places.tops + places.anchors, 2.0 * low) - places.tops;
  const double high = places.tops[end - 1];
  // where depth (2 low - depth) / T reaches the cut
  const double layer = squared / (low + std::sqrt(std::max(0.0, low * low - squared)));
  const int64_t items =
      std::upper_bound(places.depths, places.depths + places.items, layer) - places.depths;
  const auto count = [](double wanted) {
    return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(wanted)));
  };
  group.bins = count(high * layer * inverse / kReach);
  group.width = layer / static_cast<double>(group.bins);
  group.bins = group.bin_of(places.depths[items - 1]) + 1;  // the rest is empty
  group.low = low;
  group.cells = count((high - low) * layer * inverse / kReach);
  if (high > low) group.cell_width = (high - low) / static_cast<double>(group.cells);
  place_in(group, places, begin, end, items);
  return group;
}

}  // namespace xrisk::cpu
