"""The moving average u <- (1 - gamma) u + gamma g that tracks every inner function.

Papers: Wang and Yang, Finite-sum coupled compositional stochastic optimization (ICML 2022);
in the log domain: Wei et al., SCENT (2026).
"""

import math

import torch
from torch import Tensor


@torch.no_grad()
def moving_average_update_(
    state: Tensor,
    index: Tensor,
    values: Tensor,
    gamma: float | Tensor,
    *,
    log: bool = False,
) -> Tensor:
    """Blend `values` into rows `index` of `state`, in place; return what was stored, in float64.

    state [N] or [N, C]; index [B]; values [B] or [B, C]; gamma in [0, 1], one number or [B], the
    weight of the NEW value. Each element of a row on its own::

        untouched (NaN, or -inf if log)   blend = value                         (as if gamma = 1)
        linear                            blend = (1 - gamma) old + gamma value
        log                               blend = log((1 - gamma) e^old + gamma e^value)

    Every duplicate of an id reads the OLD state; the mean of the duplicates' blends (log: the log
    of the mean of their exponentials) is stored and returned to each of them. What would be stored
    is rounded to the state's dtype; if it is then not finite (log: NaN or +inf, for -inf is a legal
    zero), the state keeps what it had and the entries get that non-finite blend back.
    """
    _check(state, index, values)
    weight_of_new = _gamma_column(gamma, values)  # broadcasts against values
    old = state[index.long()].double()
    observed = values.double()
    if log:
        # log1p(-1) = log(0) = -inf are the right limits: logaddexp(-inf, x) = x
        mixed = torch.logaddexp(torch.log1p(-weight_of_new) + old, weight_of_new.log() + observed)
        untouched = old == -math.inf
    else:
        mixed = (1.0 - weight_of_new) * old + weight_of_new * observed
        untouched = old.isnan()
    blends = torch.where(untouched, observed, mixed)

    rows, row_of_entry = torch.unique(index, return_inverse=True)
    entries = torch.bincount(row_of_entry).double().view(-1, *[1] * (blends.dim() - 1))
    sums = blends.new_zeros(len(rows), *blends.shape[1:])
    if log:
        places = row_of_entry.view(-1, *entries.shape[1:]).expand_as(blends)
        peaks = torch.full_like(sums, -math.inf).scatter_reduce_(0, places, blends, "amax")
        peaks = torch.where(peaks.isfinite(), peaks, 0.0)
        sums.index_add_(0, row_of_entry, (blends - peaks[row_of_entry]).exp())
        means = peaks + sums.log() - entries.log()
    else:
        means = sums.index_add_(0, row_of_entry, blends) / entries
    rounded = means.to(state.dtype)
    writable = rounded.isfinite() | ((rounded == -math.inf) if log else False)
    state[rows] = torch.where(writable, rounded, state[rows])
    return rounded.double()[row_of_entry]


def _check(state: Tensor, index: Tensor, values: Tensor) -> None:
    if state.dim() not in (1, 2) or not state.is_floating_point():
        raise ValueError(f"expected a floating state of shape [N] or [N, C], got {state.shape}")
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"expected index of dtype int64 or int32, got {index.dtype}")
    if index.dim() != 1:
        raise ValueError(f"expected index of shape [B], got {list(index.shape)}")
    expected = [*index.shape, *state.shape[1:]]
    if list(values.shape) != expected:
        raise ValueError(f"expected values of shape {expected}, got {list(values.shape)}")
    outside = (index < 0) | (index >= state.shape[0])
    if bool(outside.any()):
        raise IndexError(f"expected index in [0, {state.shape[0]}), got {int(index[outside][0])}")


def _gamma_column(gamma: float | Tensor, values: Tensor) -> Tensor:
    column = torch.as_tensor(gamma, dtype=torch.float64, device=values.device)
    if column.dim() > 1 or (column.dim() == 1 and column.shape[0] != values.shape[0]):
        raise ValueError(f"expected gamma to be one number or [B], got {list(column.shape)}")
    if not bool(((column >= 0) & (column <= 1)).all()):
        raise ValueError(f"expected gamma in [0, 1], got {gamma}")
    if column.dim() == 1 and values.dim() == 2:
        return column[:, None]
    return column
