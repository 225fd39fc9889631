// Schedules a ranking step as a template, so that the tests may take small blocks: rows ->
// threshold -> scan -> gather -> state -> finish -> mean.
#pragma once

#include <algorithm>

#include "cuda/moving_average.h"
#include "cuda/ranking_finish.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {

template <class T, class State>
struct RankingPlan {
  RankingBuffers<T> buffers = {};
  MovingAverage<State, double, double> update, thresholds, curvatures;
  void* shared = nullptr;  // of the three updates, in turn
  size_t shared_bytes = 0, bytes = 0;

  RankingPlan(const RankingStep<T, State>& call, void* workspace) {
    const int64_t queries = call.lists.count, entries = call.entries;
    const bool two_classes = call.rule == RankingRule::kAveragePrecision;
    const int columns = two_classes ? 2 : 1;
    const bool keeps = call.top_k.k > 0 && call.top_k.thresholds != nullptr;
    Carver carver(workspace);
    buffers.queries = carver.take<RankingQuery>(queries);
    buffers.positions = carver.take<int32_t>(entries);
    buffers.live = carver.take<int32_t>(1);
    buffers.shift = carver.take<double>(1);
    buffers.one = carver.take<double>(1);
    buffers.ids = carver.take<int64_t>(call.state == nullptr ? 0 : entries);
    for (double** array : {&buffers.slopes, &buffers.weights, &buffers.own}) {
      *array = carver.take<double>(entries);
    }
    for (double** array : {&buffers.own_slopes, &buffers.own_weights}) {
      *array = carver.take<double>(two_classes ? entries : 0);
    }
    buffers.u = carver.take<double>(columns * entries);
    buffers.observed = carver.take<double>(columns * entries);
    buffers.stored = carver.take<double>(call.state == nullptr ? 0 : columns * entries);
    buffers.before = carver.take<double>(
        call.state == nullptr || !call.has(kStaleState) ? 0 : columns * entries);
    if (call.top_k.k > 0) {
      buffers.threshold_rows = carver.take<int64_t>(queries);
      for (double** array : {&buffers.next, &buffers.curvatures, &buffers.stored_thresholds,
                             &buffers.stored_curvatures}) {
        *array = carver.take<double>(queries);
      }
    }
    update.state = call.state;
    update.rows = call.rows * (two_classes ? queries : 1);
    update.columns = columns;
    update.index = buffers.ids;
    update.values = buffers.observed;
    update.entries = entries;
    update.live = buffers.live;
    update.gamma = call.gamma;
    update.log_domain = call.rule == RankingRule::kListwise;
    update.rounded = !update.log_domain;  // as on the CPU
    update.write = call.write_state;
    update.stored = buffers.stored;
    thresholds.state = call.top_k.thresholds;
    thresholds.rows = call.top_k.rows;
    thresholds.index = buffers.threshold_rows;
    thresholds.values = buffers.next;
    thresholds.entries = queries;
    thresholds.gamma = buffers.one;
    thresholds.write = call.write_state;
    thresholds.stored = buffers.stored_thresholds;
    curvatures = thresholds;
    curvatures.state = call.top_k.curvatures;
    curvatures.values = buffers.curvatures;
    curvatures.gamma = call.top_k.gamma1;
    curvatures.stored = buffers.stored_curvatures;
    shared_bytes =
        std::max(call.state == nullptr ? size_t{0} : moving_average_workspace_bytes(update),
                 keeps ? moving_average_workspace_bytes(thresholds) : size_t{0});
    shared = carver.take<char>(static_cast<int64_t>(shared_bytes));
    bytes = carver.used();
  }
};

template <int kThreads, class T, class State>
cudaError_t run_ranking_step(const RankingStep<T, State>& call, void* workspace,
                             size_t workspace_bytes, cudaStream_t stream) {
  const RankingPlan<T, State> plan(call, workspace);
  const int64_t queries = call.lists.count;
  if (queries >= (int64_t{1} << 31) || plan.bytes > workspace_bytes) return cudaErrorInvalidValue;
  const RankingAccess<T, State> access{call};
  const RankingBuffers<T>& buffers = plan.buffers;
  const unsigned grid = static_cast<unsigned>(queries);
  if (call.gradient != nullptr && call.lists.offsets != nullptr && call.entries > 0) {
    // entries that wrong offsets leave out
    const cudaError_t status =
        cudaMemsetAsync(call.gradient, 0, static_cast<size_t>(call.entries) * sizeof(T), stream);
    if (status != cudaSuccess) return status;
  }
  if (queries > 0) {
    visit_kind(call.surrogate, [&](auto kind) {
      XRISK_LAUNCH((ranking_rows_kernel<kThreads, decltype(kind)::value, T, State>), grid, kThreads,
                   0, stream, access, buffers);
    });
    const bool keeps =
        call.top_k.k > 0 && call.top_k.thresholds != nullptr && !call.has(kSolvedThreshold);
    if (call.top_k.k > 0) {
      XRISK_LAUNCH((ranking_threshold_kernel<kThreads, T, State>), grid, kThreads, 0, stream,
                   access, buffers);
    }
    XRISK_LAUNCH((ranking_scan_kernel<kThreads, T>), 1, kThreads, 0, stream, buffers, queries,
                 call.rule == RankingRule::kListwise && call.has(kBatchShift));
    XRISK_LAUNCH((ranking_gather_kernel<T, State>), grid, kThreads, 0, stream, access, buffers);
    cudaError_t status = cudaSuccess;
    if (call.state != nullptr) {
      status = launch_moving_average(plan.update, plan.shared, plan.shared_bytes, stream);
    }
    if (status == cudaSuccess && keeps) {
      status = launch_moving_average(plan.thresholds, plan.shared, plan.shared_bytes, stream);
    }
    if (status == cudaSuccess && keeps) {
      status = launch_moving_average(plan.curvatures, plan.shared, plan.shared_bytes, stream);
    }
    if (status != cudaSuccess) return status;
    visit_kind(call.surrogate, [&](auto kind) {
      XRISK_LAUNCH((ranking_finish_kernel<kThreads, decltype(kind)::value, T, State>), grid,
                   kThreads, 0, stream, access, buffers);
    });
  }
  if (call.mean_value != nullptr) {
    XRISK_LAUNCH((ranking_mean_kernel<kThreads, T>), 1, kThreads, 0, stream,
                 static_cast<const T*>(call.values), queries, call.mean_value);
  }
  return cudaGetLastError();
}

}  // namespace xrisk::cuda
