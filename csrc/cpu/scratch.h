// Scratch memory of one call: a bump allocator that starts in a buffer on the stack, so that a
// small batch never touches the heap. Freed all at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace xrisk::cpu {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    while (blocks_ != nullptr) {
      Block* next = blocks_->next;
      std::free(blocks_);
      blocks_ = next;
    }
  }

  // Uninitialised, aligned to 64 bytes, with 64 readable bytes after the end.
  template <class T>
  T* allocate(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 2 * kAlign - 1) / kAlign * kAlign;
    if (bytes <= static_cast<size_t>(end_ - next_)) {
      void* result = next_;
      next_ += bytes;
      return static_cast<T*>(result);
    }
    void* raw = std::aligned_alloc(kAlign, bytes + kAlign);
    if (raw == nullptr) throw std::bad_alloc();
    blocks_ = new (raw) Block{blocks_};
    return reinterpret_cast<T*>(static_cast<char*>(raw) + kAlign);
  }

 private:
  static constexpr size_t kAlign = 64;
  struct Block {
    Block* next;
  };
  alignas(kAlign) char buffer_[1 << 15];
  char* next_ = buffer_;
  char* end_ = buffer_ + sizeof(buffer_);
  Block* blocks_ = nullptr;
};

}  // namespace xrisk::cpu
