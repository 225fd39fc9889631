#include "cpu/contrastive_step.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>

#include "cpu/moving_average.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kRowGrain = 32;      // embeddings of a task
constexpr int64_t kAnchorGrain = 128;  // anchors of a task of the rule

// The anchors of view1 come first, [0, B), then those of view2, [B, 2B).
template <class T, class State>
class Step {
 public:
  Step(const ContrastiveStep<T, State>& call, const SimilaritySizes& sizes,
       const Products<T>& products, const Executor& executor)
      : call_(call),
        executor_(executor),
        batch_(call.batch),
        anchors_(2 * call.batch),
        sides_(call.bimodal ? 2 : 1),
        count_(static_cast<double>(call.bimodal ? call.batch - 1 : 2 * (call.batch - 1))),
        // of an anchor in the objective
        share_(1.0 / static_cast<double>(call.bimodal ? 2 * call.batch : call.batch)) {
    norms_ = scratch_.allocate<double>(anchors_);
    positives_ = scratch_.allocate<double>(batch_);
    temperatures_ = scratch_.allocate<double>(anchors_);
    log_means_ = scratch_.allocate<double>(anchors_);
    log_u_ = scratch_.allocate<double>(anchors_);
    slopes_ = scratch_.allocate<double>(anchors_);
    exponents_ = scratch_.allocate<AnchorExponents>(anchors_);
    inverses_ = scratch_.allocate<T>(anchors_);
    sums_ = {scratch_.allocate<T>(anchors_), scratch_.allocate<double>(anchors_),
             scratch_.allocate<double>(anchors_)};
    SimilaritySizes used = sizes;
    if (call.gradient == nullptr) used.store_bytes = 0;  // nothing to keep similarities for
    blocks_.emplace(similarities(), used, products, scratch_, executor);
  }

  ContrastiveResult run() {
    if (!embed()) return not_a_number();
    choose_temperatures();
    sum_exponentials();
    if (!observe()) return not_a_number();
    average();
    return apply_rule();
  }

 private:
  Similarities<T> similarities() {
    Similarities<T> problem;
    problem.symmetric = !call_.bimodal;
    problem.x = call_.embeddings;
    problem.y = call_.bimodal ? call_.embeddings + batch_ * call_.width : call_.embeddings;
    problem.rows = problem.columns = call_.bimodal ? batch_ : anchors_;
    problem.width = call_.width;
    problem.exclusions = call_.bimodal ? 1 : 2;
    int64_t* exclude = scratch_.allocate<int64_t>(problem.rows * problem.exclusions);
    for (int64_t i = 0; i < problem.rows; ++i) {
      exclude[i * problem.exclusions] = i;
      if (!call_.bimodal) exclude[2 * i + 1] = (i + batch_) % anchors_;
    }
    problem.exclude = exclude;
    return problem;
  }

  ContrastiveResult not_a_number() const {
    if (call_.gradient != nullptr) {
      std::fill(call_.gradient, call_.gradient + anchors_ * call_.width, static_cast<T>(NAN));
    }
    return {NAN, NAN};
  }

  // Normalised embeddings and the similarities of the positive pairs; false: not finite.
  bool embed() {
    const TileKernels<T>& kernels = tile_kernels<T>();
    const int64_t width = call_.width;
    executor_.for_range(anchors_, kRowGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const bool first = i < batch_;
        const int64_t stop = first ? std::min(end, batch_) : end;
        const T* x = (first ? call_.view1 + i * width : call_.view2 + (i - batch_) * width);
        kernels.normalize_rows(x, stop - i, width, call_.normalize, call_.embeddings + i * width,
                               norms_ + i);
        i = stop;
      }
    });
    for (int64_t i = 0; i < anchors_; ++i) {
      if (!is_finite(norms_[i])) return false;
    }
    if constexpr (std::is_same_v<T, float>) pack();
    executor_.for_range(batch_, kRowGrain, [&](int64_t, int64_t begin, int64_t end) {
      kernels.dots(call_.embeddings + begin * width, call_.embeddings + (batch_ + begin) * width,
                   end - begin, width, positives_ + begin);
    });
    return true;
  }

  void pack() {
    const Bfloat16Kernels* kernels = call_.bfloat16 ? bfloat16_kernels() : nullptr;
    if (kernels == nullptr) return;
    const bool gradients = call_.gradient != nullptr;
    const double* norms = call_.normalize ? norms_ : nullptr;
    const auto packed = [&](const Bfloat16Source& source, int64_t count, const Bfloat16Uses& uses) {
      return pack_bfloat16(*kernels, source, count, call_.width, uses, scratch_, executor_);
    };
    if (!call_.bimodal) {
      const PackedRows both =
          packed({call_.view1, call_.view2, batch_, norms}, anchors_, {true, true, gradients});
      if (both.whole) blocks_->use(*kernels, both.rows, both.rows);
      return;
    }
    const PackedRows x =
        packed({call_.view1, nullptr, batch_, norms}, batch_, {true, false, gradients});
    const PackedRows y = packed({call_.view2, nullptr, batch_, norms ? norms + batch_ : nullptr},
                                batch_, {false, true, gradients});
    if (x.whole && y.whole) blocks_->use(*kernels, x.rows, y.rows);
  }

  int64_t sample_of(int64_t anchor) const { return anchor < batch_ ? anchor : anchor - batch_; }
  int64_t side_of(int64_t anchor) const { return call_.bimodal && anchor >= batch_ ? 1 : 0; }

  void choose_temperatures() {
    for (int64_t a = 0; a < anchors_; ++a) {
      temperatures_[a] = call_.temperature;
      if (call_.temperatures != nullptr) {
        const int64_t row = side_of(a) * call_.rows + call_.index[sample_of(a)];
        temperatures_[a] = static_cast<double>(call_.temperatures[row]);
      }
      inverses_[a] = static_cast<T>(1.0 / temperatures_[a]);
    }
  }

  void sum_exponentials() {
    const ExpSums<T, double> columns = sums_.from(batch_);
    blocks_->sums(inverses_, sums_, inverses_ + batch_, call_.bimodal ? &columns : nullptr);
  }

  // What the anchors see of their negatives; false: not finite.
  bool observe() {
    const bool relative = call_.bimodal || call_.relative;
    executor_.for_range(anchors_, kAnchorGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t a = begin; a < end; ++a) {
        const double offset = relative ? positives_[sample_of(a)] : 0.0;
        exponents_[a] = anchor_exponents(static_cast<double>(sums_.peaks[a]), sums_.masses[a],
                                         sums_.moments[a], offset, temperatures_[a], count_);
        log_means_[a] = exponents_[a].log_mean;
      }
    });
    double gap = 0.0;  // x - x: zero where x is finite
    for (int64_t a = 0; a < anchors_; ++a) {
      gap += (log_means_[a] - log_means_[a]) + (exponents_[a].mean - exponents_[a].mean);
    }
    return gap == 0.0;
  }

  void update(State* state, const double* observed, double gamma, bool log_domain, bool write,
              double* stored) {
    MovingAverage<State, double, double> average;
    average.state = state;
    average.rows = call_.rows;
    average.index = call_.index;
    average.values = observed;
    average.entries = batch_;
    average.gamma = &gamma;
    average.log_domain = log_domain;
    average.rounded =
        !log_domain;  // exp(x - log u) is bounded by what is observed, not by a rounded log
    average.write = write;
    average.stored = stored;
    Scratch scratch;
    moving_average_update(average, scratch, executor_);
  }

  // log u of every anchor, from log_means_ and the state.
  void average() {
    if (call_.bimodal) {
      std::copy(log_means_, log_means_ + anchors_, log_u_);
      for (int64_t side = 0; side < 2 && call_.state != nullptr; ++side) {
        update(call_.state + side * call_.rows, log_means_ + side * batch_, call_.gamma, true,
               call_.write_state, log_u_ + side * batch_);
      }
      return;
    }
    double* shared = scratch_.allocate<double>(batch_);
    executor_.for_range(batch_, kAnchorGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        shared[i] = log_mean_exp(log_means_[i], log_means_[batch_ + i]);
      }
    });
    if (call_.per_view) {
      std::copy(log_means_, log_means_ + anchors_, log_u_);
      if (call_.state == nullptr) return;
      for (int64_t view = 0; view < 2; ++view) {
        update(call_.state, log_means_ + view * batch_, call_.gamma, true, false,
               log_u_ + view * batch_);
      }
      // the mean over the views of the blends is the blend of their mean
      if (call_.write_state) update(call_.state, shared, call_.gamma, true, true, shared);
      return;
    }
    if (call_.state != nullptr) {
      update(call_.state, shared, call_.gamma, true, call_.write_state, shared);
    }
    std::copy(shared, shared + batch_, log_u_);
    std::copy(shared, shared + batch_, log_u_ + batch_);
  }

  ContrastiveResult apply_rule() {
    T* peaks = sums_.peaks;
    T* shifts = scratch_.allocate<T>(anchors_);
    T* weights = scratch_.allocate<T>(anchors_);
    double* values = scratch_.allocate<double>(anchors_);
    double* totals = scratch_.allocate<double>(anchors_);
    executor_.for_range(anchors_, kAnchorGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t a = begin; a < end; ++a) {
        const ContrastiveTerms terms =
            call_.info_nce != nullptr
                ? info_nce_rule(exponents_[a], temperatures_[a], *call_.info_nce)
                : contrastive_rule(exponents_[a], log_u_[a], temperatures_[a], call_.options);
        values[a] = terms.value;
        slopes_[a] = terms.temperature_slope;
        totals[a] = terms.total;
        shifts[a] = static_cast<T>(terms.shift);
        weights[a] = static_cast<T>(terms.weight * share_ / count_);
      }
    });
    const bool relative = call_.bimodal || call_.relative;
    ContrastiveResult result;
    for (int64_t a = 0; a < anchors_; ++a) {
      result.value += values[a] - (relative ? 0.0 : positives_[sample_of(a)]);
      result.temperature_slope += slopes_[a];
    }
    result.value *= share_;
    result.temperature_slope *= share_;
    if (call_.temperatures != nullptr && call_.write_state) step_temperatures();
    if (call_.gradient == nullptr) {
      if (call_.classes != nullptr) add_classes(result);
      return result;
    }
    const PairWeights<T> rows{inverses_, peaks, shifts, weights};
    const PairWeights<T> columns = rows.from(batch_);
    const int64_t half = batch_ * call_.width;
    blocks_->gradients(rows, call_.bimodal ? &columns : nullptr, call_.gradient,
                       call_.bimodal ? call_.gradient + half : nullptr);
    if (call_.classes != nullptr) add_classes(result);
    // The positive pair balances the weights of the negatives, or has the weight of one view each.
    T* pulls = weights;
    for (int64_t i = 0; i < batch_; ++i) {
      const double pull = relative ? totals[i] + totals[batch_ + i] : 2.0;
      pulls[i] = pulls[batch_ + i] = static_cast<T>(-pull * share_);
    }
    executor_.for_range(anchors_, kRowGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t partner = i < batch_ ? i + batch_ : i - batch_;
        tile_kernels<T>().finish_gradients(call_.embeddings + i * call_.width,
                                           call_.embeddings + partner * call_.width, pulls + i,
                                           call_.normalize ? norms_ + i : nullptr, 1, call_.width,
                                           call_.gradient + i * call_.width);
      }
    });
    return result;
  }

  // What the mean over a class's other rows, taken for the positive, adds to the loss of the pair:
  // with v = partner - (sum of the class - e) / (2 size - 1), the mean of <e, v> / tau over the 2B
  // rows, whose slope by e is v / (B tau).
  void add_classes(ContrastiveResult& result) {
    const TileKernels<T>& kernels = tile_kernels<T>();
    const int64_t width = call_.width;
    T* sums = scratch_.allocate<T>(call_.class_count * width);
    double* sizes = scratch_.allocate<double>(call_.class_count);
    std::fill(sizes, sizes + call_.class_count, 0.0);
    for (int64_t i = 0; i < batch_; ++i) sizes[call_.classes[i]] += 1.0;
    constexpr int64_t kColumns = 64;
    executor_.for_range(width, kColumns, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t c = 0; c < call_.class_count; ++c) {
        std::fill(sums + c * width + begin, sums + c * width + end, T(0));
      }
      for (int64_t a = 0; a < anchors_; ++a) {
        T* sum = sums + call_.classes[sample_of(a)] * width;
        const T* e = call_.embeddings + a * width;
        for (int64_t d = begin; d < end; ++d) sum[d] += e[d];
      }
    });
    double* along = scratch_.allocate<double>(anchors_);
    const double scale = 1.0 / (static_cast<double>(batch_) * call_.temperature);
    executor_.for_range(anchors_, kRowGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t a = begin; a < end; ++a) {
        const int64_t c = call_.classes[sample_of(a)];
        along[a] = 0.0;
        if (sizes[c] == 1.0) continue;  // its pair it is
        const T* e = call_.embeddings + a * width;
        const T* sum = sums + c * width;
        const double share = 1.0 / (2.0 * sizes[c] - 1.0);
        double of_class, of_self;
        kernels.dots(e, sum, 1, width, &of_class);
        kernels.dots(e, e, 1, width, &of_self);
        along[a] = positives_[sample_of(a)] - (of_class - of_self) * share;
        if (call_.gradient == nullptr) continue;
        const T* partner = call_.embeddings + (a < batch_ ? a + batch_ : a - batch_) * width;
        T* out = call_.gradient + a * width;
        const T factor = static_cast<T>(scale), part = static_cast<T>(share);
        for (int64_t d = 0; d < width; ++d) {
          out[d] += factor * (partner[d] - part * (sum[d] - e[d]));
        }
      }
    });
    double total = 0.0;
    for (int64_t a = 0; a < anchors_; ++a) total += along[a];
    total *= 0.5 * scale;
    result.value += total;
    result.temperature_slope -= total / call_.temperature;
  }

  // One step per sample; entries of one id read the same and write the same.
  void step_temperatures() {
    if (!call_.bimodal) {
      for (int64_t i = 0; i < batch_; ++i) slopes_[i] = 0.5 * (slopes_[i] + slopes_[batch_ + i]);
    }
    for (int64_t i = 0; i < sides_ * batch_; ++i) {
      slopes_[i] = limited(slopes_[i], call_.slope_limit);
    }
    double* squares = scratch_.allocate<double>(batch_);
    double* steps = scratch_.allocate<double>(batch_);
    for (int64_t side = 0; side < sides_; ++side) {
      double* slopes = slopes_ + side * batch_;
      State* momenta = call_.momenta + side * call_.rows;
      for (int64_t i = 0; i < batch_; ++i) squares[i] = slopes[i] * slopes[i];
      update(momenta, slopes, call_.beta, false, true, slopes);
      if (call_.second_beta > 0.0) {
        State* second = momenta + sides_ * call_.rows;
        State* counts = second + sides_ * call_.rows;
        for (int64_t i = 0; i < batch_; ++i) {
          steps[i] = static_cast<double>(counts[call_.index[i]]) + 1.0;
        }
        update(second, squares, call_.second_beta, false, true, squares);
        update(counts, steps, 1.0, false, true, steps);
        for (int64_t i = 0; i < batch_; ++i) {
          slopes[i] =
              adam_direction(slopes[i], squares[i], steps[i], call_.beta, call_.second_beta);
        }
      }
      State* temperatures = call_.temperatures + side * call_.rows;
      for (int64_t i = 0; i < batch_; ++i) {
        temperatures[call_.index[i]] = static_cast<State>(stepped_temperature(
            temperatures_[side * batch_ + i], slopes[i], call_.eta, call_.lowest, call_.highest));
      }
    }
  }

  const ContrastiveStep<T, State>& call_;
  const Executor& executor_;
  const int64_t batch_, anchors_, sides_;
  const double count_, share_;
  Scratch scratch_;
  std::optional<SimilarityBlocks<T>> blocks_;
  double *norms_, *positives_, *temperatures_, *log_means_, *log_u_, *slopes_;
  AnchorExponents* exponents_;
  T* inverses_;
  ExpSums<T, double> sums_;
};

}  // namespace

template <class T, class State>
ContrastiveResult contrastive_step(const ContrastiveStep<T, State>& call,
                                   const SimilaritySizes& sizes, const Products<T>& products,
                                   const Executor& executor) {
  if (call.batch < 2) {
    if (call.gradient != nullptr) {
      std::fill(call.gradient, call.gradient + 2 * call.batch * call.width, T(0));
    }
    return {};
  }
  return Step<T, State>(call, sizes, products, executor).run();
}

#define XRISK_INSTANTIATE(T, State)                                                       \
  template ContrastiveResult contrastive_step(const ContrastiveStep<T, State>&,           \
                                              const SimilaritySizes&, const Products<T>&, \
                                              const Executor&);
XRISK_INSTANTIATE(float, float)
XRISK_INSTANTIATE(float, double)
XRISK_INSTANTIATE(double, float)
XRISK_INSTANTIATE(double, double)
#undef XRISK_INSTANTIATE

}  // namespace xrisk::cpu
