"""The global contrastive losses: ours, LibAUC's, the closed form in PyTorch and its compilation."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import xrisk_ext
from xrisk_ext.bench.contrastive_truth import contrastive_error
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.peers.compiled import compile_by
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.contrastive_cases import ContrastiveInputs

WORKS = ("global_contrastive", "bimodal_global_contrastive")
BFLOAT16 = "bfloat16_global_contrastive"


def _each_work(name: str, **options: Any) -> Callable[[Any], Any]:
    def register(build: Callable[[ContrastiveInputs], Contestant]) -> Any:
        for work in WORKS:
            peer(work, name, **options)(build)
        return build

    return register


@_each_work("ours", own=True)
@peer(BFLOAT16, "ours", own=True)
def ours(inputs: ContrastiveInputs) -> Contestant:
    return _ours("ours", inputs)


@peer(BFLOAT16, "float32", own=True)
def ours_in_float32(inputs: ContrastiveInputs) -> Contestant:
    """The same numbers, widened: what bfloat16 saves."""
    first, second = (t.detach().float().requires_grad_() for t in inputs[:2])
    return _ours("float32", inputs._replace(first=first, second=second))


def _ours(name: str, inputs: ContrastiveInputs) -> Contestant:
    check_device(inputs.first)
    first, second, index, num_samples, temperature, gamma, bimodal = inputs
    make = xrisk_ext.BimodalGlobalContrastiveLoss if bimodal else xrisk_ext.GlobalContrastiveLoss
    loss_fn = make(num_samples, temperature=temperature, gamma=gamma).to(first.device)

    def call() -> None:
        first.grad = second.grad = None
        loss_fn(first, second, index).backward()

    return Contestant(
        name,
        call,
        loss_fn.reset_state,
        lambda: contrastive_error(inputs, first.grad, second.grad),
    )


@_each_work("libauc", max_pairs=PAIRS_HELD)
def libauc(inputs: ContrastiveInputs) -> Contestant:
    try:
        from libauc.losses.contrastive import GCLoss_v1, GCLoss_v2
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    first, second, index, num_samples, temperature, gamma, bimodal = inputs
    options = {"N": num_samples, "tau": temperature, "gamma": gamma}
    index = index.cpu()  # its state stays there
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its schedule
        loss_fn = GCLoss_v2(**options) if bimodal else GCLoss_v1(**options, device=first.device)

    def call() -> None:
        first.grad = second.grad = None
        if bimodal:  # it leaves the normalisation to its user
            value, _ = loss_fn(functional.normalize(first), functional.normalize(second), index)
        else:
            value = loss_fn(first, second, index)
        value.backward()

    def reset() -> None:
        for name in ("u", "u1", "u2", "b1", "b2"):
            if hasattr(loss_fn, name):
                getattr(loss_fn, name).zero_()

    # Held to its own rules: an average per view; a sum over the negatives where there is a mean.
    scale = float(len(first) - 1) if bimodal else 1.0
    return Contestant(
        "libauc",
        call,
        reset,
        lambda: contrastive_error(inputs, first.grad, second.grad, per_view=True, scale=scale),
    )


def _blend_(state: Tensor, index: Tensor, log_g: Tensor, gamma: float) -> Tensor:
    old = state[index]
    mixed = torch.logaddexp(old + math.log1p(-gamma), log_g + math.log(gamma))
    log_u = torch.where(old == -torch.inf, log_g, mixed)
    state[index] = log_u
    return log_u


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    length = x.norm(dim=1, keepdim=True)
    return x / length, length


def _through_unit(gradient: Tensor, e: Tensor, length: Tensor) -> Tensor:
    return (gradient - (gradient * e).sum(1, keepdim=True) * e) / length


def one_modality(
    a: Tensor, c: Tensor, index: Tensor, state: Tensor, tau: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and both gradients; two products of [2B, 2B], like ours."""
    batch = len(a)
    z, length = _unit(torch.cat((a, c)))
    positive = (z[:batch] * z[batch:]).sum(1)
    exponents = (z @ z.T).mul_(1 / tau)
    exponents.fill_diagonal_(-torch.inf)
    exponents.diagonal(batch).fill_(-torch.inf)
    exponents.diagonal(-batch).fill_(-torch.inf)
    peak = exponents.amax(1, keepdim=True)
    log_g = exponents.sub(peak).exp_().sum(1).log_() + peak[:, 0] - math.log(2 * batch - 2)
    shared = torch.logaddexp(log_g[:batch], log_g[batch:]) - math.log(2.0)
    log_u = _blend_(state[0], index, shared, gamma)
    w = exponents.sub_(log_u.repeat(2)[:, None]).exp_()
    share = 1 / (batch * (2 * batch - 2))
    gradient = (w + w.T) @ z * share - torch.cat((z[batch:], z[:batch])) * (2 / batch)
    gradient = _through_unit(gradient, z, length)
    value = (2 * tau * log_u - 2 * positive).mean()
    return value, gradient[:batch], gradient[batch:]


def two_modalities(
    a: Tensor, c: Tensor, index: Tensor, state: Tensor, tau: float, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and both gradients; one product for both sides, like ours."""
    batch = len(a)
    x, x_length = _unit(a)
    y, y_length = _unit(c)
    s = (x @ y.T).mul_(1 / tau)
    own = s.diagonal().clone()
    s.fill_diagonal_(-torch.inf)
    weights, log_us = None, []
    for side in (0, 1):
        offset = own[:, None] if side == 0 else own[None, :]
        h = s - offset
        log_g = torch.logsumexp(h, 1 - side) - math.log(batch - 1)
        log_u = _blend_(state[side], index, log_g, gamma)
        w = h.sub_(log_u[:, None] if side == 0 else log_u[None, :]).exp_()
        w.diagonal().copy_(-w.sum(1 - side))
        weights = w if weights is None else weights.add_(w)
        log_us.append(log_u)
    assert weights is not None
    share = 1 / (2 * batch * (batch - 1))
    dx = _through_unit(weights @ y * share, x, x_length)
    dy = _through_unit(weights.T @ x * share, y, y_length)
    return tau * (log_us[0] + log_us[1]).mean() / 2, dx, dy


def _closed_form(name: str, inputs: ContrastiveInputs, compiled: bool) -> Contestant:
    first, second, index, num_samples, temperature, gamma, bimodal = inputs
    state = torch.full((2 if bimodal else 1, num_samples), -torch.inf, device=first.device)
    function = two_modalities if bimodal else one_modality

    @torch.no_grad()
    def step(function: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
        a, c = first.detach(), second.detach()
        _, first.grad, second.grad = function(a, c, index, state, temperature, gamma)

    if compiled:
        function = compile_by(function, step)
    return Contestant(
        name,
        lambda: step(function),
        lambda: state.fill_(-torch.inf),
        lambda: contrastive_error(inputs, first.grad, second.grad),
    )


@_each_work("eager", max_pairs=PAIRS_HELD)
def eager(inputs: ContrastiveInputs) -> Contestant:
    return _closed_form("eager", inputs, compiled=False)


@_each_work("compiled_eager", max_pairs=PAIRS_HELD)
def compiled_eager(inputs: ContrastiveInputs) -> Contestant:
    return _closed_form("compiled_eager", inputs, compiled=True)
