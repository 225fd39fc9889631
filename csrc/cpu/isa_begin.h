// Opens a SIMD variant: included once, by cpu/isa_*.cpp, after the standard headers and before the
// kernels. The file sets XRISK_ISA (a namespace name) and XRISK_VECTOR_BYTES.
//
// The same kernels are compiled three times, each in its own namespace, and one table of function
// pointers is chosen at run time. The target is switched by pragma and not by a compiler flag, so
// that the standard library's templates keep the baseline target: a copy of std::sort compiled for
// AVX-512 must never be the one that the linker keeps.
#pragma once

#if !defined(XRISK_ISA) || !defined(XRISK_VECTOR_BYTES)
#error "cpu/isa_begin.h is for cpu/isa_*.cpp only"
#endif

#define XRISK_STRINGIFY_(x) #x
#define XRISK_STRINGIFY_EXPANDED(x) XRISK_STRINGIFY_(x)
#define XRISK_PRAGMA_(x) _Pragma(XRISK_STRINGIFY_(x))

#if defined(XRISK_TARGET)
#if defined(__clang__)
XRISK_PRAGMA_(clang attribute push(__attribute__((target(XRISK_TARGET))), apply_to = function))
#else
XRISK_PRAGMA_(GCC target(XRISK_TARGET))
#endif
#endif
