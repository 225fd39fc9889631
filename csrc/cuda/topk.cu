// The top-K threshold's public launchers.
#include "cuda/topk_launch.h"

namespace xrisk::cuda {

// A warp takes up to 256 scores, a block 16384. Longer rows are sampled four neighbours at a time
// and read by blocks of 256 that keep 16 KB of what they copy; radix passes have digits of 11 bits.
using Shape = TopKShape<8, 1024, 16, 8, 11, 4, 256, 16384, 4, 6, 10>;

template <class T>
size_t topk_workspace_bytes(const TopK<T>& call) {
  return TopKMemory<Shape, T>(call, nullptr).bytes;
}

template <class T>
cudaError_t launch_topk(const TopK<T>& call, const Thresholds<T>& out, void* workspace,
                        cudaStream_t stream) {
  return launch_topk_with<Shape>(call, out, workspace, stream);
}

template <class T>
size_t topk_gradient_workspace_bytes(const TopK<T>& call) {
  GradientParts work;
  return topk_gradient_memory<Shape>(call, nullptr, work);
}

template <class T>
cudaError_t launch_topk_gradient(const TopK<T>& call, const double* roots, const T* upstream,
                                 T* gradient, void* workspace, cudaStream_t stream) {
  return launch_topk_gradient_with<Shape>(call, roots, upstream, gradient, workspace, stream);
}

#define XRISK_INSTANTIATE(T)                                                                    \
  template size_t topk_workspace_bytes(const TopK<T>&);                                         \
  template cudaError_t launch_topk(const TopK<T>&, const Thresholds<T>&, void*, cudaStream_t);  \
  template size_t topk_gradient_workspace_bytes(const TopK<T>&);                                \
  template cudaError_t launch_topk_gradient(const TopK<T>&, const double*, const T*, T*, void*, \
                                            cudaStream_t);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
