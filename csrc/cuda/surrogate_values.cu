#include "cuda/surrogate_values.h"

#include "core/surrogate.h"
#include "cuda/platform.h"

namespace xrisk::cuda {
namespace {

constexpr int kThreads = 256;

// A thread an element.
template <Surrogate kKind, class T>
__global__ void surrogate_values_kernel(double margin, const double* scale, const T* differences,
                                        int64_t count, T* values, T* slopes) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= count) return;
  const auto phi = make_surrogate<kKind, T>(SurrogateParams{margin, *scale});
  phi(differences[k], values[k], slopes[k]);
}

}  // namespace

template <class T>
cudaError_t launch_surrogate_values(Surrogate surrogate, double margin, const double* scale,
                                    const T* differences, int64_t count, T* values, T* slopes,
                                    cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  visit_kind(surrogate, [&](auto kind) {
    XRISK_LAUNCH((surrogate_values_kernel<decltype(kind)::value, T>), blocks, kThreads, 0, stream,
                 margin, scale, differences, count, values, slopes);
  });
  return cudaGetLastError();
}

template cudaError_t launch_surrogate_values(Surrogate, double, const double*, const float*,
                                             int64_t, float*, float*, cudaStream_t);
template cudaError_t launch_surrogate_values(Surrogate, double, const double*, const double*,
                                             int64_t, double*, double*, cudaStream_t);

}  // namespace xrisk::cuda
