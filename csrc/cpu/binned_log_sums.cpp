// Log sums of exp(squared hinge / T), near-linear, with a stated error: docs/algorithms.md.
//
// With q = top - depth (cpu/log_pairs.h), phi = q^2 above the kink q = 0, and relative to the peak
// top^2 a pair term is
//
//   f(top, depth) = exp(-depth (2 top - depth) / T),
//
// an exponential in top, and one in depth times exp(depth^2 / T). Items that this makes smaller
// than e^-cut have no say: an anchor far above the kink sees a thin layer of the highest items
// only. So anchors are taken in groups, of tops from L to 2 L, each with bins of its own that fit
// its layer. An item at s half-widths h from the centre C of its bin counts by its moments,
//
//   f = f(top, C) exp((s h)^2 / T) exp(-2 h s (top - C) / T),
//
// the last of which is its power series: exponents are at most kReach. In a group of many anchors
// rows are evaluated at the Chebyshev nodes of cells of tops, and interpolated; columns are the
// transpose. The lowest group has the kink: its cells are its bins; an anchor sees the bins above
// its cell in this way, and in its cell the sorted anchors and items are merged, with running
// moments of the items above the kink. No pair is visited.
//
// Work: two sorts, then O((P + M) terms) a group. Hazard: exponents are products of distances from
// the highest item, in doubles, and are never positive.
#include "cpu/log_groups.h"

namespace xrisk::cpu {
namespace {

template <class T>
class BinnedLogSums final : public LogPairs<T> {
 public:
  BinnedLogSums(const LogSums<T>& call, Scratch& scratch, const Executor& executor)
      : call_(call),
        executor_(executor),
        places_(place_log_pairs(call, scratch, executor)),
        temperature_(1.0 / call.term.inverse_temperature),
        inverse_(call.term.inverse_temperature),
        rest_(scratch.allocate<double>(places_.items + 1)),
        mass_(scratch.allocate<double>(places_.anchors)),
        slope_(scratch.allocate<double>(places_.anchors)),
        weights_(scratch.allocate<double>(places_.anchors)),
        sums_(scratch.allocate<double>(places_.items)) {
    rest_[places_.items] = 0.0;
    double highest = 0.0;
    for (int64_t j = places_.items; j-- > 0;) {
      rest_[j] = rest_[j + 1] + places_.weights[j];
      if (places_.depths[j] == 0.0) highest += places_.weights[j];
    }
    // what is left out, all items together, is below e^-kCut of the highest
    constexpr double kCut = sizeof(T) == sizeof(float) ? 20.0 : 34.0, kMostCut = 650.0;
    cut_ = std::min(kMostCut, kCut + std::log(rest_[0] / highest));
    const int64_t anchors = places_.anchors;
    idle_ = first_from(places_.tops, anchors, std::nextafter(0.0, 1.0));
    const double layer = std::sqrt(cut_ * temperature_);
    int64_t next = first_from(places_.tops, anchors, layer);
    if (next > idle_) groups_.push_back(make_kink_group(places_, idle_, next, layer, cut_));
    while (next < anchors) {
      groups_.push_back(make_far_group(places_, next, cut_ * temperature_, inverse_));
      next = groups_.back().end;
    }
    for (LogGroup& group : groups_) {
      group.by_nodes = group.end - group.begin > 2 * group.cells * kNodes;
    }
  }

  void rows(double* log_sums, double* slopes, double* masses) override {
    for (const LogGroup& group : groups_) {
      bin_rows(group);
      if (!group.kink) continue;
      executor_.for_each(group.cells, [&](int64_t cell) { kink_rows(group, cell); });
    }
    executor_.for_range(places_.anchors, kPiece, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t anchor = places_.anchor_places[i];
        const double top = i < idle_ ? 0.0 : places_.tops[i];
        const double mass = i < idle_ ? rest_[0] : mass_[i];
        masses[anchor] = mass;
        slopes[anchor] = i < idle_ ? 0.0 : 2.0 * inverse_ * slope_[i] / mass;
        log_sums[anchor] = top * top * inverse_ + std::log(mass);
      }
    });
  }

  void columns(const double* anchor_weights, const double* masses, T* out) override {
    std::fill(sums_, sums_ + places_.items, 0.0);
    for (int64_t i = 0; i < places_.anchors; ++i) {
      const int64_t anchor = places_.anchor_places[i];
      weights_[i] = anchor_weights[anchor] / masses[anchor];
    }
    for (const LogGroup& group : groups_) {
      bin_columns(group);
      if (!group.kink) continue;
      executor_.for_each(group.cells, [&](int64_t cell) { kink_columns(group, cell); });
    }
    if (places_.items < call_.items.count) std::fill(out, out + call_.items.count, T(0));
    executor_.for_range(places_.items, kPiece, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const double slope = 2.0 * inverse_ * places_.weights[j] * sums_[j];
        out[places_.item_places[j]] = static_cast<T>(slope);
      }
    });
  }

 private:
  static constexpr bool kWide = sizeof(T) == sizeof(double);
  static constexpr int kTerms = kWide ? 20 : 12;    // of the power series
  static constexpr int kKinkTerms = kWide ? 8 : 5;  // about the kink: exponents below 0.04
  static constexpr int kNodes = kWide ? 16 : 12;    // a cell

  // ---- points
  // The tops that rows are evaluated at: anchors, or the nodes of all cells.
  std::vector<double> points_of(const LogGroup& group) const {
    if (!group.by_nodes) return {places_.tops + group.begin, places_.tops + group.end};
    std::vector<double> points;
    for (int64_t c = 0; c < group.cells; ++c) {
      const LogCell cell = group.cell(c);
      for (double node : ChebyshevTable<kNodes>::get().value[1]) {
        points.push_back(cell.centre + cell.half * node);
      }
    }
    return points;
  }
  // Of a point: the bins that lie above the kink as a whole.
  int64_t bins_above(const LogGroup& group, int64_t point, double top) const {
    if (!group.kink) return group.bins;
    return group.by_nodes ? point / kNodes : group.cell_of(top);
  }
  // Of a bin: the first point that has it above the kink as a whole.
  int64_t first_point(const LogGroup& group, int64_t bin) const {
    if (!group.kink) return 0;
    return group.by_nodes ? (bin + 1) * kNodes : group.cell_starts[at(bin + 1)] - group.begin;
  }

  // ---- a piece of a bin: s, and exp((s h)^2 / T)
  void locals(const LogGroup& group, const Piece& piece, double* s, double* bumps) const {
    const double centre = group.centre(piece.k), half = 0.5 * group.width;
    const int64_t count = piece.end - piece.begin;
    for (int64_t k = 0; k < count; ++k) {
      const double distance = places_.depths[piece.begin + k] - centre;
      s[k] = distance / half;
      bumps[k] = distance * distance;
    }
    kernels<double>().scaled_exponentials(bumps, count, inverse_, 0.0, 1.0, bumps);
  }

  // f(top, C) of `count` points, and the t of exp(t s).
  void point_factors(const LogGroup& group, int64_t bin, const double* tops, int64_t count,
                     double* f, double* t) const {
    const double centre = group.centre(bin), slope = -group.width * inverse_;
    for (int64_t k = 0; k < count; ++k) {
      t[k] = slope * (tops[k] - centre);
      f[k] = -centre * (2.0 * tops[k] - centre);
    }
    kernels<double>().scaled_exponentials(f, count, inverse_, 0.0, 1.0, f);
  }

  // ---- rows
  void bin_rows(const LogGroup& group) {
    const std::vector<Piece> pieces = pieces_of(group.bin_starts);
    std::vector<double> parts(pieces.size() * (kTerms + 1));
    executor_.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t number) {
      Scratch own;
      const Piece& piece = pieces[at(number)];
      double* s = own.allocate<double>(2 * kPiece);
      double* terms = s + kPiece;
      locals(group, piece, s, terms);
      for (int64_t k = 0; k < piece.end - piece.begin; ++k) {
        terms[k] *= places_.weights[piece.begin + k];
      }
      power_series<kTerms>(terms, s, piece.end - piece.begin, parts.data() + number * (kTerms + 1));
    });
    std::vector<double> moments(at(group.bins * (kTerms + 1)), 0.0);
    for (size_t number = 0; number < pieces.size(); ++number) {
      for (int n = 0; n <= kTerms; ++n) {
        moments[at(pieces[number].k * (kTerms + 1) + n)] += parts[number * (kTerms + 1) + at(n)];
      }
    }
    const std::vector<double> points = points_of(group);
    const int64_t count = static_cast<int64_t>(points.size());
    std::vector<double> at_nodes(group.by_nodes ? 2 * points.size() : 0);
    double* mass = group.by_nodes ? at_nodes.data() : mass_ + group.begin;
    double* slope = group.by_nodes ? at_nodes.data() + count : slope_ + group.begin;
    executor_.for_range(count, 8 * kLane, [&](int64_t, int64_t begin, int64_t end) {
      point_rows(group, moments, points.data(), begin, end, mass, slope);
    });
    if (!group.by_nodes) return;
    for (int64_t c = 0; c < group.cells; ++c) {
      chebyshev_coefficients<kNodes>(mass + c * kNodes);
      chebyshev_coefficients<kNodes>(slope + c * kNodes);
    }
    const std::vector<Piece> anchors = pieces_of(group.cell_starts);
    executor_.for_each(static_cast<int64_t>(anchors.size()), [&](int64_t number) {
      const Piece& piece = anchors[at(number)];
      const LogCell cell = group.cell(piece.k);
      const double* tops = places_.tops + piece.begin;
      const int64_t size = piece.end - piece.begin;
      chebyshev_values<kNodes>(mass + piece.k * kNodes, cell, tops, size, mass_ + piece.begin);
      chebyshev_values<kNodes>(slope + piece.k * kNodes, cell, tops, size, slope_ + piece.begin);
    });
  }

  // Points [begin, end): sums over their bins of f and f q.
  void point_rows(const LogGroup& group, const std::vector<double>& moments, const double* points,
                  int64_t begin, int64_t end, double* mass, double* slope) const {
    double f[8 * kLane], t[8 * kLane];
    const int64_t count = end - begin;
    const double half = 0.5 * group.width;
    std::fill(mass + begin, mass + end, 0.0);
    std::fill(slope + begin, slope + end, 0.0);
    const int64_t bins = bins_above(group, end - 1, points[end - 1]);  // of the highest
    for (int64_t bin = 0; bin < bins; ++bin) {
      if (group.bin_starts[at(bin)] == group.bin_starts[at(bin + 1)]) continue;
      point_factors(group, bin, points + begin, count, f, t);
      const double* m = moments.data() + bin * (kTerms + 1);
      const double centre = group.centre(bin);
      for (int64_t k = 0; k < count; k += kLane) {  // past the end: what is not used
        double value[kLane] = {}, derivative[kLane] = {};
        for (int n = kTerms; n >= 0; --n) {
          for (int64_t q = 0; q < kLane; ++q) {
            derivative[q] = derivative[q] * t[k + q] + value[q];
            value[q] = value[q] * t[k + q] + m[n];
          }
        }
        for (int64_t q = 0; q < std::min(kLane, count - k); ++q) {
          const int64_t i = begin + k + q;
          if (bin >= bins_above(group, i, points[i])) continue;
          mass[i] += f[k + q] * value[q];
          slope[i] += f[k + q] * ((points[i] - centre) * value[q] - half * derivative[q]);
        }
      }
    }
  }

  // The anchors of a cell and the items of the same bin, and all items below the kink.
  void kink_rows(const LogGroup& group, int64_t cell) {
    const int64_t first = group.cell_starts[at(cell)], last = group.cell_starts[at(cell + 1)];
    if (first == last) return;
    const Piece bin{cell, group.bin_starts[at(cell)], group.bin_starts[at(cell + 1)]};
    Scratch own;
    double* s = own.allocate<double>(bin.end - bin.begin);
    double* bumps = own.allocate<double>(bin.end - bin.begin);
    double* f = own.allocate<double>(3 * (last - first));
    double *t = f + (last - first), *floor = t + (last - first);
    locals(group, bin, s, bumps);
    point_factors(group, cell, places_.tops + first, last - first, f, t);
    for (int64_t i = first; i < last; ++i) floor[i - first] = places_.tops[i] * places_.tops[i];
    kernels<double>().scaled_exponentials(floor, last - first, -inverse_, 0.0, 1.0, floor);
    const double centre = group.centre(cell), half = 0.5 * group.width;
    double moments[kKinkTerms + 1] = {};
    int64_t j = bin.begin;
    for (int64_t i = first; i < last; ++i) {
      const double top = places_.tops[i], at_top = t[i - first];
      for (; j < bin.end && places_.depths[j] < top; ++j) {
        double term = places_.weights[j] * bumps[j - bin.begin];
        for (int n = 0; n <= kKinkTerms; ++n) {
          moments[n] += term;
          term *= s[j - bin.begin] / (n + 1);
        }
      }
      double value = 0.0, derivative = 0.0;
      for (int n = kKinkTerms; n >= 0; --n) {
        derivative = derivative * at_top + value;
        value = value * at_top + moments[n];
      }
      mass_[i] += floor[i - first] * rest_[j] + f[i - first] * value;
      slope_[i] += f[i - first] * ((top - centre) * value - half * derivative);
    }
  }

  // ---- columns
  void bin_columns(const LogGroup& group) {
    const std::vector<double> points = points_of(group);
    const std::vector<double> weights = point_weights(group, points.size());
    // of each bin: sum of weight f q in powers of s
    std::vector<double> series(at(group.bins * (kTerms + 1)));
    executor_.for_range(group.bins, 4, [&](int64_t, int64_t begin, int64_t end) {
      Scratch own;
      double* f = own.allocate<double>(2 * static_cast<int64_t>(points.size()));
      double* t = f + points.size();
      for (int64_t bin = begin; bin < end; ++bin) {
        const int64_t first = first_point(group, bin);
        const int64_t count = static_cast<int64_t>(points.size()) - first;
        point_factors(group, bin, points.data() + first, count, f, t);
        for (int64_t k = 0; k < count; ++k) f[k] *= weights[at(first + k)];
        double sums[kTerms + 2];
        power_series<kTerms + 1>(f, t, count, sums);
        double* out = series.data() + bin * (kTerms + 1);
        for (int n = 0; n <= kTerms; ++n) {  // q = -T / w t - h s
          out[n] = -(n + 1) * sums[n + 1] / (group.width * inverse_);
          if (n > 0) out[n] -= 0.5 * group.width * sums[n - 1];
        }
      }
    });
    const std::vector<Piece> pieces = pieces_of(group.bin_starts);
    executor_.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t number) {
      Scratch own;
      const Piece& piece = pieces[at(number)];
      double* s = own.allocate<double>(2 * kPiece);
      locals(group, piece, s, s + kPiece);
      add_polynomial<kTerms>(series.data() + piece.k * (kTerms + 1), s, s + kPiece,
                             piece.end - piece.begin, sums_ + piece.begin);
    });
  }

  std::vector<double> point_weights(const LogGroup& group, size_t points) const {
    if (!group.by_nodes) return {weights_ + group.begin, weights_ + group.end};
    const std::vector<Piece> pieces = pieces_of(group.cell_starts);
    std::vector<double> parts(pieces.size() * kNodes), sums(points, 0.0), weights(points);
    executor_.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t number) {
      const Piece& piece = pieces[at(number)];
      chebyshev_moments<kNodes>(group.cell(piece.k), places_.tops + piece.begin,
                                weights_ + piece.begin, piece.end - piece.begin,
                                parts.data() + number * kNodes);
    });
    for (size_t number = 0; number < pieces.size(); ++number) {
      for (int n = 0; n < kNodes; ++n) {
        sums[at(pieces[number].k * kNodes + n)] += parts[number * kNodes + at(n)];
      }
    }
    for (int64_t c = 0; c < group.cells; ++c) {
      chebyshev_weights<kNodes>(sums.data() + c * kNodes, weights.data() + c * kNodes);
    }
    return weights;
  }

  void kink_columns(const LogGroup& group, int64_t cell) {
    const int64_t first = group.cell_starts[at(cell)], last = group.cell_starts[at(cell + 1)];
    const Piece bin{cell, group.bin_starts[at(cell)], group.bin_starts[at(cell + 1)]};
    if (first == last || bin.begin == bin.end) return;
    Scratch own;
    double* s = own.allocate<double>(bin.end - bin.begin);
    double* bumps = own.allocate<double>(bin.end - bin.begin);
    double* f = own.allocate<double>(2 * (last - first));
    double* t = f + (last - first);
    locals(group, bin, s, bumps);
    point_factors(group, cell, places_.tops + first, last - first, f, t);
    const double centre = group.centre(cell), half = 0.5 * group.width;
    double sums[kKinkTerms + 1] = {}, distances[kKinkTerms + 1] = {};
    int64_t i = last;
    for (int64_t j = bin.end; j-- > bin.begin;) {
      for (; i > first && places_.tops[i - 1] > places_.depths[j]; --i) {
        double term = weights_[i - 1] * f[i - 1 - first];
        const double distance = places_.tops[i - 1] - centre;
        for (int n = 0; n <= kKinkTerms; ++n) {
          sums[n] += term;
          distances[n] += term * distance;
          term *= t[i - 1 - first] / (n + 1);
        }
      }
      const double x = s[j - bin.begin];
      double sum = 0.0, distance = 0.0;
      for (int n = kKinkTerms; n >= 0; --n) {
        sum = sum * x + sums[n];
        distance = distance * x + distances[n];
      }
      sums_[j] += bumps[j - bin.begin] * (distance - half * x * sum);
    }
  }

  const LogSums<T> call_;
  const Executor& executor_;
  const LogPlaces places_;
  const double temperature_, inverse_;
  double* rest_;             // [items + 1]: weight of the items from here down
  double *mass_, *slope_;    // [P], sorted: sums of f and f q
  double *weights_, *sums_;  // [P], [items], sorted: columns
  double cut_ = 0.0;
  int64_t idle_ = 0;  // anchors before have no item above the kink
  std::vector<LogGroup> groups_;
};

}  // namespace

template <class T>
std::unique_ptr<LogPairs<T>> make_binned_log_sums(const LogSums<T>& call, Scratch& scratch,
                                                  const Executor& executor) {
  return std::make_unique<BinnedLogSums<T>>(call, scratch, executor);
}
template std::unique_ptr<LogPairs<float>> make_binned_log_sums(const LogSums<float>&, Scratch&,
                                                               const Executor&);
template std::unique_ptr<LogPairs<double>> make_binned_log_sums(const LogSums<double>&, Scratch&,
                                                                const Executor&);

}  // namespace xrisk::cpu
