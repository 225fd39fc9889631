// Mapping: a thread eight numbers, two loads and a store of 16 bytes, or one where addresses do not
// allow it. Bytes: 4 in, 2 out.
#include "cuda/scaled_gradient.h"

#include "cuda/embedding_kernels.h"
#include "cuda/half_embedding_kernels.h"

namespace xrisk::cuda {
namespace {

constexpr int kThreads = 256;

template <class Half, int kWide>
__global__ void scaled_gradient_kernel(const float* gradient, const float* factor, int64_t count,
                                       uint16_t* out) {
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWide;
  if (k >= count) return;
  float values[kWide];
  load_piece<kWide>(gradient + k, values);
#pragma unroll
  for (int c = 0; c < kWide; ++c) values[c] *= *factor;
  store_halves<Half, kWide>(values, out + k);
}

}  // namespace

cudaError_t launch_scaled_gradient(const float* gradient, const float* factor, int64_t count,
                                   bool bfloat16, uint16_t* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const auto launch = [&](auto half, auto wide) {
    constexpr int kWide = decltype(wide)::value;
    const int64_t threads = count / kWide;
    XRISK_LAUNCH((scaled_gradient_kernel<decltype(half), kWide>),
                 static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, 0, stream,
                 gradient, factor, count, out);
  };
  const auto in_pieces = [&](auto half) {
    if (count % 8 == 0 && aligned(gradient) && aligned(out)) {
      launch(half, std::integral_constant<int, 8>{});
    } else {
      launch(half, std::integral_constant<int, 1>{});
    }
  };
  if (bfloat16) {
    in_pieces(Bfloat16{});
  } else {
    in_pieces(Float16{});
  }
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
