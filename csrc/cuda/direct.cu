// The direct algorithm's public launchers: plain sums or log sums.
#include "cuda/direct_launch.h"

namespace xrisk::cuda {

XRISK_DIRECT_LAUNCHES(extern, false, float)
XRISK_DIRECT_LAUNCHES(extern, true, float)
XRISK_DIRECT_LAUNCHES(extern, false, double)
XRISK_DIRECT_LAUNCHES(extern, true, double)

template <class T>
size_t direct_rows_workspace_bytes(const PairProblem<T>& problem) {
  return direct_rows_bytes<DefaultTile>(problem);
}

template <class T>
size_t direct_columns_workspace_bytes(const PairProblem<T>& problem) {
  return direct_columns_bytes<DefaultTile>(problem);
}

template <class T>
cudaError_t launch_direct_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream) {
  if (call.problem.temperature != nullptr) {
    return direct_rows<DefaultTile, true>(&call, 1, &workspace, stream);
  }
  return direct_rows<DefaultTile, false>(&call, 1, &workspace, stream);
}

template <class T>
cudaError_t launch_direct_columns(const PairColumns<T>& call, void* workspace,
                                  cudaStream_t stream) {
  if (call.problem.temperature != nullptr) {
    return direct_columns<DefaultTile, true>(&call, 1, &workspace, stream);
  }
  return direct_columns<DefaultTile, false>(&call, 1, &workspace, stream);
}

template <class T>
cudaError_t launch_direct_rows_of_two(const PairRows<T> (&calls)[2], void* workspace,
                                      cudaStream_t stream) {
  void* const second =
      static_cast<char*>(workspace) + direct_rows_workspace_bytes(calls[0].problem);
  void* const workspaces[] = {workspace, second};
  return direct_rows<DefaultTile, false>(calls, 2, workspaces, stream);
}

template <class T>
cudaError_t launch_direct_columns_of_two(const PairColumns<T> (&calls)[2], void* workspace,
                                         cudaStream_t stream) {
  void* const second =
      static_cast<char*>(workspace) + direct_columns_workspace_bytes(calls[0].problem);
  void* const workspaces[] = {workspace, second};
  return direct_columns<DefaultTile, false>(calls, 2, workspaces, stream);
}

#define XRISK_INSTANTIATE(T)                                                                    \
  template size_t direct_rows_workspace_bytes(const PairProblem<T>&);                           \
  template size_t direct_columns_workspace_bytes(const PairProblem<T>&);                        \
  template cudaError_t launch_direct_rows(const PairRows<T>&, void*, cudaStream_t);             \
  template cudaError_t launch_direct_columns(const PairColumns<T>&, void*, cudaStream_t);       \
  template cudaError_t launch_direct_rows_of_two(const PairRows<T>(&)[2], void*, cudaStream_t); \
  template cudaError_t launch_direct_columns_of_two(const PairColumns<T>(&)[2], void*,          \
                                                    cudaStream_t);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
