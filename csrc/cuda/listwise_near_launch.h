// Launches of cuda/listwise_near.h, and the memory that they take.
#pragma once

#include <optional>

#include "cuda/listwise_near.h"

namespace xrisk::cuda {

template <class T>
class NearListwise {
 public:
  static constexpr int kThreads = 256;
  static constexpr int kListThreads = kNearListThreads, kEntries = kNearEntries;

  // From shapes alone: the crossover call.near_from, and how much memory it may take, about 100
  // bytes an item, 12 more for each level of RankNet.
  static bool applies(const ListwiseStep<T>& call) {
    const int64_t channels = call.options.loss == ListLoss::kRankNet ? kNearPairs : 1;
    return is_near_list_loss(call.options.loss) && call.lists > 0 &&
           call.length >= call.near_from && smooth_fits(call.lists, call.lists * channels) &&
           call.lists * call.length * channels <= kMostNearEntries;
  }

  NearListwise(const ListwiseStep<T>& call, void* workspace) : call_(call) {
    Carver carver(workspace);
    const int64_t q = call.lists, cells = q * call.length;
    const bool pairs = ranks_pairs(), two = two_classes();
    near_.lists = carver.take<NearList>(q);
    near_.scale = carver.take<double>(1);
    near_.item_live = carver.take<int32_t>(q);
    near_.anchor_live = carver.take<int32_t>(q);
    for (T** array : {&near_.space.scores, &near_.space.relevance, &near_.space.weights,
                      &near_.anchors, &near_.anchor_weights, &near_.columns}) {
      *array = carver.take<T>(cells);
    }
    near_.space.places = carver.take<int32_t>(cells);
    near_.anchor_places = carver.take<int32_t>(cells);
    near_.level_of = carver.take<int32_t>(pairs ? cells : 0);
    near_.pair_weights = carver.take<T>(pairs ? cells * kNearPairs : 0);
    near_.weights = carver.take<double>(pairs ? cells * kNearPairs : cells);
    near_.sums = carver.take<double>(cells);
    near_.slopes = carver.take<double>(cells);
    for (double** array : {&near_.own_sums, &near_.own_slopes, &near_.positive_weights}) {
      *array = carver.take<double>(two ? cells : 0);
    }
    near_.own_columns = carver.take<T>(two ? cells : 0);
    blocks_ = (call.length + kThreads - 1) / kThreads;
    near_.partial = carver.take<double>(q * blocks_);
    near_.ideal = carver.take<double>(q * blocks_);
    if (sorts()) {
      order_.lay_out(carver, call.length, static_cast<int>(q), 1, false, {false, false},
                     Tiles<128, 1>());
    }
    make_problems();
    void* rest = workspace == nullptr ? nullptr : static_cast<char*>(workspace) + carver.used();
    size_t smooth_bytes;
    smooth_.emplace(all_, all_.items, 0, rest, smooth_bytes, DefaultSmooth());
    bytes_ = carver.used() + smooth_bytes;
  }

  size_t bytes() const { return bytes_; }
  // Lists whose plan has no bins are left out.
  const SmoothBins* plans() const { return smooth_->plans; }
  NearlyLinear lists() const { return {plans(), nullptr}; }

  // Up to the plans.
  cudaError_t prepare(cudaStream_t stream) {
    const unsigned lists = static_cast<unsigned>(call_.lists);
    XRISK_LAUNCH((near_gather_kernel<kListThreads, kEntries, T>), lists, kListThreads, 0, stream,
                 call_, near_);
    XRISK_RETURN_IF_ERROR(cudaGetLastError());
    if (sorts()) {
      XRISK_RETURN_IF_ERROR(
          sort_lists(order_, near_.space.relevance, call_.length, near_.item_live, stream));
    }
    if (ranks_pairs()) {
      XRISK_LAUNCH((near_levels_kernel<kListThreads, kEntries, T>), lists, kListThreads, 0, stream,
                   order_.table, near_);
      XRISK_LAUNCH((near_level_weights_kernel<T>), grid(), kThreads, 0, stream, call_, near_);
    } else if (sorts()) {
      XRISK_LAUNCH((near_ideal_kernel<kThreads, T>), grid(), kThreads, 0, stream, order_.table,
                   int64_t{0}, near_);
    }
    return launch_smooth_plan<DefaultSmooth>(all_, all_.anchors, true, *smooth_, stream);
  }

  // Values, masses and gradients of the lists with bins.
  cudaError_t run(double* masses, cudaStream_t stream) {
    XRISK_RETURN_IF_ERROR(rows(all_, near_.sums, near_.slopes, stream));
    if (two_classes()) {
      XRISK_RETURN_IF_ERROR(rows(own_, near_.own_sums, near_.own_slopes, stream));
    }
    XRISK_LAUNCH((near_rule_kernel<kThreads, T>), grid(), kThreads, 0, stream, call_, plans(),
                 near_);
    XRISK_LAUNCH((near_value_kernel<kThreads, T>), static_cast<unsigned>(call_.lists), kThreads, 0,
                 stream, call_, plans(), near_, blocks_, masses);
    XRISK_RETURN_IF_ERROR(cudaGetLastError());
    if (call_.gradient == nullptr) return cudaSuccess;
    XRISK_RETURN_IF_ERROR(columns(all_, near_.weights, near_.columns, stream));
    if (two_classes()) {
      XRISK_RETURN_IF_ERROR(columns(own_, near_.positive_weights, near_.own_columns, stream));
    }
    XRISK_LAUNCH((near_item_gradient_kernel<T>), grid(), kThreads, 0, stream, call_, plans(),
                 near_);
    XRISK_LAUNCH((near_anchor_gradient_kernel<T>), grid(), kThreads, 0, stream, call_, plans(),
                 near_);
    return cudaGetLastError();
  }

 private:
  bool ranks_pairs() const { return call_.options.loss == ListLoss::kRankNet; }
  bool two_classes() const { return call_.options.loss == ListLoss::kSmoothAP; }
  bool sorts() const { return ranks_pairs() || call_.options.loss == ListLoss::kApproxNDCG; }
  dim3 grid() const {
    return dim3(static_cast<unsigned>(blocks_), static_cast<unsigned>(call_.lists));
  }

  void make_problems() {
    all_.surrogate = ranks_pairs() ? Surrogate::kLogistic : Surrogate::kSigmoid;
    all_.scale = near_.scale;
    all_.segments = static_cast<int>(call_.lists);
    all_.channels = ranks_pairs() ? kNearPairs : 1;
    all_.anchors = {near_.anchors, nullptr, call_.length, near_.anchor_live};
    all_.items = {near_.space.scores, ranks_pairs() ? near_.pair_weights : near_.space.weights,
                  call_.length, near_.item_live};
    own_ = all_;
    own_.items = {near_.anchors, near_.anchor_weights, call_.length, near_.anchor_live};
  }

  cudaError_t rows(const PairProblem<T>& problem, double* sums, double* slopes,
                   cudaStream_t stream) const {
    XRISK_RETURN_IF_ERROR((launch_smooth_local<DefaultSmooth>(
        problem, problem.items, problem.items.weights, true, *smooth_, stream)));
    if (!ranks_pairs()) {
      return launch_smooth_rows<DefaultSmooth>(problem, *smooth_, sums, slopes, stream);
    }
    const double* local = smooth_->local;
    XRISK_LAUNCH((near_level_rows_kernel<T>), grid(), kThreads, 0, stream, plans(), local,
                 smooth_->max_bins, call_.length, near_);
    return cudaGetLastError();
  }

  cudaError_t columns(const PairProblem<T>& problem, const double* weights, T* out,
                      cudaStream_t stream) const {
    // the same plans, with the items as targets
    XRISK_RETURN_IF_ERROR(
        launch_smooth_plan<DefaultSmooth>(all_, problem.items, false, *smooth_, stream));
    XRISK_RETURN_IF_ERROR((launch_smooth_local<DefaultSmooth>(problem, problem.anchors, weights,
                                                              false, *smooth_, stream)));
    return launch_smooth_columns<DefaultSmooth>(problem, *smooth_, out, stream);
  }

  const ListwiseStep<T>& call_;
  NearLists<T> near_{};
  TableMemory<T, T> order_;   // of the items by relevance
  PairProblem<T> all_, own_;  // anchors against all items, and against themselves
  std::optional<SmoothMemory<T>> smooth_;
  int64_t blocks_ = 0;
  size_t bytes_ = 0;
};

}  // namespace xrisk::cuda
