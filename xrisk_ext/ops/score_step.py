"""The fused step of the score losses: rows -> rule -> columns for all labels, in one op call."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# csrc/core/params.h numbers the rules.
RULES: dict[str, int] = {"average_precision": 0, "pairwise_auc": 1}


class AttachGradient(torch.autograd.Function):
    """Gives a value a gradient that is known already.

    A fused step computes value and gradient together, on detached scores. This ties them to the
    graph: backward multiplies the saved gradient, kept in the accumulation dtype, by the upstream
    gradient and casts last. Saved memory is never written, so ``retain_graph``, accumulation and
    gradient scaling work; a second derivative is not known and raises.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = scores.dtype
        return value.view_as(value)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream).to(ctx.dtype), None, None


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
    """
    needs_gradient = scores.requires_grad and torch.is_grad_enabled()
    value, gradient = torch.ops.xrisk_ext.score_step_(
        scores.detach() if needs_gradient else scores, labels, index, item_weights, state, gamma,
        scale, margin, rule, surrogate, algorithm, update_state, needs_gradient, mean_reduction,
    )  # fmt: skip
    if not needs_gradient:
        return value  # type: ignore[no-any-return]
    return AttachGradient.apply(scores, value, gradient)  # type: ignore[no-any-return]


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
