// kernel<<<grid, block, shared, stream>>>: checks the configuration and runs the blocks in turn.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/scheduler.h"

namespace xrisk::simt {

// Checks the configuration and runs the body in every thread of every block.
void run_grid(LaunchSite site, const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
              Body body);

template <class... Parameters, class... Arguments>
void launch(LaunchSite site, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t dynamic_bytes, cudaStream_t, Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...) &&
                    !(std::is_reference_v<Parameters> || ...),
                "a kernel's parameters are copied bytewise");
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "more parameters than a kernel may have");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> values;
  };
  const Call call{kernel, {static_cast<Parameters>(arguments)...}};
  const auto run = [](const void* p) {
    const Call& it = *static_cast<const Call*>(p);
    std::apply(it.kernel, it.values);
  };
  run_grid(site, reinterpret_cast<const void*>(kernel), grid, block, dynamic_bytes, {run, &call});
}

}  // namespace xrisk::simt
