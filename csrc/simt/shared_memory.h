// Behind XRISK_SHARED: one poisoned buffer per variable, shared by the fibers of the block.
#pragma once

#include "simt/scheduler.h"

namespace xrisk::simt {

// The variable whose declaration owns this key.
template <class T>
T& static_shared(const void* key) {
  return *static_cast<T*>(shared_variable(key, sizeof(T)));
}

}  // namespace xrisk::simt
