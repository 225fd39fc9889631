"""Pairwise AUC: the mean surrogate over all (positive, negative) pairs, and its gradient.

Paper: Gao and Zhou, On the consistency of AUC pairwise optimization (IJCAI 2015); Yang, Empirical
X-risk minimization (2022).
"""

import math

import torch
from torch import Tensor

from ._columns import as_columns
from .surrogates import check_surrogate, surrogate_slope
from .surrogates import surrogate as pair_term


def pairwise_auc(
    scores: Tensor,
    labels: Tensor,
    *,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """The mean surrogate over all (positive, negative) pairs, and its gradient.

    With W_P and W_N the total weights of the positives and of the negatives::

        value    = sum_{i in +, j in -} w_i w_j phi(h_j - h_i) / (W_P W_N)
        gradient = d value / d h

    scores, labels [B] or [B, L]; item_weights [B] or the scores' shape. value is [] or [L],
    gradient has the scores' shape, its column l being that of value_l; both float64.

    A label without positives or without negatives (of positive weight): value 0, gradient 0.
    Otherwise a non-finite score of positive weight: value NaN, gradient NaN throughout the label.
    """
    m, s = check_surrogate(surrogate, margin, scale)
    columns = as_columns(scores, labels, item_weights)
    value = columns.scores.new_zeros(columns.scores.shape[1])
    gradient = torch.zeros_like(columns.scores)
    for label in range(columns.scores.shape[1]):
        h, w = columns.scores[:, label], columns.weights[:, label]
        anchor = columns.positive[:, label] & (w > 0)
        item = ~columns.positive[:, label] & (w > 0)
        if not bool(anchor.any()) or not bool(item.any()):
            continue
        if not bool(h[w > 0].isfinite().all()):
            value[label] = math.nan
            gradient[:, label] = math.nan
            continue
        d = h[item][None, :] - h[anchor][:, None]  # [P, M]
        anchor_share = w[anchor] / w[anchor].sum()  # [P]
        item_share = w[item] / w[item].sum()  # [M]
        pair_share = anchor_share[:, None] * item_share  # [P, M]
        pull = pair_share * surrogate_slope(surrogate, d, m, s)
        value[label] = (pair_share * pair_term(surrogate, d, m, s)).sum()
        gradient[item, label] = pull.sum(dim=0)
        gradient[anchor, label] = -pull.sum(dim=1)
    return (value[0], gradient[:, 0]) if scores.dim() == 1 else (value, gradient)
