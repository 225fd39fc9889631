// A gradient of floats times a number, rounded to 16 bits: what a backward of 16-bit inputs ends
// with. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace xrisk::cuda {

// out[k] = gradient[k] * factor[0], as bfloat16 or float16, to nearest. From sm_80 on.
cudaError_t launch_scaled_gradient(const float* gradient, const float* factor, int64_t count,
                                   bool bfloat16, uint16_t* out, cudaStream_t stream);

}  // namespace xrisk::cuda
