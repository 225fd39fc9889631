"""Fused steps that only LibAUC's losses take, on the CPU; xrisk_ext.libauc is thin around them.

Value and gradients are computed together; csrc/torch/attach_gradient.h attaches the gradients.
"""

import torch
from torch import Tensor

import xrisk_ext._C as _C


def pooled_margin_step(
    values: Tensor,
    denominators: Tensor | None,
    labels: Tensor,
    index: Tensor | None,
    state: Tensor | None,
    state_denominators: Tensor | None,
    parameters: tuple[Tensor, Tensor, Tensor],
    gamma: Tensor,
    tau: float = 1.0,
) -> Tensor:
    """MIDAM's step: csrc/cpu/pooled_margin_step.h has the formula.

    Shapes: values, denominators and labels ``[B]`` or ``[B, 1]``; index ``[B]``; states ``[N]`` or
    None; parameters a, b and alpha of one element, the last a constant.
    """
    a, b, alpha = parameters
    if type(values) is Tensor and not torch.compiler.is_compiling():
        fast: Tensor = _C.pooled_margin(
            values, denominators, labels, index, state, state_denominators, a, b, alpha, gamma, tau
        )
        return fast
    needs = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (values, denominators, a, b)
    )
    value, _, _, _, _ = torch.ops.xrisk_ext.pooled_margin_step_(
        needs, values, denominators, labels, index, state, state_denominators, a, b, alpha, gamma,
        tau,
    )  # fmt: skip
    return value  # type: ignore[no-any-return]


@torch.library.register_fake("xrisk_ext::pooled_margin_step_")
def _(
    needs_gradient: bool,
    values: Tensor,
    denominators: Tensor | None,
    labels: Tensor,
    index: Tensor | None,
    state: Tensor | None,
    state_denominators: Tensor | None,
    a: Tensor,
    b: Tensor,
    alpha: Tensor,
    gamma: Tensor,
    tau: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    both = needs_gradient and denominators is not None
    return (
        values.new_empty([], dtype=dtype),
        values.new_empty(values.shape if needs_gradient else [0], dtype=dtype),
        values.new_empty(
            denominators.shape if both and denominators is not None else [0], dtype=dtype
        ),
        a.new_empty(a.shape, dtype=dtype),
        b.new_empty(b.shape, dtype=dtype),
    )


def ranked_precision_step(
    scores: Tensor,
    labels: Tensor,
    values: Tensor,
    chosen: Tensor | None,
    index: Tensor | None,
    state: Tensor | None,
    scale: Tensor,
    margin: float,
    top_k: float,
    count: int,
    surrogate: int,
    algorithm: int,
) -> Tensor:
    """The sum of values ``[L]`` over count, with the gradient of mAP in which ranks count.

    csrc/cpu/ranked_precision.h has the formula. Shapes: scores and labels ``[B, L]``; chosen
    ``[L]``, bool; index ``[B]``; state ``[L, N, 2]``, read alone.
    """
    if type(scores) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.ranked_precision_step(
            scores, labels, values, chosen, index, state, scale, margin, top_k, count, surrogate,
            algorithm,
        )  # fmt: skip
        return value
    value, _ = torch.ops.xrisk_ext.ranked_precision_step(
        scores.requires_grad and torch.is_grad_enabled(),
        scores, labels, values, chosen, index, state, scale, margin, top_k, count, surrogate,
        algorithm,
    )  # fmt: skip
    return value


@torch.library.register_fake("xrisk_ext::ranked_precision_step")
def _(
    needs_gradient: bool,
    scores: Tensor,
    labels: Tensor,
    values: Tensor,
    chosen: Tensor | None,
    index: Tensor | None,
    state: Tensor | None,
    scale: Tensor,
    margin: float,
    top_k: float,
    count: int,
    surrogate: int,
    algorithm: int,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return (
        values.new_empty([]),
        scores.new_empty(scores.shape if needs_gradient else [0], dtype=dtype),
    )
