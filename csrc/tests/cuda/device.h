// What tests of .cu files need beside check.h: memory that kernels may use, and schedules. The same
// test runs on the host (under simt/) and, compiled by nvcc, on a GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <new>
#include <vector>

#include "cuda/platform.h"
#include "tests/check.h"

namespace xrisk::test {

#if defined(__CUDACC__)

inline void* allocate_device(size_t bytes) {
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, std::max<size_t>(bytes, 1)) == cudaSuccess);
  return memory;
}
inline void free_device(void* memory) { cudaFree(memory); }
inline void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) CHECK(cudaMemcpy(to, from, bytes, cudaMemcpyDefault) == cudaSuccess);
}

// One run: a GPU chooses its own schedule.
template <class F>
void for_each_schedule(F&& f) {
  f();
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) std::printf("%s\n", cudaGetErrorString(error));
  CHECK(error == cudaSuccess);
}

#else

// Of exactly the asked size, so that AddressSanitizer sees the first byte beyond it.
inline void* allocate_device(size_t bytes) {
  return ::operator new[](std::max<size_t>(bytes, 1), std::align_val_t(128));
}
inline void free_device(void* memory) { ::operator delete[](memory, std::align_val_t(128)); }
inline void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) memcpy(to, from, bytes);
}

// Calls f() under the build's schedules. What the shim finds wrong with a kernel, a race too, is a
// failure.
template <class F>
void for_each_schedule(F&& f) {
  simt::for_each_schedule([&] {
    try {
      f();
    } catch (const simt::Error& error) {
      std::printf("%s\n", error.what());
      CHECK(!"a kernel went wrong");
    }
  });
}

#endif

// f(float()) and f(double()). Of the largest tests each checker on the host takes one: what they
// index and share is the same.
template <class F>
void for_each_type(F&& f) {
#if !defined(__SANITIZE_ADDRESS__)
  f(float());
#endif
#if !defined(XRISK_SIMT_RACE)
  f(double());
#endif
}

// An array in the device's memory; from a size: all bits set, NaN or -1.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values)
      : memory_(allocate_device(values.size() * sizeof(T)), free_device), count_(values.size()) {
    copy_bytes(memory_.get(), values.data(), count_ * sizeof(T));
  }
  explicit DeviceArray(int64_t count)
      : memory_(allocate_device(static_cast<size_t>(count) * sizeof(T)), free_device),
        count_(static_cast<size_t>(count)) {
    const std::vector<unsigned char> ones(count_ * sizeof(T), 0xFF);
    copy_bytes(memory_.get(), ones.data(), ones.size());
  }

  T* data() { return static_cast<T*>(memory_.get()); }
  const T* data() const { return static_cast<const T*>(memory_.get()); }
  int64_t size() const { return static_cast<int64_t>(count_); }

  std::vector<T> read() const {
    std::vector<T> values(count_);
    copy_bytes(values.data(), memory_.get(), count_ * sizeof(T));
    return values;
  }

 private:
  std::unique_ptr<void, void (*)(void*)> memory_;
  size_t count_;
};

}  // namespace xrisk::test
