// kernel<<<grid, block, shared, stream>>>: checks the configuration and runs the blocks in turn.
#pragma once

#include <numeric>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/scheduler.h"

namespace xrisk::simt {

constexpr size_t kDefaultSharedBytes = 48 * 1024;

inline void check_configuration(const void* kernel, dim3 grid, dim3 block, size_t dynamic_bytes) {
  const Location at{machine.site.file, machine.site.line};
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool block_fits = threads > 0 && threads <= 1024 && block.z <= 64;
  const bool grid_fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7FFFFFFFu &&
                         grid.y <= 0xFFFFu && grid.z <= 0xFFFFu;
  if (!block_fits || !grid_fits) {
    fail(at, "invalid configuration: grid %u,%u,%u block %u,%u,%u", grid.x, grid.y, grid.z, block.x,
         block.y, block.z);
  }
  const auto limit = machine.dynamic_limit.find(kernel);
  const size_t most = limit == machine.dynamic_limit.end() ? kDefaultSharedBytes : limit->second;
  if (dynamic_bytes > most) {
    fail(at, "%zu bytes of dynamic shared memory; cudaFuncSetAttribute allows %zu", dynamic_bytes,
         most);
  }
}

// Which block comes k-th. Random: an affine permutation, so that no list of blocks is needed.
inline uint64_t block_at(uint64_t k, uint64_t blocks) {
  if (machine.order == Order::kSequential) return k;
  if (machine.order == Order::kReverse) return blocks - 1 - k;
  uint64_t stride = (blocks / 2) | 1;
  while (std::gcd(stride, blocks) != 1) stride += 2;
  const auto wide = static_cast<unsigned __int128>(k) * stride + machine.seed % blocks;
  return static_cast<uint64_t>(wide % blocks);
}

inline void run_grid(LaunchSite site, const void* kernel, dim3 grid, dim3 block,
                     size_t dynamic_bytes, std::function<void()> body) {
  machine.site = site;
  machine.error.clear();
  machine.exception = nullptr;
  machine.current = nullptr;
  blockIdx = {};
  check_configuration(kernel, grid, block, dynamic_bytes);
  default_schedule();
  machine.random_state = machine.seed;
  machine.body = std::move(body);
  machine.block_size = block.x * block.y * block.z;
  machine.stacks.reserve(machine.block_size);
  machine.threads.assign(machine.block_size, {});
  machine.warps.resize((machine.block_size + 31) / 32);
  machine.static_shared.clear();
  machine.static_shared_bytes = 0;
  machine.dynamic_shared = Poisoned(dynamic_bytes);
  blockDim = block;
  gridDim = grid;
  if (machine.hooks.launch != nullptr) machine.hooks.launch();
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t k = 0; k < blocks; ++k) {
    const uint64_t b = block_at(k, blocks);
    machine.block_number = b;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    run_block();
  }
  if (machine.hooks.finish != nullptr) machine.hooks.finish();
}

template <class... Parameters, class... Arguments>
void launch(LaunchSite site, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t dynamic_bytes, cudaStream_t, Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...) &&
                    !(std::is_reference_v<Parameters> || ...),
                "a kernel's parameters are copied bytewise");
  const std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  run_grid(site, reinterpret_cast<const void*>(kernel), grid, block, dynamic_bytes,
           [kernel, values] { std::apply(kernel, values); });
}

}  // namespace xrisk::simt
