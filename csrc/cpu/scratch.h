// Scratch memory of one call: a bump allocator on a block that each thread keeps.
//
// Fresh memory costs a page fault every 4 KB, 0.2 ms a megabyte: as much as a step over a million
// scores. So each thread keeps one block (16 MiB of address space; only what was used is backed by
// memory). Scratches nest like the scopes they live in; what does not fit goes to the heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace xrisk::cpu {

class Scratch {
 public:
  Scratch() : block_(block()), mark_(block_.used) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    block_.used = mark_;
    while (heap_ != nullptr) {
      Node* next = heap_->next;
      std::free(heap_);
      heap_ = next;
    }
  }

  // Of the block of each thread that has none yet. 0, for checkers: every allocation apart, so that
  // an overrun is seen.
#if defined(__SANITIZE_ADDRESS__)
  static inline size_t block_bytes = 0;
#else
  static inline size_t block_bytes = size_t{16} << 20;
#endif

  // Uninitialised, aligned to 64 bytes, with 64 readable bytes after the end.
  template <class T>
  T* allocate(int64_t count) {
    const size_t bytes =
        (static_cast<size_t>(count) * sizeof(T) + 2 * kAlign - 1) / kAlign * kAlign;
    if (bytes <= block_.capacity - block_.used) {
      void* result = block_.data + block_.used;
      block_.used += bytes;
      return static_cast<T*>(result);
    }
    void* raw = std::aligned_alloc(kAlign, bytes + kAlign);
    if (raw == nullptr) throw std::bad_alloc();
    heap_ = new (raw) Node{heap_};
    return reinterpret_cast<T*>(static_cast<char*>(raw) + kAlign);
  }

 private:
  static constexpr size_t kAlign = 64;
  struct Node {
    Node* next;
  };
  struct Block {
    char* data = static_cast<char*>(std::aligned_alloc(kAlign, block_bytes + kAlign));
    size_t capacity = data == nullptr ? 0 : block_bytes;
    size_t used = 0;
    ~Block() { std::free(data); }
  };
  static Block& block() {
    thread_local Block kept;
    return kept;
  }

  Block& block_;  // of the thread that made this; no look-up per allocation
  size_t mark_;
  Node* heap_ = nullptr;
};

}  // namespace xrisk::cpu
