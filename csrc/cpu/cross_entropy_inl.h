// The cross entropy family over a range of entries, a vector at a time. Bytes: scores, labels and
// weights read once, losses and gradients written once.
#pragma once

#include "core/cross_entropy.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"

namespace xrisk::cpu::XRISK_ISA {

template <class T>
void cross_entropy_range(const CrossEntropyRange<T>& call, int64_t begin, int64_t end) {
  using V = Vec<T>;
  const int64_t step = V::kLanes % call.labels;
  int64_t label = begin % call.labels;
  for (int64_t k = begin; k < end; k += V::kLanes) {
    const int64_t left = end - k;
    const bool whole = left >= V::kLanes;
    T ones[V::kLanes] = {};
    if (whole) {
      for (int64_t lane = 0; lane < V::kLanes; ++lane) ones[lane] = call.positive[k + lane] != 0;
    } else {
      for (int64_t lane = 0; lane < left; ++lane) ones[lane] = call.positive[k + lane] != 0;
    }
    const auto load = [&](const T* entries, T fill) {
      return whole ? V::load(entries + k) : V::load_partial(entries + k, left, fill);
    };
    const auto positive = greater(V::load(ones), V(T(0)));
    const auto of_class = [&](const T* pair) {
      return select(positive, V::load(pair + call.period + label), V::load(pair + label));
    };
    V weight = of_class(call.class_weights);
    if (call.weights != nullptr) weight = weight * load(call.weights, T(0));
    // what weighs nothing is not looked at, be it NaN
    const V h = select(greater(weight, V(T(0))), load(call.scores, T(0)), V(T(0)));
    V value, slope;
    cross_entropy<T>(h, select(positive, V(T(1)), V(T(-1))), weight, of_class(call.margins),
                     call.scale, call.focus, value, slope);
    slope = slope * V::load(call.factors + label);
    if (whole) {
      value.store(call.losses + k);
      if (call.gradient != nullptr) slope.store(call.gradient + k);
    } else {
      value.store_partial(call.losses + k, left);
      if (call.gradient != nullptr) slope.store_partial(call.gradient + k, left);
    }
    label += step;
    if (label >= call.labels) label -= call.labels;
  }
}

}  // namespace xrisk::cpu::XRISK_ISA
