#include "cpu/moving_average.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "core/moving_average.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 32768;

// Entries that may share their row with another one, and a way to ask of any entry. Rows are hashed
// to bits of a table: a bit set twice marks its entries as suspects, who are then compared exactly.
// With 32 bits an entry 3% of the entries are false suspects; that costs time, not correctness.
class Suspects {
 public:
  Suspects(const int64_t* index, int64_t entries, int64_t rows, Scratch& scratch)
      : index_(index) {
    int64_t bits = 4096;
    while (bits < 32 * entries && bits < rows) bits *= 2;
    mask_ = static_cast<uint64_t>(bits) - 1;
    words_ = bits / 64;
    uint64_t* seen = scratch.allocate<uint64_t>(2 * words_);
    repeated_ = seen + words_;
    std::memset(seen, 0, static_cast<size_t>(2 * words_) * sizeof(uint64_t));
    uint64_t any = 0;
    for (int64_t b = 0; b < entries; ++b) {
      const uint64_t slot = static_cast<uint64_t>(index[b]) & mask_;
      const uint64_t bit = uint64_t{1} << (slot & 63);
      uint64_t& word = seen[slot >> 6];
      const uint64_t again = word & bit;
      repeated_[slot >> 6] |= again;
      any |= again;
      word |= bit;
    }
    if (any == 0) return;
    for (int64_t b = 0; b < entries; ++b) count_ += contains(b);
    list_ = scratch.allocate<int64_t>(count_);
    int64_t next = 0;
    for (int64_t b = 0; b < entries && next < count_; ++b) {
      if (contains(b)) list_[next++] = b;
    }
    // By row, then by position: one result whatever the order of the threads.
    std::sort(list_, list_ + count_, [index](int64_t x, int64_t y) {
      return index[x] != index[y] ? index[x] < index[y] : x < y;
    });
  }

  bool contains(int64_t entry) const {
    const uint64_t slot = static_cast<uint64_t>(index_[entry]) & mask_;
    return (repeated_[slot >> 6] >> (slot & 63)) & 1;
  }
  bool empty() const { return count_ == 0; }
  int64_t size() const { return count_; }
  int64_t operator[](int64_t k) const { return list_[k]; }

 private:
  const int64_t* index_;
  uint64_t mask_ = 0;
  int64_t words_ = 0;
  uint64_t* repeated_ = nullptr;
  int64_t* list_ = nullptr;
  int64_t count_ = 0;
};

template <bool kLog>
double blend(double old, double observation, double gamma) {
  if constexpr (kLog) {
    return blend_log(old, observation, gamma);
  } else {
    return blend_linear(old, observation, gamma);
  }
}

// A blend that the state's type cannot hold is as little storable as one that is not finite.
template <bool kLog, class State>
bool fits(double value) {
  return is_storable(value, kLog) && is_storable(static_cast<double>(static_cast<State>(value)), kLog);
}

template <bool kLog, class State, class Value, class Out>
void store(const MovingAverage<State, Value, Out>& call, int64_t entry, int64_t column,
           double value) {
  Out& out = call.stored[entry * call.columns + column];
  if (!fits<kLog, State>(value)) {
    out = static_cast<Out>(value);
    return;
  }
  const State rounded = static_cast<State>(value);
  out = static_cast<Out>(rounded);
  if (call.write) call.state[call.index[entry] * call.columns + column] = rounded;
}

template <bool kLog, class State, class Value, class Out>
double blend_of(const MovingAverage<State, Value, Out>& call, int64_t entry, int64_t column) {
  const double gamma = call.gamma[call.gamma_per_entry ? entry : 0];
  return blend<kLog>(static_cast<double>(call.state[call.index[entry] * call.columns + column]),
                     static_cast<double>(call.values[entry * call.columns + column]), gamma);
}

template <bool kLog, class State, class Value, class Out>
void update_single(const MovingAverage<State, Value, Out>& call, const Suspects& suspects,
                   int64_t begin, int64_t end) {
  constexpr int64_t kAhead = 16;  // rows are scattered: ask for them early
  const bool all_single = suspects.empty();
  for (int64_t b = begin; b < end; ++b) {
    if (b + kAhead < end) __builtin_prefetch(call.state + call.index[b + kAhead] * call.columns, 1);
    if (!all_single && suspects.contains(b)) continue;
    for (int64_t c = 0; c < call.columns; ++c) store<kLog>(call, b, c, blend_of<kLog>(call, b, c));
  }
}

// Entries list[begin .. end) name one row.
template <bool kLog, class State, class Value, class Out>
void update_group(const MovingAverage<State, Value, Out>& call, const Suspects& suspects,
                  int64_t begin, int64_t end) {
  const double size = static_cast<double>(end - begin);
  for (int64_t c = 0; c < call.columns; ++c) {
    double total = kLog ? -INFINITY : 0.0;
    for (int64_t k = begin; k < end; ++k) {
      const double value = blend_of<kLog>(call, suspects[k], c);
      const bool is_number = value == value && total == total;
      total = kLog && is_number ? log_add_exp(total, value) : total + value;
    }
    const double mean = end - begin == 1 ? total : kLog ? total - std::log(size) : total / size;
    for (int64_t k = begin; k < end; ++k) store<kLog>(call, suspects[k], c, mean);
  }
}

template <bool kLog, class State, class Value, class Out>
void update(const MovingAverage<State, Value, Out>& call, Scratch& scratch,
            const Executor& executor) {
  const Suspects suspects(call.index, call.entries, call.rows, scratch);
  executor.for_range(call.entries, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    update_single<kLog>(call, suspects, begin, end);
  });
  for (int64_t begin = 0; begin < suspects.size();) {
    int64_t end = begin + 1;
    while (end < suspects.size() && call.index[suspects[end]] == call.index[suspects[begin]]) ++end;
    update_group<kLog>(call, suspects, begin, end);
    begin = end;
  }
}

}  // namespace

template <class State, class Value, class Out>
void moving_average_update(const MovingAverage<State, Value, Out>& call, Scratch& scratch,
                           const Executor& executor) {
  if (call.entries == 0) return;
  if (call.log_domain) {
    update<true>(call, scratch, executor);
  } else {
    update<false>(call, scratch, executor);
  }
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

#define XRISK_INSTANTIATE(State, Value, Out)                                                   \
  template void moving_average_update(const MovingAverage<State, Value, Out>&, Scratch&,       \
                                      const Executor&);
XRISK_INSTANTIATE(float, float, float)
XRISK_INSTANTIATE(float, double, float)
XRISK_INSTANTIATE(double, float, double)
XRISK_INSTANTIATE(double, double, double)
XRISK_INSTANTIATE(float, double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
