// Pair sums of floats, direct: 16 kernels (8 surrogates, rows and columns).
#include "cuda/direct_launch.h"

namespace xrisk::cuda {

XRISK_DIRECT_LAUNCHES(, false, float)

}  // namespace xrisk::cuda
