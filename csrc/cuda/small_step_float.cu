// The step of a small batch on floats: 16 kernels (8 surrogates, state in float or double).
#include "cuda/small_step.h"
#include "cuda/small_step_kernel.h"

namespace xrisk::cuda {

template <class T, class State>
cudaError_t launch_small_step(const ScoreStep<T, State>& call, const StepBuffers<T>& buffers,
                              T share, cudaStream_t stream) {
  const StepAccess<T, State> access{call};
  visit_kind(call.surrogate, [&](auto kind) {
    XRISK_LAUNCH((small_step_kernel<kSmallThreads, kSmallBatch, decltype(kind)::value, T, State>),
                 static_cast<unsigned>(call.labels), kSmallThreads, 0, stream, access, buffers,
                 share);
  });
  return cudaGetLastError();
}

template cudaError_t launch_small_step(const ScoreStep<float, float>&, const StepBuffers<float>&,
                                       float, cudaStream_t);
template cudaError_t launch_small_step(const ScoreStep<float, double>&, const StepBuffers<float>&,
                                       float, cudaStream_t);

}  // namespace xrisk::cuda
