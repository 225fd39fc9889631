// The arguments of partial_auc_step_, checked once for the CPU and CUDA.
#pragma once

#include "torch/state_inputs.h"

namespace xrisk {

// Where a schedule of a rule goes, and what it is called in errors.
template <class Number>
struct ScheduleSlot {
  const char* name;
  Number PartialSchedules<Number>::* slot;
};

// The schedules that a rule takes, in the order of the op's argument.
template <class Number>
std::vector<ScheduleSlot<Number>> schedule_slots(PartialRule rule) {
  using Now = PartialSchedules<Number>;
  switch (rule) {
    case PartialRule::kKL:
      return {{"kl_weight", &Now::kl_weight}, {"gamma", &Now::gamma}};
    case PartialRule::kTwoWayKL:
      return {{"kl_weight", &Now::kl_weight},
              {"gamma", &Now::gamma},
              {"positive_kl_weight", &Now::positive_kl_weight},
              {"outer_gamma", &Now::outer_gamma}};
    case PartialRule::kCVaR:
      return {{"eta", &Now::eta}};
    case PartialRule::kTwoWayCVaR:
      return {{"eta", &Now::eta}, {"dual_eta", &Now::dual_eta}, {"outer_eta", &Now::outer_eta}};
    case PartialRule::kPNormPush:
      return {{"gamma", &Now::gamma}};
    case PartialRule::kExact:
    case PartialRule::kTopPush:
      return {};
  }
  return {};
}

inline void check_schedule(const char* op, const char* name, double value) {
  const std::string what(name);
  if (what.find("gamma") != std::string::npos) {
    TORCH_CHECK_VALUE(value >= 0 && value <= 1, op, ": expected ", name, " in [0, 1], got ", value);
  } else if (what.find("kl_weight") != std::string::npos) {
    TORCH_CHECK_VALUE(value >= 1e-30 && std::isfinite(value), op, ": expected ", name,
                      " >= 1e-30 and finite, got ", value);
  } else {
    TORCH_CHECK_VALUE(value >= 0 && std::isfinite(value), op, ": expected ", name,
                      " >= 0 and finite, got ", value);
  }
}

inline PartialParams check_partial_params(const char* op, double max_fpr, double min_tpr,
                                          double power) {
  TORCH_CHECK_VALUE(max_fpr > 0 && max_fpr <= 1, op, ": expected max_fpr in (0, 1], got ", max_fpr);
  TORCH_CHECK_VALUE(min_tpr >= 0 && min_tpr < 1, op, ": expected min_tpr in [0, 1), got ", min_tpr);
  TORCH_CHECK_VALUE(power >= 1 && std::isfinite(power), op, ": expected p >= 1 and finite, got ",
                    power);
  return {max_fpr, min_tpr, power};
}

struct PartialInputs : StepInputs {
  PartialRule rule = PartialRule::kKL;
};

inline PartialInputs check_partial_step(
    const char* op, const at::Tensor& scores, const at::Tensor& labels,
    const std::optional<at::Tensor>& index, const std::optional<at::Tensor>& item_weights,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& dual,
    const std::optional<at::Tensor>& outer, at::TensorList schedules, int64_t rule) {
  TORCH_CHECK_VALUE(rule >= 0 && rule < kPartialRuleCount, op, ": unknown rule number ", rule);
  PartialInputs inputs{check_batch(op, scores, labels, item_weights),
                       static_cast<PartialRule>(rule)};
  const size_t wanted = schedule_slots<double>(inputs.rule).size();
  TORCH_CHECK_VALUE(schedules.size() == wanted, op, ": expected ", wanted, " schedules, got ",
                    schedules.size());
  const bool two_way_cvar = inputs.rule == PartialRule::kTwoWayCVaR;
  const bool with_outer = two_way_cvar || inputs.rule == PartialRule::kTwoWayKL;
  const bool known = state.has_value();
  const bool keeps = inputs.rule != PartialRule::kExact && inputs.rule != PartialRule::kTopPush;
  TORCH_CHECK_VALUE(keeps || !known, op, ": expected no state, which this rule does not keep");
  TORCH_CHECK_VALUE(dual.has_value() == (known && two_way_cvar), op,
                    ": expected dual where a two-way CVaR has state, and nowhere else");
  TORCH_CHECK_VALUE(outer.has_value() == (known && with_outer), op,
                    ": expected outer where a two-way rule has state, and nowhere else");
  if (!known) return inputs;
  check_state(*state, scores, op);
  TORCH_CHECK_VALUE(state->dim() == 2 && state->size(0) == inputs.num_labels, op,
                    ": expected state of shape [", inputs.num_labels, ", N], got ", state->sizes());
  inputs.rows = state->size(1);
  for (const auto& other : {dual, outer}) {
    if (!other.has_value()) continue;
    check_state(*other, scores, op);
    TORCH_CHECK_TYPE(other->scalar_type() == state->scalar_type(), op,
                     ": expected dual and outer of the state's dtype, got ", other->scalar_type());
  }
  TORCH_CHECK_VALUE(!dual.has_value() || dual->sizes() == state->sizes(), op,
                    ": expected dual of the state's shape");
  TORCH_CHECK_VALUE(!outer.has_value() || outer->numel() == inputs.num_labels, op,
                    ": expected outer of shape [", inputs.num_labels, "]");
  check_step_index(op, index, scores, inputs);
  return inputs;
}

}  // namespace xrisk
