// Schedules the direct kernels (cpu/direct_inl.h) over anchors and items.
#include <algorithm>

#include "cpu/direct.h"
#include "cpu/flush_denormals.h"
#include "cpu/pairwise.h"

namespace xrisk::cpu {

// Peaked sigmoids are full of denormals, which add nothing there. Elsewhere a difference of scores
// or a log sum may be one and matter.
static bool flushes(const PairTermParams& term) {
  return term.inverse_temperature == 0 &&
         (term.surrogate == Surrogate::kSigmoid || term.surrogate == Surrogate::kLogistic);
}

// Few anchors and many items: cut the items, too, and add the parts in order.
template <class T>
void direct_rows(DirectRows<T> call, int64_t anchors, Scratch& scratch, const Executor& executor,
                 bool tiny_is_zero) {
  const bool flushed = tiny_is_zero || flushes(call.term);
  constexpr int64_t kFewAnchors = 64, kItemGrain = 65536, kPairGrain = 1 << 17;
  const int64_t items = call.items.count, channels = call.items.channels;
  call.stride = anchors;
  if (items == 0) {
    std::fill(call.sums, call.sums + channels * anchors, 0.0);
    std::fill(call.slopes, call.slopes + channels * anchors, 0.0);
    return;
  }
  const auto kernel =
      call.term.above == Above::kNone ? kernels<T>().direct_rows : kernels<T>().threshold_rows;
  if (anchors < kFewAnchors && items > kItemGrain) {
    const int64_t parts = (items + kItemGrain - 1) / kItemGrain;
    const int64_t size = channels * anchors;
    double* partial = scratch.allocate<double>(2 * parts * size);
    executor.for_range(items, kItemGrain, [&](int64_t part, int64_t begin, int64_t end) {
      DirectRows<T> piece = call;
      piece.sums = partial + 2 * part * size;
      piece.slopes = piece.sums + size;
      const FlushDenormals flush(flushed);
      kernel(piece, 0, anchors, begin, end);
    });
    for (int64_t k = 0; k < size; ++k) {
      call.sums[k] = call.slopes[k] = 0.0;
      for (int64_t part = 0; part < parts; ++part) {
        call.sums[k] += partial[2 * part * size + k];
        call.slopes[k] += partial[(2 * part + 1) * size + k];
      }
    }
    return;
  }
  const int64_t grain = std::max<int64_t>(4, kPairGrain / items / 4 * 4);
  executor.for_range(anchors, grain, [&](int64_t, int64_t begin, int64_t end) {
    const FlushDenormals flush(flushed);
    kernel(call, begin, end, 0, items);
  });
}

template <class T>
void direct_columns(const DirectColumns<T>& call, const Executor& executor, bool tiny_is_zero) {
  const bool flushed = tiny_is_zero || flushes(call.term);
  constexpr int64_t kGroup = 64, kPairGrain = 1 << 17;
  const int64_t grain =
      std::max(kGroup, kPairGrain / std::max<int64_t>(1, call.anchor_count) / kGroup * kGroup);
  const auto kernel = call.term.above == Above::kNone ? kernels<T>().direct_columns
                                                      : kernels<T>().threshold_columns;
  executor.for_range(call.items.count, grain, [&](int64_t, int64_t begin, int64_t end) {
    const FlushDenormals flush(flushed);
    kernel(call, begin, end);
  });
}

namespace {

template <class T>
class DirectSums final : public PairwiseSums<T> {
 public:
  DirectSums(const PairwiseSpec& spec, Anchors<T> anchors, Scratch& scratch,
             const Executor& executor)
      : term_{spec.surrogate, spec.params, 0.0},
        anchors_(anchors),
        scratch_(scratch),
        executor_(executor) {}

  void rows(ItemPass<T>& pass, double* sums, double* slopes) override {
    DirectRows<T> call;
    call.term = term_;
    call.anchors = anchors_.scores;
    call.items = pass.items;
    call.sums = sums;
    call.slopes = slopes;
    direct_rows(call, anchors_.count, scratch_, executor_);
  }

  void columns(ItemPass<T>& pass, const double* anchor_weights, T* out) override {
    DirectColumns<T> call;
    call.term = term_;
    call.anchors = anchors_.scores;
    call.anchor_weights = anchor_weights;
    call.anchor_count = anchors_.count;
    call.items = pass.items;
    call.out = out;
    direct_columns(call, executor_);
  }

 private:
  PairTermParams term_;
  Anchors<T> anchors_;
  Scratch& scratch_;
  const Executor& executor_;
};

}  // namespace

template <class T>
std::unique_ptr<PairwiseSums<T>> make_direct_sums(const PairwiseSpec& spec, Anchors<T> anchors,
                                                  Scratch& scratch, const Executor& executor) {
  return std::make_unique<DirectSums<T>>(spec, anchors, scratch, executor);
}

#define XRISK_INSTANTIATE(T)                                                                  \
  template void direct_rows(DirectRows<T>, int64_t, Scratch&, const Executor&, bool);         \
  template void direct_columns(const DirectColumns<T>&, const Executor&, bool);               \
  template std::unique_ptr<PairwiseSums<T>> make_direct_sums(const PairwiseSpec&, Anchors<T>, \
                                                             Scratch&, const Executor&);
XRISK_INSTANTIATE(float)
XRISK_INSTANTIATE(double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
