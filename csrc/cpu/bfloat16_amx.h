// The bfloat16 kernels on AMX tiles, where the compiler can make them.
#pragma once

#include "cpu/bfloat16.h"

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define XRISK_AMX 1

namespace xrisk::cpu::amx {
const Bfloat16Kernels& kernels();
}
#endif
