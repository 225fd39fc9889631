// Cuts one workspace into arrays. Run once over null to learn the size, once over the memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace xrisk::cuda {

class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}

  // `count` elements, aligned to 256 bytes.
  template <class T>
  T* take(int64_t count) {
    const size_t at = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace xrisk::cuda
