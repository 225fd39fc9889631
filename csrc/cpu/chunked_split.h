// A split of many numbers (cpu/selection.h) by all threads: each chunk keeps what is inside in a
// segment of its own. A chunk that has more than fits is split again, once it is known how many.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/executor.h"
#include "cpu/kernel_table.h"
#include "cpu/scratch.h"

namespace xrisk::cpu {

template <class T>
class ChunkedSplit {
 public:
  static constexpr int64_t kChunk = 32768;
  static constexpr int64_t kSpare = 64;  // elements that a store may write beyond those inside

  ChunkedSplit(const T* x, int64_t count, const Executor& executor)
      : x_(x), count_(count), executor_(executor) {}

  const T* values() const { return x_; }
  int64_t count() const { return count_; }

  // `share`: about how much is inside; 0: only to be counted, for now.
  SplitCounts split(Bracket<T> bracket, double share) {
    const int64_t chunks = (count_ + kChunk - 1) / kChunk;
    const int64_t longest = std::min(count_, kChunk);
    bracket_ = bracket;
    capacity_ = 0;
    if (share > 0) {
      const double wanted = 1.5 * share * static_cast<double>(longest);
      capacity_ = std::min(longest, static_cast<int64_t>(wanted) + 256) + kSpare;
    }
    out_ = scratch_.allocate<T>(chunks * capacity_);
    inside_ = scratch_.allocate<SplitCounts>(chunks);
    executor_.for_range(count_, kChunk, [&](int64_t chunk, int64_t begin, int64_t end) {
      inside_[chunk] = kernels<T>().split_range(x_ + begin, end - begin, bracket,
                                                out_ + chunk * capacity_, capacity_);
    });
    SplitCounts total;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      total.above += inside_[chunk].above;
      total.inside += inside_[chunk].inside;
    }
    return total;
  }

  // What the last split left inside becomes the numbers.
  void keep_inside() {
    const int64_t chunks = (count_ + kChunk - 1) / kChunk;
    int64_t* offsets = scratch_.allocate<int64_t>(chunks + 1);
    bool complete = true;
    offsets[0] = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      offsets[chunk + 1] = offsets[chunk] + inside_[chunk].inside;
      complete &= inside_[chunk].inside <= capacity_;
    }
    const int64_t total = offsets[chunks];
    T* kept = out_;
    if (complete) {
      for (int64_t chunk = 1; chunk < chunks; ++chunk) {
        std::memmove(kept + offsets[chunk], out_ + chunk * capacity_,
                     static_cast<size_t>(inside_[chunk].inside) * sizeof(T));
      }
    } else {
      kept = scratch_.allocate<T>(total);
      executor_.for_range(count_, kChunk, [&](int64_t chunk, int64_t begin, int64_t end) {
        const int64_t inside = inside_[chunk].inside;
        if (inside > capacity_) {
          kernels<T>().split_range(x_ + begin, end - begin, bracket_, kept + offsets[chunk],
                                   inside);
        } else if (inside > 0) {
          std::memcpy(kept + offsets[chunk], out_ + chunk * capacity_,
                      static_cast<size_t>(inside) * sizeof(T));
        }
      });
    }
    x_ = kept;
    count_ = total;
  }

 private:
  const T* x_;
  int64_t count_;
  const Executor& executor_;
  Scratch scratch_;
  Bracket<T> bracket_{};
  T* out_ = nullptr;
  int64_t capacity_ = 0;
  SplitCounts* inside_ = nullptr;
};

}  // namespace xrisk::cpu
