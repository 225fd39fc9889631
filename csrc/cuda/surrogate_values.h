// The surrogates elementwise, for the op that shows them to the tests.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/params.h"

namespace xrisk::cuda {

template <class T>
cudaError_t launch_surrogate_values(Surrogate surrogate, double margin, const double* scale,
                                    const T* differences, int64_t count, T* values, T* slopes,
                                    cudaStream_t stream);

}  // namespace xrisk::cuda
