// The step of the contrastive losses without state against plain double loops, and what is not
// finite.
#include "tests/info_nce_reference.h"

#include "cuda/contrastive_step.h"
#include "tests/cuda/device.h"
#include "tests/cuda/products.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

template <class T>
void step(const InfoNceCase& c, double tolerance, T poison) {
  std::mt19937_64 random(17);
  auto views = normal<T>(random, 2 * c.batch * c.width, 0, 1);
  views[views.size() - 3] += poison;
  const InfoNceTruth expected = info_nce_truth(c, views);
  double size = 1e-6;
  for (const double g : expected.gradient) size = std::fmax(size, std::fabs(g));
  const DeviceArray<T> device_views(views);
  const DeviceArray<double> numbers(std::vector<double>{c.temperature, c.alpha});
  for_each_schedule([&] {
    const int64_t count = static_cast<int64_t>(views.size());
    DeviceArray<T> embeddings(count), gradient(count), value(1), slope(1);
    cuda::ContrastiveStep<T, float> call;
    call.bimodal = c.bimodal;
    call.batch = c.batch;
    call.width = c.width;
    call.view1 = device_views.data();
    call.view2 = device_views.data() + c.batch * c.width;
    call.normalize = c.normalize;
    call.temperature = numbers.data();
    call.stateless = true;
    call.info_nce.flat = c.flat;
    call.info_nce.share = c.bimodal ? 1.0 : 0.5;
    if (c.alpha > 0.0) call.alpha = numbers.data() + 1;
    call.per_view = true;
    call.relative = true;
    call.block = 8;  // 22 anchors: three blocks a side
    call.few_entries = c.flat ? 0 : 512;
    call.embeddings = embeddings.data();
    call.value = value.data();
    call.temperature_slope = slope.data();
    call.gradient = gradient.data();
    const size_t bytes = cuda::contrastive_step_workspace_bytes(call);
    DeviceArray<char> space(static_cast<int64_t>(bytes));
    CHECK(cuda::launch_contrastive_step(call, KernelProducts<T>(), space.data(), bytes, nullptr) ==
          cudaSuccess);
    if (c.batch > 1 && poison - poison != T(0)) {
      for (const T g : gradient.read()) CHECK(std::isnan(g));
      CHECK(std::isnan(value.read()[0]) && std::isnan(slope.read()[0]));
      return;
    }
    CHECK(close(value.read()[0], expected.value, tolerance, 1 + std::fabs(expected.value)));
    CHECK(close(slope.read()[0], expected.slope, tolerance, 1 + std::fabs(expected.slope)));
    const auto found = gradient.read();
    for (size_t k = 0; k < found.size(); ++k) {
      CHECK(close(found[k], expected.gradient[k], tolerance, size));
    }
  });
}

}  // namespace

int main() {
  for (const InfoNceCase& c : info_nce_cases()) step<float>(c, 3e-5, 0.0f);
  InfoNceCase c = info_nce_cases().front();
  step<double>(c, 1e-12, 0.0);
  step<float>(c, 0.0, NAN);
  c.bimodal = true;
  step<float>(c, 0.0, INFINITY);
  return report();
}
