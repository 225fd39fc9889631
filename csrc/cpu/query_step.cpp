#include "cpu/query_step.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace xrisk::cpu {
namespace {

constexpr int64_t kRowGrain = 128;  // queries of a task: a smaller one costs less than its start
constexpr int64_t kColumns = 64;    // of the embeddings, a task

template <class T, class State>
class Queries {
 public:
  Queries(const QueryStep<T, State>& call, const SimilaritySizes& sizes,
          const Products<T>& products, const Executor& executor)
      : call_(call),
        executor_(executor),
        batch_(call.batch),
        // what the sum over the keys is divided by, and its logarithm put back
        count_(static_cast<double>(
            call.targets == nullptr ? call.keys_count : std::max<int64_t>(call.keys_count - 1, 1))),
        share_(1.0 / static_cast<double>(call.batch)),
        sizes_(sizes),
        products_(products) {}

  QueryResult run() {
    embed();
    Similarities<T> problem;
    problem.x = embeddings_;
    problem.y = call_.keys;
    problem.rows = batch_;
    problem.columns = call_.keys_count;
    problem.width = call_.width;
    SimilaritySizes used = sizes_;
    if (call_.by_queries == nullptr && call_.by_keys == nullptr) used.store_bytes = 0;
    SimilarityBlocks<T> blocks(problem, used, products_, scratch_, executor_);
    if constexpr (std::is_same_v<T, float>) pack(blocks);

    T* inverses = scratch_.allocate<T>(batch_);
    std::fill(inverses, inverses + batch_, static_cast<T>(1.0 / call_.temperature));
    const ExpSums<T, double> sums = {scratch_.allocate<T>(batch_),
                                     scratch_.allocate<double>(batch_),
                                     scratch_.allocate<double>(batch_)};
    blocks.sums(inverses, sums, nullptr, nullptr);
    const PairWeights<T> weights = apply_rule(sums, inverses);
    if (call_.by_queries != nullptr || call_.by_keys != nullptr) {
      blocks.gradients(weights, nullptr, call_.by_queries, call_.by_keys);
      add_positives();
    }
    return result_;
  }

 private:
  const T* positive_of(int64_t i) const {
    return call_.targets == nullptr ? positives_ + i * call_.width
                                    : call_.keys + call_.targets[i] * call_.width;
  }

  void embed() {
    embeddings_ = call_.queries;
    positives_ = call_.positives;
    dots_ = scratch_.allocate<double>(batch_);
    T *out = nullptr, *positives_out = nullptr;
    double* positive_norms = nullptr;  // only NaN matters, and it is in the rows as well
    if (call_.normalize) {
      norms_ = scratch_.allocate<double>(batch_);
      embeddings_ = out = scratch_.allocate<T>(batch_ * call_.width);
      if (call_.targets == nullptr) {
        positive_norms = scratch_.allocate<double>(batch_);
        positives_ = positives_out = scratch_.allocate<T>(batch_ * call_.width);
      }
    }
    executor_.for_range(batch_, kRowGrain, [&](int64_t, int64_t begin, int64_t end) {
      const TileKernels<T>& kernels = tile_kernels<T>();
      const int64_t at = begin * call_.width, count = end - begin;
      if (out != nullptr) {
        kernels.normalize_rows(call_.queries + at, count, call_.width, true, out + at,
                               norms_ + begin);
      }
      if (positives_out != nullptr) {
        kernels.normalize_rows(call_.positives + at, count, call_.width, true, positives_out + at,
                               positive_norms + begin);
      }
      for (int64_t i = begin; i < end; ++i) {
        kernels.dots(embeddings_ + i * call_.width, positive_of(i), 1, call_.width, dots_ + i);
      }
    });
  }

  void pack(SimilarityBlocks<float>& blocks) {
    const Bfloat16Kernels* kernels = call_.bfloat16 ? bfloat16_kernels() : nullptr;
    if (kernels == nullptr) return;
    const auto packed = [&](const float* rows, int64_t count, const double* norms,
                            const Bfloat16Uses& uses) {
      const Bfloat16Source source{rows, nullptr, count, norms};
      return pack_bfloat16(*kernels, source, count, call_.width, uses, scratch_, executor_);
    };
    const PackedRows x =
        packed(call_.queries, batch_, norms_, {true, false, call_.by_keys != nullptr});
    const PackedRows y =
        packed(call_.keys, call_.keys_count, nullptr, {false, true, call_.by_queries != nullptr});
    if (x.whole && y.whole) blocks.use(*kernels, x.rows, y.rows);
  }

  // The value, and the weights of the pairs; what all pairs of a query weigh goes to pulls_.
  PairWeights<T> apply_rule(const ExpSums<T, double>& sums, const T* inverses) {
    auto* exponents = scratch_.allocate<AnchorExponents>(batch_);
    double* observed = scratch_.allocate<double>(batch_);
    for (int64_t i = 0; i < batch_; ++i) {
      exponents[i] = anchor_exponents(static_cast<double>(sums.peaks[i]), sums.masses[i],
                                      sums.moments[i], dots_[i], call_.temperature, count_);
      observed[i] = exponents[i].log_mean;
    }
    double* nu = scratch_.allocate<double>(batch_);
    if (call_.targets != nullptr) call_.state.update(0, batch_, observed, nu, executor_);

    InfoNce info_nce;
    info_nce.log_alpha = std::log(count_);
    ContrastiveOptions entropic;
    entropic.temperature_weighted = false;
    T* shifts = scratch_.allocate<T>(batch_);
    T* weights = scratch_.allocate<T>(batch_);
    pulls_ = scratch_.allocate<T>(batch_);
    for (int64_t i = 0; i < batch_; ++i) {
      const ContrastiveTerms terms =
          call_.targets == nullptr
              ? info_nce_rule(exponents[i], call_.temperature, info_nce)
              : contrastive_rule(exponents[i], nu[i], call_.temperature, entropic);
      const double gap = observed[i] - observed[i];  // NaN where a rule might lose one
      result_.value += terms.value + gap;
      result_.temperature_slope += terms.temperature_slope;
      shifts[i] = static_cast<T>(terms.shift);
      weights[i] = static_cast<T>(terms.weight * share_ / count_ + gap);
      pulls_[i] = static_cast<T>(-terms.total * share_ + gap);
    }
    result_.value *= share_;
    result_.temperature_slope *= share_;
    if (call_.targets != nullptr) result_.value += std::log(count_);
    return {inverses, sums.peaks, shifts, weights};
  }

  // The positive balances what all pairs of its query weigh.
  void add_positives() {
    const TileKernels<T>& kernels = tile_kernels<T>();
    const int64_t width = call_.width;
    if (call_.by_queries != nullptr) {
      executor_.for_range(batch_, kRowGrain, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          kernels.finish_gradients(embeddings_ + i * width, positive_of(i), pulls_ + i,
                                   norms_ == nullptr ? nullptr : norms_ + i, 1, width,
                                   call_.by_queries + i * width);
        }
      });
    }
    if (call_.by_keys == nullptr || call_.targets == nullptr) return;
    // by columns: queries of one class follow each other in their order
    executor_.for_range(width, kColumns, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = 0; i < batch_; ++i) {
        const T* x = embeddings_ + i * width;
        T* out = call_.by_keys + call_.targets[i] * width;
        for (int64_t d = begin; d < end; ++d) out[d] += pulls_[i] * x[d];
      }
    });
  }

  const QueryStep<T, State>& call_;
  const Executor& executor_;
  const int64_t batch_;
  const double count_, share_;
  const SimilaritySizes sizes_;
  const Products<T>& products_;
  Scratch scratch_;
  const T *embeddings_ = nullptr, *positives_ = nullptr;
  double *norms_ = nullptr, *dots_ = nullptr;  // dots: of queries and positives
  T* pulls_ = nullptr;
  QueryResult result_;
};

}  // namespace

template <class T, class State>
QueryResult query_step(const QueryStep<T, State>& call, const SimilaritySizes& sizes,
                       const Products<T>& products, const Executor& executor) {
  if (call.batch == 0) {
    if (call.by_keys != nullptr) {
      std::fill(call.by_keys, call.by_keys + call.keys_count * call.width, T(0));
    }
    return {};
  }
  return Queries<T, State>(call, sizes, products, executor).run();
}

#define XRISK_INSTANTIATE(T, State)                                                   \
  template QueryResult query_step(const QueryStep<T, State>&, const SimilaritySizes&, \
                                  const Products<T>&, const Executor&);
XRISK_INSTANTIATE(float, float)
XRISK_INSTANTIATE(float, double)
XRISK_INSTANTIATE(double, float)
XRISK_INSTANTIATE(double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
