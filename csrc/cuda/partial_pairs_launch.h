// Launches of the direct rows and columns as templates, so that the tests can take tiny tiles.
#pragma once

#include "cuda/partial_pairs_kernels.h"

namespace xrisk::cuda {

constexpr int kPartialThreads = 128;
constexpr int kPartialTile = 512;

template <int kThreads, int kTile, class T>
cudaError_t partial_rows(const PartialPairs<T>& call, cudaStream_t stream) {
  constexpr int64_t kAnchors = kThreads / 32 * kRowAnchors;
  const dim3 grid(static_cast<unsigned>((call.batch + kAnchors - 1) / kAnchors),
                  static_cast<unsigned>(call.labels));
  visit_kind(call.surrogate, [&](auto kind) {
    XRISK_LAUNCH((partial_rows_kernel<kThreads, kTile, decltype(kind)::value, T>), grid, kThreads,
                 0, stream, call);
  });
  return cudaGetLastError();
}

template <int kThreads, int kTile, class T>
cudaError_t partial_columns(const PartialPairs<T>& call, cudaStream_t stream) {
  constexpr int64_t kItems = kThreads / kColumnLanes;
  const dim3 grid(static_cast<unsigned>((call.batch + kItems - 1) / kItems),
                  static_cast<unsigned>(call.labels));
  visit_kind(call.surrogate, [&](auto kind) {
    XRISK_LAUNCH((partial_columns_kernel<kThreads, kTile, decltype(kind)::value, T>), grid,
                 kThreads, 0, stream, call);
  });
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
