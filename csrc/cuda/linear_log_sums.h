// Log sums of exp(phi / T) for the convex surrogates of straight pieces, exact and near-linear:
// hinge and barrier hinge, as cpu/linear_log_sums.cpp.
//
// With the highest item Y, depth = Y - y, top = Y - x + margin and q = top - depth, phi is a line
// in q on each of three pieces (core/log_sums.h), where
//
//   exp(q / T) = exp(top / T) exp(-depth / T):
//
// rows are sums over the ends of the sorted items, columns over those of the sorted anchors.
//   Hazards: an exponential is taken relative to the highest (on the left piece the lowest) item
//   and meets a factor relative to the anchor's peak, so that neither exceeds 1, whatever the gaps.
//   The middle piece is a difference of two sums, neither of which exceeds the sum over all pieces.
#pragma once

#include "cuda/line_sums.h"
#include "cuda/log_plan.h"
#include "cuda/sorted_sums.h"

namespace xrisk::cuda {

// The pieces as lines of sums. Of the items, the two upper ones run from the highest item down; of
// the anchors, from the lowest up.
enum LinearLine : int { kMiddle = 0, kLeft = 1, kSteep = 2 };
constexpr int64_t kLinearLines = 3;

struct LinearSurrogate {
  Surrogate surrogate;
  double margin;
  const double* scale;  // of the barrier hinge

  __device__ __forceinline__ LinearPieces pieces() const {
    return linear_pieces(surrogate, margin, surrogate == Surrogate::kHinge ? 1.0 : *scale);
  }
};

// Weighted exponentials of the sorted items. Lines [segments, kLinearLines].
template <class T>
struct LinearItemTerms {
  SortedTable<T, T> table;
  const T* weights;  // [segments, capacity], as the items stand; null: ones
  const LogPlan* plans;
  LinearSurrogate phi;

  __device__ bool backwards(int64_t line) const { return line % kLinearLines != kLeft; }
  __device__ double operator()(int64_t line, int64_t entry) const {
    const int64_t segment = line / kLinearLines, piece = line % kLinearLines;
    const int64_t sorted = segment * table.capacity + entry;
    const auto key = table.keys[sorted];
    const LogPlan plan = plans[segment];
    if (plan.near == 0 || key == SortedTable<T, T>::kDead) return 0.0;
    const LinearPieces pieces = phi.pieces();
    if (piece == kSteep && pieces.bend == INFINITY) return 0.0;
    const double depth = plan.highest - static_cast<double>(score_of_key(key));
    const double slope = piece == kMiddle ? -1.0 : piece == kSteep ? -pieces.steep : pieces.left;
    const double from = piece == kLeft ? depth - plan.deepest : depth;
    const double weight =
        weights == nullptr ? 1.0 : static_cast<double>(weights[table.payloads[sorted]]);
    return weight * exp(slope * from * plan.inverse);
  }
};

// Weights of the sorted anchors over their masses, times the factors of the pieces.
template <class T>
struct LinearAnchorTerms {
  SortedTable<T, double> table;
  const double* weights;  // [segments, capacity], as the anchors stand
  const double* masses;
  const LogPlan* plans;
  LinearSurrogate phi;

  __device__ bool backwards(int64_t line) const { return line % kLinearLines == kLeft; }
  __device__ double operator()(int64_t line, int64_t entry) const {
    const int64_t segment = line / kLinearLines, piece = line % kLinearLines;
    const int64_t sorted = segment * table.capacity + entry;
    const auto key = table.keys[sorted];
    const LogPlan plan = plans[segment];
    if (plan.near == 0 || key == SortedTable<T, double>::kDead) return 0.0;
    const LinearPieces pieces = phi.pieces();
    if (piece == kSteep ? pieces.bend == INFINITY : piece == kLeft && pieces.left == 0.0) {
      return 0.0;
    }
    const double top = (plan.highest - static_cast<double>(score_of_key(key))) + phi.margin;
    const LinearExponents e = linear_exponents(pieces, top, plan.deepest);
    const double exponent = piece == kMiddle ? e.middle : piece == kSteep ? e.steep : e.left;
    const uint32_t at = table.payloads[sorted];
    return weights[at] / masses[at] * exp(exponent * plan.inverse);
  }
};

// Log sums, slopes and masses [segments, P]. Mapping: a thread an anchor, blockIdx.y the segment;
// binary search over the items. Bytes: ~2 log2(M) keys, mostly from L2, six sums; 24 out.
template <class T>
__global__ void __launch_bounds__(kHeavyBlock)
    linear_log_rows_kernel(SortedTable<T, T> table, LineSums sums, const LogPlan* plans,
                           const int32_t* live, LinearSurrogate phi, Side<T> anchors,
                           double* __restrict__ log_sums, double* __restrict__ slopes,
                           double* __restrict__ masses) {
  const int64_t segment = blockIdx.y, i = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  if (i >= live[segment]) return;
  const LogPlan plan = plans[segment];
  const LinearPieces pieces = phi.pieces();
  const int64_t at = segment * anchors.capacity + i, line = segment * kLinearLines;
  const T x = anchors.scores[at];
  const double top = (plan.highest - static_cast<double>(x)) + phi.margin;
  const LinearExponents e = linear_exponents(pieces, top, plan.deepest);
  const int64_t below =
      count_below<1>(table, segment, table.capacity, split_at(x, -phi.margin, true));
  double middle = sums.first(line + kMiddle, table.capacity - below), steep = 0.0;
  if (pieces.bend < INFINITY) {
    const double bend = pieces.bend - phi.margin;
    const int64_t straight =
        count_below<1>(table, segment, table.capacity, split_at(x, bend, true));
    middle -= sums.first(line + kMiddle, table.capacity - straight);
    steep = sums.first(line + kSteep, table.capacity - straight) * exp(e.steep * plan.inverse);
  }
  middle *= exp(e.middle * plan.inverse);
  const double left = sums.first(line + kLeft, below) * exp(e.left * plan.inverse);
  const double mass = steep + middle + left;
  masses[at] = mass;
  slopes[at] = (pieces.steep * steep + middle - pieces.left * left) * plan.inverse / mass;
  log_sums[at] = e.peak * plan.inverse + log(mass);
}

// out [segments, M]. Mapping: a thread an item, blockIdx.y the segment; binary search over the
// anchors. Bytes: as the rows. Hazard: anchors on the kink take the slope of the piece below it.
template <class T>
__global__ void __launch_bounds__(kHeavyBlock)
    linear_log_columns_kernel(SortedTable<T, double> table, LineSums sums, const LogPlan* plans,
                              const int32_t* live, LinearSurrogate phi, Side<T> items,
                              T* __restrict__ out) {
  const int64_t segment = blockIdx.y, j = int64_t{blockIdx.x} * kHeavyBlock + threadIdx.x;
  if (j >= live[segment]) return;
  const LogPlan plan = plans[segment];
  const LinearPieces pieces = phi.pieces();
  const int64_t at = segment * items.capacity + j, line = segment * kLinearLines;
  const double weight = item_weight(items, at);
  double sum = 0.0;
  if (weight != 0.0) {  // else its score may be anything
    const T y = items.scores[at];
    const double depth = plan.highest - static_cast<double>(y);
    const int64_t below =
        count_below<1>(table, segment, table.capacity, split_at(y, phi.margin, false));
    double middle = sums.first(line + kMiddle, below), steep = 0.0;
    if (pieces.bend < INFINITY) {
      const double bend = pieces.bend - phi.margin;
      const int64_t bent =
          count_below<1>(table, segment, table.capacity, split_at(y, -bend, false));
      middle -= sums.first(line + kMiddle, bent);
      steep = sums.first(line + kSteep, bent) * exp(-pieces.steep * depth * plan.inverse);
    }
    sum = middle * exp(-depth * plan.inverse) + pieces.steep * steep;
    if (pieces.left > 0.0) {
      sum -= pieces.left * sums.first(line + kLeft, table.capacity - below) *
             exp(pieces.left * (depth - plan.deepest) * plan.inverse);
    }
  }
  out[at] = static_cast<T>(plan.inverse * weight * sum);
}

// The sorted side and its sums.
template <class T, class W>
struct LinearMemory {
  TableMemory<T, W> table;
  LineSums sums;

  template <class Shape>
  LinearMemory(Carver& carver, int64_t capacity, int segments, Shape)
      : table(sorted_memory<T, W, Shape>(carver, capacity, segments)),
        sums(carver, segments * kLinearLines, capacity, Shape::kBlock) {}
};

template <class Shape, class T>
cudaError_t linear_log_rows(const PairRows<T>& call, const LogPlans& plans, Carver& carver,
                            cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  LinearMemory<T, T> memory(carver, problem.items.capacity, problem.segments, Shape());
  XRISK_RETURN_IF_ERROR(
      sort_entries(memory.table, problem.items, problem.items.weights, false, stream));
  const LinearSurrogate phi{problem.surrogate, problem.margin, problem.scale};
  const LinearItemTerms<T> terms{memory.table.table, problem.items.weights, plans.plans, phi};
  XRISK_RETURN_IF_ERROR(
      launch_line_sums<Shape::kBlock>(terms, memory.sums, problem.segments * kLinearLines, stream));
  const dim3 grid(blocks_for(problem.anchors.capacity, kHeavyBlock),
                  static_cast<unsigned>(problem.segments));
  XRISK_LAUNCH((linear_log_rows_kernel<T>), grid, kHeavyBlock, 0, stream, memory.table.table,
               memory.sums, plans.plans, plans.near_live, phi, problem.anchors, call.sums,
               call.slopes, call.masses);
  return cudaGetLastError();
}

template <class Shape, class T>
cudaError_t linear_log_columns(const PairColumns<T>& call, const LogPlans& plans, Carver& carver,
                               cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  LinearMemory<T, double> memory(carver, problem.anchors.capacity, problem.segments, Shape());
  XRISK_RETURN_IF_ERROR(
      sort_entries(memory.table, problem.anchors, call.anchor_weights, false, stream));
  const LinearSurrogate phi{problem.surrogate, problem.margin, problem.scale};
  const LinearAnchorTerms<T> terms{memory.table.table, call.anchor_weights, call.masses,
                                   plans.plans, phi};
  XRISK_RETURN_IF_ERROR(
      launch_line_sums<Shape::kBlock>(terms, memory.sums, problem.segments * kLinearLines, stream));
  const dim3 grid(blocks_for(problem.items.capacity, kHeavyBlock),
                  static_cast<unsigned>(problem.segments));
  XRISK_LAUNCH((linear_log_columns_kernel<T>), grid, kHeavyBlock, 0, stream, memory.table.table,
               memory.sums, plans.plans, plans.near_live, phi, problem.items, call.out);
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
