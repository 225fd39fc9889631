// What every header of core/ needs to compile for the host and, unchanged, for CUDA.
#pragma once

// Everything in core/ is forced inline. Apart from speed this keeps the SIMD variants apart: an
// out-of-line copy compiled for AVX-512 could be picked by the linker for a machine without it.
#if defined(__CUDACC__)
#define XRISK_HD __host__ __device__ __forceinline__
#else
#define XRISK_HD inline __attribute__((always_inline))
#endif
// The same for what a lambda of the host is handed to.
#define XRISK_HOST inline __attribute__((always_inline))
