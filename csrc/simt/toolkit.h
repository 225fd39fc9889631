// NVIDIA's own types (dim3, float4, cudaStream_t, cudaError_t), and what the qualifiers of CUDA C++
// mean on the host.
#pragma once

#if defined(__CUDACC__)
#error "simt/ is for host compilers; under nvcc cuda/platform.h includes the CUDA runtime"
#endif
#if !__has_include(<cuda_runtime_api.h>)
#error \
    "simt/ needs the headers of the CUDA toolkit (-isystem $CUDA_HOME/include), not its libraries"
#endif

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#undef __align__
#undef __constant__
#undef __device__
#undef __forceinline__
#undef __global__
#undef __grid_constant__
#undef __host__
#undef __launch_bounds__
#undef __noinline__  // libstdc++ spells an attribute like this: it must stay undefined
#undef __shared__

#define __align__(bytes) __attribute__((aligned(bytes)))
#define __constant__ static
#define __device__
// AddressSanitizer's build calls what is inlined elsewhere: a quarter less to compile. The race
// detector is told nothing of the memory that a call's result is stored to.
#if XRISK_SIMT_ASAN
#define __forceinline__ inline
#else
#define __forceinline__ inline __attribute__((always_inline))
#endif
#define __global__
#define __grid_constant__
#define __host__
#define __launch_bounds__(...)
// Neither poisoned nor bounds-checked, so there is none: kernels use XRISK_SHARED.
#define __shared__ static_assert(false, "use XRISK_SHARED or XRISK_DYN_SHARED");
