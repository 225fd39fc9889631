"""The fused step of the score losses: rows -> rule -> columns for all labels, in one op call."""

import torch
from torch import Tensor

import xrisk_ext._C as _C

# csrc/core/params.h numbers the rules.
RULES: dict[str, int] = {"average_precision": 0, "pairwise_auc": 1}


def score_step(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None,
    item_weights: Tensor | None,
    state: Tensor | None,
    gamma: Tensor,
    scale: Tensor,
    margin: float,
    rule: int,
    surrogate: int,
    algorithm: int,
    update_state: bool,
    mean_reduction: bool,
) -> Tensor:
    """One training or evaluation step of a score loss; the losses are thin around it.

    Shapes: scores and labels ``[B]``, ``[B, 1]`` or ``[B, L]``; index ``[B]``; item_weights ``[B]``
    or the scores' shape; state ``[L, N, 2]`` or None. Returns the mean over the labels, or ``[L]``.

    Value and gradient are computed together; the op's autograd kernel
    (csrc/torch/attach_gradient.h) attaches the gradient to the value.
    """
    if type(scores) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.score_step(
            scores, labels, index, item_weights, state, gamma, scale, margin, rule, surrogate,
            algorithm, update_state, mean_reduction,
        )  # fmt: skip
        return value
    value, _ = torch.ops.xrisk_ext.score_step_(
        scores, labels, index, item_weights, state, gamma, scale, margin, rule, surrogate,
        algorithm, update_state, scores.requires_grad and torch.is_grad_enabled(), mean_reduction,
    )  # fmt: skip
    return value


@torch.library.register_fake("xrisk_ext::score_step_")
def _(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None,
    item_weights: Tensor | None,
    state: Tensor | None,
    gamma: Tensor,
    scale: Tensor,
    margin: float,
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
