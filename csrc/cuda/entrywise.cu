#include "cuda/entrywise.h"

#include "core/cross_entropy.h"
#include "cuda/block.h"
#include "cuda/platform.h"

namespace xrisk::cuda {
namespace {

// What an entry counts as: weight 0 is not looked at, be its score NaN.
template <class T>
struct Entry {
  double weight;
  double score;
  bool positive;
};

template <class T>
__device__ __forceinline__ Entry<T> entry_of(const LabelledEntries<T>& in, int64_t k) {
  const double w = in.weights == nullptr ? 1.0 : static_cast<double>(in.weights[k]);
  return {w, w > 0.0 ? static_cast<double>(in.scores[k]) : 0.0, in.positive[k] != 0};
}

__device__ __forceinline__ double quiet_nan() { return nan(""); }

template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock) auc_margin_kernel(AucMarginStep<T> call) {
  const LabelledEntries<T> in = call.entries;
  const int label = static_cast<int>(blockIdx.x);
  const double a = call.a[label], b = call.b[label];
  ClassMoments own;
  for (int64_t row = threadIdx.x; row < in.batch; row += kBlock) {
    const Entry<T> entry = entry_of(in, row * in.labels + label);
    const double d = entry.score - (entry.positive ? a : b);
    const double moments[3] = {entry.weight, entry.weight * d, entry.weight * d * d};
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      own.positive[k] += entry.positive ? moments[k] : 0.0;
      own.negative[k] += entry.positive ? 0.0 : moments[k];
    }
  }
  ClassMoments sums;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    sums.positive[k] = block_sum<kBlock>(own.positive[k]);
    sums.negative[k] = block_sum<kBlock>(own.negative[k]);
  }
  AucMarginTerms t = auc_margin_terms(call.kind, sums, a, b, call.alpha[label], call.margin,
                                      call.priors == nullptr ? -1.0 : call.priors[label]);
  if (!is_finite(t.value)) {
    t.value = t.by_a = t.by_b = t.by_alpha = t.positive_scale = t.negative_scale = quiet_nan();
  }
  if (threadIdx.x == 0) {
    call.values[label] = static_cast<T>(t.value);
    call.by_parameters[label] = static_cast<T>(call.share * t.by_a);
    call.by_parameters[in.labels + label] = static_cast<T>(call.share * t.by_b);
    call.by_parameters[2 * in.labels + label] = static_cast<T>(call.share * t.by_alpha);
  }
  if (call.gradient == nullptr) return;
  for (int64_t row = threadIdx.x; row < in.batch; row += kBlock) {
    const int64_t k = row * in.labels + label;
    const Entry<T> entry = entry_of(in, k);
    const double scale = call.share * (entry.positive ? t.positive_scale : t.negative_scale);
    const double centre = entry.positive ? t.positive_centre : t.negative_centre;
    // not 0 * inf: a label that has nothing to contrast is not looked at
    call.gradient[k] =
        scale == 0.0 ? T(0) : static_cast<T>(entry.weight * scale * (entry.score - centre));
  }
}

template <int kBlock, class T>
__global__ void __launch_bounds__(kBlock) cross_entropy_kernel(CrossEntropyStep<T> call) {
  const LabelledEntries<T> in = call.entries;
  const int label = static_cast<int>(blockIdx.x);
  const auto of_class = [&](const double* pair, int side, T otherwise) {
    return pair == nullptr ? otherwise : static_cast<T>(pair[side * in.labels + label]);
  };
  const T weight_down = of_class(call.class_weights, 0, T(1));
  const T weight_up = of_class(call.class_weights, 1, T(1));
  const T margin_down = of_class(call.margins, 0, T(0));
  const T margin_up = of_class(call.margins, 1, T(0));
  const T scale = static_cast<T>(call.scale), focus = static_cast<T>(call.focus);
  const auto loss_of = [&](const Entry<T>& entry, T& value, T& slope) {
    cross_entropy<T>(static_cast<T>(entry.score), entry.positive ? T(1) : T(-1),
                     static_cast<T>(entry.weight) * (entry.positive ? weight_up : weight_down),
                     entry.positive ? margin_up : margin_down, scale, focus, value, slope);
  };
  double weight = 0.0, loss = 0.0;
  for (int64_t row = threadIdx.x; row < in.batch; row += kBlock) {
    const Entry<T> entry = entry_of(in, row * in.labels + label);
    T value, slope;
    loss_of(entry, value, slope);
    weight += entry.weight;
    loss += static_cast<double>(value);
  }
  weight = block_sum<kBlock>(weight);
  loss = block_sum<kBlock>(loss);
  double mean = weight > 0.0 ? loss / weight : 0.0;
  if (!is_finite(mean)) mean = quiet_nan();
  if (threadIdx.x == 0) call.values[label] = static_cast<T>(mean);
  if (call.gradient == nullptr) return;
  const T factor = static_cast<T>(weight > 0.0 ? call.share / weight : 0.0);
  for (int64_t row = threadIdx.x; row < in.batch; row += kBlock) {
    const int64_t k = row * in.labels + label;
    T value, slope;
    loss_of(entry_of(in, k), value, slope);
    call.gradient[k] = mean == mean ? slope * factor : static_cast<T>(mean);
  }
}

}  // namespace

template <class T>
cudaError_t launch_auc_margin_step(const AucMarginStep<T>& call, cudaStream_t stream) {
  XRISK_LAUNCH((auc_margin_kernel<kEntrywiseThreads, T>),
               static_cast<unsigned>(call.entries.labels), kEntrywiseThreads, 0, stream, call);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_cross_entropy_step(const CrossEntropyStep<T>& call, cudaStream_t stream) {
  XRISK_LAUNCH((cross_entropy_kernel<kEntrywiseThreads, T>),
               static_cast<unsigned>(call.entries.labels), kEntrywiseThreads, 0, stream, call);
  return cudaGetLastError();
}

template cudaError_t launch_auc_margin_step(const AucMarginStep<float>&, cudaStream_t);
template cudaError_t launch_auc_margin_step(const AucMarginStep<double>&, cudaStream_t);
template cudaError_t launch_cross_entropy_step(const CrossEntropyStep<float>&, cudaStream_t);
template cudaError_t launch_cross_entropy_step(const CrossEntropyStep<double>&, cudaStream_t);

}  // namespace xrisk::cuda
