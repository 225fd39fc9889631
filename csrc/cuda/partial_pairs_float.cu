// Rows and columns of the partial AUC step in floats: 16 kernels.
#include "cuda/partial_pairs_launch.h"

namespace xrisk::cuda {

template <class T>
cudaError_t launch_partial_rows(const PartialPairs<T>& call, cudaStream_t stream) {
  return partial_rows<kPartialThreads, kPartialTile>(call, stream);
}

template <class T>
cudaError_t launch_partial_columns(const PartialPairs<T>& call, cudaStream_t stream) {
  return partial_columns<kPartialThreads, kPartialTile>(call, stream);
}

template cudaError_t launch_partial_rows(const PartialPairs<float>&, cudaStream_t);
template cudaError_t launch_partial_columns(const PartialPairs<float>&, cudaStream_t);

}  // namespace xrisk::cuda
