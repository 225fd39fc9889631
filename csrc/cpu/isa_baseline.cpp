// The kernels for any CPU that the compiler targets: SSE2 on x86-64, NEON on aarch64.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/kernel_table.h"

#define XRISK_ISA baseline
#define XRISK_VECTOR_BYTES 16
#include "cpu/isa_begin.h"

#include "cpu/kernels_inl.h"

#include "cpu/isa_end.h"
