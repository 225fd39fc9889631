// Which entries of an update may share their row with another entry.
//
// Rows are hashed to the bits of a table: a bit set twice marks its entries as suspects, who are
// then sorted by row and compared exactly. A table at least as large as the state has no false
// suspects; where it is smaller there are few, and they cost time alone: a group of one is blended
// like any single entry. Bytes: the ids twice, one bit of the table an id, the suspects' records.
#pragma once

#include <cstdint>

#include "cpu/executor.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

class Suspects {
 public:
  Suspects(const int64_t* index, int64_t entries, int64_t rows, Scratch& scratch,
           const Executor& executor);

  bool empty() const { return count_ == 0; }
  int64_t size() const { return count_; }
  // The k-th suspect, by row and then by position: one order whatever the threads did.
  int64_t operator[](int64_t k) const { return sorted_[k]; }
  // Bit k: whether entry 64 * word + k is a suspect.
  uint64_t flags(int64_t word) const { return flags_ == nullptr ? 0 : flags_[word]; }

 private:
  struct Table;
  void collect(const Table& table, Scratch& scratch, const Executor& executor);
  template <class Key>
  void sort_by_row(const int64_t* chunk_offsets, Scratch& scratch, const Executor& executor);

  const int64_t* index_;
  const int64_t entries_, rows_;
  int64_t count_ = 0;
  uint64_t* flags_ = nullptr;
  uint32_t* sorted_ = nullptr;
};

}  // namespace xrisk::cpu
