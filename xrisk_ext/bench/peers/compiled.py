"""The eager formulas under torch.compile, written so that its compiler can fuse them best.

The compiler fuses the pair terms into each of the reductions over them: no P x B matrix is stored,
which is what these peers win over the eager ones. The positives are found outside, since their
number would be a data-dependent shape. Compiling belongs to nobody's time or memory: it is done
while the contestant is built. `fullgraph` because a graph break, or the limit of recompilations,
would otherwise fall back to eager in silence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import AveragePrecisionInputs

Result = TypeVar("Result")


def _positives(labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    positive = labels.nonzero().squeeze_(1)
    return positive, index.index_select(0, positive)


def _blend_(state: Tensor, ids: Tensor, g: Tensor, gamma: float) -> Tensor:
    old = state[ids]
    u = torch.where(old.isnan(), g, torch.lerp(old, g, gamma))
    state[ids] = u
    return u


def _closed_form(
    h: Tensor, labels: Tensor, positive: Tensor, ids: Tensor, state: Tensor, gamma: float, m: float
) -> tuple[Tensor, Tensor]:
    """Value and gradient, as ClosedForm of eager.py computes them."""
    z = torch.relu(h - h[positive].unsqueeze(1) + m)  # [P, B], never stored
    z_pos = z * labels
    g = torch.stack((z.square().sum(1), (z * z_pos).sum(1)), 1) / h.numel()
    u_all, u_pos = _blend_(state, ids, g, gamma).unbind(1)
    share = u_pos / u_all
    b = -2 / (positive.numel() * h.numel()) / u_all
    a = -share * b
    gradient = (z * (a.unsqueeze(1) + b.unsqueeze(1) * labels)).sum(0)
    own = a * z.sum(1) + b * z_pos.sum(1)
    return -share.mean(), gradient.index_add(0, positive, own, alpha=-1)


def _dynamic_loss(
    h: Tensor, labels: Tensor, positive: Tensor, ids: Tensor, state: Tensor, gamma: float, m: float
) -> Tensor:
    """As `autograd` of eager.py writes it."""
    phi = torch.relu(h - h[positive].unsqueeze(1) + m).square()  # [P, B]
    with torch.no_grad():
        g = torch.stack((phi.mean(1), (phi * labels).mean(1)), 1)
        u = _blend_(state, ids, g, gamma)
        weight = (u[:, 1:] - u[:, :1] * labels) / u[:, :1].square()
    return (weight * phi).mean()


def compile_by(
    function: Callable[..., Result], once: Callable[[Any], Any]
) -> Callable[..., Result]:
    """`function`, compiled by running `once` with it; before, `once` shows that it runs eagerly."""
    once(function)
    compiled = torch.compile(function, fullgraph=True, dynamic=False)
    try:
        with torch._dynamo.config.patch(recompile_limit=256):
            once(compiled)
    except Exception as error:  # eager runs: whatever this is, it is the compiler's
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UnavailableError(f"torch.compile: {reason[0]}") from error
    return compiled


@peer("average_precision", "compiled_eager", max_pairs=PAIRS_HELD)
def compiled_closed_form(inputs: AveragePrecisionInputs) -> Contestant:
    scores, labels, index, num_samples, gamma, margin = inputs
    state = torch.full((num_samples, 2), torch.nan, device=scores.device)

    @torch.no_grad()
    def step(function: Callable[..., tuple[Tensor, Tensor]]) -> None:
        positive, ids = _positives(labels, index)
        h = scores.detach()
        scores.grad = function(h, labels, positive, ids, state, gamma, margin)[1]

    return Contestant(
        "compiled_eager",
        functools.partial(step, compile_by(_closed_form, step)),
        lambda: state.fill_(torch.nan),
        lambda: truth.average_precision_error(inputs, scores.grad),
    )


@peer("average_precision", "compiled_autograd", max_pairs=PAIRS_HELD)
def compiled_autograd(inputs: AveragePrecisionInputs) -> Contestant:
    scores, labels, index, num_samples, gamma, margin = inputs
    state = torch.full((num_samples, 2), torch.nan, device=scores.device)

    def step(function: Callable[..., Tensor]) -> None:
        scores.grad = None
        positive, ids = _positives(labels, index)
        function(scores, labels, positive, ids, state, gamma, margin).backward()

    return Contestant(
        "compiled_autograd",
        functools.partial(step, compile_by(_dynamic_loss, step)),
        lambda: state.fill_(torch.nan),
        lambda: truth.average_precision_error(inputs, scores.grad),
    )
