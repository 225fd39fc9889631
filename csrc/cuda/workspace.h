// Cuts one workspace into arrays. Run once over null to learn the size, once over the memory. The
// first time arrays stand at addresses that nobody may use, but not at null: what is laid out only
// for an array that is there (weights, say) counts as it will.
#pragma once

#include <cstddef>
#include <cstdint>

namespace xrisk::cuda {

class Carver {
 public:
  explicit Carver(void* base)
      : base_(base == nullptr ? reinterpret_cast<char*>(uintptr_t{256})
                              : static_cast<char*>(base)) {}

  // `count` elements, aligned to 256 bytes.
  template <class T>
  T* take(int64_t count) {
    const size_t at = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return reinterpret_cast<T*>(base_ + at);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace xrisk::cuda
