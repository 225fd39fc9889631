"""Scores of many queries, padded or ragged, brought to one form: a list of items per query."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Size = float | Tensor | None


class Query(NamedTuple):
    """The items of one query that take part: S of them, P relevant."""

    number: int
    places: Tensor  # [S] int64, in the flat scores
    scores: Tensor  # [S] float64
    relevance: Tensor  # [S] float64
    weights: Tensor  # [S] float64, > 0
    relevant: Tensor  # [P] int64, which of the S


def count_queries(scores: Tensor, offsets: Tensor | None) -> int:
    return scores.shape[0] if offsets is None else offsets.shape[0] - 1


def iterate_queries(
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None,
    offsets: Tensor | None,
    item_weights: Tensor | None,
) -> Iterator[Query]:
    """scores [Q, S], or [T] with offsets [Q + 1]; the others in the shape of the scores."""
    if scores.dim() != (2 if offsets is None else 1):
        raise ValueError(f"expected scores [Q, S], or [T] with offsets, got {list(scores.shape)}")
    for name, other in (("relevance", relevance), ("mask", mask), ("item_weights", item_weights)):
        if other is not None and other.shape != scores.shape:
            raise ValueError(f"expected {name} of the scores' shape, got {list(other.shape)}")
    h, y = scores.detach().double().reshape(-1), relevance.double().reshape(-1)
    w = torch.ones_like(h) if item_weights is None else item_weights.double().reshape(-1)
    present = w > 0 if mask is None else (w > 0) & mask.bool().reshape(-1)
    if offsets is None:
        bounds = [row * scores.shape[1] for row in range(scores.shape[0] + 1)]
    else:
        bounds = offsets.tolist()
    for number in range(len(bounds) - 1):
        begin, end = bounds[number], bounds[number + 1]
        places = begin + present[begin:end].nonzero()[:, 0]
        relevant = (y[places] > 0).nonzero()[:, 0]
        yield Query(number, places, h[places], y[places], w[places], relevant)


def all_places(scores: Tensor, offsets: Tensor | None, query: Query) -> Tensor:
    """Of the query, padding too."""
    if offsets is None:
        return query.number * scores.shape[1] + torch.arange(scores.shape[1])
    return torch.arange(int(offsets[query.number]), int(offsets[query.number + 1]))


def size_of(sizes: Size, query: int) -> float | None:
    """Of one query, where the sizes are one number, [Q] or left out."""
    if sizes is None:
        return None
    given = torch.as_tensor(sizes, dtype=torch.float64)
    return float(given if given.dim() == 0 else given[query])


def checked_rows(
    ids: Tensor | None, places: Tensor, num_rows: int, name: str, size: torch.Size
) -> Tensor:
    """ids at these places of the flat scores, refused before anything is written."""
    if ids is None:
        raise ValueError(f"expected {name}, which is needed where there is state, got None")
    if ids.shape != size:
        raise ValueError(f"expected {name} of shape {list(size)}, got {list(ids.shape)}")
    rows = ids.reshape(-1)[places].long()
    if bool(((rows < 0) | (rows >= num_rows)).any()):
        raise IndexError(f"expected {name} in [0, {num_rows})")
    return rows
