// kernel<<<grid, block, shared, stream>>>: checks the configuration and runs the blocks in turn.
#pragma once

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/scheduler.h"

namespace xrisk::simt {

// Checks the configuration and calls body() in every thread of every block.
void run_grid(LaunchSite site, const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
              std::function<void()> body);

template <class... Parameters, class... Arguments>
void launch(LaunchSite site, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t dynamic_bytes, cudaStream_t, Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...) &&
                    !(std::is_reference_v<Parameters> || ...),
                "a kernel's parameters are copied bytewise");
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "more parameters than a kernel may have");
  const std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  run_grid(site, reinterpret_cast<const void*>(kernel), grid, block, dynamic_bytes,
           [kernel, values] { std::apply(kernel, values); });
}

}  // namespace xrisk::simt
