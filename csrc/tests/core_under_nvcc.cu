// Compiles every header of core/ as device code: what the CUDA kernels will be written in.
#include "core/macros.h"
#include "core/math.h"
#include "core/moving_average.h"
#include "core/pair_term.h"
#include "core/params.h"
#include "core/rules.h"
#include "core/sort_key.h"
#include "core/surrogate.h"

namespace xrisk {

template <Surrogate kKind, class T>
__device__ void use_surrogate(SurrogateParams params, const T* d, T* out) {
  const auto phi = make_surrogate<kKind, T>(params);
  T value, slope;
  ExponentialTerm<T, std::decay_t<decltype(phi)>>{phi, T(2)}(*d, T(0), value, slope);
  *out += value + slope + static_cast<T>(sort_key(*d) & 1);
}

template <class T>
__global__ void use_core(SurrogateParams params, const T* d, T* out, double* state) {
  const int k = threadIdx.x;
  use_surrogate<Surrogate::kSquared>(params, d + k, out + k);
  use_surrogate<Surrogate::kSquaredHinge>(params, d + k, out + k);
  use_surrogate<Surrogate::kHinge>(params, d + k, out + k);
  use_surrogate<Surrogate::kBarrierHinge>(params, d + k, out + k);
  use_surrogate<Surrogate::kLogistic>(params, d + k, out + k);
  use_surrogate<Surrogate::kSigmoid>(params, d + k, out + k);
  use_surrogate<Surrogate::kExponential>(params, d + k, out + k);
  use_surrogate<Surrogate::kZeroOne>(params, d + k, out + k);
  const AnchorTerms terms = average_precision_rule(state[k], 0.5);
  state[k] = blend_log(blend_linear(terms.value, terms.positive_weight, 0.5, 0.5), 1.0,
                       log_factors(0.9).keep, linear_factors(0.9).add) +
             pairwise_auc_rule(state[k]).value + (is_storable(state[k], true) ? 1.0 : 0.0);
}

template __global__ void use_core(SurrogateParams, const float*, float*, double*);
template __global__ void use_core(SurrogateParams, const double*, double*, double*);

}  // namespace xrisk
