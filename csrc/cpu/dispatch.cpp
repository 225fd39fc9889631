// Chooses the SIMD variant at run time.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "cpu/kernel_table.h"

namespace xrisk::cpu {
namespace {

// Best first.
const KernelTable* find(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__) && !defined(XRISK_BASELINE_ONLY)
  __builtin_cpu_init();
  if ((any || std::strcmp(name, "avx512") == 0) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return &avx512::kernel_table();
  }
  if ((any || std::strcmp(name, "avx2") == 0) && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    return &avx2::kernel_table();
  }
#endif
  return any || std::strcmp(name, "baseline") == 0 ? &baseline::kernel_table() : nullptr;
}

std::atomic<const KernelTable*> chosen{nullptr};

}  // namespace

const KernelTable& kernel_table() {
  const KernelTable* table = chosen.load(std::memory_order_acquire);
  if (table == nullptr) {
    const char* name = std::getenv("XRISK_SIMD");
    table = name == nullptr ? nullptr : find(name);
    if (table == nullptr) table = find("auto");  // build_info() shows what is in use
    chosen.store(table, std::memory_order_release);
  }
  return *table;
}

bool select_simd(const char* name) {
  const KernelTable* table = find(name);
  if (table != nullptr) chosen.store(table, std::memory_order_release);
  return table != nullptr;
}

}  // namespace xrisk::cpu
