// The exact near-linear algorithm's public launchers: a sort for the surrogates with kinks, plain
// moments for the squared one.
#include "cuda/centred_sums.h"
#include "cuda/sorted_sums.h"

namespace xrisk::cuda {
namespace {

// Chosen for memory and latency, not measured. Rows sort the items, of which there are many: 8
// share a record of 32 bytes. Columns sort the anchors and search them once an item: shorter
// chunks.
using RowTiles = Tiles<128, 8>;
using ColumnTiles = Tiles<128, 4>;
using MomentTiles = CentredTiles<256, 8>;

template <class T>
cudaError_t check(const PairProblem<T>& problem) {
  if (problem.temperature != nullptr || too_many(problem)) return cudaErrorInvalidValue;
  switch (problem.surrogate) {
    case Surrogate::kSquared:
    case Surrogate::kSquaredHinge:
    case Surrogate::kHinge:
    case Surrogate::kBarrierHinge:
    case Surrogate::kZeroOne:
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

template <class T>
size_t sorted_rows_workspace_bytes(const PairProblem<T>& problem) {
  Carver carver(nullptr);
  if (problem.surrogate == Surrogate::kSquared) {
    centred_memory(carver, problem.items.capacity, problem.segments, problem.channels,
                   MomentTiles());
  } else {
    rows_memory(problem, carver, RowTiles());
  }
  return carver.used();
}

template <class T>
size_t sorted_columns_workspace_bytes(const PairProblem<T>& problem) {
  Carver carver(nullptr);
  if (problem.surrogate == Surrogate::kSquared) {
    centred_memory(carver, problem.anchors.capacity, problem.segments, problem.channels,
                   MomentTiles());
  } else if (problem.surrogate != Surrogate::kZeroOne) {
    columns_memory(problem, carver, ColumnTiles());
  }
  return carver.used();
}

template <class T>
cudaError_t launch_sorted_rows(const PairRows<T>& call, void* workspace, cudaStream_t stream) {
  XRISK_RETURN_IF_ERROR(check(call.problem));
  return call.problem.surrogate == Surrogate::kSquared
             ? launch_centred_rows(call, workspace, stream, MomentTiles())
             : launch_piecewise_rows(call, workspace, stream, RowTiles());
}

template <class T>
cudaError_t launch_sorted_columns(const PairColumns<T>& call, void* workspace,
                                  cudaStream_t stream) {
  XRISK_RETURN_IF_ERROR(check(call.problem));
  return call.problem.surrogate == Surrogate::kSquared
             ? launch_centred_columns(call, workspace, stream, MomentTiles())
             : launch_piecewise_columns(call, workspace, stream, ColumnTiles());
}

#define XRISK_INSTANTIATE(T)                                                        \
  template size_t sorted_rows_workspace_bytes(const PairProblem<T>&);               \
  template size_t sorted_columns_workspace_bytes(const PairProblem<T>&);            \
  template cudaError_t launch_sorted_rows(const PairRows<T>&, void*, cudaStream_t); \
  template cudaError_t launch_sorted_columns(const PairColumns<T>&, void*, cudaStream_t);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
