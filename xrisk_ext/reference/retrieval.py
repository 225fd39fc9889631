"""The retrieval losses without state: Smooth-AP, FastAP and the recall@k surrogate.

All take scores [Q, S] (or [S]: one list), labels of the same shape (positive where > 0), a bool
mask and item weights; an item of weight w counts as w items. They return the values [Q] of the
lists and the gradients [Q, S] of each list's own value, in float64. A list without positives has
value 0.

Papers: Brown et al., Smooth-AP (2020); Cakir et al., Deep metric learning to rank (2019); Patel et
al., Recall@k surrogate loss with large batches and similarity mixup (2022).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._lists import each_list


def _labels(labels: Tensor) -> Tensor:
    return (labels > 0).to(torch.float64)  # no label pads


def _soft_counts(h: Tensor, w: Tensor, temperature: float) -> Tensor:
    """[n, n]: how much of item j stands above item i, w_j sigma((h_j - h_i) / temperature)."""
    return w[None, :] * torch.sigmoid((h[None, :] - h[:, None]) / temperature)


def smooth_ap(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    item_weights: Tensor | None = None,
    temperature: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """``1 - mean_i r+_i / r_i`` over the positives, with
    ``r_i = 1 + sum_{j != i} sigma((h_j - h_i) / T)`` over all items and ``r+_i`` the same over the
    positives.

    With weights, w copies of an item hold the rank 1 + (w - 1) / 2 among themselves:
    ``r_i = 1/2 + sum_j w_j sigma``.
    """

    def loss(h: Tensor, y: Tensor, w: Tensor) -> Tensor | None:
        positive = y > 0
        if not bool(positive.any()):
            return None
        above = _soft_counts(h, w, temperature)
        rank = 0.5 + above.sum(1)
        positive_rank = 0.5 + above[:, positive].sum(1)
        share = w[positive] / w[positive].sum()
        return 1.0 - (share * (positive_rank / rank)[positive]).sum()

    return each_list(loss, scores, _labels(labels), mask, item_weights)


def recall_at_k(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    item_weights: Tensor | None = None,
    k: int | Sequence[int] = 1,
    temperature: float = 0.01,
    rank_temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """``1 - mean over k of sum_i sigma((k - r_i) / T2) / min(k, P)`` over the positives, P their
    total weight and r_i their ranks as in Smooth-AP.
    """
    cutoffs = [k] if isinstance(k, int) else list(k)

    def loss(h: Tensor, y: Tensor, w: Tensor) -> Tensor | None:
        positive = y > 0
        if not bool(positive.any()):
            return None
        rank = (0.5 + _soft_counts(h, w, temperature).sum(1))[positive]
        weights = w[positive]
        recalls = [
            (weights * torch.sigmoid((cutoff - rank) / rank_temperature)).sum()
            / weights.sum().clamp(max=cutoff)
            for cutoff in cutoffs
        ]
        return 1.0 - torch.stack(recalls).mean()

    return each_list(loss, scores, _labels(labels), mask, item_weights)


def fast_ap(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    item_weights: Tensor | None = None,
    num_bins: int = 10,
    score_range: tuple[float, float] = (-1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """``1 - (1 / P) sum_l h+_l H+_l / H_l``: h a soft histogram of the scores over num_bins + 1
    edges from the highest score to the lowest, h+ that of the positives, H and H+ their cumulative
    sums, P the positives' weight. Scores beyond the range stand at its ends.
    """
    low, high = score_range

    def loss(h: Tensor, y: Tensor, w: Tensor) -> Tensor | None:
        positive = (y > 0).to(h.dtype)
        if not bool(positive.any()):
            return None
        place = ((high - h) / (high - low) * num_bins).clamp(0.0, num_bins)
        edges = torch.arange(num_bins + 1, dtype=h.dtype, device=h.device)
        pulses = w[:, None] * (1.0 - (place[:, None] - edges[None, :]).abs()).clamp(min=0.0)
        histogram, of_positives = pulses.sum(0), (positive[:, None] * pulses).sum(0)
        total, total_positive = histogram.cumsum(0), of_positives.cumsum(0)
        filled = total > 0
        terms = (of_positives * total_positive)[filled] / total[filled]
        return 1.0 - terms.sum() / (positive * w).sum()

    return each_list(loss, scores, _labels(labels), mask, item_weights)
