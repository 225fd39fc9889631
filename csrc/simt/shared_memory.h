// Behind XRISK_SHARED: one poisoned buffer per variable, shared by the fibers of the block.
#pragma once

#include <utility>

#include "simt/scheduler.h"

namespace xrisk::simt {

// The variable whose declaration owns this key, made when the first thread comes to it.
template <class T>
T& static_shared(const void* key) {
  constexpr size_t kMostBytes = 48 * 1024;
  Quiet quiet;
  for (StaticShared& shared : machine.static_shared) {
    if (shared.key == key) return *reinterpret_cast<T*>(shared.memory.data());
  }
  machine.static_shared_bytes += sizeof(T);
  if (machine.static_shared_bytes > kMostBytes) {
    fail({machine.site.file, machine.site.line}, "more than %zu bytes of static shared memory",
         kMostBytes);
  }
  machine.static_shared.push_back({key, Poisoned(sizeof(T))});
  return *reinterpret_cast<T*>(machine.static_shared.back().memory.data());
}

}  // namespace xrisk::simt
