// While one lives, this thread takes numbers below the normal range for zero.
//
// Arithmetic on them is a hundred times slower, and sigmoids of large gaps and iterated products of
// probabilities are full of them. Everything between must run on the thread that made it, or
// results would depend on threads.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace xrisk::cpu {

class FlushDenormals {
 public:
  explicit FlushDenormals(bool wanted = true) : kept_(read()) {
    if (wanted) write(kept_ | kBits);
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
  ~FlushDenormals() { write(kept_); }

 private:
#if defined(__x86_64__)
  using Word = unsigned;
  static constexpr Word kBits = 0x8040;  // results and operands
  static Word read() { return _mm_getcsr(); }
  static void write(Word word) { _mm_setcsr(word); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kBits = uint64_t{1} << 24;
  static Word read() {
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void write(Word word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
#else
  using Word = int;
  static constexpr Word kBits = 0;
  static Word read() { return 0; }
  static void write(Word) {}
#endif
  Word kept_;
};

}  // namespace xrisk::cpu
