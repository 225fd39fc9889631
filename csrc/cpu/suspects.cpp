#include "cpu/suspects.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "cpu/radix_sort.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // a multiple of 64
constexpr int64_t kParallelEntries = 1 << 17;
constexpr int64_t kParts = 4;

int64_t table_bits(int64_t entries, int64_t rows) {
  // In a small batch one false suspect costs more than the table's memory does.
  const int64_t bits_an_entry = entries < 65536 ? 256 : 16;
  int64_t bits = 1024;
  while (bits < bits_an_entry * entries && bits < rows) bits *= 2;
  return bits;
}

}  // namespace

struct Suspects::Table {
  uint64_t mask;       // of a slot
  uint64_t* repeated;  // bits

  int64_t word(int64_t row) const { return static_cast<int64_t>((row & mask) >> 6); }
  uint64_t bit(int64_t row) const { return uint64_t{1} << (row & 63); }
  bool contains(int64_t row) const { return (repeated[word(row)] & bit(row)) != 0; }
};

Suspects::Suspects(const int64_t* index, int64_t entries, int64_t rows, Scratch& scratch,
                   const Executor& executor)
    : index_(index), entries_(entries), rows_(rows) {
  const int64_t bits = table_bits(entries, rows), words = bits / 64;
  const size_t bytes = static_cast<size_t>(words) * sizeof(uint64_t);
  const int64_t parts = entries >= kParallelEntries && bits <= (1 << 24) ? kParts : 1;
  const int64_t grain = (entries + parts - 1) / parts;
  uint64_t* seen = scratch.allocate<uint64_t>(parts * words);
  uint64_t* repeated = scratch.allocate<uint64_t>(parts * words);
  bool part_repeats[kParts] = {};
  const Table slots{static_cast<uint64_t>(bits) - 1, nullptr};

  // Each part of the entries by itself; its second table is touched only if something repeats.
  executor.for_each(parts, [&](int64_t part) {
    uint64_t* once = seen + part * words;
    uint64_t* twice = repeated + part * words;
    std::memset(once, 0, bytes);
    const int64_t begin = std::min(part * grain, entries);
    const int64_t end = std::min(begin + grain, entries);
    int64_t b = begin;
    for (; b < end; ++b) {
      uint64_t& word = once[slots.word(index[b])];
      const uint64_t bit = slots.bit(index[b]);
      if ((word & bit) != 0) break;
      word |= bit;
    }
    if (b == end) return;
    part_repeats[part] = true;
    std::memset(twice, 0, bytes);
    for (; b < end; ++b) {
      const int64_t at = slots.word(index[b]);
      const uint64_t bit = slots.bit(index[b]);
      twice[at] |= once[at] & bit;  // no branch: repeats come at random
      once[at] |= bit;
    }
  });

  // What repeats between the parts.
  bool any = part_repeats[0];
  if (parts > 1) {
    std::atomic<bool> found{any};
    executor.for_range(words, 4096, [&](int64_t, int64_t begin, int64_t end) {
      uint64_t all = 0;
      for (int64_t k = begin; k < end; ++k) {
        uint64_t once = seen[k], twice = part_repeats[0] ? repeated[k] : 0;
        for (int64_t part = 1; part < parts; ++part) {
          const uint64_t other = seen[part * words + k];
          twice |= once & other;
          once |= other;
          if (part_repeats[part]) twice |= repeated[part * words + k];
        }
        repeated[k] = twice;
        all |= twice;
      }
      if (all != 0) found = true;
    });
    any = found;
  }
  if (any) collect({slots.mask, repeated}, scratch, executor);
}

void Suspects::collect(const Table& table, Scratch& scratch, const Executor& executor) {
  const int64_t chunks = (entries_ + kGrain - 1) / kGrain;
  int64_t* offsets = scratch.allocate<int64_t>(chunks + 1);
  flags_ = scratch.allocate<uint64_t>((entries_ + 63) / 64);
  executor.for_range(entries_, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t found = 0;
    for (int64_t b = begin; b < end; b += 64) {
      uint64_t word = 0;
      const int64_t count = std::min<int64_t>(64, end - b);
      for (int64_t k = 0; k < count; ++k) {
        word |= static_cast<uint64_t>(table.contains(index_[b + k])) << k;
      }
      flags_[b / 64] = word;
      found += __builtin_popcountll(word);
    }
    offsets[chunk + 1] = found;
  });
  offsets[0] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) offsets[chunk + 1] += offsets[chunk];
  count_ = offsets[chunks];
  sorted_ = scratch.allocate<uint32_t>(count_);
  if (rows_ <= std::numeric_limits<uint32_t>::max()) {
    sort_by_row<uint32_t>(offsets, scratch, executor);
  } else {
    sort_by_row<uint64_t>(offsets, scratch, executor);
  }
}

template <class Key>
void Suspects::sort_by_row(const int64_t* chunk_offsets, Scratch& scratch,
                           const Executor& executor) {
  auto* records = scratch.allocate<SortRecord<Key>>(count_);
  executor.for_range(entries_, kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
    SortRecord<Key>* out = records + chunk_offsets[chunk];
    for (int64_t b = begin; b < end; b += 64) {
      for (uint64_t word = flags_[b / 64]; word != 0; word &= word - 1) {
        const int64_t entry = b + __builtin_ctzll(word);
        *out++ = {static_cast<Key>(index_[entry]), static_cast<uint32_t>(entry)};
      }
    }
  });
  const auto* sorted = radix_sort(records, count_, scratch, executor);
  executor.for_range(count_, kGrain, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) sorted_[k] = sorted[k].payload;
  });
}

}  // namespace xrisk::cpu
