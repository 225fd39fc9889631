// Log sums of exp(logistic / T) where 1 / T is a whole number k, exact, O((P + M) k), as
// cpu/power_log_sums.cpp:
//
//   (1 + q)^k = sum_a binom(k, a) q^a,  q = exp(s (y - x)) = Q r,  Q of the highest item, r <= 1
//
// so that a row is a polynomial in Q over the sums of w r^a, and a column one in r over the sums of
// the anchors' Q^a. All terms are positive.
//   Hazard: where Q > 1 the polynomial is taken in 1 / Q from the other end; everything is relative
//   to (1 + Q)^k, so that no number exceeds 2^k times the sum of the weights.
#pragma once

#include "cuda/log_plan.h"

namespace xrisk::cuda {

constexpr int kPowers = 8;  // of a warp
constexpr int kPowerRows = kLargestPower + kPowers;

// What an anchor's sums are relative to.
struct PowerAnchor {
  double exponent;   // of the ratio: Q, or 1 / Q where `reversed`
  double log_share;  // log (1 + ratio)
  double peak;       // phi at the highest item
  bool reversed;

  __device__ __forceinline__ PowerAnchor(double scale, double highest, double score) {
    const double z = scale * (highest - score);
    reversed = z > 0.0;
    exponent = -fabs(z);
    log_share = log1p(exp(exponent));
    peak = (reversed ? z : 0.0) + log_share;
  }
};

// partial [segments, chunks, kSides, kPowerRows]: of a chunk of sources.
//   items (kSides = 1):    sum_j w_j r_j^a
//   anchors (kSides = 2):  sum_i a_i / mass_i ratio_i^a / (1 + ratio_i)^k, the reversed ones apart
//   Mapping: a warp kPowers powers, its lanes stride over the chunk; blockIdx = (powers, chunk,
//   segment), warps beyond the segment's k leave at once. Bytes: a score and two weights an entry
//   and warp, from L2 but for the first. Hazard: products of up to kPowers factors after one
//   exponential; a fixed order.
template <int kBlock, int kSides, class T>
__global__ void __launch_bounds__(kBlock)
    power_sums_kernel(const LogPlan* __restrict__ plans, Side<T> sources,
                      const double* __restrict__ source_weights, const double* __restrict__ masses,
                      const double* __restrict__ scale, int64_t chunk_length,
                      double* __restrict__ partial) {
  const int64_t segment = blockIdx.z;
  const LogPlan plan = plans[segment];
  const int first = (static_cast<int>(blockIdx.x) * (kBlock / 32) + warp_index()) * kPowers;
  if (plan.near == 0 || first > plan.power) return;  // the whole warp
  const int64_t live = entries_of(sources, segment), begin = blockIdx.y * chunk_length;
  const int64_t end = begin + chunk_length < live ? begin + chunk_length : live;
  double sums[kSides][kPowers] = {};
  for (int64_t k = begin + lane_index(); k < end; k += 32) {
    const int64_t at = segment * sources.capacity + k;
    double weight, exponent, other = 0.0;
    if constexpr (kSides == 1) {
      weight = item_weight(sources, at);
      if (weight == 0.0) continue;  // whatever its score is
      exponent = *scale * (static_cast<double>(sources.scores[at]) - plan.highest);
    } else {
      const PowerAnchor anchor(*scale, plan.highest, static_cast<double>(sources.scores[at]));
      weight = source_weights[at] / masses[at] * exp(-plan.power * anchor.log_share);
      exponent = anchor.exponent;
      if (anchor.reversed) {
        other = weight;
        weight = 0.0;
      }
    }
    const double ratio = exp(exponent), start = exp(first * exponent);
    weight *= start;
    other *= start;
#pragma unroll
    for (int p = 0; p < kPowers; ++p) {
      sums[0][p] += weight;
      weight *= ratio;
      if constexpr (kSides == 2) {
        sums[1][p] += other;
        other *= ratio;
      }
    }
  }
  double* out = partial + (segment * gridDim.y + blockIdx.y) * kSides * kPowerRows;
#pragma unroll
  for (int side = 0; side < kSides; ++side) {
#pragma unroll
    for (int p = 0; p < kPowers; ++p) {
      const double sum = warp_sum(sums[side][p]);
      if (lane_index() == 0) out[side * kPowerRows + first + p] = sum;
    }
  }
}

__device__ __forceinline__ double binomial(int k, int a) {
  double value = 1.0;
  const int steps = a < k - a ? a : k - a;
  for (int i = 1; i <= steps; ++i) value = value * (k - i + 1) / i;
  return value;
}

// The chunks' sums S in order, and from them the coefficients of the polynomials:
//   rows [segments, 2, kPowerRows]:     binom(k, a) S_a, and binom(k, a) S_(k - a)
//   columns [segments, 2, kPowerRows]:  a binom(k, a) (S_a of one side + S_(k - a) of the other)
// A block a segment, a thread a power.
template <int kSides>
__global__ void power_coefficients_kernel(const LogPlan* __restrict__ plans,
                                          const double* __restrict__ partial, int chunks,
                                          double* __restrict__ coefficients) {
  const int64_t segment = blockIdx.x;
  const LogPlan plan = plans[segment];
  if (plan.near == 0) return;  // the whole block
  const auto total = [&](int side, int power) {
    double sum = 0.0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      sum += partial[((segment * chunks + chunk) * kSides + side) * kPowerRows + power];
    }
    return sum;
  };
  double* out = coefficients + segment * 2 * kPowerRows;
  for (int a = static_cast<int>(threadIdx.x); a <= plan.power; a += static_cast<int>(blockDim.x)) {
    const double factor = binomial(plan.power, a);
    if constexpr (kSides == 1) {
      out[a] = factor * total(0, a);
      out[kPowerRows + a] = factor * total(0, plan.power - a);
    } else {
      out[a] = a * factor * (total(0, a) + total(1, plan.power - a));
    }
  }
}

// Log sums, slopes and masses [segments, P]. Mapping: a thread an anchor, blockIdx.y the segment,
// Horner's rule. Bytes: the coefficients from L1, a score in, 24 out.
template <class T>
__global__ void __launch_bounds__(kHeavyBlock)
    power_rows_kernel(const LogPlan* __restrict__ plans, const double* __restrict__ coefficients,
                      const int32_t* __restrict__ live, const double* __restrict__ scale,
                      Side<T> anchors, double* __restrict__ log_sums, double* __restrict__ slopes,
                      double* __restrict__ masses) {
  const int64_t segment = blockIdx.y, i = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  if (i >= live[segment]) return;
  const LogPlan plan = plans[segment];
  const int64_t at = segment * anchors.capacity + i;
  const PowerAnchor anchor(*scale, plan.highest, static_cast<double>(anchors.scores[at]));
  const double* mine = coefficients + (segment * 2 + anchor.reversed) * kPowerRows;
  const double ratio = exp(anchor.exponent);
  double value = 0.0, moment = 0.0;
  for (int a = plan.power; a >= 0; --a) {
    const double term = mine[a];
    value = value * ratio + term;
    moment = moment * ratio + (anchor.reversed ? plan.power - a : a) * term;
  }
  const double mass = value * exp(-plan.power * anchor.log_share);
  masses[at] = mass;
  slopes[at] = *scale * plan.inverse / plan.power * (moment / value);
  log_sums[at] = anchor.peak * plan.inverse + log(mass);
}

// out [segments, M]. Mapping: a thread an item, as above.
template <class T>
__global__ void __launch_bounds__(kHeavyBlock)
    power_columns_kernel(const LogPlan* __restrict__ plans, const double* __restrict__ coefficients,
                         const int32_t* __restrict__ live, const double* __restrict__ scale,
                         Side<T> items, T* __restrict__ out) {
  const int64_t segment = blockIdx.y, j = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  if (j >= live[segment]) return;
  const LogPlan plan = plans[segment];
  const int64_t at = segment * items.capacity + j;
  const double weight = item_weight(items, at);
  double value = 0.0;
  if (weight != 0.0) {  // else its score may be anything
    const double* mine = coefficients + segment * 2 * kPowerRows;
    const double ratio = exp(*scale * (static_cast<double>(items.scores[at]) - plan.highest));
    for (int a = plan.power; a >= 0; --a) value = value * ratio + mine[a];
  }
  out[at] = static_cast<T>(*scale * plan.inverse / plan.power * weight * value);
}

struct PowerMemory {
  int64_t chunks, chunk_length;
  double *partial, *coefficients;

  template <class Shape>
  PowerMemory(Carver& carver, int64_t sources, int segments, int sides, Shape) {
    constexpr int64_t kMostChunks = 512;
    const int64_t wanted = (sources + Shape::kChunk - 1) / Shape::kChunk;
    const int64_t most = std::max<int64_t>(1, kMostChunks / std::max(1, segments));
    chunks = std::clamp<int64_t>(wanted, 1, most);
    chunk_length = (sources + chunks - 1) / chunks;
    partial = carver.take<double>(segments * chunks * sides * kPowerRows);
    coefficients = carver.take<double>(int64_t{segments} * 2 * kPowerRows);
  }

  template <class Shape, int kSides, class T>
  cudaError_t launch(const LogPlan* plans, const Side<T>& sources, const double* weights,
                     const double* masses, const PairProblem<T>& problem, Shape,
                     std::integral_constant<int, kSides>, cudaStream_t stream) const {
    constexpr int kBlockPowers = Shape::kBlock / 32 * kPowers;
    const unsigned segments = static_cast<unsigned>(problem.segments);
    const dim3 grid((kLargestPower + kBlockPowers) / kBlockPowers, static_cast<unsigned>(chunks),
                    segments);
    XRISK_LAUNCH((power_sums_kernel<Shape::kBlock, kSides, T>), grid, Shape::kBlock, 0, stream,
                 plans, sources, weights, masses, problem.scale, chunk_length, partial);
    XRISK_LAUNCH((power_coefficients_kernel<kSides>), segments, kPlainBlock, 0, stream, plans,
                 static_cast<const double*>(partial), static_cast<int>(chunks), coefficients);
    return cudaGetLastError();
  }
};

template <class Shape, class T>
cudaError_t power_log_rows(const PairRows<T>& call, const LogPlans& plans, Carver& carver,
                           cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  const PowerMemory memory(carver, problem.items.capacity, problem.segments, 1, Shape());
  XRISK_RETURN_IF_ERROR(memory.launch(plans.plans, problem.items, nullptr, nullptr, problem,
                                      Shape(), std::integral_constant<int, 1>(), stream));
  const dim3 grid(blocks_for(problem.anchors.capacity, kHeavyBlock),
                  static_cast<unsigned>(problem.segments));
  XRISK_LAUNCH((power_rows_kernel<T>), grid, kHeavyBlock, 0, stream, plans.plans,
               static_cast<const double*>(memory.coefficients), plans.near_live, problem.scale,
               problem.anchors, call.sums, call.slopes, call.masses);
  return cudaGetLastError();
}

template <class Shape, class T>
cudaError_t power_log_columns(const PairColumns<T>& call, const LogPlans& plans, Carver& carver,
                              cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  const PowerMemory memory(carver, problem.anchors.capacity, problem.segments, 2, Shape());
  XRISK_RETURN_IF_ERROR(memory.launch(plans.plans, problem.anchors, call.anchor_weights,
                                      call.masses, problem, Shape(),
                                      std::integral_constant<int, 2>(), stream));
  const dim3 grid(blocks_for(problem.items.capacity, kHeavyBlock),
                  static_cast<unsigned>(problem.segments));
  XRISK_LAUNCH((power_columns_kernel<T>), grid, kHeavyBlock, 0, stream, plans.plans,
               static_cast<const double*>(memory.coefficients), plans.near_live, problem.scale,
               problem.items, call.out);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
