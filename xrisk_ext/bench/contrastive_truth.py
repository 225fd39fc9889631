"""Float64 errors of the contrastive losses, a block of rows at a time where the reference is dense.

The tests hold this to `xrisk_ext.reference`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xrisk_ext.bench.truth import on_cpu, once_for, relative_error
from xrisk_ext.testing.contrastive_cases import ContrastiveInputs

ROWS = 512  # of a block


def contrastive_error(
    inputs: ContrastiveInputs,
    first: Tensor | None,
    second: Tensor | None,
    *,
    per_view: bool = False,
    scale: float = 1.0,
) -> float:
    """Of both gradients of the first step, which assigns the state.

    `per_view`: each view is divided by its own average (one modality). `scale`: what the
    contestant's gradient is too large by.
    """
    inputs = on_cpu(inputs)
    truth = once_for(
        "contrastive",
        (inputs.first, inputs.second),
        (inputs.bimodal, per_view),
        lambda: first_gradients(inputs, per_view),
    )
    found = [None if g is None else g / scale for g in (first, second)]
    return max(relative_error(g, t) for g, t in zip(found, truth, strict=True))


def first_gradients(inputs: ContrastiveInputs, per_view: bool) -> tuple[Tensor, Tensor]:
    """By the weights w_ij = exp(s_ij / tau) / (n u_i), u = g."""
    a, c = inputs.first.double(), inputs.second.double()
    x, y = (v / v.norm(dim=1, keepdim=True) for v in (a, c))
    batch, tau = len(x), inputs.temperature
    entry = torch.arange(batch)
    if inputs.bimodal:
        by_image, pull = _pulls(x, y, entry, entry, tau, None)
        by_text, other = _pulls(y, x, entry, entry, tau, None)
        dx, dy = ((g + h) / (2 * batch) for g, h in zip(by_image, reversed(by_text), strict=True))
        together = (pull + other)[:, None] / (2 * batch)
    else:
        z, item = torch.cat([x, y]), entry.repeat(2)
        log_g = _log_means(z, z, item, item, tau).view(2, batch)
        shared = torch.logaddexp(log_g[0], log_g[1]) - math.log(2.0)
        log_u = log_g if per_view else shared.expand(2, batch)
        (by_row, by_column), _ = _pulls(z, z, item, item, tau, log_u.reshape(-1))
        dx, dy = ((by_row + by_column) / batch).view(2, batch, -1)
        together = torch.full((batch, 1), 2.0 / batch, dtype=torch.float64)
    dx, dy = dx - together * y, dy - together * x
    lengths = (v.norm(dim=1, keepdim=True) for v in (a, c))
    gradients = [
        (g - (g * e).sum(1, keepdim=True) * e) / length
        for g, e, length in zip((dx, dy), (x, y), lengths, strict=True)
    ]
    return gradients[0], gradients[1]


def _exponents(rows: Tensor, keys: Tensor, own: Tensor, items: Tensor, tau: float) -> Tensor:
    return (rows @ keys.T / tau).masked_fill(own[:, None] == items[None, :], -math.inf)


def _log_means(x: Tensor, y: Tensor, own: Tensor, items: Tensor, tau: float) -> Tensor:
    negatives = len(y) - int((items == 0).sum())
    parts = [
        _exponents(x[k : k + ROWS], y, own[k : k + ROWS], items, tau).logsumexp(1)
        for k in range(0, len(x), ROWS)
    ]
    return torch.cat(parts) - math.log(negatives)


def _pulls(
    x: Tensor, y: Tensor, own: Tensor, items: Tensor, tau: float, log_u: Tensor | None
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """w y and w^T x, and the sums of the rows of w. log_u None: log g."""
    log_u = _log_means(x, y, own, items, tau) if log_u is None else log_u
    negatives = len(y) - int((items == 0).sum())
    by_row, total, by_column = [], [], torch.zeros_like(y)
    for k in range(0, len(x), ROWS):
        z = _exponents(x[k : k + ROWS], y, own[k : k + ROWS], items, tau)
        w = (z - log_u[k : k + ROWS, None]).exp() / negatives
        by_row.append(w @ y)
        by_column += w.T @ x[k : k + ROWS]
        total.append(w.sum(1))
    return (torch.cat(by_row), by_column), torch.cat(total)
