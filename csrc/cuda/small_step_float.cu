// The step of a small batch on floats: 16 kernels (8 surrogates, state in float or double).
#include "cuda/small_step.h"
#include "cuda/small_step_kernel.h"

namespace xrisk::cuda {

template <class T, class State>
cudaError_t launch_small_step(const ScoreStep<T, State>& call, T share, cudaStream_t stream) {
  const StepAccess<T, State> access{call};
  visit_kind(call.surrogate, [&](auto kind) {
    XRISK_LAUNCH((small_step_kernel<kSmallBatch<T>, decltype(kind)::value, T, State>),
                 static_cast<unsigned>(call.labels), kSmallBatch<T>, 0, stream, access, share);
  });
  return cudaGetLastError();
}

template cudaError_t launch_small_step(const ScoreStep<float, float>&, float, cudaStream_t);
template cudaError_t launch_small_step(const ScoreStep<float, double>&, float, cudaStream_t);

}  // namespace xrisk::cuda
