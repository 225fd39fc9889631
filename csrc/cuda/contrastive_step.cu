// Composes the contrastive step on one stream: embeddings, similarities and their sums, the
// averages, the rule, the gradients.
#include <algorithm>

#include "cuda/contrastive_step_kernels.h"
#include "cuda/half_step_similarities.h"
#include "cuda/moving_average.h"
#include "cuda/workspace.h"

namespace xrisk::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kFewEntries = 512;

unsigned blocks_for(int64_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

template <class T, class State>
MovingAverage<State, double, double> average_of(const ContrastiveStep<T, State>& call, State* state,
                                                const StepSpace<T>& space) {
  MovingAverage<State, double, double> average;
  average.state = state;
  average.rows = call.rows;
  average.index = space.index;
  average.entries = call.batch;
  average.segments = call.bimodal ? 2 : 1;
  average.gamma = call.gamma;
  return average;
}

template <class T, class State>
StepSpace<T> carve(const ContrastiveStep<T, State>& call, Carver& carver) {
  const int64_t batch = call.batch, anchors = 2 * batch;
  StepSpace<T> space{};
  for (double** each : {&space.norms, &space.temperatures, &space.log_means, &space.log_u,
                        &space.values, &space.slopes, &space.totals, &space.squares, &space.steps,
                        &space.sums.masses, &space.sums.moments}) {
    *each = carver.take<double>(anchors);
  }
  space.positives = carver.take<double>(batch);
  space.shared = carver.take<double>(batch);
  space.constants = carver.take<double>(3);
  space.partial = carver.take<double>(2 * blocks_for(batch));
  space.not_finite = carver.take<int>(1);
  space.done = carver.take<unsigned>(1);
  space.seen = carver.take<AnchorExponents>(anchors);
  space.index = carver.take<int64_t>(anchors);
  space.exclude = carver.take<int64_t>(2 * anchors);
  for (T** each :
       {&space.inverses, &space.shifts, &space.weights, &space.pulls, &space.sums.peaks}) {
    *each = carver.take<T>(anchors);
  }
  return space;
}

template <class T, class State>
size_t average_bytes(const ContrastiveStep<T, State>& call) {
  return moving_average_workspace_bytes(average_of(call, call.state, StepSpace<T>{}));
}

// `All`: PlainSimilarities, HalfStepSimilarities or SmallStepSimilarities.
template <class T, class State, class All>
class Step {
 public:
  using Lent = typename All::Lent;

  // Without products: to learn what it takes of the carver.
  Step(const ContrastiveStep<T, State>& call, const Lent* products, Carver& carver,
       cudaStream_t stream)
      : call_(call),
        products_(products),
        stream_(stream),
        step_{call, carve(call, carver), 0, 0.0, 0.0, 0.0},
        average_bytes_(average_bytes(call)),
        average_space_(carver.take<char>(static_cast<int64_t>(average_bytes_))),
        similarities_(call, step_.space.exclude, carver) {
    step_.anchors = 2 * call.batch;
    const double rest = static_cast<double>(call.batch - 1);
    step_.count = call.bimodal ? rest : 2 * rest;
    step_.log_count = std::log(step_.count);
    step_.share = 1.0 / static_cast<double>(call.bimodal ? 2 * call.batch : call.batch);
  }

  cudaError_t run() {
    const StepSpace<T>& space = step_.space;
    similarities_.embed(space.norms, space.positives, PrepareAnchor<T, State>{step_}, stream_);
    cudaError_t error = similarities_.sums(space.inverses, space.sums, *products_, stream_);
    if (error != cudaSuccess) return error;
    if (call_.batch <= std::min<int64_t>(call_.few_entries, kFewEntries)) {
      MovingAverage<State, double, double> all = average_of(call_, call_.state, space);
      all.log_domain = true;
      all.rounded = false;
      XRISK_LAUNCH_CHAINED((few_kernel<kFewEntries, T, State>), 1, kFewEntries, stream_, step_,
                           all);
    } else {
      error = many();
    }
    if (error != cudaSuccess) return error;
    if (call_.temperatures != nullptr && call_.write_state) error = step_temperatures();
    if (error != cudaSuccess || call_.gradient == nullptr) return error;
    const PairWeights<T> weights{space.inverses, space.sums.peaks, space.shifts, space.weights};
    return similarities_.gradients(weights, space.pulls, space.norms, *products_, stream_);
  }

 private:
  // Between the sums and the gradients, but for individual temperatures, if entries are many.
  cudaError_t many() {
    const bool shared = !call_.bimodal && !call_.per_view, averages = call_.state != nullptr;
    const auto phase = [&](Phase which) {
      XRISK_LAUNCH_CHAINED((entries_kernel<kThreads, T, State>), blocks_for(call_.batch), kThreads,
                           stream_, step_, which, shared);
    };
    XRISK_LAUNCH_CHAINED((observe_kernel<T, State>), blocks_for(step_.anchors), kThreads, stream_,
                         step_);
    phase(averages ? Phase::kBefore : Phase::kBoth);
    if (averages) {
      const cudaError_t error = average();
      if (error != cudaSuccess) return error;
      phase(Phase::kAfter);
    }
    return cudaGetLastError();
  }

  // `stored` is not `observed`: entries of one id read each other's observations.
  cudaError_t update(State* state, const double* observed, const double* gamma, bool log_domain,
                     bool write, double* stored) {
    MovingAverage<State, double, double> average = average_of(call_, state, step_.space);
    average.values = observed;
    average.gamma = gamma;
    average.log_domain = log_domain;
    average.rounded = !log_domain;  // as on the CPU
    average.write = write;
    average.stored = stored;
    return launch_moving_average(average, average_space_, average_bytes_, stream_);
  }

  cudaError_t average() {
    const StepSpace<T>& space = step_.space;
    if (call_.bimodal) {
      return update(call_.state, space.log_means, call_.gamma, true, call_.write_state,
                    space.log_u);
    }
    for (int64_t view = 0; view < 2 && call_.per_view; ++view) {
      const cudaError_t error = update(call_.state, space.log_means + view * call_.batch,
                                       call_.gamma, true, false, space.log_u + view * call_.batch);
      if (error != cudaSuccess) return error;
    }
    // the mean over the views of the blends is the blend of their mean
    return update(call_.state, space.shared, call_.gamma, true, call_.write_state,
                  call_.per_view ? space.slopes : space.log_u);
  }

  // Entries of one id read the same temperature and write the same.
  cudaError_t step_temperatures() {
    const StepSpace<T>& space = step_.space;
    XRISK_LAUNCH((slope_kernel<T, State>), blocks_for(step_.anchors), kThreads, 0, stream_, step_);
    cudaError_t error =
        update(call_.momenta, space.slopes, space.constants, false, true, space.totals);
    if (error != cudaSuccess) return error;
    if (call_.second_beta > 0.0) {
      const int64_t size = (call_.bimodal ? 2 : 1) * call_.rows;
      error = update(call_.momenta + size, space.squares, space.constants + 2, false, true,
                     space.log_u);
      if (error != cudaSuccess) return error;
      error = update(call_.momenta + 2 * size, space.steps, space.constants + 1, false, true,
                     space.log_means);
      if (error != cudaSuccess) return error;
    }
    XRISK_LAUNCH((temperature_kernel<T, State>), blocks_for(step_.anchors), kThreads, 0, stream_,
                 step_);
    return update(call_.temperatures, space.values, space.constants + 1, false, true, space.totals);
  }

  const ContrastiveStep<T, State>& call_;
  const Lent* products_;
  cudaStream_t stream_;
  StepAnchors<T, State> step_;
  size_t average_bytes_;
  void* average_space_;
  All similarities_;
};

template <class All, class T, class State>
cudaError_t launch_step(const ContrastiveStep<T, State>& call, const typename All::Lent& products,
                        void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (call.batch < 2) {
    const size_t bytes = static_cast<size_t>(2 * call.batch * call.width) * sizeof(T);
    cudaError_t error = cudaMemsetAsync(call.value, 0, sizeof(T), stream);
    if (error == cudaSuccess) error = cudaMemsetAsync(call.temperature_slope, 0, sizeof(T), stream);
    if (error != cudaSuccess || call.gradient == nullptr || bytes == 0) return error;
    return cudaMemsetAsync(call.gradient, 0, bytes, stream);
  }
  if (workspace_bytes < contrastive_step_workspace_bytes(call)) return cudaErrorInvalidValue;
  Carver carver(workspace);
  return Step<T, State, All>(call, &products, carver, stream).run();
}

}  // namespace

template <class T, class State>
size_t contrastive_step_workspace_bytes(const ContrastiveStep<T, State>& call) {
  if (call.batch < 2) return 0;
  Carver carver(nullptr);
  if constexpr (std::is_same_v<T, float>) {
    if (SmallStepSimilarities::fits(call)) {
      Step<T, State, SmallStepSimilarities>(call, nullptr, carver, nullptr);
      return carver.used();
    }
    if (call.half_view1 != nullptr) {
      Step<T, State, HalfStepSimilarities>(call, nullptr, carver, nullptr);
      return carver.used();
    }
  }
  Step<T, State, PlainSimilarities<T>>(call, nullptr, carver, nullptr);
  return carver.used();
}

template <class T, class State>
cudaError_t launch_contrastive_step(const ContrastiveStep<T, State>& call,
                                    const Products<T>& products, void* workspace,
                                    size_t workspace_bytes, cudaStream_t stream) {
  return launch_step<PlainSimilarities<T>>(call, products, workspace, workspace_bytes, stream);
}

template <class State>
cudaError_t launch_contrastive_step(const ContrastiveStep<float, State>& call,
                                    const HalfProducts& products, void* workspace,
                                    size_t workspace_bytes, cudaStream_t stream) {
  if (SmallStepSimilarities::fits(call)) {
    return launch_step<SmallStepSimilarities>(call, products, workspace, workspace_bytes, stream);
  }
  return launch_step<HalfStepSimilarities>(call, products, workspace, workspace_bytes, stream);
}

#define XRISK_INSTANTIATE(T, State)                                                   \
  template size_t contrastive_step_workspace_bytes(const ContrastiveStep<T, State>&); \
  template cudaError_t launch_contrastive_step(const ContrastiveStep<T, State>&,      \
                                               const Products<T>&, void*, size_t, cudaStream_t);
XRISK_INSTANTIATE(float, float)
XRISK_INSTANTIATE(float, double)
XRISK_INSTANTIATE(double, float)
XRISK_INSTANTIATE(double, double)
#undef XRISK_INSTANTIATE
template cudaError_t launch_contrastive_step(const ContrastiveStep<float, float>&,
                                             const HalfProducts&, void*, size_t, cudaStream_t);
template cudaError_t launch_contrastive_step(const ContrastiveStep<float, double>&,
                                             const HalfProducts&, void*, size_t, cudaStream_t);

}  // namespace xrisk::cuda
