// Scratch memory of one call: a bump allocator on a block that each thread keeps.
//
// Fresh memory costs a page fault every 4 KB, 0.2 to 0.5 ms a megabyte: as much as a step over a
// million scores. So each thread keeps one block (16 MiB of address space; only what was used is
// backed by memory). Scratches nest like the scopes they live in; what does not fit goes to the
// heap. Large pieces ask for huge pages, whose faults cost a third.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

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
    void* raw = from_heap(bytes + kAlign);
    if (raw == nullptr) throw std::bad_alloc();
    heap_ = new (raw) Node{heap_};
    return reinterpret_cast<T*>(static_cast<char*>(raw) + kAlign);
  }

 private:
  static constexpr size_t kAlign = 64;
  static constexpr size_t kHugePage = size_t{2} << 20;

  // Multiples of kAlign, to be freed by std::free; null if there is no memory.
  static void* from_heap(size_t bytes) {
    if (bytes < 2 * kHugePage) return std::aligned_alloc(kAlign, bytes);
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    void* data = std::aligned_alloc(kHugePage, bytes);
#if defined(MADV_HUGEPAGE)
    if (data != nullptr) madvise(data, bytes, MADV_HUGEPAGE);  // a wish: no matter if it fails
#endif
    return data;
  }

  struct Node {
    Node* next;
  };
  struct Block {
    char* data = static_cast<char*>(from_heap(block_bytes + kAlign));
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
