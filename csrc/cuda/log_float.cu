// Log sums of floats, direct: 16 kernels (8 surrogates, rows and columns).
#include "cuda/direct_launch.h"

namespace xrisk::cuda {

XRISK_DIRECT_LAUNCHES(, true, float)

}  // namespace xrisk::cuda
