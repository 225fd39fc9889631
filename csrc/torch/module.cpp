// The op schemas on one page, their CPU registration, and the Python module _C. The only unit with
// torch's headers, which take 15 s to read, but for the ops on CUDA.
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

#include <cstdlib>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "cpu/bfloat16.h"
#include "cpu/kernel_table.h"
#include "torch/attach_gradient.h"
#include "torch/common.h"
#include "torch/metric_ops.h"
#include "torch/ops.h"
#include "torch/pairwise_ops.h"
#include "torch/state_ops.h"

#ifndef XRISK_VERSION
#define XRISK_VERSION "unknown"
#endif

TORCH_LIBRARY(xrisk_ext, m) {
  // P1: sums_ci = sum_j w_cj phi(items_j - anchors_i) and the same with the slope phi'. The rows
  // may leave the order of the scores for the columns.
  m.def(
      "pairwise_sums_rows(Tensor anchors, Tensor items, Tensor? item_weights, Tensor scale, "
      "float margin, int surrogate, int algorithm) -> (Tensor sums, Tensor slopes, Tensor order)");
  m.def(
      "pairwise_sums_columns(Tensor anchors, Tensor items, Tensor? item_weights, "
      "Tensor anchor_weights, Tensor order, Tensor scale, float margin, int surrogate, "
      "int algorithm) -> Tensor");
  m.def(
      "pairwise_log_sums_rows(Tensor anchors, Tensor items, Tensor? item_weights, Tensor scale, "
      "Tensor temperature, float margin, int surrogate, int algorithm) -> (Tensor log_sums, "
      "Tensor slopes, Tensor masses)");
  m.def(
      "pairwise_log_sums_columns(Tensor anchors, Tensor items, Tensor? item_weights, "
      "Tensor anchor_weights, Tensor masses, Tensor scale, Tensor temperature, float margin, "
      "int surrogate, int algorithm) -> Tensor");
  m.def(
      "surrogate_values(Tensor differences, Tensor scale, float margin, int surrogate) -> "
      "(Tensor values, Tensor slopes)");
  // P2
  m.def(
      "moving_average_update_(Tensor(a!) state, Tensor index, Tensor values, Tensor gamma, "
      "bool log) -> Tensor");
  // P3: of each row the (k+1)-th largest, or the root of the smoothed problem in double precision.
  m.def(
      "topk_threshold(Tensor scores, int k, Tensor? offsets, bool smooth, float epsilon, "
      "float tau1, float tau2) -> (Tensor threshold, Tensor roots)");
  m.def(
      "topk_threshold_gradient(Tensor scores, Tensor roots, Tensor upstream, int k, "
      "Tensor? offsets, bool smooth, float epsilon, float tau1, float tau2) -> Tensor");
  // rows -> rule -> columns
  m.def(
      "score_step_(Tensor scores, Tensor labels, Tensor? index, Tensor? item_weights, "
      "Tensor(a!)? state, Tensor gamma, Tensor scale, float margin, int rule, int surrogate, "
      "int algorithm, bool update_state, bool needs_gradient, bool mean_reduction) -> "
      "(Tensor value, Tensor gradient)");
  // The same per query of a ranking task, or per label for AP@K; schedules: none, or (gamma1, eta0,
  // tau1, tau2, sigmoid_alpha).
  m.def(
      "ranking_step_(bool needs_gradient, Tensor scores, Tensor relevance, Tensor? pair_index, "
      "Tensor? query_index, Tensor? mask, Tensor? offsets, Tensor? item_weights, "
      "Tensor? num_items, Tensor? num_relevant, Tensor? ideal_dcg, Tensor(a!)? state, "
      "Tensor(b!)? thresholds, Tensor(c!)? curvatures, Tensor gamma, Tensor scale, "
      "Tensor[] schedules, float margin, float epsilon, int top_k, int rule, int options, "
      "int surrogate, int algorithm, bool update_state, bool mean_reduction) -> "
      "(Tensor value, Tensor gradient)");
  // The stateless losses of ranked lists; the numbers: torch/listwise_inputs.h.
  m.def(
      "listwise_step(Tensor scores, Tensor relevance, Tensor? mask, Tensor? item_weights, "
      "Tensor temperature, Tensor rank_temperature, int loss, int[] counts, float[] numbers, "
      "int reduction, bool needs_gradient) -> (Tensor value, Tensor gradient)");
  // Sums over the entries of each label: parameters and by_parameters [3, L] are a, b and alpha.
  m.def(
      "auc_margin_step(Tensor scores, Tensor labels, Tensor? item_weights, Tensor a, Tensor b, "
      "Tensor alpha, Tensor? class_prior, float margin, int kind, bool needs_gradient, "
      "bool mean_reduction) -> (Tensor value, Tensor gradient, Tensor by_parameters)");
  m.def(
      "cross_entropy_step(Tensor scores, Tensor labels, Tensor? item_weights, "
      "Tensor? class_weights, Tensor? margins, float scale, float focus, bool needs_gradient, "
      "bool mean_reduction) -> (Tensor value, Tensor gradient)");
  // The same for the losses that look at the top of the list. What state, dual, outer and schedules
  // are is up to the rule: torch/partial_auc_inputs.h.
  m.def(
      "partial_auc_step_(Tensor scores, Tensor labels, Tensor? index, Tensor? item_weights, "
      "Tensor(a!)? state, Tensor(b!)? dual, Tensor(c!)? outer, Tensor[] schedules, Tensor scale, "
      "float margin, float max_fpr, float min_tpr, float power, int rule, int surrogate, "
      "int algorithm, bool update_state, bool needs_gradient, bool mean_reduction) -> "
      "(Tensor value, Tensor gradient)");
  // P4: log of the mean over the keys that a query keeps of exp(<q_i, k_j> / t_i), with what its
  // gradients need: the mean exponent under the softmax, the largest similarity, and the sum of the
  // exponentials relative to it.
  m.def(
      "contrastive_log_sums_rows(Tensor queries, Tensor keys, Tensor temperature, Tensor? exclude) "
      "-> (Tensor log_means, Tensor mean_exponents, Tensor peaks, Tensor masses)");
  m.def(
      "contrastive_log_sums_gradients(Tensor queries, Tensor keys, Tensor temperature, "
      "Tensor? exclude, Tensor query_weights, Tensor peaks, Tensor masses, bool for_queries, "
      "bool for_keys) -> (Tensor queries_gradient, Tensor keys_gradient)");
  // The fused step of the global contrastive losses; gradient is [2, B, D], one half per view.
  m.def(
      "contrastive_step_(Tensor view1, Tensor view2, Tensor? index, Tensor(a!)? state, "
      "Tensor(b!)? state_temperature, Tensor(c!)? state_momentum, Tensor gamma, "
      "Tensor temperature, Tensor eta, float beta, float second_beta, float slope_limit, "
      "float lowest, float highest, float rho, float epsilon, bool bimodal, bool normalize, "
      "bool per_view, bool relative, bool temperature_weighted, bool update_state, "
      "bool needs_gradient) -> "
      "(Tensor value, Tensor gradient, Tensor temperature_gradient)");
  // The same without state: a cross entropy of each positive; alpha None is the number of
  // negatives. labels [B]: all rows of a class are positives; on the CPU alone.
  m.def(
      "info_nce_step(Tensor view1, Tensor view2, Tensor temperature, Tensor? alpha, "
      "Tensor? labels, bool bimodal, bool flat, bool normalize, bool needs_gradient) -> "
      "(Tensor value, Tensor gradient, Tensor temperature_gradient)");
  // The mean over queries of what they see of the keys: InfoNCE with a positive of its own for
  // each, or softmax cross entropy of a key as target, whose partition function has a state
  // (schedules: gamma, or alpha and kappa). On the CPU alone.
  m.def(
      "query_step_(Tensor queries, Tensor keys, Tensor? positives, Tensor? targets, Tensor? index, "
      "Tensor(a!)? state, Tensor[] schedules, Tensor temperature, bool normalize, "
      "bool update_state, bool for_queries, bool for_keys) -> (Tensor value, "
      "Tensor queries_gradient, Tensor keys_gradient, Tensor temperature_gradient)");
  // A queue [N, D] whose oldest rows, from the pointer on, give way to new ones. On the CPU alone.
  m.def("enqueue_(Tensor(a!) state, Tensor(b!) state_pointer, Tensor rows, bool normalize) -> ()");
  // The risk of query_step_ of logits less that of the target: the dynamic surrogate. On the CPU
  // alone.
  m.def(
      "entropic_step_(bool needs_gradient, Tensor logits, Tensor? index, Tensor(a!)? state, "
      "Tensor[] schedules, bool update_state) -> (Tensor value, Tensor gradient)");
  // Of LibAUC alone, on the CPU. MIDAM: AUC margin of pooled scores that are functions of averages.
  // mAP with top_k: the sum of values over count, whose gradient weighs items by their rank.
  m.def(
      "pooled_margin_step_(bool needs_gradient, Tensor values, Tensor? denominators, "
      "Tensor labels, Tensor? index, Tensor(a!)? state, Tensor(b!)? state_denominators, Tensor a, "
      "Tensor b, Tensor alpha, Tensor gamma, float tau) -> (Tensor value, Tensor by_values, "
      "Tensor by_denominators, Tensor by_a, Tensor by_b)");
  m.def(
      "ranked_precision_step(bool needs_gradient, Tensor scores, Tensor labels, Tensor values, "
      "Tensor? chosen, Tensor? index, Tensor? state, Tensor scale, float margin, float top_k, "
      "int count, int surrogate, int algorithm) -> (Tensor value, Tensor gradient)");
  // Metrics: the last dimension sorted, NaN first, ties in input order.
  m.def("sort_descending(Tensor scores) -> (Tensor values, Tensor indices)");
  // Of sorted rows: sum of the precisions, area under the ROC curve, weights of the two classes.
  m.def(
      "curve_sums(Tensor values, Tensor indices, Tensor positive, Tensor? weights, "
      "float max_fpr, float min_tpr) -> Tensor");
}

TORCH_LIBRARY_IMPL(xrisk_ext, CPU, m) {
  m.impl("pairwise_sums_rows", &xrisk::pairwise_sums_rows);
  m.impl("pairwise_sums_columns", &xrisk::pairwise_sums_columns);
  m.impl("pairwise_log_sums_rows", &xrisk::pairwise_log_sums_rows);
  m.impl("pairwise_log_sums_columns", &xrisk::pairwise_log_sums_columns);
  m.impl("surrogate_values", &xrisk::surrogate_values);
  m.impl("moving_average_update_", &xrisk::moving_average_update_);
  m.impl("topk_threshold", &xrisk::topk_threshold);
  m.impl("topk_threshold_gradient", &xrisk::topk_threshold_gradient);
  m.impl("score_step_", &xrisk::score_step_);
  m.impl("ranking_step_", &xrisk::ranking_step_);
  m.impl("listwise_step", &xrisk::listwise_step);
  m.impl("auc_margin_step", &xrisk::auc_margin_step);
  m.impl("cross_entropy_step", &xrisk::cross_entropy_step);
  m.impl("partial_auc_step_", &xrisk::partial_auc_step_);
  m.impl("contrastive_log_sums_rows", &xrisk::contrastive_log_sums_rows);
  m.impl("contrastive_log_sums_gradients", &xrisk::contrastive_log_sums_gradients);
  m.impl("contrastive_step_", &xrisk::contrastive_step_);
  m.impl("info_nce_step", &xrisk::info_nce_step);
  m.impl("query_step_", &xrisk::query_step_);
  m.impl("entropic_step_", &xrisk::entropic_step_);
  m.impl("enqueue_", &xrisk::enqueue_);
  m.impl("pooled_margin_step_", &xrisk::pooled_margin_step_);
  m.impl("ranked_precision_step", &xrisk::ranked_precision_step);
  m.impl("sort_descending", &xrisk::sort_descending);
  m.impl("curve_sums", &xrisk::curve_sums);
}

namespace {

// A value is a query: a row, or a list of entries; for average precision a label, a column.
struct RankingLayout {
  template <class... Rest>
  static xrisk::ValueLayout of(const Rest&... rest) {
    constexpr int kOffsets = 4, kRule = 18;  // after the scores
    const auto arguments = std::tie(rest...);
    const std::optional<at::Tensor>& offsets = std::get<kOffsets>(arguments);
    const auto rule = static_cast<xrisk::RankingRule>(std::get<kRule>(arguments));
    return {rule != xrisk::RankingRule::kAveragePrecision, offsets.value_or(at::Tensor())};
  }
};

// One value.
struct PlainLayout {
  template <class... Rest>
  static xrisk::ValueLayout of(const Rest&...) {
    return {};
  }
};

}  // namespace

using EntropicStepOp =
    xrisk::FusedStep<xrisk::kEntropicStep, PlainLayout, decltype(xrisk::entropic_step_)>;
using RankedPrecisionOp = xrisk::FusedStep<xrisk::kRankedPrecisionStep, PlainLayout,
                                           decltype(xrisk::ranked_precision_step)>;
using RankingStepOp =
    xrisk::FusedStep<xrisk::kRankingStep, RankingLayout, decltype(xrisk::ranking_step_)>;

TORCH_LIBRARY_IMPL(xrisk_ext, Autograd, m) {
  m.impl("score_step_", &xrisk::score_step_autograd);
  m.impl("ranking_step_", &RankingStepOp::attached);
  m.impl("listwise_step", &xrisk::listwise_step_autograd);
  m.impl("auc_margin_step", &xrisk::auc_margin_step_autograd);
  m.impl("cross_entropy_step", &xrisk::cross_entropy_step_autograd);
  m.impl("partial_auc_step_", &xrisk::partial_auc_step_autograd);
  m.impl("contrastive_step_", &xrisk::contrastive_step_autograd);
  m.impl("info_nce_step", &xrisk::info_nce_step_autograd);
  m.impl("query_step_", &xrisk::query_step_autograd);
  m.impl("entropic_step_", &EntropicStepOp::attached);
  m.impl("pooled_margin_step_", &xrisk::pooled_margin_step_autograd);
  m.impl("ranked_precision_step", &RankedPrecisionOp::attached);
}

namespace {

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = XRISK_VERSION;
  info["torch"] = TORCH_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["cpp_standard"] = static_cast<long>(__cplusplus);
  pybind11::list built;
  built.append("baseline");
#if defined(__x86_64__)
  built.append("avx2");
  built.append("avx512");
#endif
  info["simd_built"] = built;
  info["simd"] = xrisk::cpu::kernel_table().name;
  const xrisk::cpu::Bfloat16Kernels* bfloat16 = xrisk::cpu::bfloat16_kernels();
  info["bfloat16_built"] = xrisk::cpu::bfloat16_built();
  info["bfloat16"] = bfloat16 == nullptr ? "float32" : bfloat16->name;
#if defined(_OPENMP)
  info["threads"] = "openmp";
#else
  info["threads"] = "none";
#endif
#if defined(XRISK_CUDA_ARCHS)
  info["cuda"] = true;
  info["cuda_archs"] = pybind11::str(XRISK_CUDA_ARCHS).attr("split")(";");
#else
  info["cuda"] = false;
  info["cuda_archs"] = pybind11::list();
#endif
  return info;
}

// at::parallel_for is a template that runs on one thread, in silence, where OpenMP was not on when
// it was compiled: ask a real region.
int64_t threads_used() {
  constexpr int64_t kTasks = 64;
  std::vector<std::thread::id> runners(kTasks);
  xrisk::AtenExecutor().for_each(kTasks, [&](int64_t task) {
    runners[static_cast<size_t>(task)] = std::this_thread::get_id();
  });
  return static_cast<int64_t>(std::set<std::thread::id>(runners.begin(), runners.end()).size());
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  const char* simd = std::getenv("XRISK_SIMD");
  if (simd != nullptr && !xrisk::cpu::select_simd(simd)) {
    throw pybind11::import_error(
        "XRISK_SIMD: expected baseline, avx2, avx512 or auto, and one that "
        "this CPU has, got " +
        std::string(simd));
  }
  const char* bfloat16 = std::getenv("XRISK_BFLOAT16");
  if (bfloat16 != nullptr && !xrisk::cpu::select_bfloat16(bfloat16)) {
    throw pybind11::import_error(
        "XRISK_BFLOAT16: expected amx, float32 or auto, and one that this CPU has, got " +
        std::string(bfloat16));
  }
  m.doc() = "Compiled kernels of xrisk_ext; the ops are under torch.ops.xrisk_ext.";
  m.def("build_info", &build_info, "What was built, and which SIMD variant is in use.");
  m.def(
      "select_simd",
      [](const std::string& name) {
        if (!xrisk::cpu::select_simd(name.c_str())) {
          throw pybind11::value_error("select_simd: this CPU or build has no variant " + name);
        }
      },
      pybind11::arg("name"),
      "Use the kernels for \"baseline\", \"avx2\", \"avx512\" or \"auto\" from now on.");
  m.def(
      "select_bfloat16",
      [](const std::string& name) {
        if (!xrisk::cpu::select_bfloat16(name.c_str())) {
          throw pybind11::value_error("select_bfloat16: this CPU or build has no products " + name);
        }
      },
      pybind11::arg("name"),
      "Multiply bfloat16 embeddings by \"amx\", \"float32\" or \"auto\" from now on.");
  m.def("pairwise_sums", &xrisk::pairwise_sums,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "torch.ops.xrisk_ext.pairwise_sums_rows and its columns as a gradient.");
  m.def("score_step", &xrisk::score_step, pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.score_step_, with less to convert.");
  m.def("pooled_margin", &xrisk::pooled_margin,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.pooled_margin_step_, with less to convert.");
  m.def("ranked_precision_step", &RankedPrecisionOp::value,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.ranked_precision_step, with less to convert.");
  m.def("ranking_step", &RankingStepOp::value, pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.ranking_step_, with less to convert.");
  m.def("entropic_step", &EntropicStepOp::value,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.entropic_step_, with less to convert.");
  m.def("listwise_step", &xrisk::listwise_value,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.listwise_step, with less to convert.");
  m.def("auc_margin", &xrisk::auc_margin, pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.auc_margin_step, with less to convert.");
  m.def("cross_entropy", &xrisk::cross_entropy,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.cross_entropy_step, with less to convert.");
  m.def("partial_auc_step", &xrisk::partial_auc_step,
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "The value of torch.ops.xrisk_ext.partial_auc_step_, with less to convert.");
  m.def("threads_used", &threads_used, "How many threads a parallel kernel runs on.");
}
