// Launches of short kernels that follow each other on a stream: the next one's thread blocks take
// their places while those of the one before still run, and wait there for its end, which saves
// most of a launch's latency (programmatic dependent launch, from sm_90 on).
//
// Every kernel of a chain calls follow_previous() before it reads or writes memory; the first may
// be launched as any other.
#pragma once

#include "cuda/platform.h"

namespace xrisk::cuda {

// What earlier launches of the stream wrote is there afterwards.
__device__ __forceinline__ void follow_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#if defined(__CUDACC__)

inline bool chains_launches() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 9;
}

template <class... Parameters, class... Arguments>
void launch_chained(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                    const Arguments&... arguments) {
  cudaLaunchAttribute follows{};
  follows.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  follows.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  config.attrs = &follows;
  config.numAttrs = chains_launches() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

#define XRISK_LAUNCH_CHAINED(kernel, grid, block, stream, ...) \
  ::xrisk::cuda::launch_chained(kernel, (grid), (block), (stream), __VA_ARGS__)

#else

#define XRISK_LAUNCH_CHAINED(kernel, grid, block, stream, ...) \
  XRISK_LAUNCH(kernel, grid, block, 0, stream, __VA_ARGS__)

#endif

}  // namespace xrisk::cuda
