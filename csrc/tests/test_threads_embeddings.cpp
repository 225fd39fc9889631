// The parallel paths of the losses over embeddings and logits: blocks of similarities, the whole
// steps, queues, the entropic risk, what packs rows for bfloat16; tests/threads.h.
#include "cpu/bfloat16.h"
#include "cpu/contrastive_step.h"
#include "cpu/entropic_step.h"
#include "cpu/query_step.h"
#include "cpu/queue.h"
#include "tests/plain_products.h"
#include "tests/threads.h"

using namespace xrisk;
using namespace xrisk::test;

namespace {

// More columns than a task of the gradients by columns has; plain products are the price.
constexpr int64_t kWidth = 66;

// Blocks of 64 rows and 96 columns, tiles of 32; some are kept, others multiplied again.
cpu::SimilaritySizes small_blocks() {
  return {64, 32, 64 * (96 + 16) * static_cast<int64_t>(sizeof(float)), 100000};
}

enum class Kind { kGlobal, kTemperatures, kPerView, kInfoNce, kClasses };

// A task has 128 anchors, or samples where one view follows from both.
void check_contrastive(Kind kind, bool bimodal, int64_t batch) {
  constexpr int64_t kClasses = 9;
  const std::vector<float> views = random_floats(2 * batch * kWidth);
  const std::vector<int64_t> index = random_ids(batch, batch),
                             classes = random_ids(batch, kClasses);
  const InfoNce info_nce{2.0, 1.0, false};
  check_same_on_all("contrastive_step", [&](const cpu::Executor& executor) {
    const auto rows = static_cast<size_t>(2 * batch);
    std::vector<float> state(rows, -INFINITY), temperatures(rows, 0.2f), momenta(3 * rows, 0.0f);
    std::vector<float> embeddings(views.size()), gradient(views.size());
    cpu::ContrastiveStep<float, float> call;
    call.bimodal = bimodal;
    call.batch = batch;
    call.width = kWidth;
    call.view1 = views.data();
    call.view2 = views.data() + batch * kWidth;
    call.index = index.data();
    call.rows = batch;
    call.gamma = 0.3;
    call.temperature = 0.2;
    if (kind == Kind::kInfoNce) {
      call.info_nce = &info_nce;
      call.relative = call.per_view = true;
    } else {
      call.state = state.data();
    }
    call.per_view |= kind == Kind::kPerView;
    if (kind == Kind::kTemperatures) {
      call.temperatures = temperatures.data();
      call.momenta = momenta.data();
      call.eta = call.beta = call.second_beta = 0.1;
      call.lowest = 0.05;
      call.highest = 1.0;
    }
    if (kind == Kind::kClasses) {
      call.classes = classes.data();
      call.class_count = kClasses;
    }
    call.embeddings = embeddings.data();
    call.gradient = gradient.data();
    const double value =
        cpu::contrastive_step(call, small_blocks(), PlainProducts<float>(), executor).value;
    CHECK(std::isfinite(value));
    return joined(std::vector<double>{value}, gradient, state, temperatures, momenta);
  });
}

// InfoNCE against a queue, or classes with the state of the entropic risk.
void check_queries(bool entropic) {
  constexpr int64_t kBatch = 130, kKeys = 150;
  const std::vector<float> queries = random_floats(kBatch * kWidth),
                           keys = random_floats(kKeys * kWidth),
                           positives = random_floats(kBatch * kWidth);
  const std::vector<int64_t> index = random_ids(kBatch, kBatch),
                             targets = random_ids(kBatch, kKeys);
  check_same_on_all("query_step", [&](const cpu::Executor& executor) {
    std::vector<float> state(kBatch, -INFINITY), by_queries(queries.size()), by_keys(keys.size());
    cpu::QueryStep<float, float> call;
    call.queries = queries.data();
    call.keys = keys.data();
    call.batch = kBatch;
    call.keys_count = kKeys;
    call.width = kWidth;
    call.normalize = true;
    call.temperature = 0.5;
    if (entropic) {
      call.targets = targets.data();
      call.state = {state.data(), kBatch, index.data(), {}, true};
    } else {
      call.positives = positives.data();
    }
    call.by_queries = by_queries.data();
    call.by_keys = by_keys.data();
    const double value =
        cpu::query_step(call, small_blocks(), PlainProducts<float>(), executor).value;
    CHECK(std::isfinite(value));
    return joined(std::vector<double>{value}, by_queries, by_keys, state);
  });
}

// Distinct ids are averaged chunk by chunk, others between two sweeps.
void check_entropic(bool distinct) {
  constexpr int64_t kBatch = 300, kClasses = 700;
  const std::vector<float> logits = random_floats(kBatch * kClasses);
  std::vector<int64_t> index = random_ids(kBatch, kBatch);
  for (int64_t i = 0; distinct && i < kBatch; ++i) index[static_cast<size_t>(i)] = kBatch - 1 - i;
  check_same_on_all("entropic_step", [&](const cpu::Executor& executor) {
    std::vector<float> state(kBatch, -INFINITY), gradient(logits.size());
    cpu::EntropicStep<float, float> call;
    call.logits = logits.data();
    call.batch = kBatch;
    call.classes = kClasses;
    call.state = {state.data(), kBatch, index.data(), {}, true};
    call.gradient = gradient.data();
    std::vector<double> values;
    for (int step = 0; step < 2; ++step) values.push_back(cpu::entropic_step(call, executor));
    return joined(values, state, gradient);
  });
}

void check_queue() {
  constexpr int64_t kRows = 700, kQueue = 500;  // some rows are not taken at all
  const std::vector<float> rows = random_floats(kRows * kWidth);
  check_same_on_all("enqueue", [&](const cpu::Executor& executor) {
    std::vector<float> queue(kQueue * kWidth, 0.0f);
    const cpu::Enqueue<float, float> call{queue.data(), kQueue, kWidth, 17,
                                          rows.data(),  kRows,  true};
    CHECK(cpu::enqueue(call, executor) == (17 + kRows) % kQueue);
    return queue;
  });
}

// The loop alone: the kernels are for one CPU, and what they pack is theirs to test. This one
// writes as much of a group as they do.
bool pack_group(const float* const* rows, const float* factors, int64_t group,
                const cpu::Bfloat16Rows& packed) {
  const int64_t size = packed.depth() * cpu::kBfloat16Group * cpu::kBfloat16Group;
  for (int64_t k = 0; k < size; ++k) {
    const float* row = rows[k % cpu::kBfloat16Group];
    const float first = row == nullptr ? 0.0f : row[0] * factors[k % cpu::kBfloat16Group];
    packed.left[group * size + k] = packed.right[group * size + k] = static_cast<uint16_t>(first);
  }
  return true;
}

void check_packing() {
  constexpr int64_t kRows = 200;
  std::vector<float> x = random_floats(kRows * kWidth);
  for (float& value : x) value = std::fabs(value) * 100.0f;
  const std::vector<double> norms(kRows, 3.0);
  const cpu::Bfloat16Kernels kernels{"plain", pack_group, nullptr, nullptr, nullptr};
  check_same_on_all("pack_bfloat16", [&](const cpu::Executor& executor) {
    cpu::Scratch scratch;
    const cpu::PackedRows packed =
        cpu::pack_bfloat16(kernels, {x.data(), x.data(), kRows / 2, norms.data()}, kRows, kWidth,
                           {true, true, false}, scratch, executor);
    CHECK(packed.whole);
    const cpu::Bfloat16Rows& rows = packed.rows;
    const int64_t size = rows.groups() * rows.depth() * cpu::kBfloat16Group * cpu::kBfloat16Group;
    return joined(std::vector<uint16_t>(rows.left, rows.left + size),
                  std::vector<uint16_t>(rows.right, rows.right + size),
                  std::vector<float>(rows.scales, rows.scales + kRows));
  });
}

}  // namespace

int main() {
  for (const bool bimodal : {false, true}) {
    check_contrastive(Kind::kGlobal, bimodal, 130);
    check_contrastive(Kind::kInfoNce, bimodal, 70);
  }
  check_contrastive(Kind::kTemperatures, true, 70);
  check_contrastive(Kind::kPerView, false, 70);
  check_contrastive(Kind::kClasses, false, 70);
  for (const bool entropic : {false, true}) check_queries(entropic);
  for (const bool distinct : {false, true}) check_entropic(distinct);
  check_queue();
  check_packing();
  return report();
}
