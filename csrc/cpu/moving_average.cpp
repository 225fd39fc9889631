#include "cpu/moving_average.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "core/moving_average.h"
#include "cpu/kernel_table.h"
#include "cpu/radix_sort.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 16384;
constexpr int64_t kBlock = 64;

// Entries that may share their row with another one, and a way to ask of any entry. Rows are hashed
// to bits of a table: a bit set twice marks its entries as suspects, who are then compared exactly.
// Few of them are false suspects, who cost time and not correctness.
class Suspects {
 public:
  Suspects(const int64_t* index, int64_t entries, int64_t rows, Scratch& scratch,
           const Executor& executor)
      : index_(index) {
    const int64_t bits_an_entry = entries < 65536 ? 256 : 64;
    int64_t bits = 1024;
    while (bits < bits_an_entry * entries && bits < rows) bits *= 2;
    mask_ = static_cast<uint64_t>(bits) - 1;
    const int64_t words = bits / 64;
    uint64_t* seen = scratch.allocate<uint64_t>(words);
    std::memset(seen, 0, static_cast<size_t>(words) * sizeof(uint64_t));
    int64_t b = 0;
    for (; b < entries; ++b) {
      if (!insert(seen, b)) break;
    }
    if (b == entries) return;
    repeated_ = scratch.allocate<uint64_t>(words);
    std::memset(repeated_, 0, static_cast<size_t>(words) * sizeof(uint64_t));
    for (; b < entries; ++b) {
      if (!insert(seen, b)) repeated_[slot(b) >> 6] |= bit(b);
    }
    for (int64_t k = 0; k < entries; ++k) count_ += contains(k);
    auto* records = scratch.allocate<SortRecord<uint64_t>>(count_);
    int64_t next = 0;
    for (int64_t k = 0; next < count_; ++k) {
      records[next] = {static_cast<uint64_t>(index[k]), static_cast<uint32_t>(k)};
      next += contains(k);
    }
    // By row, then by position: one result whatever the order of the threads.
    list_ = radix_sort(records, count_, scratch, executor);
  }

  bool contains(int64_t entry) const { return (repeated_[slot(entry) >> 6] & bit(entry)) != 0; }
  bool empty() const { return count_ == 0; }
  int64_t size() const { return count_; }
  int64_t operator[](int64_t k) const { return list_[k].payload; }

 private:
  uint64_t slot(int64_t entry) const { return static_cast<uint64_t>(index_[entry]) & mask_; }
  uint64_t bit(int64_t entry) const { return uint64_t{1} << (slot(entry) & 63); }
  // False if the slot was taken.
  bool insert(uint64_t* seen, int64_t entry) const {
    uint64_t& word = seen[slot(entry) >> 6];
    if ((word & bit(entry)) != 0) return false;
    word |= bit(entry);
    return true;
  }

  const int64_t* index_;
  uint64_t mask_ = 0;
  uint64_t* repeated_ = nullptr;
  const SortRecord<uint64_t>* list_ = nullptr;
  int64_t count_ = 0;
};

// A block of blends on its way: as doubles, and rounded to the type of the state.
template <class State>
struct Block {
  alignas(64) double old[kBlock] = {}, observations[kBlock] = {}, blends[kBlock];
  alignas(64) double keep[kBlock], add[kBlock];
  State rounded[kBlock];
};

template <class State, class Value, class Out>
class Update {
 public:
  using Call = MovingAverage<State, Value, Out>;
  Update(const Call& call, Scratch& scratch, const Executor& executor)
      : call_(call), suspects_(call.index, call.entries, call.rows, scratch, executor) {}

  void run(const Executor& executor) {
    executor.for_range(call_.entries, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t c = 0; c < call_.columns; ++c) update_range(begin, end, c);
    });
    for (int64_t begin = 0; begin < suspects_.size();) {
      int64_t end = begin + 1;
      while (end < suspects_.size() && row(end) == row(begin)) ++end;
      for (int64_t c = 0; c < call_.columns; ++c) update_group(begin, end, c);
      begin = end;
    }
  }

 private:
  int64_t row(int64_t suspect) const { return call_.index[suspects_[suspect]]; }
  State& state_of(int64_t entry, int64_t column) const {
    return call_.state[call_.index[entry] * call_.columns + column];
  }
  double value_of(int64_t entry, int64_t column) const {
    return static_cast<double>(call_.values[entry * call_.columns + column]);
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
    stored(entry, column) = static_cast<Out>(rounded);
    if (call_.write) state_of(entry, column) = rounded;
  }

  void update_range(int64_t begin, int64_t end, int64_t column) const {
    Block<State> block;
    const BlendFactors shared = factors(begin);
    std::fill(block.keep, block.keep + kBlock, shared.keep);
    std::fill(block.add, block.add + kBlock, shared.add);
    for (int64_t b = begin; b < end; b += kBlock) {
      update_block(block, b, end - b < kBlock ? end - b : kBlock, column);
    }
  }

  // Entries that share their row are left to update_group.
  void update_block(Block<State>& block, int64_t begin, int64_t count, int64_t column) const {
    const int64_t columns = call_.columns;
    const int64_t* index = call_.index + begin;
    State* state = call_.state + column;
    const Value* values = call_.values + begin * columns + column;
    Out* out = call_.stored + begin * columns + column;
    for (int64_t k = 0; k < count; ++k) {
      block.old[k] = static_cast<double>(state[index[k] * columns]);
      block.observations[k] = static_cast<double>(values[k * columns]);
    }
    if (call_.gamma_per_entry) {
      for (int64_t k = 0; k < count; ++k) {
        const BlendFactors own = factors(begin + k);
        block.keep[k] = own.keep;
        block.add[k] = own.add;
      }
    }
    kernel_table().blend_states(call_.log_domain, block.old, block.observations, block.keep,
                                block.add, count, block.blends);
    bool storable = true;
    for (int64_t k = 0; k < count; ++k) {
      const State x = block.rounded[k] = static_cast<State>(block.blends[k]);
      storable &= x - x == State(0);
    }
    const bool all_single = suspects_.empty();
    if (!storable || !call_.write) {
      for (int64_t k = 0; k < count; ++k) {
        if (all_single || !suspects_.contains(begin + k)) store(begin + k, column, block.blends[k]);
      }
      return;
    }
    for (int64_t k = 0; k < count; ++k) {
      if (!all_single && suspects_.contains(begin + k)) continue;
      state[index[k] * columns] = block.rounded[k];
      out[k * columns] = static_cast<Out>(block.rounded[k]);
    }
  }

  // The suspects [begin, end) name one row: the mean of their blends, in order.
  void update_group(int64_t begin, int64_t end, int64_t column) const {
    const bool log = call_.log_domain;
    double total = log ? -INFINITY : 0.0;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t entry = suspects_[k];
      const double old = static_cast<double>(state_of(entry, column));
      const BlendFactors f = factors(entry);
      const double blend = log ? blend_log(old, value_of(entry, column), f.keep, f.add)
                               : blend_linear(old, value_of(entry, column), f.keep, f.add);
      const bool is_number = !is_nan(blend) && !is_nan(total);
      total = log && is_number ? log_add_exp(total, blend) : total + blend;
    }
    const double size = static_cast<double>(end - begin);
    const double mean = end - begin == 1 ? total : log ? total - std::log(size) : total / size;
    for (int64_t k = begin; k < end; ++k) store(suspects_[k], column, mean);
  }

  const Call& call_;
  const Suspects suspects_;
};

}  // namespace

template <class State, class Value, class Out>
void moving_average_update(const MovingAverage<State, Value, Out>& call, Scratch& scratch,
                           const Executor& executor) {
  if (call.entries == 0) return;
  Update<State, Value, Out>(call, scratch, executor).run(executor);
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
