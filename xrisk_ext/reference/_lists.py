"""Lists of scored items, one a row: who takes part, and the value and gradient of every list."""

from collections.abc import Callable

import torch
from torch import Tensor

# From the scores, the relevance and the weights [n] of the items that take part, to a 0-dim value;
# None where the list has nothing to say.
ListLoss = Callable[[Tensor, Tensor, Tensor], Tensor | None]


def each_list(
    loss: ListLoss,
    scores: Tensor,
    relevance: Tensor,
    mask: Tensor | None = None,
    item_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Values [Q] and gradients [Q, S] (row q: of value q), float64; [S] is one list, value [].

    An item takes part where the mask is true, its relevance is not negative and its weight is
    positive. A list whose loss is None has value 0 and gradient 0; otherwise a non-finite score
    gives value NaN, and gradient NaN for the items that take part.
    """
    h = scores.detach().to(torch.float64)
    y = relevance.detach().to(torch.float64)
    w = torch.ones_like(h) if item_weights is None else item_weights.to(torch.float64)
    taken = (y >= 0) & (w > 0)
    if mask is not None:
        taken &= mask
    if h.dim() == 1:
        values, gradients = _rows(loss, h[None], y[None], w[None], taken[None])
        return values[0], gradients[0]
    return _rows(loss, h, y, w, taken)


def _rows(loss: ListLoss, h: Tensor, y: Tensor, w: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    values, gradients = h.new_zeros(h.shape[0]), torch.zeros_like(h)
    for q in range(h.shape[0]):
        rows = taken[q]
        bad = not bool(h[q, rows].isfinite().all())
        items = (torch.zeros_like(h[q, rows]) if bad else h[q, rows]).requires_grad_()
        with torch.enable_grad():
            value = loss(items, y[q, rows], w[q, rows])
        if value is None:
            continue
        if bad:
            values[q] = gradients[q, rows] = torch.nan
            continue
        values[q] = value.detach()
        if value.requires_grad:
            (gradients[q, rows],) = torch.autograd.grad(value, items)
    return values, gradients
