// The partial AUC step of a small batch on doubles: 16 kernels (8 surrogates, state in float or
// double).
#include "cuda/small_partial.h"
#include "cuda/small_partial_kernel.h"

namespace xrisk::cuda {

template <class T, class State>
cudaError_t launch_small_partial(const PartialAUCStep<T, State>& call,
                                 const PartialBuffers<T>& buffers, T share, cudaStream_t stream) {
  visit_kind(call.batch.surrogate, [&](auto kind) {
    XRISK_LAUNCH((small_partial_kernel<kSmallPartialThreads, decltype(kind)::value, T, State>),
                 static_cast<unsigned>(call.batch.labels), kSmallPartialThreads, 0, stream, call,
                 buffers, share);
  });
  return cudaGetLastError();
}

template cudaError_t launch_small_partial(const PartialAUCStep<double, float>&,
                                          const PartialBuffers<double>&, double, cudaStream_t);
template cudaError_t launch_small_partial(const PartialAUCStep<double, double>&,
                                          const PartialBuffers<double>&, double, cudaStream_t);

}  // namespace xrisk::cuda
