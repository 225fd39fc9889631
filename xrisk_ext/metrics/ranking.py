"""Metrics of ranked lists, one query a row."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from xrisk_ext.metrics._inputs import (
    Reduction,
    check_other,
    check_scores,
    positives_of,
    reduce_rows,
    sort_rows,
)
from xrisk_ext.ops.curves import group_ends, sort_descending


def ndcg_at_k(
    scores: Tensor,
    relevance: Tensor,
    k: int | None = None,
    *,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    undefined: float = 0.0,
) -> Tensor:
    """Normalized discounted cumulative gain of the k items with the highest scores.

    ``DCG@k / IDCG@k`` with ``DCG@k = sum over ranks r <= k of G(y_r) / log2(1 + r)``; IDCG is the
    DCG of the items in the order of their relevance. G is ``2^y - 1``, or y with
    ``gain="linear"``, which equals ``sklearn.metrics.ndcg_score``.

    Args:
        scores: ``[S]``, or ``[Q, S]`` with one query a row.
        relevance: the scores' shape, any real dtype, finite and >= 0.
        k: at least 1; None means the whole list. Longer than a list is the whole list.
        gain: see above.
        mask: bool, the scores' shape, False for padding, whose contents are ignored.
        reduction, undefined: see the module; undefined where no item is relevant.

    Returns:
        float64, 0-dim, or ``[Q]`` (``reduction="none"`` with ``[Q, S]``).

    Source: Jarvelin & Kekalainen (2002); the gain: Burges et al., Learning to rank (2005); ties:
    McSherry & Najork (2008).
    """
    op = "ndcg_at_k"
    if gain not in ("exponential", "linear"):
        raise ValueError(f'{op}: expected gain to be "exponential" or "linear", got {gain!r}')
    scores, graded, mask = _lists(op, scores, relevance, "relevance", mask)
    graded = graded.to(torch.float64)
    if mask is not None:
        graded = graded.masked_fill(~mask, 0.0)
    length = scores.size(-1)
    top = length if k is None else min(_count(op, k), length)
    gains = _gains(op, graded, gain)
    ranks = torch.arange(1, top + 1, dtype=torch.float64, device=scores.device)
    discount = torch.log2(1 + ranks).reciprocal()
    value = _tie_averaged(op, scores, gains, mask, discount)
    # Padding has gain 0 and ends among the items without gain.
    ideal = (sort_descending(gains)[0][:, :top] * discount).sum(-1)
    return reduce_rows(op, value / ideal, ideal > 0, reduction, undefined, relevance)


def recall_at_k(
    scores: Tensor,
    labels: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    undefined: float = 0.0,
) -> Tensor:
    """The share of a query's positives that are among its k highest scores.

    Ties at the cut count by their share, the expectation over their orders.

    Args:
        scores: ``[S]``, or ``[Q, S]`` with one query a row.
        labels: the scores' shape.
        k: at least 1.
        mask: bool, the scores' shape, False for padding, whose contents are ignored.
        reduction, undefined: see the module; undefined where there is no positive.

    Returns:
        float64, 0-dim, or ``[Q]`` (``reduction="none"`` with ``[Q, S]``).
    """
    op = "recall_at_k"
    hits, positives = _hits(op, scores, labels, k, mask)
    return reduce_rows(op, hits / positives, positives > 0, reduction, undefined, labels)


def precision_at_k(
    scores: Tensor,
    labels: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    undefined: float = 0.0,
) -> Tensor:
    """The share of positives among a query's k highest scores: their number over k.

    A list of fewer than k items is still divided by k. Arguments, ties and result as for
    ``recall_at_k``; undefined where there is no positive, as there.
    """
    op = "precision_at_k"
    hits, positives = _hits(op, scores, labels, k, mask)
    return reduce_rows(op, hits / k, positives > 0, reduction, undefined, labels)


def _hits(
    op: str, scores: Tensor, labels: Tensor, k: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Expected number of positives among the k highest, and of all positives: two ``[Q]``."""
    k = _count(op, k)
    scores, labels, mask = _lists(op, scores, labels, "labels", mask)
    positive = positives_of(labels)
    if mask is not None:
        positive = positive & mask
    gains = positive.to(torch.float64)
    ones = gains.new_ones(min(k, scores.size(-1)))
    return _tie_averaged(op, scores, gains, mask, ones), gains.sum(-1)


def _tie_averaged(
    op: str, scores: Tensor, gains: Tensor, mask: Tensor | None, discount: Tensor
) -> Tensor:
    """``sum_i gain_i discount[rank_i]``, mean over the orders of tied items: ``[Q]``.

    ``discount [K]`` is that of the first K ranks, 0 beyond. An item gets the mean discount of the
    ranks of its tie group. Padding was given the score -inf: it may tie with items that have it,
    but takes no rank.
    """
    values, order = sort_rows(op, scores)
    top = discount.size(0)
    if values.numel() == 0:
        return gains.sum(-1)
    # Past the tie group that holds rank K nothing counts.
    length = int((values >= values[:, top - 1 : top]).sum(-1).amax())
    values, order = values[:, :length], order[:, :length]
    gains = gains.gather(-1, order)
    last = group_ends(values)
    if mask is None and bool(last.all()):
        return (gains * discount).sum(-1)
    if mask is None:
        counts = torch.arange(1, length + 1, device=values.device).expand(values.shape)
    else:
        counts = mask.gather(-1, order).cumsum(-1)
    # Ranks of a group: after `start`, up to and with `end`.
    start = torch.where(last, counts, 0).cummax(-1).values.roll(1, -1)
    start[:, 0] = 0
    end = torch.where(last, counts, length).flip(-1).cummin(-1).values.flip(-1)
    cumulative = torch.nn.functional.pad(discount.cumsum(0), (1, 0))
    total = cumulative[end.clamp(max=top)] - cumulative[start.clamp(max=top)]
    return (gains * total / (end - start).clamp(min=1)).sum(-1)


def _gains(op: str, relevance: Tensor, gain: str) -> Tensor:
    if not bool(((relevance >= 0) & relevance.isfinite()).all()):
        raise ValueError(f"{op}: expected relevance to be finite and >= 0")
    if relevance.numel() == 0:
        return relevance
    # A common factor 2^-shift keeps sums of the largest gains finite; it cancels against the ideal.
    highest = relevance.amax(-1, keepdim=True)
    if gain == "linear":
        return relevance * torch.exp2(-(torch.log2(highest) - 500).clamp(min=0).floor())
    shift = (highest - 500).clamp(min=0)
    exact = torch.exp2(relevance - shift) - torch.exp2(-shift)  # for integers
    return torch.where(relevance < 1, torch.expm1(relevance * math.log(2)), exact)


def _lists(
    op: str, scores: Tensor, other: Tensor, name: str, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All as ``[Q, S]``, the scores of padding -inf."""
    check_scores(op, scores, "[S] or [Q, S]")
    check_other(op, other, name, scores)
    if mask is not None:
        check_other(op, mask, "mask", scores)
        if mask.dtype != torch.bool:
            raise TypeError(f"{op}: expected mask to be bool, got {mask.dtype}")
    for what, tensor in ((name, other), ("mask", mask)):
        if tensor is not None and tensor.shape != scores.shape:
            raise ValueError(
                f"{op}: expected {what} of shape {list(scores.shape)}, got {list(tensor.shape)}"
            )
    scores, other = scores.detach(), other.detach()
    if scores.ndim == 1:
        scores, other, mask = scores[None], other[None], None if mask is None else mask[None]
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores, other, mask


def _count(op: str, k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"{op}: expected k to be an int, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"{op}: expected k >= 1, got {k}")
    return k
