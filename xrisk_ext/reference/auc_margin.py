"""The AUC-margin and min-max objectives, as they are written in the papers.

Papers: Yuan et al., Large-scale robust deep AUC maximization (ICCV 2021); Ying et al., Stochastic
online AUC maximization (NIPS 2016); Liu et al., Stochastic AUC maximization with deep neural
networks (ICLR 2020).
"""

import math

import torch
from torch import Tensor

from ._columns import as_columns


def _objective(
    h: Tensor,
    positive: Tensor,
    w: Tensor,
    a: Tensor,
    b: Tensor,
    alpha: Tensor,
    version: str,
    margin: float,
    prior: Tensor | None,
) -> Tensor:
    """Of one label, whose entries all have a weight."""
    up, down = w * positive, w * ~positive
    if version == "v2":
        up, down = up / up.sum(), down / down.sum()
        spread = (up * (h - a) ** 2).sum() + (down * (h - b) ** 2).sum()
        gap = (down * h).sum() - (up * h).sum()
        return spread + 2 * alpha * (margin + gap) - alpha**2
    p = up.sum() / w.sum() if prior is None else prior
    up, down = up / w.sum(), down / w.sum()  # means over the batch
    spread = (1 - p) * (up * (h - a) ** 2).sum() + p * (down * (h - b) ** 2).sum()
    gap = (p * down * h - (1 - p) * up * h).sum()
    if version == "v1":
        return spread + 2 * alpha * (p * (1 - p) * margin + gap) - p * (1 - p) * alpha**2
    return spread + 2 * (margin + alpha) * gap - p * (1 - p) * alpha**2


def auc_margin(
    scores: Tensor,
    labels: Tensor,
    a: Tensor,
    b: Tensor,
    alpha: Tensor,
    *,
    version: str = "v2",
    margin: float = 1.0,
    class_prior: Tensor | None = None,
    item_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Values [L] of ``version`` "v1", "v2" or "min_max", and what its sum has as gradients.

    scores, labels [B] or [B, L]; a, b, alpha, class_prior [L]; item_weights [B] or the scores'
    shape. The gradients are with respect to scores, a, b and alpha; all float64. alpha enters as
    its positive part, but in "min_max".

    A label without entries, or, where the class prior is not given, without positives or without
    negatives: zero. A non-finite score of positive weight: NaN throughout the label.
    """
    columns = as_columns(scores, labels, item_weights)
    count = columns.scores.shape[1]
    values = columns.scores.new_zeros(count)
    by_scores = torch.zeros_like(columns.scores)
    by_parameters = columns.scores.new_zeros(3, count)
    for label in range(count):
        w = columns.weights[:, label]
        seen = w > 0
        positive = columns.positive[seen, label]
        given = version != "v2" and class_prior is not None
        if not bool(seen.any()) or not (given or 0 < int(positive.sum()) < len(positive)):
            continue
        h = columns.scores[seen, label].clone().requires_grad_()
        if not bool(h.isfinite().all()):
            for part in (values[label : label + 1], by_scores[:, label], by_parameters[:, label]):
                part.fill_(math.nan)
            continue
        own = [t[label].detach().double().requires_grad_() for t in (a, b, alpha)]
        dual = own[2] if version == "min_max" else own[2].clamp(min=0)
        prior = class_prior[label].double() if class_prior is not None else None
        value = _objective(h, positive, w[seen], own[0], own[1], dual, version, margin, prior)
        gradients = torch.autograd.grad(value, (h, *own))
        values[label] = value.detach()
        by_scores[seen, label] = gradients[0]
        # below zero the positive part is constant, but the ascent starts from its edge
        by_parameters[:, label] = torch.stack(gradients[1:])
        if version != "min_max" and own[2] < 0:
            at_zero = own[2].detach().zero_().requires_grad_()
            value = _objective(
                h, positive, w[seen], own[0], own[1], at_zero, version, margin, prior
            )
            (by_parameters[2, label],) = torch.autograd.grad(value, at_zero)
    return values, by_scores.reshape(scores.shape), *by_parameters
