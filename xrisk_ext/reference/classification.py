"""Pointwise losses for imbalanced data, as they are written in the papers.

Papers: Lin et al., Focal loss for dense object detection (ICCV 2017); Cui et al., Class-balanced
loss based on effective number of samples (CVPR 2019); Cao et al., Learning imbalanced datasets with
label-distribution-aware margin loss (NeurIPS 2019).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from ._columns import as_columns


def _weighted_mean(
    scores: Tensor,
    labels: Tensor,
    item_weights: Tensor | None,
    losses_of: Callable[[Tensor, Tensor, int], Tensor],
) -> tuple[Tensor, Tensor]:
    """Weighted means [L] of ``losses_of(h, y, label)``, and the gradient of their sum; float64.

    A label without entries: zero. A non-finite score of positive weight: NaN throughout the label.
    """
    columns = as_columns(scores, labels, item_weights)
    values = columns.scores.new_zeros(columns.scores.shape[1])
    gradient = torch.zeros_like(columns.scores)
    for label in range(columns.scores.shape[1]):
        seen = columns.weights[:, label] > 0
        if not bool(seen.any()):
            continue
        h = columns.scores[seen, label].clone().requires_grad_()
        if not bool(h.isfinite().all()):
            values[label] = math.nan
            gradient[:, label] = math.nan
            continue
        w = columns.weights[seen, label]
        value = (w * losses_of(h, columns.positive[seen, label].double(), label)).sum() / w.sum()
        values[label] = value.detach()
        (gradient[seen, label],) = torch.autograd.grad(value, h)
    return values, gradient.reshape(scores.shape)


def _of_label(pair: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """The numbers of the negatives and the positives of a label, from [2] or [2, L]."""
    column = pair.double() if pair.dim() == 1 else pair[:, label].double()
    return column[0], column[1]


def focal(
    scores: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    item_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Values [L] and gradient of ``-alpha_t (1 - p_t)^gamma log p_t``; alpha is the positives'."""

    def losses(h: Tensor, y: Tensor, label: int) -> Tensor:
        t = (2 * y - 1) * h
        weight = y * alpha + (1 - y) * (1 - alpha)
        return -weight * torch.exp(gamma * logsigmoid(-t)) * logsigmoid(t)

    return _weighted_mean(scores, labels, item_weights, losses)


def class_balanced_cross_entropy(
    scores: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    beta: float = 0.9999,
    item_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Values [L] and gradient of cross entropy with weights (1 - beta) / (1 - beta^n_c).

    class_counts [2] or [2, L], negatives first; the two weights of a label sum to 2.
    """

    def losses(h: Tensor, y: Tensor, label: int) -> Tensor:
        down, up = ((1 - beta) / (1 - beta**n) for n in _of_label(class_counts, label))
        weight = 2 * (y * up + (1 - y) * down) / (up + down)
        return weight * binary_cross_entropy_with_logits(h, y, reduction="none")

    return _weighted_mean(scores, labels, item_weights, losses)


def ldam(
    scores: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    class_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Values [L] and gradient of softplus(-scale ((2 y - 1) h - margin_y)), one logit a label.

    margin_c = max_margin (min(n) / n_c)^(1/4); class_counts and class_weights [2] or [2, L].
    """

    def losses(h: Tensor, y: Tensor, label: int) -> Tensor:
        down, up = _of_label(class_counts, label)
        least = torch.minimum(down, up)
        margin = max_margin * (y * (least / up) ** 0.25 + (1 - y) * (least / down) ** 0.25)
        loss = -logsigmoid(scale * ((2 * y - 1) * h - margin))
        if class_weights is None:
            return loss
        weight_down, weight_up = _of_label(class_weights, label)
        return loss * (y * weight_up + (1 - y) * weight_down)

    return _weighted_mean(scores, labels, item_weights, losses)
