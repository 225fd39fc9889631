#include "cpu/moving_average.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/moving_average.h"
#include "cpu/kernel_table.h"
#include "cpu/suspects.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 16384;
constexpr int64_t kBlock = 64;                        // entries: one word of the suspects' flags
constexpr int64_t kGroupGrain = 4096;                 // suspects
constexpr int64_t kCachedBytes = int64_t{256} << 10;  // a state that needs no prefetch

// A block of entries on its way.
template <class State, class Value>
struct Buffers {
  alignas(64) State old[kBlock];
  alignas(64) Value values[kBlock];
  alignas(64) double keep[kBlock] = {}, add[kBlock] = {};
  alignas(64) double blends[kBlock];
  alignas(64) State rounded[kBlock];
};

template <class State, class Value, class Out>
class Update {
 public:
  using Call = MovingAverage<State, Value, Out>;
  Update(const Call& call, Scratch& scratch, const Executor& executor)
      : call_(call),
        executor_(executor),
        suspects_(call.index, call.entries, call.rows, scratch, executor) {
    if (suspects_.empty()) return;
    blends_ = scratch.allocate<double>(suspects_.size());
    if (call.log_domain) exponentials_ = scratch.allocate<double>(suspects_.size());
  }

  void run() const {
    executor_.for_range(call_.entries, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t c = 0; c < call_.columns; ++c) update_range(begin, end, c);
    });
    // A chunk has the groups that begin in it.
    const int64_t size = suspects_.size();
    executor_.for_range(size, kGroupGrain, [&](int64_t, int64_t begin, int64_t end) {
      while (begin < end && continues_group(begin)) ++begin;
      if (begin == end) return;
      while (end < size && continues_group(end)) ++end;
      for (int64_t c = 0; c < call_.columns; ++c) update_groups(begin, end, c);
    });
  }

 private:
  int64_t row(int64_t suspect) const { return call_.index[suspects_[suspect]]; }
  bool continues_group(int64_t suspect) const {
    return suspect > 0 && row(suspect) == row(suspect - 1);
  }
  State& state_of(int64_t entry, int64_t column) const {
    return call_.state[call_.index[entry] * call_.columns + column];
  }
  Out& stored(int64_t entry, int64_t column) const {
    return call_.stored[entry * call_.columns + column];
  }
  BlendFactors factors(int64_t entry) const {
    const double gamma = call_.gamma[call_.gamma_per_entry ? entry : 0];
    return call_.log_domain ? log_factors(gamma) : linear_factors(gamma);
  }

  // What the state's type cannot hold is as little storable as what is not finite.
  void store(int64_t entry, int64_t column, double blend) const {
    const State rounded = static_cast<State>(blend);
    if (!is_storable(static_cast<double>(rounded), call_.log_domain)) {
      stored(entry, column) = static_cast<Out>(blend);
      return;
    }
    stored(entry, column) = call_.rounded ? static_cast<Out>(rounded) : static_cast<Out>(blend);
    if (call_.write) state_of(entry, column) = rounded;
  }

  void share_factors(Buffers<State, Value>& block) const {
    if (call_.gamma_per_entry) return;
    const BlendFactors shared = factors(0);
    std::fill(block.keep, block.keep + kBlock, shared.keep);
    std::fill(block.add, block.add + kBlock, shared.add);
  }

  // Blends entries entry_at(0 .. count - 1); `contiguous` are their values, or null to collect
  // them. True if every rounded blend is finite.
  template <class EntryAt>
  bool blend(Buffers<State, Value>& block, const Value* contiguous, int64_t count, int64_t column,
             EntryAt entry_at) const {
    const int64_t columns = call_.columns;
    for (int64_t k = 0; k < count; ++k) block.old[k] = state_of(entry_at(k), column);
    for (int64_t k = 0; contiguous == nullptr && k < count; ++k) {
      block.values[k] = call_.values[entry_at(k) * columns + column];
    }
    for (int64_t k = 0; call_.gamma_per_entry && k < count; ++k) {
      const BlendFactors own = factors(entry_at(k));
      block.keep[k] = own.keep;
      block.add[k] = own.add;
    }
    StateBlock<State, Value> work;
    work.log_domain = call_.log_domain;
    work.old = block.old;
    work.values = contiguous == nullptr ? block.values : contiguous;
    work.keep = block.keep;
    work.add = block.add;
    work.count = count;
    work.blends = block.blends;
    work.rounded = block.rounded;
    return kernel_table().blend(work);
  }

  void update_range(int64_t begin, int64_t end, int64_t column) const {
    Buffers<State, Value> block;
    share_factors(block);
    const int64_t row_bytes = call_.columns * static_cast<int64_t>(sizeof(State));
    const bool prefetch = call_.rows * row_bytes > kCachedBytes;
    for (int64_t b = begin; b < end; b += kBlock) {
      const int64_t next = std::min(b + 2 * kBlock, end);
      for (int64_t k = b + kBlock; prefetch && k < next; ++k) {
        __builtin_prefetch(&state_of(k, column), 1);
      }
      update_block(block, b, std::min(kBlock, end - b), column);
    }
  }

  // Entries that share their row are left to update_groups.
  void update_block(Buffers<State, Value>& block, int64_t begin, int64_t count,
                    int64_t column) const {
    const Value* values = call_.columns == 1 ? call_.values + begin : nullptr;
    const bool storable = blend(block, values, count, column, [&](int64_t k) { return begin + k; });
    const uint64_t shared = suspects_.flags(begin / kBlock);
    if (shared == 0 && storable && call_.write && call_.rounded) {
      for (int64_t k = 0; k < count; ++k) {
        state_of(begin + k, column) = block.rounded[k];
        stored(begin + k, column) = static_cast<Out>(block.rounded[k]);
      }
      return;
    }
    const uint64_t every = count == kBlock ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    for (uint64_t single = ~shared & every; single != 0; single &= single - 1) {
      const int k = __builtin_ctzll(single);
      store(begin + k, column, block.blends[k]);
    }
  }

  // The suspects [begin, end) by groups of one row: the mean of a group's blends, in order.
  void update_groups(int64_t begin, int64_t end, int64_t column) const {
    Buffers<State, Value> block;
    share_factors(block);
    for (int64_t b = begin; b < end; b += kBlock) {
      const int64_t count = std::min(kBlock, end - b);
      blend(block, nullptr, count, column, [&](int64_t k) { return suspects_[b + k]; });
      std::copy(block.blends, block.blends + count, blends_ + b);
    }
    const auto each_group = [&](auto&& f) {
      for (int64_t first = begin; first < end;) {
        int64_t last = first + 1;
        while (last < end && continues_group(last)) ++last;
        f(first, last);
        first = last;
      }
    };
    if (!call_.log_domain) {
      each_group([&](int64_t first, int64_t last) {
        double total = 0.0;
        for (int64_t k = first; k < last; ++k) total += blends_[k];
        store_group(first, last, column, total / static_cast<double>(last - first));
      });
      return;
    }
    // log of the mean of exponentials, relative to the largest
    each_group([&](int64_t first, int64_t last) {
      const double shift = finite_peak(first, last);
      for (int64_t k = first; k < last; ++k) exponentials_[k] = blends_[k] - shift;
    });
    kernels<double>().scaled_exponentials(exponentials_ + begin, end - begin, 1.0, 0.0, 1.0,
                                          exponentials_ + begin);
    each_group([&](int64_t first, int64_t last) {
      double total = 0.0;
      for (int64_t k = first; k < last; ++k) total += exponentials_[k];
      const double mean = total / static_cast<double>(last - first);
      const bool alone = last - first == 1;
      store_group(first, last, column,
                  alone ? blends_[first] : finite_peak(first, last) + std::log(mean));
    });
  }

  // The largest blend of a group, or 0 where that is no number to shift by.
  double finite_peak(int64_t first, int64_t last) const {
    double peak = blends_[first];
    for (int64_t k = first + 1; k < last; ++k) peak = blends_[k] > peak ? blends_[k] : peak;
    return std::isfinite(peak) ? peak : 0.0;
  }

  void store_group(int64_t first, int64_t last, int64_t column, double mean) const {
    for (int64_t k = first; k < last; ++k) store(suspects_[k], column, mean);
  }

  const Call& call_;
  const Executor& executor_;
  const Suspects suspects_;
  double* blends_ = nullptr;        // of the suspects, in their order
  double* exponentials_ = nullptr;  // the same, log domain only
};

}  // namespace

template <class State, class Value, class Out>
void moving_average_update(const MovingAverage<State, Value, Out>& call, Scratch& scratch,
                           const Executor& executor) {
  if (call.entries == 0) return;
  Update<State, Value, Out>(call, scratch, executor).run();
}

int64_t find_out_of_range(const int64_t* index, int64_t entries, int64_t rows,
                          const Executor& executor) {
  std::atomic<bool> bad{false};
  executor.for_range(entries, 4 * kGrain, [&](int64_t, int64_t begin, int64_t end) {
    bool any = false;
    for (int64_t b = begin; b < end; ++b) {
      any |= static_cast<uint64_t>(index[b]) >= static_cast<uint64_t>(rows);
    }
    if (any) bad = true;
  });
  if (!bad) return -1;
  int64_t first = 0;
  while (static_cast<uint64_t>(index[first]) < static_cast<uint64_t>(rows)) ++first;
  return first;
}

#define XRISK_INSTANTIATE(State, Value, Out)                                             \
  template void moving_average_update(const MovingAverage<State, Value, Out>&, Scratch&, \
                                      const Executor&);
XRISK_INSTANTIATE(float, float, float)
XRISK_INSTANTIATE(float, double, float)
XRISK_INSTANTIATE(double, float, double)
XRISK_INSTANTIATE(double, double, double)
XRISK_INSTANTIATE(float, double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
