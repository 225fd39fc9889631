// The one header that every .cu file includes. Under nvcc it is the CUDA runtime; any other
// compiler gets simt/, which runs the same source on the host, one fiber per CUDA thread
// (simt/README.md).
//
//   XRISK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)
//       kernel<<<...>>>(...). Template arguments fully given; a kernel whose name holds commas is
//       put in parentheses: XRISK_LAUNCH((scan_kernel<256, float>), ...). Parameters are trivially
//       copyable. A launcher returns cudaGetLastError() afterwards.
//   XRISK_SHARED(T, name, [N])
//       A static shared array, 128-byte aligned. On the host it is poisoned before every block and
//       bounds-checked under AddressSanitizer, which a plain __shared__ is not.
//   XRISK_DYN_SHARED(T, name)
//       A T* to the launch's dynamic shared memory, 128-byte aligned.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define XRISK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define XRISK_SHARED(T, name, extent) __shared__ __align__(128) T name extent
#define XRISK_DYN_SHARED(T, name)                                        \
  extern __shared__ __align__(128) unsigned char xrisk_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(xrisk_dynamic_shared)

#else

#include "simt/simt.h"

#define XRISK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                            \
  ::xrisk::simt::launch({#kernel, __FILE__, __LINE__}, kernel, (grid), (block), (shared_bytes), \
                        (stream), ##__VA_ARGS__)
#define XRISK_SHARED(T, name, extent)    \
  using xrisk_type_of_##name = T extent; \
  static char xrisk_key_of_##name;       \
  auto& name = ::xrisk::simt::static_shared<xrisk_type_of_##name>(&xrisk_key_of_##name)
#define XRISK_DYN_SHARED(T, name) \
  T* const name = reinterpret_cast<T*>(::xrisk::simt::machine.dynamic_shared.data())

#endif
