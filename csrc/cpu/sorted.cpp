// The one-sided sort algorithm for the piecewise-polynomial surrogates, exact, near-linear.
//
// Sort the P anchors; a key x_i - margin per anchor cuts the line into intervals. Items are not
// sorted: each is streamed to its interval (cpu/interval_inl.h), where its moments are summed
// relative to the interval's own key. A scan over the intervals then gives every anchor the moments
// of all items above its key, and in the column stage every item the moments of all keys below it.
//
// Bytes: the items once per stage, 4 for a rank. Hazard: prefix differences of raw moments cancel
// (scores near 30 with spread 0.05: relative error 4.5); relative moments only ever add terms of
// one sign.
#include <algorithm>
#include <cstring>

#include "cpu/anchor_order.h"
#include "cpu/pairwise.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kScratchBytes = int64_t{8} << 20;
constexpr int64_t kItemGrain = 8192;

// Moments of the items above a key, distances taken from the unrounded key; the items on the key;
// count and summed distance of the others.
struct KeyMoments {
  double above0, above1, above2, tie, below0, below1;
};

// Calls f(sorted position, KeyMoments) for every key. intervals: [P + 1] with `stride` doubles
// between them; above moments need the descending scan, below moments the ascending one.
template <class T, class F>
void scan_intervals(const AnchorKeys<T>& keys, const double* intervals, int64_t stride,
                    double* below, F&& f) {
  const RankIndex<T>& index = keys.index;
  const int64_t count = index.count;
  if (below != nullptr) {
    // The lowest interval measures from keys[1], above all its items.
    double b0 = intervals[0], b1 = -intervals[1];
    for (int64_t r = 1; r <= count; ++r) {
      const double residual = keys.residuals[r];
      below[2 * r] = b0;
      below[2 * r + 1] = b1 + residual * b0;
      if (r == count) break;
      const double* s = intervals + r * stride;
      const double width =
          static_cast<double>(index.references[r + 1]) - static_cast<double>(index.references[r]);
      b1 += width * b0 + (width * s[0] - s[1]);
      b0 += s[0];
    }
  }
  double m0 = 0, m1 = 0, m2 = 0;
  for (int64_t r = count; r >= 1; --r) {
    const double* s = intervals + r * stride;
    const double width = r < count ? static_cast<double>(index.references[r + 1]) -
                                         static_cast<double>(index.references[r])
                                   : 0.0;
    m2 += s[2] + width * (2 * m1 + width * m0);
    m1 += s[1] + width * m0;
    m0 += s[0];
    const double residual = keys.residuals[r];
    KeyMoments moments = {
        m0, m1 - residual * m0, m2 - residual * (2 * m1 - residual * m0), s[3], 0.0, 0.0};
    if (below != nullptr) {
      moments.below0 = below[2 * r];
      moments.below1 = below[2 * r + 1];
    }
    f(r - 1, moments);
  }
}

template <class T>
class SortedSums final : public PairwiseSums<T> {
 public:
  SortedSums(const PairwiseSpec& spec, Anchors<T> anchors, Scratch& scratch,
             const Executor& executor)
      : spec_(spec),
        scratch_(scratch),
        executor_(executor),
        order_(sort_anchors(anchors.scores, anchors.count, scratch, executor)) {
    const double margin = spec.params.margin, scale = spec.params.scale;
    const bool zero_one = spec.surrogate == Surrogate::kZeroOne;
    keys_[0] = make_keys(order_, zero_one ? 0.0 : margin, scratch);
    // The barrier hinge turns steep at d = s m / (s - 1); at s = 1 it never does.
    if (spec.surrogate == Surrogate::kBarrierHinge && scale > 1.0) {
      keys_[1] = make_keys(order_, -scale * margin / (scale - 1.0), scratch);
      key_sets_ = 2;
    }
  }

  void rows(ItemPass<T>& pass, double* sums, double* slopes) override {
    const int64_t anchors = order_.count, channels = pass.items.channels;
    const int64_t bytes = (anchors + 1) * kMomentSlots * static_cast<int64_t>(sizeof(double));
    const int64_t group = std::clamp<int64_t>(kScratchBytes / 2 / bytes, 1, channels);
    for (int64_t c = 0; c < channels; c += group) {
      ItemPass<T> part = pass;
      part.items.channels = std::min(group, channels - c);
      if (pass.items.weights != nullptr) part.items.weights += c * pass.items.count;
      rows_of_channels(part, sums + c * anchors, slopes + c * anchors);
      pass.ranks[0] = part.ranks[0];
      pass.ranks[1] = part.ranks[1];
    }
  }

  void columns(ItemPass<T>& pass, const double* anchor_weights, T* out) override {
    for (int set = 0; set < key_sets_; ++set) {
      if (pass.ranks[set] == nullptr) {
        int32_t* ranks = allocate_ranks(pass, set);
        executor_.for_range(pass.items.count, kItemGrain, [&](int64_t, int64_t begin, int64_t end) {
          kernels<T>().rank_items(keys_[set].index, pass.items.scores, begin, end, ranks);
        });
      }
      int64_t stride;
      const T* table = column_table(set, pass.items.channels, anchor_weights, stride);
      executor_.for_range(pass.items.count, kItemGrain, [&](int64_t, int64_t begin, int64_t end) {
        kernels<T>().evaluate_intervals(table, stride, pass.ranks[set], pass.items, begin, end,
                                        set > 0, out);
      });
    }
  }

 private:
  int32_t* allocate_ranks(ItemPass<T>& pass, int set) {
    if (pass.ranks[set] == nullptr) {
      pass.ranks[set] = scratch_.allocate<int32_t>(pass.items.count);
    }
    return pass.ranks[set];
  }

  // [P + 1, C, kMomentSlots] of the items between the keys of a set.
  double* interval_moments(ItemPass<T>& pass, int set) {
    const int64_t size = (order_.count + 1) * pass.items.channels * kMomentSlots;
    const int64_t bytes = size * static_cast<int64_t>(sizeof(double));
    // By size alone, so that the result does not depend on the number of threads.
    const int64_t wanted =
        std::min<int64_t>({8, kScratchBytes / bytes, pass.items.count / kItemGrain});
    const int64_t chunks = std::max<int64_t>(1, wanted);
    const int64_t grain = std::max<int64_t>(1, (pass.items.count + chunks - 1) / chunks);
    if (moments_capacity_ < chunks * size) {
      moments_capacity_ = chunks * size;
      moments_ = scratch_.allocate<double>(moments_capacity_);
    }
    double* moments = moments_;
    int32_t* ranks = allocate_ranks(pass, set);
    const bool ties = spec_.surrogate == Surrogate::kZeroOne;
    executor_.for_each(chunks, [&](int64_t chunk) {
      double* mine = moments + chunk * size;
      std::memset(mine, 0, static_cast<size_t>(bytes));
      const int64_t begin = std::min(chunk * grain, pass.items.count);
      const int64_t end = std::min(begin + grain, pass.items.count);
      kernels<T>().accumulate_moments(keys_[set].index, pass.items, begin, end, ties, ranks, mine);
    });
    if (chunks > 1) {
      executor_.for_range(size, 65536, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t chunk = 1; chunk < chunks; ++chunk) {
          const double* other = moments + chunk * size;
          for (int64_t k = begin; k < end; ++k) moments[k] += other[k];
        }
      });
    }
    return moments;
  }

  void rows_of_channels(ItemPass<T>& pass, double* sums, double* slopes) {
    const double s = spec_.params.scale;
    const int64_t channels = pass.items.channels, anchors = order_.count;
    const bool barrier = spec_.surrogate == Surrogate::kBarrierHinge;
    if (barrier && below_ == nullptr) below_ = scratch_.allocate<double>(2 * (anchors + 1));
    double* below = below_;
    for (int set = 0; set < key_sets_; ++set) {
      const double* intervals = interval_moments(pass, set);
      for (int64_t c = 0; c < channels; ++c) {
        double* sum = sums + c * anchors;
        double* slope = slopes + c * anchors;
        const double* mine = intervals + c * kMomentSlots;
        const int64_t stride = channels * kMomentSlots;
        switch (spec_.surrogate) {
          case Surrogate::kSquaredHinge:
            scan_intervals(keys_[set], mine, stride, below, [&](int64_t r, const KeyMoments& m) {
              const uint32_t i = order_.permutation[r];
              sum[i] = m.above2;
              slope[i] = 2 * m.above1;
            });
            break;
          case Surrogate::kHinge:
            scan_intervals(keys_[set], mine, stride, below, [&](int64_t r, const KeyMoments& m) {
              const uint32_t i = order_.permutation[r];
              sum[i] = m.above1;
              slope[i] = m.above0;
            });
            break;
          case Surrogate::kBarrierHinge:
            // m + d above -m, -s (m + d) below it, and (s - 1)(d - s m / (s - 1)) on top.
            scan_intervals(keys_[set], mine, stride, below, [&](int64_t r, const KeyMoments& m) {
              const uint32_t i = order_.permutation[r];
              if (set == 0) {
                sum[i] = m.above1 + s * m.below1;
                slope[i] = m.above0 - s * m.below0;
              } else {
                sum[i] += (s - 1) * m.above1;
                slope[i] += (s - 1) * m.above0;
              }
            });
            break;
          default:  // zero_one
            scan_intervals(keys_[set], mine, stride, below, [&](int64_t r, const KeyMoments& m) {
              const uint32_t i = order_.permutation[r];
              sum[i] = m.above0 + 0.5 * m.tie;
              slope[i] = 0.0;
            });
            share_ties(sum);
        }
      }
    }
  }

  // Items that tie with several anchors were counted at the first of them.
  void share_ties(double* sum) const {
    for (int64_t r = 1; r < order_.count; ++r) {
      const uint32_t here = order_.permutation[r], before = order_.permutation[r - 1];
      if (order_.scores[here] == order_.scores[before]) sum[here] = sum[before];
    }
  }

  // {key, linear_0, constant_0, linear_1, ...} of every interval: the column slope is piecewise
  // linear in the item's score.
  const T* column_table(int set, int64_t channels, const double* anchor_weights, int64_t& stride) {
    const AnchorKeys<T>& keys = keys_[set];
    const int64_t anchors = order_.count;
    const double s = spec_.params.scale;
    stride = channels == 1 ? 4 : 1 + 2 * channels;
    T* table = scratch_.allocate<T>((anchors + 1) * stride);
    for (int64_t r = 0; r <= anchors; ++r) table[r * stride] = keys.index.references[r];
    for (int64_t c = 0; c < channels; ++c) {
      const double* weights = anchor_weights + c * anchors;
      double total = 0;
      for (int64_t i = 0; i < anchors; ++i) total += weights[i];
      double a0 = 0, a1 = 0;
      for (int64_t r = 0; r <= anchors; ++r) {
        if (r > 0) {
          const double width = static_cast<double>(keys.index.references[r]) -
                               static_cast<double>(keys.index.references[r - 1]);
          const double weight = weights[order_.permutation[r - 1]];
          a1 += width * a0 - weight * static_cast<double>(keys.residuals[r]);
          a0 += weight;
        }
        double linear = 0, constant = 0;
        switch (spec_.surrogate) {
          case Surrogate::kSquaredHinge:
            linear = 2 * a0;
            constant = 2 * a1;
            break;
          case Surrogate::kHinge:
            constant = a0;
            break;
          case Surrogate::kBarrierHinge:
            constant = set == 0 ? a0 - s * (total - a0) : (s - 1) * a0;
            break;
          default:
            break;
        }
        table[r * stride + 1 + 2 * c] = static_cast<T>(linear);
        table[r * stride + 2 + 2 * c] = static_cast<T>(constant);
      }
    }
    return table;
  }

  PairwiseSpec spec_;
  Scratch& scratch_;
  const Executor& executor_;
  AnchorOrder<T> order_;
  AnchorKeys<T> keys_[2];
  int key_sets_ = 1;
  double* below_ = nullptr;
  double* moments_ = nullptr;
  int64_t moments_capacity_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<PairwiseSums<T>> make_sorted_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                  Scratch& scratch, const Executor& executor) {
  return std::make_unique<SortedSums<T>>(spec, anchors, scratch, executor);
}
template std::unique_ptr<PairwiseSums<float>> make_sorted_sums(const PairwiseSpec&, Anchors<float>,
                                                               Scratch&, const Executor&);
template std::unique_ptr<PairwiseSums<double>> make_sorted_sums(const PairwiseSpec&,
                                                                Anchors<double>, Scratch&,
                                                                const Executor&);

}  // namespace xrisk::cpu
