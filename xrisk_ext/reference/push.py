"""Top push and the p-norm push: value and (dynamic) gradient of one step.

Papers: Li, Jin and Zhou, Top rank optimization in linear time (NeurIPS 2014); Rudin, The p-norm
push (JMLR 2009).
"""

import torch
from torch import Tensor

from ._pairs_of_labels import LabelPairs, blend_, rows_of, step_of_pairs
from .partial_auc import exact


def top_push(
    scores: Tensor,
    labels: Tensor,
    *,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """sum_i a_i phi(max_j h_j - h_i) over the positives i and negatives j, and its gradient.

    a_i are the positives' weights as shares of 1. The highest negative counts for a weight of 1: if
    its own is less, the next ones fill up. Of a tie the first counts. Shapes as in `pairwise_auc`.
    """

    def step(pairs: LabelPairs) -> tuple[Tensor, Tensor]:
        return exact(pairs, min(1.0, float(pairs.item_weights.sum())))

    return step_of_pairs(
        scores, labels, None, item_weights, None, step,
        surrogate=surrogate, margin=margin, scale=scale,
    )  # fmt: skip


def p_norm_push(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    p: float = 4.0,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """Anchors are the NEGATIVES j (weights as shares a_j), items the positives i (shares c_i)::

        u_j   = moving average of sum_i c_i phi(h_j - h_i), kept as a logarithm
        value = sum_j a_j u_j^p;   pair weight p a_j c_i u_j^(p - 1)

    One label: state [N] of log u; L labels: [L, N]. index [B] is read at negatives only.
    """
    rows = rows_of(state, scores, "state")

    def step(pairs: LabelPairs) -> tuple[Tensor, Tensor]:
        own = None if rows is None else rows[pairs.label]
        log_g = (pairs.losses * pairs.item_share).sum(dim=1).log()
        log_u = blend_(own, pairs.ids, log_g, gamma, log=True)
        value = (pairs.anchor_share * (p * log_u).exp()).sum()
        power = ((p - 1.0) * log_u).exp() if p > 1.0 else torch.ones_like(log_u)
        return value, p * (pairs.anchor_share * power)[:, None] * pairs.item_share

    num_rows = None if rows is None else rows.shape[1]
    return step_of_pairs(
        scores, labels, index, item_weights, num_rows, step,
        surrogate=surrogate, margin=margin, scale=scale, anchors_positive=False,
    )  # fmt: skip
