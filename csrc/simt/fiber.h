// Stacks and context switches: what runs each CUDA thread. Knows nothing of CUDA.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <new>

// The build says it where some of its files are not instrumented: all must agree.
#if !defined(XRISK_SIMT_ASAN) && defined(__SANITIZE_ADDRESS__)
#define XRISK_SIMT_ASAN 1
#elif !defined(XRISK_SIMT_ASAN)
#define XRISK_SIMT_ASAN 0
#endif
#if XRISK_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) && !defined(XRISK_SIMT_UCONTEXT)
#define XRISK_SIMT_UCONTEXT
#endif
#if defined(XRISK_SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace xrisk::simt {

#if defined(XRISK_SIMT_UCONTEXT)

using Context = ucontext_t;

inline void switch_context(Context* from, Context* to) { swapcontext(from, to); }

inline void prepare_context(Context* context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}

#else

using Context = void*;  // the stack pointer; the callee-saved registers lie on the stack

// Twenty times faster than swapcontext, which makes a system call for the signal mask.
__attribute__((naked, noinline, noipa, no_sanitize("address", "thread", "undefined"))) inline void
switch_context(Context*, Context*) {
  asm volatile(
      "push %%rbp; push %%rbx; push %%r12; push %%r13; push %%r14; push %%r15\n\t"
      "mov %%rsp, (%%rdi)\n\t"
      "mov (%%rsi), %%rsp\n\t"
      "pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbx; pop %%rbp\n\t"
      "ret" ::
          : "memory");
}

inline void prepare_context(Context* context, char* stack, size_t bytes, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(stack + bytes) - 8;
  std::fill(top, top + 8, nullptr);  // six registers, the entry, a null return address
  top[6] = reinterpret_cast<void*>(entry);
  *context = top;
}

#endif

constexpr size_t kStackBytes = (XRISK_SIMT_ASAN ? 256 : 64) * 1024;

// Stacks that are mapped once and reused, each with a guard page below it.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { unmap(); }

  void reserve(size_t count) {
    if (count <= count_) return;
    unmap();
    void* memory = mmap(nullptr, count * kStride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(memory);
    count_ = count;
#if XRISK_SIMT_ASAN
    __asan_unpoison_memory_region(base_, count * kStride);  // of what was there before
#endif
    for (size_t i = 0; i < count; ++i) mprotect(base_ + i * kStride, kGuardBytes, PROT_NONE);
  }

  char* at(size_t i) const { return base_ + i * kStride + kGuardBytes; }

 private:
  static constexpr size_t kGuardBytes = 4096;
  static constexpr size_t kStride = kStackBytes + kGuardBytes;

  void unmap() {
    if (base_ != nullptr) munmap(base_, count_ * kStride);
  }

  char* base_ = nullptr;
  size_t count_ = 0;
};

struct Fiber {
  Context context;
  char* stack;
  void* fake_stack;  // AddressSanitizer's
};

// Where the fibers were entered from, and return to.
struct Home {
  Context context;
  void* fake_stack = nullptr;
  const void* stack = nullptr;
  size_t stack_bytes = 0;
};

inline Home home;

inline void prepare_fiber(Fiber& fiber, char* stack, void (*entry)()) {
  fiber.stack = stack;
  fiber.fake_stack = nullptr;
  prepare_context(&fiber.context, stack, kStackBytes, entry);
}

// Its stack is another's from now on. AddressSanitizer still holds the frames that were never left
// for poisoned, all of them above the saved stack pointer: a hundredth of the stack.
inline void release_fiber([[maybe_unused]] Fiber& fiber) {
#if XRISK_SIMT_ASAN
#if defined(XRISK_SIMT_UCONTEXT)
  char* lowest = fiber.stack;
#else
  char* lowest = static_cast<char*>(fiber.context);
#endif
  __asan_unpoison_memory_region(lowest, static_cast<size_t>(fiber.stack + kStackBytes - lowest));
#endif
}

// From home into a fiber; returns when it leaves.
inline void enter_fiber(Fiber& fiber) {
#if XRISK_SIMT_ASAN
  __sanitizer_start_switch_fiber(&home.fake_stack, fiber.stack, kStackBytes);
#endif
  switch_context(&home.context, &fiber.context);
#if XRISK_SIMT_ASAN
  __sanitizer_finish_switch_fiber(home.fake_stack, nullptr, nullptr);
#endif
}

// The first thing that a fiber does.
inline void begin_fiber() {
#if XRISK_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &home.stack, &home.stack_bytes);
#endif
}

// From the running fiber home; returns when it is entered again, never if it is done.
inline void leave_fiber(Fiber& fiber, bool done) {
#if XRISK_SIMT_ASAN
  __sanitizer_start_switch_fiber(done ? nullptr : &fiber.fake_stack, home.stack, home.stack_bytes);
#else
  static_cast<void>(done);
#endif
  switch_context(&fiber.context, &home.context);
#if XRISK_SIMT_ASAN
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &home.stack, &home.stack_bytes);
#endif
}

}  // namespace xrisk::simt
