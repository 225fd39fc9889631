"""Metrics of scores and labels, from the counts at every threshold."""

from typing import Literal

import torch
from torch import Tensor

from xrisk_ext.metrics._inputs import (
    Reduction,
    as_number,
    check_other,
    check_scores,
    positives_of,
    reduce_rows,
    sort_rows,
)
from xrisk_ext.ops.curves import curve_sums


def average_precision(
    scores: Tensor,
    labels: Tensor,
    *,
    item_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    undefined: float = 0.0,
) -> Tensor:
    """``sum_t (R_t - R_{t-1}) P_t`` over the distinct scores t, from the highest down.

    P and R are precision and recall among the samples that score at least t. Without ties it is the
    mean over the positives of the precision at their rank. Equals
    ``sklearn.metrics.average_precision_score``.

    Args:
        scores: ``[N]``, ``[N, 1]`` or ``[N, L]``, one column a label.
        labels: the scores' shape.
        item_weights: ``[N]`` or the scores' shape, finite and >= 0; weight 0 removes an entry.
        reduction, undefined: see the module; undefined where no positive has weight.

    Returns:
        float64, 0-dim, or ``[L]`` (``reduction="none"`` with ``[N, L]``).
    """
    op = "average_precision"
    precisions, _, positives, _ = _sums(op, scores, labels, item_weights)
    return reduce_rows(op, precisions / positives, positives > 0, reduction, undefined, scores)


def auroc(
    scores: Tensor,
    labels: Tensor,
    *,
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    normalization: Literal["auto", "mcclish", "area"] = "auto",
    item_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    undefined: float = 0.0,
) -> Tensor:
    """Area under the ROC curve, whole, partial or two-way partial.

    With b = ``max_fpr`` (1) and a = ``min_tpr`` (0), the area of the part of the plane that lies
    below the curve, left of FPR = b and above TPR = a::

        A = integral over f in [0, b] of max(TPR(f) - a, 0)

    TPR(f) is piecewise linear: between two thresholds it is their chord. Without ties A is the
    share of all pairs that are made of the lowest 1 - a of the positives and the highest b of the
    negatives and ordered rightly; the last of each counts by its fraction.

    Two normalizations, which agree (and change nothing) for the whole area:

    * ``"area"``: ``A / (b (1 - a))``, the share among those pairs alone. 1 is perfect.
    * ``"mcclish"``: ``1/2 (1 + (A - C) / (b (1 - a) - C))`` with ``C = max(b - a, 0)^2 / 2``, the
      area under the diagonal. 1 is perfect and 1/2 is chance.
    * ``"auto"``: mcclish without ``min_tpr``, which equals
      ``sklearn.metrics.roc_auc_score(max_fpr=...)``; area with it, which is what two-way partial
      AUC means in the literature and in LibAUC.

    Args:
        scores: ``[N]``, ``[N, 1]`` or ``[N, L]``, one column a label.
        labels: the scores' shape.
        max_fpr: in (0, 1]. None is 1.
        min_tpr: in [0, 1). None is 0.
        normalization: see above.
        item_weights: ``[N]`` or the scores' shape, finite and >= 0; weight 0 removes an entry.
        reduction, undefined: see the module; undefined where a class has no weight.

    Returns:
        float64, 0-dim, or ``[L]`` (``reduction="none"`` with ``[N, L]``).

    Source: McClish, Analyzing a portion of the ROC curve (1989); Yang, Lu, Lyu & Hu, Two-way
    partial AUC and its properties (2019).
    """
    op = "auroc"
    b = 1.0 if max_fpr is None else as_number(op, "max_fpr", max_fpr)
    a = 0.0 if min_tpr is None else as_number(op, "min_tpr", min_tpr)
    if not 0 < b <= 1:
        raise ValueError(f"{op}: expected max_fpr in (0, 1], got {max_fpr}")
    if not 0 <= a < 1:
        raise ValueError(f"{op}: expected min_tpr in [0, 1), got {min_tpr}")
    if normalization not in ("auto", "mcclish", "area"):
        raise ValueError(
            f'{op}: expected normalization to be "auto", "mcclish" or "area", got {normalization!r}'
        )
    _, area, positives, negatives = _sums(op, scores, labels, item_weights, b, a)
    area = area / (positives * negatives)
    whole = b * (1 - a)
    if normalization == "area" or (normalization == "auto" and a > 0):
        value = area / whole
    else:
        chance = max(b - a, 0.0) ** 2 / 2
        value = 0.5 * (1 + (area - chance) / (whole - chance))
    defined = (positives > 0) & (negatives > 0)
    return reduce_rows(op, value, defined, reduction, undefined, scores)


def _sums(
    op: str,
    scores: Tensor,
    labels: Tensor,
    item_weights: Tensor | None,
    max_fpr: float = 1.0,
    min_tpr: float = 0.0,
) -> tuple[Tensor, ...]:
    """The four sums of ``curve_sums``, each ``[L]``, of checked input."""
    check_scores(op, scores, "[N], [N, 1] or [N, L]")
    check_other(op, labels, "labels", scores)
    one_column = scores.ndim == 1 or scores.size(1) == 1
    if labels.shape != scores.shape and not (
        one_column and labels.shape in ((scores.size(0),), (scores.size(0), 1))
    ):
        raise ValueError(
            f"{op}: expected labels of shape {list(scores.shape)}, got {list(labels.shape)}"
        )
    weights = None if item_weights is None else _weights(op, item_weights, scores)
    rows = scores[None] if scores.ndim == 1 else scores.t()
    positive = positives_of(labels).reshape(rows.shape[::-1]).t()
    values, order = sort_rows(op, rows)
    if weights is not None:
        weights = weights.expand(rows.shape)
    sums = curve_sums(values, order, positive, weights, max_fpr=max_fpr, min_tpr=min_tpr)
    return sums.unbind(-1)


def _weights(op: str, item_weights: Tensor, scores: Tensor) -> Tensor:
    """``[L, N]`` or ``[1, N]``, float64, each row relative to its largest: sums stay finite."""
    check_other(op, item_weights, "item_weights", scores)
    if item_weights.shape not in (scores.shape, (scores.size(0),)):
        raise ValueError(
            f"{op}: expected item_weights of shape [{scores.size(0)}] or {list(scores.shape)}, "
            f"got {list(item_weights.shape)}"
        )
    weights = item_weights.detach().to(torch.float64)
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"{op}: expected item_weights to be finite and >= 0")
    weights = weights.t() if weights.ndim == 2 else weights[None]
    if weights.numel() == 0:
        return weights
    largest = weights.amax(-1, keepdim=True)
    return torch.where(largest > 0, weights / largest, weights)
