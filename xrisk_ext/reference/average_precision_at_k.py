"""Average precision over the top K of every label, in the bilevel form of K-SONG.

Papers: Qi et al., Stochastic optimization of areas under precision-recall curves with provable
convergence (NeurIPS 2021); the bilevel form: Qiu et al. (ICML 2022).
"""

import math

import torch
from torch import Tensor

from ._queries import checked_rows, iterate_queries
from ._threshold import TopK, thresholds_of
from .average_precision import U_ALL_FLOOR
from .moving_average import moving_average_update_
from .ndcg import differences
from .surrogates import check_surrogate, surrogate_slope
from .surrogates import surrogate as pair_term


def average_precision_at_k(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None = None,
    state: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    top_k: TopK,
    num_items: float | None = None,
    item_weights: Tensor | None = None,
    surrogate: str = "squared_hinge",
    margin: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """-AP@K of every label, and the gradient of each one's value.

    Of each label, with u as in `average_precision` and psi, lambda, c as in `ndcg` ::

        value = sum_i (w_i / W_P) psi(h_i - lambda) f_i,    f_i = -u_pos_i / u_all_i

    scores, labels [B, L]; index [B]; state [L, N, 2]; the thresholds of `top_k` [L];
    item_weights [B] or [B, L]. Returns [L] and [B, L], in float64.
    """
    phi = (surrogate, *check_surrogate(surrogate, margin, scale))
    if item_weights is not None and item_weights.dim() == 1:
        item_weights = item_weights[:, None].expand(scores.shape)
    weights = None if item_weights is None else item_weights.t()
    values = torch.zeros(scores.shape[1], dtype=torch.float64)
    gradient = torch.zeros(scores.t().shape, dtype=torch.float64)
    live = []
    for label in iterate_queries(scores.t(), labels.t(), None, None, weights):
        if len(label.relevant) == 0:
            continue
        if not bool(label.scores.isfinite().all()):
            values[label.number] = math.nan
            gradient[label.number] = math.nan
            continue
        live.append(label)
    rows = torch.arange(scores.shape[1])
    thresholds = thresholds_of(live, top_k, rows, num_items, scores.shape[1])
    for label, threshold in zip(live, thresholds, strict=True):
        entries = label.places - label.number * scores.shape[0]
        d = differences(label)  # [P, S]
        share = label.weights / label.weights.sum()
        anchor_weights = label.weights[label.relevant]
        anchor_share = anchor_weights / anchor_weights.sum()
        c = (label.relevance > 0).double()
        losses = pair_term(phi[0], d, phi[1], phi[2]) * share
        u = torch.stack([losses.sum(dim=1), (losses * c).sum(dim=1)], dim=1)
        if state is not None:
            ids = checked_rows(
                index, entries[label.relevant], state.shape[1], "index", scores.shape[:1]
            )
            u = moving_average_update_(state[label.number], ids, u, gamma)
        without_loss = u[:, 0] <= U_ALL_FLOOR
        u_all = u[:, 0].where(~without_loss, 1.0)
        ratio = (u[:, 1] / u_all).where(~without_loss, 0.0)
        values[label.number] = -(anchor_share * threshold.psi * ratio).sum()
        p = (ratio[:, None] - c) / u_all[:, None]
        p = p * (anchor_share * threshold.psi * ~without_loss)[:, None] * share
        pull = p * surrogate_slope(phi[0], d, phi[1], phi[2])
        own = pull.sum(dim=0)
        own[label.relevant] -= pull.sum(dim=1)
        pushed = -anchor_share * threshold.psi_slope * ratio
        own[label.relevant] += pushed
        gradient[label.number, entries] = own - pushed.sum() * threshold.pull
    return values, gradient.t()
