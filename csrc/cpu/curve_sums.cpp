#include "cpu/curve_sums.h"

#include <algorithm>

#include "cpu/scratch.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 65536;

struct Chunk {
  int64_t begin = 0;
  double positives = 0, negatives = 0;  // its own weights, then those before it
  double precisions = 0, area = 0;
  bool good = true;
};

// The part of max_fpr and min_tpr that a row has, in weights.
struct Region {
  double limit, floor;
  bool whole;

  // The area under the piece of the curve from (f0, t0) to (f1, t1), f1 > f0.
  double piece(double f0, double t0, double f1, double t1) const {
    if (whole) return 0.5 * (f1 - f0) * (t0 + t1);
    const double inside = std::min(f1, limit) - f0;
    if (!(inside > 0)) return 0;
    const double rise = (t1 - t0) * (inside / (f1 - f0));
    const double high = t0 + rise - floor;
    if (!(high > 0)) return 0;
    if (t0 >= floor) return 0.5 * inside * (t0 - floor + high);
    return 0.5 * inside * (high / rise) * high;  // it crosses the floor: a triangle
  }
};

template <class T>
class Row {
 public:
  Row(const CurveSums<T>& call, int64_t row)
      : values_(call.values + row * call.columns),
        indices_(call.indices + row * call.columns),
        positive_(call.positive + row * call.columns),
        weights_(call.weights == nullptr ? nullptr : call.weights + row * call.columns),
        columns_(call.columns) {}

  // The first place at or after `place` that starts a tie group.
  int64_t group_start(int64_t place) const {
    if (place == 0 || place >= columns_) return std::min(place, columns_);
    return std::upper_bound(values_ + place, values_ + columns_, values_[place - 1],
                            [](T value, T other) { return value > other; }) -
           values_;
  }

  template <bool kWeighted>
  void add_weights(Chunk& chunk, int64_t end) const {
    double totals[2] = {0, 0};
    for (int64_t k = chunk.begin; k < end; ++k) {
      const int64_t column = indices_[k];
      if (static_cast<uint64_t>(column) >= static_cast<uint64_t>(columns_)) {
        chunk.good = false;
        return;
      }
      totals[positive_[column] != 0] += kWeighted ? weights_[column] : 1.0;
    }
    chunk.negatives = totals[0];
    chunk.positives = totals[1];
  }

  template <bool kWeighted>
  void add_sums(Chunk& chunk, int64_t end, const Region& region) const {
    double t0 = chunk.positives, f0 = chunk.negatives;
    for (int64_t k = chunk.begin; k < end;) {
      const T value = values_[k];
      double group[2] = {0, 0};
      do {
        const int64_t column = indices_[k];
        group[positive_[column] != 0] += kWeighted ? weights_[column] : 1.0;
        ++k;
      } while (k < end && values_[k] == value);
      const double t1 = t0 + group[1], f1 = f0 + group[0];
      if (group[1] > 0) chunk.precisions += group[1] * (t1 / (t1 + f1));
      if (f1 > f0) chunk.area += region.piece(f0, t0, f1, t1);
      t0 = t1;
      f0 = f1;
    }
  }

 private:
  const T* values_;
  const int64_t* indices_;
  const uint8_t* positive_;
  const double* weights_;
  const int64_t columns_;
};

template <bool kWeighted, class T>
bool sum_row(const CurveSums<T>& call, int64_t row, const Executor& executor) {
  const Row<T> view(call, row);
  const int64_t count = (call.columns + kGrain - 1) / kGrain;
  Scratch scratch;
  Chunk* chunks = scratch.allocate<Chunk>(count + 1);
  for (int64_t c = 0; c <= count; ++c) {
    chunks[c] = Chunk();
    chunks[c].begin = view.group_start(std::min(c * kGrain, call.columns));
  }
  executor.for_each(count, [&](int64_t c) {
    view.template add_weights<kWeighted>(chunks[c], chunks[c + 1].begin);
  });
  double positives = 0, negatives = 0;
  for (int64_t c = 0; c < count; ++c) {
    if (!chunks[c].good) return false;
    const double own_positives = chunks[c].positives, own_negatives = chunks[c].negatives;
    chunks[c].positives = positives;
    chunks[c].negatives = negatives;
    positives += own_positives;
    negatives += own_negatives;
  }
  const Region region{call.max_fpr * negatives, call.min_tpr * positives,
                      call.max_fpr == 1 && call.min_tpr == 0};
  executor.for_each(count, [&](int64_t c) {
    view.template add_sums<kWeighted>(chunks[c], chunks[c + 1].begin, region);
  });
  double* sums = call.sums + row * 4;
  sums[0] = sums[1] = 0;
  for (int64_t c = 0; c < count; ++c) {
    sums[0] += chunks[c].precisions;
    sums[1] += chunks[c].area;
  }
  sums[2] = positives;
  sums[3] = negatives;
  return true;
}

}  // namespace

template <class T>
bool curve_sums(const CurveSums<T>& call, const Executor& executor) {
  const auto sum = [&](int64_t row, const Executor& on) {
    return call.weights == nullptr ? sum_row<false>(call, row, on) : sum_row<true>(call, row, on);
  };
  if (call.columns > kGrain) {
    bool good = true;
    for (int64_t row = 0; row < call.rows && good; ++row) good = sum(row, executor);
    return good;
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, call.columns));
  const int64_t tasks = (call.rows + grain - 1) / grain;
  Scratch scratch;
  bool* good = scratch.allocate<bool>(tasks);
  executor.for_range(call.rows, grain, [&](int64_t task, int64_t begin, int64_t end) {
    good[task] = true;
    for (int64_t row = begin; row < end; ++row) good[task] &= sum(row, SerialExecutor());
  });
  return std::all_of(good, good + tasks, [](bool x) { return x; });
}

template bool curve_sums(const CurveSums<float>&, const Executor&);
template bool curve_sums(const CurveSums<double>&, const Executor&);

}  // namespace xrisk::cpu
