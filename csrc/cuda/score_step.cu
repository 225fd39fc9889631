// Schedules the fused step: a small batch in one launch; else compact -> rows -> observe -> state
// -> rule -> columns -> gradient.
#include "cuda/score_step.h"

#include <algorithm>

#include "cuda/moving_average.h"
#include "cuda/pairs.h"
#include "cuda/score_step_kernels.h"
#include "cuda/small_step.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {
namespace {

constexpr int kEntriesAThread = 8;
// Items; the positives are known to the device alone. Of a tenth the ways cross on an H200
// (benchmarks/gpu_crossovers.py) at 80000 items by the sort, at 40000 by the smooth sums.
constexpr int64_t kSortFromBatch = 65536;
constexpr int64_t kSmoothFromBatch = 32768;

// The algorithm that runs; exponential has the direct one alone.
Algorithm algorithm_of(Surrogate surrogate, Algorithm asked, int64_t batch) {
  const bool smooth = surrogate == Surrogate::kLogistic || surrogate == Surrogate::kSigmoid;
  if (surrogate == Surrogate::kExponential) return Algorithm::kDirect;
  if (asked != Algorithm::kAuto) return asked;
  if (batch < (smooth ? kSmoothFromBatch : kSortFromBatch)) return Algorithm::kDirect;
  return smooth ? Algorithm::kSmooth : Algorithm::kSort;
}

// One call's parts: buffers, pair problems, and the memory that the parts share in turn.
template <class T, class State>
struct Step {
  const ScoreStep<T, State>& call;
  StepBuffers<T> buffers;
  int64_t tiles;
  bool two_classes;
  Algorithm algorithm;
  PairRows<T> rows_of_classes[2];  // of all items, and of the positives as items
  PairColumns<T> columns_of_classes[2];
  MovingAverage<State, double, double> update;
  size_t shared_bytes;
  void* shared;
  size_t bytes;

  Step(const ScoreStep<T, State>& call_, void* workspace) : call(call_) {
    const int64_t cells = call.batch * call.labels;
    constexpr int64_t kTile = kStepThreads * kEntriesAThread;
    tiles = (call.batch + kTile - 1) / kTile;
    two_classes = call.rule == Rule::kAveragePrecision;
    algorithm = algorithm_of(call.surrogate, call.algorithm, call.batch);
    Carver carver(workspace);
    buffers.tiles = carver.take<LabelTotals>(tiles * call.labels);
    buffers.totals = carver.take<LabelTotals>(call.labels);
    buffers.live = carver.take<int32_t>(call.labels);
    buffers.positions = carver.take<int32_t>(cells);
    buffers.ids = carver.take<int64_t>(call.state == nullptr ? 0 : cells);
    for (T** array : {&buffers.items, &buffers.item_weights, &buffers.anchors,
                      &buffers.anchor_weights, &buffers.columns, &buffers.own_columns}) {
      *array = carver.take<T>(cells);
    }
    for (double** array : {&buffers.sums, &buffers.slopes, &buffers.own_sums, &buffers.own_slopes,
                           &buffers.weights, &buffers.positive_weights}) {
      *array = carver.take<double>(cells);
    }
    buffers.u = carver.take<double>(2 * cells);
    buffers.stored = carver.take<double>(call.state == nullptr ? 0 : 2 * cells);
    make_parts();
    size_t rows = rows_bytes(rows_of_classes[0]), own_rows = rows_bytes(rows_of_classes[1]);
    size_t columns = columns_bytes(columns_of_classes[0]);
    size_t own_columns = columns_bytes(columns_of_classes[1]);
    if (algorithm == Algorithm::kDirect) rows += own_rows, columns += own_columns;  // at once
    shared_bytes = std::max({rows, own_rows, columns, own_columns,
                             call.state == nullptr ? 0 : moving_average_workspace_bytes(update)});
    shared = carver.take<char>(static_cast<int64_t>(shared_bytes));
    bytes = carver.used();
  }

  void make_parts() {
    PairProblem<T> problem;
    problem.surrogate = call.surrogate;
    problem.margin = call.margin;
    problem.scale = call.scale;
    problem.segments = call.labels;
    problem.anchors = {buffers.anchors, nullptr, call.batch, buffers.live};
    problem.items = {buffers.items, buffers.item_weights, call.batch, nullptr};
    PairProblem<T> own = problem;  // the positives as items
    own.items = {buffers.anchors, buffers.anchor_weights, call.batch, buffers.live};
    rows_of_classes[0] = {problem, buffers.sums, buffers.slopes, nullptr};
    rows_of_classes[1] = {own, buffers.own_sums, buffers.own_slopes, nullptr};
    columns_of_classes[0] = {problem, buffers.weights, nullptr, buffers.columns};
    columns_of_classes[1] = {own, buffers.positive_weights, nullptr, buffers.own_columns};
    update.state = call.state;
    update.rows = call.rows;
    update.columns = 2;
    update.index = buffers.ids;
    update.values = buffers.u;
    update.entries = call.batch;
    update.live = buffers.live;
    update.segments = call.labels;
    update.gamma = call.gamma;
    update.write = call.write_state;
    update.stored = buffers.stored;
  }

  size_t rows_bytes(const PairRows<T>& part) const {
    switch (algorithm) {
      case Algorithm::kSort:
        return sorted_rows_workspace_bytes(part.problem);
      case Algorithm::kSmooth:
        return smooth_rows_workspace_bytes(part.problem);
      default:
        return direct_rows_workspace_bytes(part.problem);
    }
  }
  size_t columns_bytes(const PairColumns<T>& part) const {
    switch (algorithm) {
      case Algorithm::kSort:
        return sorted_columns_workspace_bytes(part.problem);
      case Algorithm::kSmooth:
        return smooth_columns_workspace_bytes(part.problem);
      default:
        return direct_columns_workspace_bytes(part.problem);
    }
  }
  cudaError_t launch(const PairRows<T>& part, cudaStream_t stream) const {
    switch (algorithm) {
      case Algorithm::kSort:
        return launch_sorted_rows(part, shared, stream);
      case Algorithm::kSmooth:
        return launch_smooth_rows(part, shared, stream);
      default:
        return launch_direct_rows(part, shared, stream);
    }
  }
  cudaError_t launch(const PairColumns<T>& part, cudaStream_t stream) const {
    switch (algorithm) {
      case Algorithm::kSort:
        return launch_sorted_columns(part, shared, stream);
      case Algorithm::kSmooth:
        return launch_smooth_columns(part, shared, stream);
      default:
        return launch_direct_columns(part, shared, stream);
    }
  }
  cudaError_t launch_rows(cudaStream_t stream) const {
    if (two_classes && algorithm == Algorithm::kDirect) {
      return launch_direct_rows_of_two(rows_of_classes, shared, stream);
    }
    const cudaError_t status = launch(rows_of_classes[0], stream);
    return status != cudaSuccess || !two_classes ? status : launch(rows_of_classes[1], stream);
  }
  cudaError_t launch_columns(cudaStream_t stream) const {
    if (two_classes && algorithm == Algorithm::kDirect) {
      return launch_direct_columns_of_two(columns_of_classes, shared, stream);
    }
    const cudaError_t status = launch(columns_of_classes[0], stream);
    return status != cudaSuccess || !two_classes ? status : launch(columns_of_classes[1], stream);
  }
};

#define XRISK_RETURN_IF_FAILED(expression)    \
  do {                                        \
    const cudaError_t status = (expression);  \
    if (status != cudaSuccess) return status; \
  } while (false)

template <class T, class State>
bool is_small(const ScoreStep<T, State>& call) {
  return call.batch > 0 && call.batch <= kSmallBatch<T> && call.algorithm == Algorithm::kAuto;
}

}  // namespace

template <class T, class State>
size_t score_step_workspace_bytes(const ScoreStep<T, State>& call) {
  if (is_small(call)) return 0;
  return Step<T, State>(call, nullptr).bytes;
}

template <class T, class State>
cudaError_t launch_score_step(const ScoreStep<T, State>& call, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  const bool small = is_small(call);
  const Step<T, State> step(call, workspace);
  if (call.labels > 65535 || (!small && step.bytes > workspace_bytes)) return cudaErrorInvalidValue;
  const StepBuffers<T>& buffers = step.buffers;
  const int64_t batch = call.batch;
  const unsigned labels = static_cast<unsigned>(call.labels);
  const T share = call.mean_reduction ? T(1) / static_cast<T>(call.labels) : T(1);
  if (small && labels > 0) {
    XRISK_RETURN_IF_FAILED(launch_small_step(call, share, stream));
    if (labels == 1) return cudaSuccess;  // the mean is written already
  } else if (labels > 0 && batch > 0) {
    const StepAccess<T, State> access{call};
    const dim3 tiles(static_cast<unsigned>(step.tiles), labels);
    const dim3 entries(static_cast<unsigned>((batch + kStepThreads - 1) / kStepThreads), labels);
    XRISK_LAUNCH((count_kernel<kStepThreads, kEntriesAThread, T, State>), tiles, kStepThreads, 0,
                 stream, access, buffers.tiles);
    XRISK_LAUNCH((scan_tiles_kernel<kStepThreads>), labels, kStepThreads, 0, stream, buffers.tiles,
                 step.tiles, buffers.totals, buffers.live);
    XRISK_LAUNCH((compact_kernel<kStepThreads, kEntriesAThread, T, State>), tiles, kStepThreads, 0,
                 stream, access, buffers);
    XRISK_RETURN_IF_FAILED(step.launch_rows(stream));
    XRISK_LAUNCH((observe_kernel<T>), entries, kStepThreads, 0, stream, buffers, batch,
                 step.two_classes);
    const double* u = buffers.u;
    if (call.state != nullptr) {
      XRISK_RETURN_IF_FAILED(
          launch_moving_average(step.update, step.shared, step.shared_bytes, stream));
      u = buffers.stored;
    }
    XRISK_LAUNCH((rule_kernel<T>), entries, kStepThreads, 0, stream, buffers, batch, call.rule, u);
    XRISK_LAUNCH((value_kernel<kStepThreads, T>), labels, kStepThreads, 0, stream, buffers, batch,
                 call.values);
    if (call.gradient != nullptr) {
      XRISK_RETURN_IF_FAILED(step.launch_columns(stream));
      XRISK_LAUNCH((item_gradient_kernel<T>), entries, kStepThreads, 0, stream, buffers, batch,
                   call.labels, share, call.gradient);
      XRISK_LAUNCH((anchor_gradient_kernel<T>), entries, kStepThreads, 0, stream, buffers, batch,
                   call.labels, step.two_classes, share, call.gradient);
    }
  } else if (labels > 0) {
    XRISK_RETURN_IF_FAILED(cudaMemsetAsync(call.values, 0, labels * sizeof(T), stream));
  }
  if (call.mean_value != nullptr) {
    XRISK_LAUNCH((mean_value_kernel<T>), 1, 1, 0, stream, static_cast<const T*>(call.values),
                 call.labels, call.mean_value);
  }
  return cudaGetLastError();
}

#define XRISK_INSTANTIATE(T, State)                                       \
  template size_t score_step_workspace_bytes(const ScoreStep<T, State>&); \
  template cudaError_t launch_score_step(const ScoreStep<T, State>&, void*, size_t, cudaStream_t);
XRISK_INSTANTIATE(float, float)
XRISK_INSTANTIATE(float, double)
XRISK_INSTANTIATE(double, float)
XRISK_INSTANTIATE(double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cuda
