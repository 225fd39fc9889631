// The kernels for x86-64 with AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__) && !defined(XRISK_BASELINE_ONLY)
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include <immintrin.h>

#include "cpu/kernel_table.h"

#define XRISK_ISA avx512
#define XRISK_VECTOR_BYTES 64
#define XRISK_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt"
#include "cpu/isa_begin.h"

#include "cpu/kernels_inl.h"

#include "cpu/isa_end.h"
#endif
