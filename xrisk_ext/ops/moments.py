"""The ops that sum over the entries of each label; the losses are thin around them.

Value and gradient are computed together; csrc/torch/attach_gradient.h attaches the gradient.
"""

import torch
from torch import Tensor

import xrisk_ext._C as _C

# csrc/core/auc_margin.h numbers the kinds.
AUC_MARGINS: dict[str, int] = {"v2": 0, "v1": 1, "min_max": 2, "v2_over_all": 3}


def auc_margin_step(
    scores: Tensor,
    labels: Tensor,
    item_weights: Tensor | None,
    a: Tensor,
    b: Tensor,
    alpha: Tensor,
    class_prior: Tensor | None,
    margin: float,
    kind: int,
    mean_reduction: bool,
) -> Tensor:
    """The AUC-margin objective of a batch: the mean over the labels, or ``[L]``.

    Shapes: scores and labels ``[B]``, ``[B, 1]`` or ``[B, L]``; item_weights ``[B]`` or the scores'
    shape; a, b, alpha and class_prior ``[L]``. The gradient that flows to alpha is reversed.
    """
    if type(scores) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.auc_margin(
            scores, labels, item_weights, a, b, alpha, class_prior, margin, kind, mean_reduction
        )
        return value
    needs = torch.is_grad_enabled() and (
        scores.requires_grad or a.requires_grad or b.requires_grad or alpha.requires_grad
    )
    value, _, _ = torch.ops.xrisk_ext.auc_margin_step(
        scores, labels, item_weights, a, b, alpha, class_prior, margin, kind, needs, mean_reduction
    )
    return value


@torch.library.register_fake("xrisk_ext::auc_margin_step")
def _(
    scores: Tensor,
    labels: Tensor,
    item_weights: Tensor | None,
    a: Tensor,
    b: Tensor,
    alpha: Tensor,
    class_prior: Tensor | None,
    margin: float,
    kind: int,
    needs_gradient: bool,
    mean_reduction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    value, gradient = _outputs(scores, needs_gradient, mean_reduction)
    return value, gradient, value.new_empty([3, _num_labels(scores)])


def cross_entropy_step(
    scores: Tensor,
    labels: Tensor,
    item_weights: Tensor | None,
    class_weights: Tensor | None,
    margins: Tensor | None,
    scale: float,
    focus: float,
    mean_reduction: bool,
) -> Tensor:
    """The weighted cross entropy of a batch: the mean over the labels, or ``[L]``.

    Shapes as in :func:`auc_margin_step`; class_weights and margins ``[2, L]``, of the negatives and
    of the positives. csrc/core/cross_entropy.h has the formula.
    """
    if type(scores) is Tensor and not torch.compiler.is_compiling():
        value: Tensor = _C.cross_entropy(
            scores, labels, item_weights, class_weights, margins, scale, focus, mean_reduction
        )
        return value
    value, _ = torch.ops.xrisk_ext.cross_entropy_step(
        scores, labels, item_weights, class_weights, margins, scale, focus,
        scores.requires_grad and torch.is_grad_enabled(), mean_reduction,
    )  # fmt: skip
    return value


@torch.library.register_fake("xrisk_ext::cross_entropy_step")
def _(
    scores: Tensor,
    labels: Tensor,
    item_weights: Tensor | None,
    class_weights: Tensor | None,
    margins: Tensor | None,
    scale: float,
    focus: float,
    needs_gradient: bool,
    mean_reduction: bool,
) -> tuple[Tensor, Tensor]:
    return _outputs(scores, needs_gradient, mean_reduction)


def _num_labels(scores: Tensor) -> int:
    return scores.shape[1] if scores.dim() == 2 else 1


def _outputs(scores: Tensor, needs_gradient: bool, mean: bool) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    value = scores.new_empty([] if mean else [_num_labels(scores)], dtype=dtype)
    return value, scores.new_empty(scores.shape if needs_gradient else [0], dtype=dtype)
