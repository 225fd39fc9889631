// Chooses the bfloat16 kernels at run time, and packs rows of embeddings for them.
#include "cpu/bfloat16.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "cpu/bfloat16_amx.h"
#include "cpu/kernel_table.h"

#if defined(XRISK_AMX)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace xrisk::cpu {
namespace {

// No products of its own: float32 has them.
constexpr Bfloat16Kernels kFloat32 = {"float32", nullptr, nullptr, nullptr, nullptr};

#if defined(XRISK_AMX)

// Tiles are 8 KB more of state a thread: Linux wants to be asked, once a process. Not before they
// are needed, for it may refuse a process whose signal stacks are small.
bool has_tiles() {
#if defined(__linux__)
  constexpr unsigned kLeaf = 7, kBits = 1u << 22 | 1u << 24;  // AMX-BF16, AMX-TILE
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(kLeaf, 0, &a, &b, &c, &d) == 0 || (d & kBits) != kBits) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#endif

// Best first.
const Bfloat16Kernels* find(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(XRISK_AMX)
  if ((any || std::strcmp(name, "amx") == 0) && has_tiles()) return &amx::kernels();
#endif
  return any || std::strcmp(name, "float32") == 0 ? &kFloat32 : nullptr;
}

std::atomic<const Bfloat16Kernels*> chosen{nullptr};

}  // namespace

const Bfloat16Kernels* bfloat16_kernels() {
  if (std::strcmp(kernel_table().name, "avx512") != 0) return nullptr;
  const Bfloat16Kernels* kernels = chosen.load(std::memory_order_acquire);
  if (kernels == nullptr) {
    const char* name = std::getenv("XRISK_BFLOAT16");
    kernels = name == nullptr ? nullptr : find(name);
    if (kernels == nullptr) kernels = find("auto");  // build_info() shows what is in use
    chosen.store(kernels, std::memory_order_release);
  }
  return kernels == &kFloat32 ? nullptr : kernels;
}

bool select_bfloat16(const char* name) {
  const Bfloat16Kernels* kernels = find(name);
  if (kernels != nullptr) chosen.store(kernels, std::memory_order_release);
  return kernels != nullptr;
}

std::vector<std::string> bfloat16_built() {
  std::vector<std::string> names;
#if defined(XRISK_AMX)
  names.emplace_back(amx::kernels().name);
#endif
  names.emplace_back(kFloat32.name);
  return names;
}

PackedRows pack_bfloat16(const Bfloat16Kernels& kernels, const Bfloat16Source& source,
                         int64_t count, int64_t width, const Bfloat16Uses& uses, Scratch& scratch,
                         const Executor& executor) {
  PackedRows packed;
  Bfloat16Rows& rows = packed.rows;
  rows.count = count;
  rows.width = width;
  const int64_t groups = rows.groups();
  const int64_t size = groups * rows.depth() * kBfloat16Group * kBfloat16Group;
  rows.scales = scratch.allocate<float>(groups * kBfloat16Group);
  if (uses.left) rows.left = scratch.allocate<uint16_t>(size);
  if (uses.right) rows.right = scratch.allocate<uint16_t>(size);
  if (uses.rank) rows.rank = scratch.allocate<uint16_t>(size);
  bool* whole = scratch.allocate<bool>(groups);
  executor.for_each(groups, [&](int64_t group) {
    const float* from[kBfloat16Group];
    float factors[kBfloat16Group];
    for (int64_t k = 0; k < kBfloat16Group; ++k) {
      const int64_t i = group * kBfloat16Group + k;
      from[k] = nullptr;
      factors[k] = rows.scales[i] = 1.0f;
      if (i >= count) continue;
      from[k] =
          i < source.split ? source.first + i * width : source.second + (i - source.split) * width;
      const double norm = source.norms == nullptr ? 0.0 : source.norms[i];
      if (!(norm > 0.0 && norm < HUGE_VAL)) continue;
      // both the factor and its inverse are normal floats
      const int exponent = std::clamp(std::ilogb(norm), -126, 126);
      factors[k] = std::ldexp(1.0f, -exponent);
      rows.scales[i] = static_cast<float>(std::ldexp(1.0, exponent) / norm);
    }
    whole[group] = kernels.pack(from, factors, group, rows);
  });
  packed.whole = source.norms != nullptr || std::count(whole, whole + groups, false) == 0;
  return packed;
}

}  // namespace xrisk::cpu
