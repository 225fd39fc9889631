"""One step of a loss over (positive, negative) pairs: the loop over labels that all of them share.

A loss gives the value of a label and a constant weight for each of its pairs; what that makes of
the scores is the same for all.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._columns import as_columns
from .moving_average import moving_average_update_
from .surrogates import check_surrogate, surrogate_slope
from .surrogates import surrogate as pair_term


class LabelPairs(NamedTuple):
    """The pairs of one label, A anchors by M items, all float64."""

    losses: Tensor  # [A, M] phi(h_negative - h_positive)
    anchor_weights: Tensor  # [A] > 0
    item_weights: Tensor  # [M] > 0
    anchor_scores: Tensor  # [A]
    item_scores: Tensor  # [M]
    ids: Tensor  # [A] rows of the state
    label: int

    @property
    def anchor_share(self) -> Tensor:
        return self.anchor_weights / self.anchor_weights.sum()

    @property
    def item_share(self) -> Tensor:
        return self.item_weights / self.item_weights.sum()


# from the pairs of a label to its value [] and the weight of each pair's slope [A, M]
Step = Callable[[LabelPairs], tuple[Tensor, Tensor]]


def step_of_pairs(
    scores: Tensor,
    labels: Tensor,
    index: Tensor | None,
    item_weights: Tensor | None,
    num_rows: int | None,
    step: Step,
    *,
    surrogate: str,
    margin: float | Tensor,
    scale: float | Tensor,
    anchors_positive: bool = True,
) -> tuple[Tensor, Tensor]:
    """Value [] or [L] and the gradient of the scores; `num_rows` of a state, None without one.

    A label without positives or without negatives (of positive weight): 0, and `step` is not
    called. Otherwise a non-finite score of positive weight: NaN throughout, nor is it.
    """
    m, s = check_surrogate(surrogate, margin, scale)
    columns = as_columns(scores, labels, item_weights)
    size, num_labels = columns.scores.shape
    present = columns.weights > 0
    anchors = present & (columns.positive == anchors_positive)  # [B, L]
    items = present & ~anchors
    ids = torch.zeros(size, dtype=torch.int64, device=scores.device)
    if num_rows is not None:
        ids = _checked_ids(index, anchors.any(dim=1), num_rows)

    value = columns.scores.new_zeros(num_labels)
    gradient = torch.zeros_like(columns.scores)
    for label in range(num_labels):
        h, w = columns.scores[:, label], columns.weights[:, label]
        anchor, item = anchors[:, label], items[:, label]
        if not bool(anchor.any()) or not bool(item.any()):
            continue
        if not bool(h[w > 0].isfinite().all()):
            value[label] = math.nan
            gradient[:, label] = math.nan
            continue
        d = h[item][None, :] - h[anchor][:, None]  # [A, M]
        d = d if anchors_positive else -d  # negative minus positive
        pairs = LabelPairs(
            pair_term(surrogate, d, m, s), w[anchor], w[item], h[anchor], h[item], ids[anchor],
            label,
        )  # fmt: skip
        value[label], pair_weights = step(pairs)
        pull = pair_weights * surrogate_slope(surrogate, d, m, s)  # [A, M]
        pull = pull if anchors_positive else -pull
        gradient[item, label] = pull.sum(dim=0)
        gradient[anchor, label] = -pull.sum(dim=1)
    return (value[0], gradient[:, 0]) if scores.dim() == 1 else (value, gradient)


def blend_(
    state: Tensor | None, ids: Tensor, values: Tensor, gamma: float | Tensor, *, log: bool = False
) -> Tensor:
    """The moving averages before they are rounded to the state's dtype; None: the values.

    A logarithm of 1e6 in float32 is off by 0.03: weights made of it would be, too.
    """
    if state is None:
        return values
    exact = moving_average_update_(state.double().clone(), ids, values, gamma, log=log)
    moving_average_update_(state, ids, values, gamma, log=log)
    return exact


def rows_of(state: Tensor | None, scores: Tensor, name: str) -> Tensor | None:
    """A state [N] or [L, N] as [L, N], a view."""
    if state is None:
        return None
    rows = state[None] if scores.dim() == 1 else state
    num_labels = 1 if scores.dim() == 1 else scores.shape[1]
    if rows.dim() != 2 or rows.shape[0] != num_labels:
        expected = "[N]" if scores.dim() == 1 else f"[{num_labels}, N]"
        raise ValueError(f"expected {name} of shape {expected}, got {list(state.shape)}")
    return rows


def _checked_ids(index: Tensor | None, used: Tensor, num_rows: int) -> Tensor:
    """Refuse a bad id of any label before the state of the first label is written."""
    if index is None:
        raise ValueError("expected index, which is needed where there is state, got None")
    if index.shape != used.shape:
        raise ValueError(f"expected index of shape {list(used.shape)}, got {list(index.shape)}")
    if bool((used & ((index < 0) | (index >= num_rows))).any()):
        raise IndexError(f"expected index in [0, {num_rows}) at every anchor")
    return index
