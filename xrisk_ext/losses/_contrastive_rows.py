"""A step of the global contrastive losses row by row.

For a process's own rows (xrisk_ext.distributed), and for one value per sample. What the fused step
does for the mean of a whole batch, composed of log sums of the own rows against the
embeddings of all and of the state update. With w_i = tau_i exp(log g_i - log u_i) constant, the
gradient of sum_i w_i log g_i is that of the method.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from xrisk_ext.losses._embeddings import Reduction, accumulated, row_products, unit_rows
from xrisk_ext.losses._rows import WholeBatch
from xrisk_ext.ops.contrastive import contrastive_log_sums
from xrisk_ext.ops.contrastive_step import StepOptions


class Setting(Protocol):
    """Hyper-parameters and, in training, the state of a loss; see _contrastive_loss.py."""

    gamma: Tensor
    eta: Tensor
    temperature: Tensor
    reduction: Reduction


def contrastive_rows(
    loss: Setting,
    options: StepOptions,
    rows: WholeBatch,
    views: tuple[Tensor, Tensor],
    index: Tensor | None,
    state: Tensor | None,
    temperatures: Tensor | None,
    momenta: Tensor | None,
    write: bool,
) -> Tensor:
    """The value of the whole batch, or those of the own samples: ``loss.reduction``.

    State, temperatures and momenta ``[sides, N]`` or None.
    """
    if rows.is_whole:  # what is gathered stays small
        views = (accumulated(views[0]), accumulated(views[1]))
    a, b = (unit_rows(v) if options.normalize else v for v in views)
    all_a, all_b = rows.gather(a, b)
    count, own = len(all_a), len(a)
    if count < 2:
        nothing = 0.0 * row_products(a, b) * rows.shared(loss.temperature)
        return nothing if loss.reduction == "none" else rows.total(nothing.sum())
    here = torch.arange(own, device=a.device) + rows.offset
    sides = 2 if options.bimodal else 1
    # temperatures: 0-dim, or [2, B] of the anchors of both views
    tau = rows.shared(loss.temperature)
    if temperatures is not None:
        assert index is not None
        tau = rows.read(temperatures, index).expand(2, own)

    # log g [2, B] of the anchors of both views, and the mean exponent of each
    if options.bimodal:
        queries, keys, exclude = (a, b), (all_b, all_a), (here, here)
    else:
        keys_of_both = torch.cat((all_a, all_b))
        both = torch.stack((here, here + count), 1)
        queries, keys, exclude = (a, b), (keys_of_both, keys_of_both), (both, both)
    sums, exponents = [], []
    for side in (0, 1):
        t = tau if tau.dim() == 0 else tau[side]
        sums.append(
            contrastive_log_sums(queries[side], keys[side], temperature=t, exclude=exclude[side])
        )
        if momenta is not None and write:
            exponents.append(_mean_exponents(queries[side], keys[side], t, exclude[side]))
    log_g = torch.stack(sums)
    positive = row_products(a, b)
    offset = positive / tau if options.relative else torch.zeros_like(positive)
    # one that is not finite makes all so, and is never stored
    log_g = log_g - offset + _gap(all_a, all_b, log_g, offset)
    observed = log_g.detach()

    log_u = _average(options, rows, index, state, loss.gamma, observed, write)
    if options.epsilon > 0:
        log_u = torch.logaddexp(log_u, torch.full_like(log_u, math.log(options.epsilon)))
    outer = log_u + options.rho
    ratio = torch.exp(observed - log_u)
    moved = ratio * (log_g - observed)  # zero, with the dynamic gradient
    if options.temperature_weighted:
        fixed = tau.detach()
        values = fixed * moved + tau * outer
    else:
        values = log_u + moved
    if not options.relative:
        values = values - positive
    if momenta is not None and temperatures is not None and write:
        assert index is not None
        slopes = outer - ratio * (torch.stack(exponents) - offset.detach())
        slopes = slopes if options.bimodal else slopes.mean(0, keepdim=True)
        slopes = slopes.clamp(-options.slope_limit, options.slope_limit)
        if options.second_beta > 0:
            direction = _adam_directions(options, rows, momenta, index, slopes)
        else:
            direction = rows.update(momenta, index, slopes, options.beta, log=False, write=True)
        stepped = tau[:sides] - loss.eta * direction
        stepped = stepped.clamp(options.lowest, options.highest)
        rows.update(temperatures, index, stepped, 1.0, log=False, write=True)
    if loss.reduction == "none":
        return values.sum(0) / sides
    return rows.total(values.sum() / (sides * count))


@torch.no_grad()
def _gap(*tensors: Tensor) -> Tensor:
    """Zero, or NaN where an entry is not finite."""
    return torch.stack([(t - t).sum() for t in tensors]).sum()


@torch.no_grad()
def _mean_exponents(queries: Tensor, keys: Tensor, temperature: Tensor, exclude: Tensor) -> Tensor:
    """Of s_ij / tau_i, weighted by its exponential. [B]"""
    result = torch.ops.xrisk_ext.contrastive_log_sums_rows(queries, keys, temperature, exclude)
    return result[1]  # type: ignore[no-any-return]


def _adam_directions(
    options: StepOptions, rows: WholeBatch, momenta: Tensor, index: Tensor, slopes: Tensor
) -> Tensor:
    """[sides, B], after an update of the moments and the numbers of steps."""
    before = rows.read(momenta, index).to(slopes.dtype).view(3, *slopes.shape)
    first = torch.lerp(before[0], slopes, options.beta)
    second = torch.lerp(before[1], slopes.square(), options.second_beta)
    steps = before[2] + 1.0 + (slopes - slopes)
    moments = torch.cat((first, second, steps))
    after = rows.update(momenta, index, moments, 1.0, log=False, write=True).view(3, *slopes.shape)
    steps = after[2].double()
    mean = after[0] / (1.0 - torch.pow(1.0 - options.beta, steps))
    square = after[1] / (1.0 - torch.pow(1.0 - options.second_beta, steps))
    return (mean / (square.sqrt() + 1e-8)).to(slopes.dtype)


def _average(
    options: StepOptions,
    rows: WholeBatch,
    index: Tensor | None,
    state: Tensor | None,
    gamma: Tensor,
    observed: Tensor,
    write: bool,
) -> Tensor:
    """log u of the anchors [2, B], from log g [2, B] and the state."""

    def update(values: Tensor, write: bool) -> Tensor:
        if state is None:
            return values
        assert index is not None
        return rows.update(state, index, values, gamma, write=write).to(values.dtype)

    if options.bimodal:
        return update(observed, write)
    shared = torch.logaddexp(observed[:1], observed[1:]) - math.log(2.0)
    if not options.per_view:
        return update(shared, write).expand_as(observed)
    apart = torch.cat([update(observed[view : view + 1], False) for view in (0, 1)])
    if write:  # the mean over the views of the blends is the blend of their mean
        update(shared, True)
    return apart
