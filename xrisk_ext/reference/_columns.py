"""Scores, labels and weights of a loss, brought to one form: a column per label."""

from typing import NamedTuple

import torch
from torch import Tensor


class Columns(NamedTuple):
    """B entries by L labels, detached."""

    scores: Tensor  # [B, L] float64
    positive: Tensor  # [B, L] bool
    weights: Tensor  # [B, L] float64, >= 0: how many times the entry counts


def as_columns(scores: Tensor, labels: Tensor, item_weights: Tensor | None) -> Columns:
    """Check scores [B] or [B, L], labels alike, item_weights None, [B] or the shape of scores."""
    if scores.dim() not in (1, 2):
        raise ValueError(f"expected scores of shape [B] or [B, L], got {list(scores.shape)}")
    if labels.shape != scores.shape:
        raise ValueError(
            f"expected labels of the scores' shape {list(scores.shape)}, got {list(labels.shape)}"
        )
    columns = scores.detach().double()
    positive = labels > 0
    if scores.dim() == 1:
        columns, positive = columns[:, None], positive[:, None]
    if item_weights is None:
        weights = torch.ones_like(columns)
    elif item_weights.shape == scores.shape[:1]:
        weights = item_weights.detach().double()[:, None].expand(columns.shape)
    elif item_weights.shape == scores.shape:
        weights = item_weights.detach().double()
    else:
        raise ValueError(
            f"expected item_weights of shape [B] or that of scores {list(scores.shape)}, "
            f"got {list(item_weights.shape)}"
        )
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError("expected finite item_weights >= 0")
    return Columns(columns, positive, weights)
