// Launches of the near-linear log sums as templates: cuda/near_log_sums.cu instantiates them for
// the default shape, the tests for tiny ones.
#pragma once

#include "cuda/binned_log_sums.h"
#include "cuda/linear_log_sums.h"
#include "cuda/power_log_sums.h"

namespace xrisk::cuda {

template <class Shape, class T>
size_t near_log_rows_bytes(const PairProblem<T>& problem) {
  Carver carver(nullptr);
  const LogPlans plans(problem, carver, Shape::kBlock);
  const size_t direct = carver.used() + direct_rows_workspace_bytes(problem);
  const int64_t items = problem.items.capacity;
  if (problem.surrogate == Surrogate::kLogistic) {
    PowerMemory(carver, items, problem.segments, 1, Shape());
  } else if (problem.surrogate == Surrogate::kSquaredHinge) {
    BinnedMemory<T, T>(carver, items, problem.segments, 0, Shape());
  } else {
    LinearMemory<T, T>(carver, items, problem.segments, Shape());
  }
  return std::max(direct, carver.used());
}

template <class Shape, class T>
size_t near_log_columns_bytes(const PairProblem<T>& problem) {
  Carver carver(nullptr);
  const LogPlans plans(problem, carver, Shape::kBlock);
  const size_t direct = carver.used() + direct_columns_workspace_bytes(problem);
  const int64_t anchors = problem.anchors.capacity;
  if (problem.surrogate == Surrogate::kLogistic) {
    PowerMemory(carver, anchors, problem.segments, 2, Shape());
  } else if (problem.surrogate == Surrogate::kSquaredHinge) {
    BinnedMemory<T, double>(carver, anchors, problem.segments,
                            series_shares(anchors, problem.segments), Shape());
  } else {
    LinearMemory<T, double>(carver, anchors, problem.segments, Shape());
  }
  return std::max(direct, carver.used());
}

template <class T>
cudaError_t check_near_log(const PairProblem<T>& problem) {
  const bool good = problem.temperature != nullptr && problem.channels == 1 &&
                    has_near_log_sums(problem.surrogate) && problem.segments <= 65535 &&
                    !too_many(problem);
  return good ? cudaSuccess : cudaErrorInvalidValue;
}

template <class Shape, class T>
cudaError_t near_log_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  XRISK_RETURN_IF_ERROR(check_near_log(problem));
  if (problem.anchors.capacity == 0 || problem.segments == 0) return cudaSuccess;
  Carver carver(workspace);
  const LogPlans plans(problem, carver, Shape::kBlock);
  XRISK_RETURN_IF_ERROR(plans.launch<Shape>(problem, problem.anchors, stream));
  PairRows<T> direct = call;
  direct.problem.anchors.live = plans.direct_live;
  XRISK_RETURN_IF_ERROR(
      launch_direct_rows(direct, static_cast<char*>(workspace) + carver.used(), stream));
  if (problem.items.capacity == 0) return cudaSuccess;
  switch (problem.surrogate) {
    case Surrogate::kLogistic:
      return power_log_rows<Shape>(call, plans, carver, stream);
    case Surrogate::kSquaredHinge:
      return binned_log_rows<Shape>(call, plans, carver, stream);
    default:
      return linear_log_rows<Shape>(call, plans, carver, stream);
  }
}

template <class Shape, class T>
cudaError_t near_log_columns(const PairColumns<T>& call, void* workspace, cudaStream_t stream) {
  const PairProblem<T>& problem = call.problem;
  XRISK_RETURN_IF_ERROR(check_near_log(problem));
  if (problem.items.capacity == 0 || problem.segments == 0) return cudaSuccess;
  Carver carver(workspace);
  const LogPlans plans(problem, carver, Shape::kBlock);
  XRISK_RETURN_IF_ERROR(plans.launch<Shape>(problem, problem.items, stream));
  PairColumns<T> direct = call;
  direct.problem.items.live = plans.direct_live;
  XRISK_RETURN_IF_ERROR(
      launch_direct_columns(direct, static_cast<char*>(workspace) + carver.used(), stream));
  if (problem.anchors.capacity == 0) return cudaSuccess;
  switch (problem.surrogate) {
    case Surrogate::kLogistic:
      return power_log_columns<Shape>(call, plans, carver, stream);
    case Surrogate::kSquaredHinge:
      return binned_log_columns<Shape>(call, plans, carver, stream);
    default:
      return linear_log_columns<Shape>(call, plans, carver, stream);
  }
}

}  // namespace xrisk::cuda
