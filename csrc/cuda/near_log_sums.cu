// The near-linear log sums' public launchers, for the default shape.
#include "cuda/near_log_launch.h"

namespace xrisk::cuda {
namespace {

// Chosen for latency, not measured.
using DefaultLog = LogShape<256, 2048, 32, 208>;

}  // namespace

template <class T>
size_t near_log_rows_workspace_bytes(const PairProblem<T>& problem) {
  return near_log_rows_bytes<DefaultLog>(problem);
}
template <class T>
size_t near_log_columns_workspace_bytes(const PairProblem<T>& problem) {
  return near_log_columns_bytes<DefaultLog>(problem);
}
template <class T>
cudaError_t launch_near_log_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream) {
  return near_log_rows<DefaultLog>(call, workspace, stream);
}
template <class T>
cudaError_t launch_near_log_columns(const PairColumns<T>& call, void* workspace,
                                    cudaStream_t stream) {
  return near_log_columns<DefaultLog>(call, workspace, stream);
}

#define XRISK_INSTANTIATE(T)                                                          \
  template size_t near_log_rows_workspace_bytes(const PairProblem<T>&);               \
  template size_t near_log_columns_workspace_bytes(const PairProblem<T>&);            \
  template cudaError_t launch_near_log_rows(const PairRows<T>&, void*, cudaStream_t); \
  template cudaError_t launch_near_log_columns(const PairColumns<T>&, void*, cudaStream_t);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
