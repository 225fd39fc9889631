// Random pair problems for the kernels, and the same in doubles for the reference.
#pragma once

#include "cuda/pairs.h"
#include "tests/cuda/device.h"
#include "tests/cuda/pairs_reference.h"

namespace xrisk::test {

// Segments of one problem in the layout of the kernels, and the same as doubles.
template <class T>
struct Case {
  int segments, channels;
  int64_t p, m;
  std::vector<T> anchors, items, weights;
  std::vector<int32_t> anchors_live, items_live;
  std::vector<double> anchor_weights;
  double temperature = 0.3;
  DeviceArray<double> device_scale{std::vector<double>{2.0}};
  DeviceArray<double> device_temperature{std::vector<double>{0.3}};
  DeviceArray<T> device_anchors{0}, device_items{0}, device_weights{0};
  DeviceArray<int32_t> device_anchors_live{0}, device_items_live{0};
  DeviceArray<double> device_anchor_weights{0};
  cuda::PairProblem<T> problem;
  std::vector<Pairs> truth;
  std::vector<std::vector<std::vector<double>>> truth_anchor_weights;

  Case(std::mt19937_64& random, Surrogate surrogate, int segment_count, int channel_count,
       int64_t anchor_count, int64_t item_count, bool weighted, bool positive)
      : segments(segment_count), channels(channel_count), p(anchor_count), m(item_count) {
    anchors = normal<T>(random, segments * p, 30.0, 1.0);
    items = normal<T>(random, segments * m, 30.0, 1.0);
    for (int64_t k = 0; k + 3 < segments * m; k += 7) items[k + 3] = items[k];  // ties
    for (int64_t k = 0; k < segments * channels * m; ++k) {
      const double w = static_cast<double>(random() % 5) - (positive ? 0.0 : 2.0);
      weights.push_back(static_cast<T>(w));
    }
    for (int64_t k = 0; k < segments * channels * p; ++k) {
      anchor_weights.push_back(static_cast<double>(static_cast<int>(random() % 7) - 3) / 4);
    }
    for (int s = 0; s < segments; ++s) {
      anchors_live.push_back(static_cast<int32_t>(s == 0 ? p : random() % (p + 1)));
      items_live.push_back(static_cast<int32_t>(s == 0 ? m : random() % (m + 1)));
    }
    device_anchors = DeviceArray<T>(anchors);
    device_items = DeviceArray<T>(items);
    device_weights = DeviceArray<T>(weights);
    device_anchors_live = DeviceArray<int32_t>(anchors_live);
    device_items_live = DeviceArray<int32_t>(items_live);
    device_anchor_weights = DeviceArray<double>(anchor_weights);
    problem.surrogate = surrogate;
    problem.margin = 0.75;
    problem.scale = device_scale.data();
    problem.segments = segments;
    problem.channels = channels;
    problem.anchors = {device_anchors.data(), nullptr, p,
                       segments > 1 ? device_anchors_live.data() : nullptr};
    problem.items = {device_items.data(), weighted ? device_weights.data() : nullptr, m,
                     segments > 1 ? device_items_live.data() : nullptr};
    for (int s = 0; s < segments; ++s) {
      Pairs pairs{surrogate, {problem.margin, 2.0}, {}, {}, {}};
      std::vector<std::vector<double>> a(channels);
      pairs.weights.resize(channels);
      for (int i = 0; i < anchors_live[s]; ++i) pairs.anchors.push_back(anchors[s * p + i]);
      for (int j = 0; j < items_live[s]; ++j) pairs.items.push_back(items[s * m + j]);
      for (int c = 0; c < channels; ++c) {
        for (int j = 0; j < items_live[s]; ++j) {
          pairs.weights[c].push_back(weighted ? weights[(s * channels + c) * m + j] : 1.0);
        }
        for (int i = 0; i < anchors_live[s]; ++i) {
          a[c].push_back(anchor_weights[(s * channels + c) * p + i]);
        }
      }
      truth.push_back(pairs);
      truth_anchor_weights.push_back(a);
    }
  }

  // After a change to the scores or weights of a case of one segment and one channel.
  void refresh() {
    device_anchors = DeviceArray<T>(anchors);
    device_items = DeviceArray<T>(items);
    device_weights = DeviceArray<T>(weights);
    problem.anchors.scores = device_anchors.data();
    problem.items.scores = device_items.data();
    if (problem.items.weights != nullptr) problem.items.weights = device_weights.data();
    truth[0].anchors.assign(anchors.begin(), anchors.end());
    truth[0].items.assign(items.begin(), items.end());
    if (problem.items.weights != nullptr) {
      truth[0].weights[0].assign(weights.begin(), weights.end());
    }
  }

  void set_scale(double scale) {
    device_scale = DeviceArray<double>(std::vector<double>{scale});
    problem.scale = device_scale.data();
    for (Pairs& pairs : truth) pairs.params.scale = scale;
  }
};

}  // namespace xrisk::test
