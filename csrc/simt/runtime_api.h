// The little of the runtime API that launchers use. Everything happens at once, on the host's own
// memory; what the API would refuse at a launch throws simt::Error instead.
#pragma once

#include <cstring>

#include "simt/machine.h"

namespace xrisk::simt {

constexpr int kPretendedProcessors = 4;            // few, so that grids wrap around in tests
constexpr int kPretendedSharedBytes = 227 * 1024;  // what a block may ask for on sm_90

}  // namespace xrisk::simt

extern "C" {

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error of the host's pretended runtime";
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = xrisk::simt::kPretendedProcessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = xrisk::simt::kPretendedSharedBytes;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  if (bytes > 0) memset(p, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  if (bytes > 0) memmove(to, from, bytes);
  return cudaSuccess;
}

}  // extern "C"

// For the limit on dynamic shared memory, which the launch then checks; hints are taken and
// ignored.
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
  if (value < 0 || value > xrisk::simt::kPretendedSharedBytes) return cudaErrorInvalidValue;
  xrisk::simt::machine.dynamic_limit[reinterpret_cast<const void*>(kernel)] =
      static_cast<size_t>(value);
  return cudaSuccess;
}
