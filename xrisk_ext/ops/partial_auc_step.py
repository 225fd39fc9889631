"""The fused step of the losses that look at the top of the list, for all labels, in one op call."""

import torch
from torch import Tensor

import xrisk_ext._C as _C

# csrc/core/params.h numbers the rules.
PARTIAL_RULES: dict[str, int] = {
    "kl": 0,
    "two_way_kl": 1,
    "cvar": 2,
    "two_way_cvar": 3,
    "exact": 4,
    "top_push": 5,
    "p_norm_push": 6,
}
# What a rule takes as `schedules`, in this order (csrc/torch/partial_auc_inputs.h).
PARTIAL_SCHEDULES: dict[str, tuple[str, ...]] = {
    "kl": ("kl_weight", "gamma"),
    "two_way_kl": ("kl_weight", "gamma", "positive_kl_weight", "outer_gamma"),
    "cvar": ("eta",),
    "two_way_cvar": ("eta", "dual_eta", "outer_eta"),
    "exact": (),
    "top_push": (),
    "p_norm_push": ("gamma",),
}


def partial_auc_step(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None,
    item_weights: Tensor | None,
    state: Tensor | None,
    dual: Tensor | None,
    outer: Tensor | None,
    schedules: list[Tensor],
    scale: Tensor,
    margin: float,
    max_fpr: float,
    min_tpr: float,
    power: float,
    rule: int,
    surrogate: int,
    algorithm: int,
    update_state: bool,
    mean_reduction: bool,
) -> Tensor:
    """One training or evaluation step; the losses are thin around it.

    Shapes: scores and labels ``[B]``, ``[B, 1]`` or ``[B, L]``; index ``[B]``; item_weights ``[B]``
    or the scores' shape; state and dual ``[L, N]``, outer ``[L]``, or None. Returns the mean over
    the labels, or ``[L]``.

    Value and gradient are computed together; the op's autograd kernel
    (csrc/torch/attach_gradient.h) attaches the gradient to the value.
    """
    if type(scores) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.partial_auc_step(
            scores, labels, index, item_weights, state, dual, outer, schedules, scale, margin,
            max_fpr, min_tpr, power, rule, surrogate, algorithm, update_state, mean_reduction,
        )  # fmt: skip
        return value
    value, _ = torch.ops.xrisk_ext.partial_auc_step_(
        scores, labels, index, item_weights, state, dual, outer, schedules, scale, margin, max_fpr,
        min_tpr, power, rule, surrogate, algorithm, update_state,
        scores.requires_grad and torch.is_grad_enabled(), mean_reduction,
    )  # fmt: skip
    return value


@torch.library.register_fake("xrisk_ext::partial_auc_step_")
def _(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None,
    item_weights: Tensor | None,
    state: Tensor | None,
    dual: Tensor | None,
    outer: Tensor | None,
    schedules: list[Tensor],
    scale: Tensor,
    margin: float,
    max_fpr: float,
    min_tpr: float,
    power: float,
    rule: int,
    surrogate: int,
    algorithm: int,
    update_state: bool,
    needs_gradient: bool,
    mean_reduction: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    num_labels = scores.shape[1] if scores.dim() == 2 else 1
    value = scores.new_empty([] if mean_reduction else [num_labels], dtype=dtype)
    gradient = scores.new_empty(scores.shape if needs_gradient else [0], dtype=dtype)
    return value, gradient
