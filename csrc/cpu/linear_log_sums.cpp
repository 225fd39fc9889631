// Log sums of exp(phi / T), exact and near-linear, for the convex surrogates of straight pieces:
// hinge and barrier hinge.
//
// With q = top - depth (cpu/log_pairs.h) phi is -left q below 0, q up to the bend, and
// scale (q - 2 margin) + margin beyond. On a piece the exponential falls apart,
//
//   exp(q / T) = exp(top / T) exp(-depth / T),
//
// and the items on a piece are a range of the sorted ones: prefix sums. Columns: the same over the
// sorted anchors. Work: two sorts and a pass over both. Hazards: an exponential is taken relative
// to the highest (on the left piece the lowest) item, and meets a factor relative to the anchor's
// peak: neither exceeds 1. The middle piece is a difference of two prefix sums, of which none
// exceeds the sum over all pieces, as phi is the largest of them: no cancellation.
#include "core/log_sums.h"
#include "cpu/log_pairs.h"

namespace xrisk::cpu {
namespace {

constexpr int64_t kGrain = 8192;
constexpr int64_t kBlock = 256;

template <class T>
class LinearLogSums final : public LogPairs<T> {
 public:
  LinearLogSums(const LogSums<T>& call, Scratch& scratch, const Executor& executor)
      : call_(call),
        scratch_(scratch),
        executor_(executor),
        places_(place_log_pairs(call, scratch, executor)),
        inverse_(call.term.inverse_temperature),
        pieces_(
            linear_pieces(call.term.surrogate, call.term.params.margin, call.term.params.scale)) {
    deepest_ = places_.depths[places_.items - 1];
    const int64_t items = places_.items;
    middle_ = exponentials(places_.depths, items, -inverse_);
    if (pieces_.bend < INFINITY)
      steeper_ = exponentials(places_.depths, items, -pieces_.steep * inverse_);
    if (pieces_.left > 0.0)
      lower_ = exponentials(places_.depths, items, pieces_.left * inverse_, deepest_);
  }

  void rows(double* log_sums, double* slopes, double* masses) override {
    const int64_t items = places_.items;
    const double* w = places_.weights;
    const double* middle = prefix(items, [&](int64_t j) { return w[j] * middle_[j]; });
    const double* steep = pieces_.bend < INFINITY
                              ? prefix(
                                    items, [&](int64_t j) { return w[j] * steeper_[j]; })
                              : nullptr;
    const double* left =
        suffix(items, [&](int64_t j) { return pieces_.left > 0.0 ? w[j] * lower_[j] : w[j]; });
    each_block([&](int64_t begin, int64_t count, const Factors& f) {
      const double* tops = places_.tops + begin;
      int64_t in_steep = first_from(places_.depths, items, tops[0] - pieces_.bend);
      int64_t above = first_from(places_.depths, items, tops[0]);
      for (int64_t k = 0; k < count; ++k) {
        while (in_steep < items && places_.depths[in_steep] < tops[k] - pieces_.bend) ++in_steep;
        while (above < items && places_.depths[above] < tops[k]) ++above;
        const double on_steep = steep == nullptr ? 0.0 : steep[in_steep] * f.steep[k];
        const double on_middle = (middle[above] - middle[in_steep]) * f.middle[k];
        const double on_left = left[above] * f.left[k];
        const double mass = on_steep + on_middle + on_left;
        const int64_t anchor = places_.anchor_places[begin + k];
        masses[anchor] = mass;
        slopes[anchor] =
            (pieces_.steep * on_steep + on_middle - pieces_.left * on_left) * inverse_ / mass;
        log_sums[anchor] = f.peak[k] * inverse_ + std::log(mass);
      }
    });
  }

  void columns(const double* anchor_weights, const double* masses, T* out) override {
    const int64_t anchors = places_.anchors, items = places_.items;
    double* terms[3];  // on the steep, middle and left piece
    for (double*& array : terms) array = scratch_.allocate<double>(anchors);
    each_block([&](int64_t begin, int64_t count, const Factors& f) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t anchor = places_.anchor_places[begin + k];
        const double weight = anchor_weights[anchor] / masses[anchor];
        terms[0][begin + k] = weight * f.steep[k];
        terms[1][begin + k] = weight * f.middle[k];
        terms[2][begin + k] = weight * f.left[k];
      }
    });
    const double* steep =
        pieces_.bend < INFINITY ? suffix(anchors, [&](int64_t i) { return terms[0][i]; }) : nullptr;
    const double* middle = suffix(anchors, [&](int64_t i) { return terms[1][i]; });
    const double* left =
        pieces_.left > 0.0 ? prefix(anchors, [&](int64_t i) { return terms[2][i]; }) : nullptr;
    if (items < call_.items.count) std::fill(out, out + call_.items.count, T(0));
    executor_.for_range(items, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      const auto beyond = [&](double depth, double bend) {  // anchors with top - bend > depth
        return std::partition_point(places_.tops, places_.tops + anchors,
                                    [&](double top) { return !(depth < top - bend); }) -
               places_.tops;
      };
      int64_t in_steep = beyond(places_.depths[begin], pieces_.bend);
      int64_t above = beyond(places_.depths[begin], 0.0);
      for (int64_t j = begin; j < end; ++j) {
        const double depth = places_.depths[j];
        while (in_steep < anchors && !(depth < places_.tops[in_steep] - pieces_.bend)) ++in_steep;
        while (above < anchors && !(depth < places_.tops[above])) ++above;
        double sum = middle_[j] * (middle[above] - middle[in_steep]);
        if (steep != nullptr) sum += pieces_.steep * steeper_[j] * steep[in_steep];
        if (left != nullptr) sum -= pieces_.left * lower_[j] * left[above];
        out[places_.item_places[j]] = static_cast<T>(inverse_ * places_.weights[j] * sum);
      }
    });
  }

 private:
  // Of the anchors of a block: their peak, and the exponentials of each piece at the item that its
  // sums are relative to, over that of the peak.
  struct Factors {
    double peak[kBlock], steep[kBlock], middle[kBlock], left[kBlock];
  };

  template <class F>
  void each_block(F&& f) const {
    executor_.for_range(places_.anchors, kGrain, [&](int64_t, int64_t first, int64_t last) {
      Factors factors;
      for (int64_t begin = first; begin < last; begin += kBlock) {
        const int64_t count = std::min(kBlock, last - begin);
        for (int64_t k = 0; k < count; ++k) {
          const LinearExponents e = linear_exponents(pieces_, places_.tops[begin + k], deepest_);
          factors.peak[k] = e.peak;
          factors.steep[k] = e.steep;
          factors.middle[k] = e.middle;
          factors.left[k] = e.left;
        }
        for (double* e : {factors.steep, factors.middle, factors.left}) {
          kernels<double>().scaled_exponentials(e, count, inverse_, 0.0, 1.0, e);
        }
        f(begin, count, factors);
      }
    });
  }

  double* exponentials(const double* x, int64_t count, double scale, double centre = 0.0) const {
    double* out = scratch_.allocate<double>(count);
    executor_.for_range(count, kGrain, [&](int64_t, int64_t begin, int64_t end) {
      kernels<double>().scaled_exponentials(x + begin, end - begin, scale, centre, 1.0,
                                            out + begin);
    });
    return out;
  }

  // sums[n]: of the first n terms, and of those from n on.
  template <class F>
  const double* prefix(int64_t count, F&& term) const {
    double* sums = scratch_.allocate<double>(count + 1);
    sums[0] = 0.0;
    for (int64_t k = 0; k < count; ++k) sums[k + 1] = sums[k] + term(k);
    return sums;
  }
  template <class F>
  const double* suffix(int64_t count, F&& term) const {
    double* sums = scratch_.allocate<double>(count + 1);
    sums[count] = 0.0;
    for (int64_t k = count; k-- > 0;) sums[k] = sums[k + 1] + term(k);
    return sums;
  }

  const LogSums<T> call_;
  Scratch& scratch_;
  const Executor& executor_;
  const LogPlaces places_;
  const double inverse_;  // of the temperature
  const LinearPieces pieces_;
  double deepest_ = 0.0;
  double *middle_ = nullptr, *steeper_ = nullptr, *lower_ = nullptr;  // exponentials of the items
};

}  // namespace

template <class T>
std::unique_ptr<LogPairs<T>> make_linear_log_sums(const LogSums<T>& call, Scratch& scratch,
                                                  const Executor& executor) {
  return std::make_unique<LinearLogSums<T>>(call, scratch, executor);
}
template std::unique_ptr<LogPairs<float>> make_linear_log_sums(const LogSums<float>&, Scratch&,
                                                               const Executor&);
template std::unique_ptr<LogPairs<double>> make_linear_log_sums(const LogSums<double>&, Scratch&,
                                                                const Executor&);

}  // namespace xrisk::cpu
