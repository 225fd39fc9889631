// The state update's public launchers.
#include "cuda/moving_average_launch.h"

namespace xrisk::cuda {

template <class State, class Value, class Out>
size_t moving_average_workspace_bytes(const MovingAverage<State, Value, Out>& call) {
  return moving_average_bytes<kCompareAllEntries>(call);
}

template <class State, class Value, class Out>
cudaError_t launch_moving_average(const MovingAverage<State, Value, Out>& call, void* workspace,
                                  size_t workspace_bytes, cudaStream_t stream) {
  return update_moving_average<kCompareAllEntries, UpdateShape>(call, workspace, workspace_bytes,
                                                                stream);
}

#define XRISK_INSTANTIATE(State, Value, Out)                                                 \
  template size_t moving_average_workspace_bytes(const MovingAverage<State, Value, Out>&);   \
  template cudaError_t launch_moving_average(const MovingAverage<State, Value, Out>&, void*, \
                                             size_t, cudaStream_t);
XRISK_INSTANTIATE(float, float, float)
XRISK_INSTANTIATE(float, double, float)
XRISK_INSTANTIATE(double, float, double)
XRISK_INSTANTIATE(double, double, double)
XRISK_INSTANTIATE(float, double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
