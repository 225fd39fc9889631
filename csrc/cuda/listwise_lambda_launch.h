// Launches of cuda/listwise_lambda.h, and the memory that they take.
#pragma once

#include <algorithm>

#include "cuda/listwise_lambda.h"

namespace xrisk::cuda {

template <class T>
class LambdaListwise {
 public:
  static constexpr int kThreads = 256;
  static constexpr int kListThreads = kNearListThreads, kEntries = kNearEntries;
  static constexpr int kChunk = 256;  // ranks

  // From shapes alone, as NearListwise; about 120 bytes an item.
  static bool applies(const ListwiseStep<T>& call) {
    constexpr int64_t kMostLists = 65535;
    return call.options.loss == ListLoss::kLambdaRank && call.lists > 0 &&
           call.length >= call.near_from && call.lists <= kMostLists &&
           call.lists * call.length <= kMostNearEntries;
  }

  LambdaListwise(const ListwiseStep<T>& call, void* workspace) : call_(call) {
    Carver carver(workspace);
    const int64_t q = call.lists, cells = q * call.length;
    NearLists<T>& near = lists_.near;
    near.lists = carver.take<NearList>(q);
    near.scale = carver.take<double>(1);
    for (int32_t** array : {&near.item_live, &near.anchor_live, &lists_.live}) {
      *array = carver.take<int32_t>(q);
    }
    for (T** array : {&near.space.scores, &near.space.relevance, &near.space.weights, &near.anchors,
                      &near.anchor_weights}) {
      *array = carver.take<T>(cells);
    }
    for (int32_t** array : {&near.space.places, &near.anchor_places, &near.level_of}) {
      *array = carver.take<int32_t>(cells);
    }
    lists_.chunks = (call.length + kChunk - 1) / kChunk;
    ideal_parts_ = (call.length + kThreads - 1) / kThreads;
    near.partial = carver.take<double>(q * lists_.chunks);
    near.ideal = carver.take<double>(q * ideal_parts_);
    lists_.edges = carver.take<ChunkEdges>(q * lists_.chunks);
    lists_.sums =
        carver.take<double>(q * lists_.chunks * 4 * kNearLevels * int64_t{LambdaFit<T>::kRows});
    order_.lay_out(carver, call.length, static_cast<int>(q), 1, false, {false, false},
                   Tiles<128, 1>());
    bytes_ = carver.used();
  }

  size_t bytes() const { return bytes_; }
  NearlyLinear lists() const { return {nullptr, lists_.live}; }

  // Up to which lists are for this, and their order.
  cudaError_t prepare(cudaStream_t stream) {
    const NearLists<T>& near = lists_.near;
    const unsigned lists = static_cast<unsigned>(call_.lists);
    const dim3 grid(static_cast<unsigned>(ideal_parts_), lists);
    XRISK_LAUNCH((near_gather_kernel<kListThreads, kEntries, T>), lists, kListThreads, 0, stream,
                 call_, near);
    XRISK_RETURN_IF_ERROR(cudaGetLastError());
    XRISK_RETURN_IF_ERROR(sort(near.space.relevance, stream));
    XRISK_LAUNCH((near_levels_kernel<kListThreads, kEntries, T>), lists, kListThreads, 0, stream,
                 order_.table, near);
    XRISK_LAUNCH((near_ideal_kernel<kThreads, T>), grid, kThreads, 0, stream, order_.table,
                 call_.options.top_k, near);
    XRISK_RETURN_IF_ERROR(cudaGetLastError());
    XRISK_RETURN_IF_ERROR(sort(near.anchors, stream));
    lists_.order = order_.table.payloads;
    XRISK_LAUNCH((lambda_live_kernel<kThreads, T>), (lists + kThreads - 1) / kThreads, kThreads, 0,
                 stream, call_, lists_);
    return cudaGetLastError();
  }

  // Values, masses and gradients of those lists.
  cudaError_t run(double* masses, cudaStream_t stream) {
    using Fit = ScanFit<LambdaFit<T>::kTerms>;
    LambdaFit<T> fit;
    std::copy(Fit::kSigma, Fit::kSigma + fit.kTerms, fit.sigma);
    std::copy(Fit::kSoftplus, Fit::kSoftplus + fit.kTerms, fit.softplus);
    const unsigned lists = static_cast<unsigned>(call_.lists);
    const dim3 chunks(static_cast<unsigned>(lists_.chunks), lists);
    XRISK_LAUNCH((lambda_chunk_kernel<kChunk, T>), chunks, kChunk, 0, stream, call_, lists_);
    XRISK_LAUNCH((lambda_scan_kernel<kChunk, T>), dim3(2 * kNearLevels, lists), 32, 0, stream,
                 lists_);
    XRISK_LAUNCH((lambda_target_kernel<kChunk, T>), chunks, kChunk, 0, stream, call_, lists_, fit,
                 ideal_parts_);
    XRISK_LAUNCH((lambda_value_kernel<kThreads, T>), lists, kThreads, 0, stream, call_, lists_,
                 int64_t{kChunk}, masses);
    return cudaGetLastError();
  }

 private:
  cudaError_t sort(const T* values, cudaStream_t stream) {
    return sort_lists(order_, values, call_.length, lists_.near.item_live, stream);
  }

  const ListwiseStep<T>& call_;
  LambdaLists<T> lists_{};
  TableMemory<T, T> order_;  // of the items by relevance, then by rank
  int64_t ideal_parts_ = 0;
  size_t bytes_ = 0;
};

}  // namespace xrisk::cuda
