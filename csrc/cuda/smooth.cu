// The smooth algorithm's public launchers, for the default shape.
#include "cuda/smooth_launch.h"

namespace xrisk::cuda {

template <class T>
size_t smooth_rows_workspace_bytes(const PairProblem<T>& problem) {
  return smooth_rows_bytes<DefaultSmooth>(problem);
}
template <class T>
size_t smooth_columns_workspace_bytes(const PairProblem<T>& problem) {
  return smooth_columns_bytes<DefaultSmooth>(problem);
}
template <class T>
cudaError_t launch_smooth_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream) {
  return smooth_rows<DefaultSmooth>(call, workspace, stream);
}
template <class T>
cudaError_t launch_smooth_columns(const PairColumns<T>& call, void* workspace,
                                  cudaStream_t stream) {
  return smooth_columns<DefaultSmooth>(call, workspace, stream);
}

#define XRISK_INSTANTIATE(T)                                                        \
  template size_t smooth_rows_workspace_bytes(const PairProblem<T>&);               \
  template size_t smooth_columns_workspace_bytes(const PairProblem<T>&);            \
  template cudaError_t launch_smooth_rows(const PairRows<T>&, void*, cudaStream_t); \
  template cudaError_t launch_smooth_columns(const PairColumns<T>&, void*, cudaStream_t);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
