"""Partial AUC and the push losses: ours, LibAUC, the closed form in eager PyTorch and compiled.

`eager` holds the matrix of the pairs, computes value, gradient and state without autograd, and
hands the gradient over by assignment, which saves it the autograd call that every real loss pays.
Ids are taken to be distinct within a batch (ours need not assume it).
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import xrisk_ext
from xrisk_ext.bench.partial_auc_truth import partial_auc_error
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.peers.compiled import compile_by
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.partial_auc_cases import MAX_FPR, PartialAUCInputs

ETA = 0.1
P = 4.0


def _loss(inputs: PartialAUCInputs) -> Any:
    rule: Any = inputs.rule
    common: dict[str, Any] = {"margin": inputs.margin}
    if rule == "p_norm_push":
        return xrisk_ext.PNormPushLoss(inputs.num_samples, p=P, gamma=inputs.gamma, **common)
    if rule.startswith("two_way"):
        return xrisk_ext.TwoWayPartialAUCLoss(
            inputs.num_samples, mode=rule.removeprefix("two_way_"), gamma=inputs.gamma,
            outer_gamma=inputs.gamma, **common,
        )  # fmt: skip
    return xrisk_ext.PartialAUCLoss(
        inputs.num_samples,
        mode=rule,
        gamma=inputs.gamma,
        max_fpr=MAX_FPR,
        **common,
    )


@peer("partial_auc", "ours", own=True)
def ours(inputs: PartialAUCInputs) -> Contestant:
    check_device(inputs.scores)
    scores, labels, index = inputs[:3]
    loss_fn = _loss(inputs).to(scores.device)

    def call() -> None:
        scores.grad = None
        loss_fn(scores, labels, index).backward()

    return Contestant(
        "ours", call, loss_fn.reset_state, lambda: partial_auc_error(inputs, scores.grad)
    )


@peer("partial_auc", "libauc", max_pairs=PAIRS_HELD)
def libauc(inputs: PartialAUCInputs) -> Contestant | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from libauc.losses import auc
    except ImportError as error:
        raise UnavailableError(str(error)) from error

    scores, labels, index, num_samples, rule, gamma, margin = inputs
    common: dict[str, Any] = {"margin": margin, "device": scores.device}
    theirs: Any
    if rule == "kl":
        theirs = auc.pAUC_DRO_Loss(num_samples, gamma=gamma, **common)
    elif rule == "cvar":
        theirs = auc.pAUC_CVaR_Loss(num_samples, num_samples, beta=MAX_FPR, eta=ETA, **common)
    elif rule == "two_way_kl":
        theirs = auc.tpAUC_KL_Loss(num_samples, gammas=(gamma, gamma), **common)
    elif rule == "two_way_cvar":
        theirs = auc.tpAUC_CVaR_loss(num_samples, threshold=margin, device=scores.device)
    else:
        return None  # it has neither
    starts = {
        name: getattr(theirs, name).clone()
        for name in ("u_pos", "s1", "s2", "dual_var")
        if hasattr(theirs, name)
    }

    def call() -> None:
        scores.grad = None
        theirs(scores, labels, index).backward()

    def reset() -> None:
        for name, start in starts.items():
            getattr(theirs, name).copy_(start)
        if rule == "two_way_kl":
            theirs.w = 0.0

    # Its averages start at zero where ours are assigned on first touch: it is held to its own rule.
    return Contestant(
        "libauc", call, reset, lambda: partial_auc_error(inputs, scores.grad, zero_start=True)
    )


def _gradient(
    h: Tensor,
    positive: Tensor,
    negative: Tensor,
    ids: Tensor,
    log_u: Tensor,
    s: Tensor,
    inputs: PartialAUCInputs,
) -> Tensor:
    """The closed form of the KL and the CVaR loss; updates log u or s."""
    edge = h.index_select(0, positive).sub_(inputs.margin).unsqueeze_(1)
    z = torch.sub(h.index_select(0, negative), edge).relu_()  # [P, M]
    num_pos, num_neg = z.shape
    phi = z.square()
    if inputs.rule == "kl":
        log_g = torch.logsumexp(phi, dim=1) - math.log(num_neg)
        old = log_u.index_select(0, ids)
        blend = torch.logaddexp(old + math.log(1 - inputs.gamma), log_g + math.log(inputs.gamma))
        u = torch.where(old == -torch.inf, log_g, blend)
        log_u.index_copy_(0, ids, u)
        weights = phi.sub_(u.unsqueeze(1)).exp_()
        scale = 2.0 / (num_pos * num_neg)
    else:
        old = s.index_select(0, ids)
        weights = (phi > old.unsqueeze(1)).float()
        s.index_copy_(0, ids, old - ETA * (1 - weights.mean(dim=1) / MAX_FPR))
        scale = 2.0 / (MAX_FPR * num_pos * num_neg)
    pull = weights.mul_(z).mul_(scale)
    gradient = torch.empty_like(h)
    gradient.index_copy_(0, negative, pull.sum(dim=0))
    return gradient.index_copy_(0, positive, pull.sum(dim=1).neg_())


def _closed_form(name: str, inputs: PartialAUCInputs, compiles: bool) -> Contestant | None:
    if inputs.rule not in ("kl", "cvar"):
        return None
    scores, labels, index, rows = inputs[:4]
    log_u = torch.full((rows,), -torch.inf, device=scores.device)
    s = torch.zeros(rows, device=scores.device)

    @torch.no_grad()
    def step(function: Callable[..., Tensor]) -> None:
        # outside of what is compiled: how many there are would be a shape that depends on data
        positive, negative = labels.nonzero().squeeze_(1), (labels == 0).nonzero().squeeze_(1)
        ids = index.index_select(0, positive)
        scores.grad = function(scores.detach(), positive, negative, ids, log_u, s, inputs)

    def reset() -> None:
        log_u.fill_(-torch.inf)
        s.zero_()

    function = compile_by(_gradient, step) if compiles else _gradient
    return Contestant(
        name,
        functools.partial(step, function),
        reset,
        lambda: partial_auc_error(inputs, scores.grad),
    )


@peer("partial_auc", "eager", max_pairs=PAIRS_HELD)
def eager(inputs: PartialAUCInputs) -> Contestant | None:
    return _closed_form("eager", inputs, compiles=False)


@peer("partial_auc", "compiled_eager", max_pairs=PAIRS_HELD)
def compiled(inputs: PartialAUCInputs) -> Contestant | None:
    return _closed_form("compiled_eager", inputs, compiles=True)
