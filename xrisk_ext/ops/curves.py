"""Rows in descending order, and what ROC and precision-recall curves are made of.

The ops under ``xrisk_ext.metrics``: on the CPU the library's own, elsewhere tensor expressions.
"""

import torch
from torch import Tensor


def sort_descending(scores: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.sort(scores, dim=-1, descending=True, stable=True)``, by a radix sort on the CPU.

    NaN comes first, -0 equals +0, ties keep their order. The CPU's own op is there because
    ``torch.sort`` is slow there; on any other device this is ``torch.sort``. Not differentiable.

    Args:
        scores: ``[..., N]``, float32, float64, float16 or bfloat16, ``N < 2^32 - 1``.

    Returns:
        The sorted values, ``[..., N]``, float64 for float64 and float32 otherwise, and their
        places in the row, int64.

    Raises:
        TypeError, ValueError: a dtype or shape that is not as above.
    """
    scores = scores.detach()
    if scores.device.type == "cpu":
        return torch.ops.xrisk_ext.sort_descending(scores)  # type: ignore[no-any-return]
    values, indices = torch.sort(
        scores.to(_computed_in(scores)), dim=-1, descending=True, stable=True
    )
    return values, indices


def _computed_in(scores: Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


@torch.library.register_fake("xrisk_ext::sort_descending")
def _(scores: Tensor) -> tuple[Tensor, Tensor]:
    return (
        scores.new_empty(scores.shape, dtype=_computed_in(scores)),
        scores.new_empty(scores.shape, dtype=torch.int64),
    )


def curve_sums(
    values: Tensor,
    indices: Tensor,
    positive: Tensor,
    weights: Tensor | None = None,
    *,
    max_fpr: float = 1.0,
    min_tpr: float = 0.0,
) -> Tensor:
    """Sums over the thresholds of each row, float64 ``[L, 4]``. Not differentiable.

    With T and F the weight of the positives and negatives that score at least a threshold, from
    the highest threshold down: the sum of ``dT T / (T + F)``; the area under the line through the
    points (F, T), left of ``max_fpr`` and above ``min_tpr`` of their totals; and these totals, of T
    and of F.

    Args:
        values, indices: ``[L, N]``, as from ``sort_descending``; without NaN.
        positive: bool ``[L, N]``, in the order before the sort.
        weights: float64 ``[L, N]``, likewise; None means 1.
        max_fpr, min_tpr: in (0, 1] and in [0, 1).
    """
    if values.device.type == "cpu":
        return torch.ops.xrisk_ext.curve_sums(  # type: ignore[no-any-return]
            values, indices, positive, weights, max_fpr, min_tpr
        )
    return _curve_sums(values, indices, positive, weights, max_fpr, min_tpr)


@torch.library.register_fake("xrisk_ext::curve_sums")
def _(
    values: Tensor,
    indices: Tensor,
    positive: Tensor,
    weights: Tensor | None,
    max_fpr: float,
    min_tpr: float,
) -> Tensor:
    return values.new_empty((values.size(0), 4), dtype=torch.float64)


def _curve_sums(
    values: Tensor,
    indices: Tensor,
    positive: Tensor,
    weights: Tensor | None,
    max_fpr: float,
    min_tpr: float,
) -> Tensor:
    """``curve_sums`` in tensor expressions.

    At every place of a row stand the counts of the last whole tie group: steps inside a group are
    zero, so sums over steps need not know where the groups are.
    """
    if values.numel() == 0:
        return values.new_zeros((values.size(0), 4), dtype=torch.float64)
    mine = positive.gather(-1, indices)
    weight = mine.new_ones(mine.shape, dtype=torch.float64)
    if weights is not None:
        weight = weights.gather(-1, indices)
    last = group_ends(values)
    true = torch.where(last, torch.where(mine, weight, 0.0).cumsum(-1), 0.0).cummax(-1).values
    false = torch.where(last, torch.where(mine, 0.0, weight).cumsum(-1), 0.0).cummax(-1).values
    steps, width = _steps(true), _steps(false)
    before = true - steps
    precisions = torch.where(steps > 0, steps * true / (true + false), 0.0).sum(-1)
    positives, negatives = true[:, -1], false[:, -1]
    inside = _steps(torch.minimum(false, max_fpr * negatives[:, None]))
    rise = steps * torch.where(width > 0, inside / width, 0.0)
    floor = min_tpr * positives[:, None]
    low, high = (before - floor).clamp(min=0), (before + rise - floor).clamp(min=0)
    # A piece that crosses the floor leaves a triangle.
    above = torch.where(before >= floor, 1.0, torch.where(high > 0, high / rise, 0.0))
    area = (inside * above * (low + high)).sum(-1) / 2
    return torch.stack((precisions, area, positives, negatives), -1)


def group_ends(values: Tensor) -> Tensor:
    """Whether a place of the sorted rows is the last of its tie group."""
    last = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[..., 1:], values[..., :-1], out=last[..., :-1])
    return last


def _steps(counts: Tensor) -> Tensor:
    return torch.diff(counts, prepend=counts.new_zeros((counts.size(0), 1)))
