// The state of the compositional entropic risk among the arguments of an op.
#pragma once

#include <cmath>

#include "cpu/entropic_average.h"
#include "torch/cpu_step.h"
#include "torch/state_inputs.h"

namespace xrisk {

struct EntropicStateInputs {
  at::Tensor ids;  // [B] int64
  EntropicSchedule schedule;

  template <class State>
  cpu::EntropicState<State> rows_of(const std::optional<at::Tensor>& state, bool write) const {
    cpu::EntropicState<State> result;
    if (!state.has_value()) return result;
    result.rows = write ? state->mutable_data_ptr<State>()
                        : const_cast<State*>(state->const_data_ptr<State>());
    result.count = state->numel();
    result.index = ids.const_data_ptr<int64_t>();
    result.schedule = schedule;
    result.write = write;
    return result;
  }
};

// state [N] and the ids of the `batch` entries; schedules: gamma (SOX), or alpha and kappa (SCENT).
// Without state they are not looked at.
inline EntropicStateInputs check_entropic_state(const char* op, const at::Tensor& like,
                                                int64_t batch,
                                                const std::optional<at::Tensor>& index,
                                                const std::optional<at::Tensor>& state,
                                                at::TensorList schedules) {
  EntropicStateInputs inputs;
  if (!state.has_value()) return inputs;
  check_state(*state, like, op);
  TORCH_CHECK_VALUE(state->dim() == 1, op, ": expected state of shape [N], got ", state->sizes());
  TORCH_CHECK_VALUE(index.has_value(), op, ": expected index, the ids of the samples, got None");
  check_device(*index, like, op, "index");
  inputs.ids = checked_index(*index, batch, op);
  const int64_t* ids = inputs.ids.const_data_ptr<int64_t>();
  check_range(inputs.ids, cpu::find_out_of_range(ids, batch, state->numel(), AtenExecutor()),
              state->numel(), op);
  TORCH_CHECK_VALUE(schedules.size() == 1 || schedules.size() == 2, op,
                    ": expected schedules gamma, or alpha and kappa, got ", schedules.size());
  if (schedules.size() == 1) {
    inputs.schedule.gamma = scalar_value(schedules[0], op, "gamma");
    check_gamma(inputs.schedule.gamma, op);
    return inputs;
  }
  inputs.schedule.scent = true;
  inputs.schedule.alpha = scalar_value(schedules[0], op, "alpha");
  inputs.schedule.kappa = scalar_value(schedules[1], op, "kappa");
  TORCH_CHECK_VALUE(std::isfinite(inputs.schedule.alpha) && std::isfinite(inputs.schedule.kappa),
                    op, ": expected alpha and kappa to be finite, got ", inputs.schedule.alpha,
                    " and ", inputs.schedule.kappa);
  return inputs;
}

}  // namespace xrisk
