"""SONG and K-SONG: ours, LibAUC, and the closed form in PyTorch, eager and compiled.

Every contestant starts with averages untouched (LibAUC's are zero) and thresholds at zero.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import UnavailableError, peer
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.ndcg_cases import NDCGInputs

GAMMA, MARGIN, ETA, TAU1, TAU2, ALPHA, EPSILON = 0.9, 1.0, 0.01, 0.01, 1e-4, 2.0, 0.5


@peer("ndcg", "ours", own=True)
def ours(inputs: NDCGInputs) -> Contestant:
    check_device(inputs.scores)
    scores = inputs.scores
    loss_fn = xrisk_ext.NDCGLoss(
        inputs.num_pairs, 4 * len(scores), top_k=inputs.top_k, gamma=GAMMA, margin=MARGIN
    ).to(scores.device)

    def call() -> None:
        scores.grad = None
        loss_fn(
            scores,
            inputs.relevance,
            inputs.pair_index,
            inputs.query_index,
            num_items=inputs.num_items,
            num_relevant=inputs.num_relevant,
            ideal_dcg=inputs.ideal_dcg,
        ).backward()

    def reset() -> None:
        loss_fn.reset_state()
        if loss_fn.thresholds is not None:
            loss_fn.thresholds.value.zero_()

    return Contestant("ours", call, reset, lambda: truth.ndcg_error(inputs, scores.grad))


@peer("ndcg", "libauc")
def libauc(inputs: NDCGInputs) -> Contestant:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from libauc.losses import NDCGLoss
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    scores = inputs.scores
    loss_fn = NDCGLoss(
        inputs.num_pairs, 4 * len(scores), inputs.num_items, inputs.relevant,
        topk=inputs.top_k or -1, device=scores.device,
    )  # fmt: skip
    batch = {
        "rating": inputs.relevance,
        "user_id": inputs.query_index,
        "num_pos_items": inputs.num_relevant,
        "ideal_dcg": inputs.ideal_dcg,
        "user_item_id": inputs.pair_index,
    }

    def call() -> None:
        scores.grad = None
        loss_fn(scores, batch).backward()

    def reset() -> None:
        for state in (loss_fn.u, loss_fn.lambda_q, loss_fn.s_q):
            state.zero_()

    # It is held to its own rules: averages from zero, psi' without its factor.
    return Contestant(
        "libauc", call, reset, lambda: truth.ndcg_error(inputs, scores.grad, theirs=True)
    )


class _Arguments:
    """What a closed form reads and writes."""

    def __init__(self, inputs: NDCGInputs) -> None:
        count, p = len(inputs.scores), inputs.relevant
        device = inputs.scores.device
        self.gains = torch.exp2(inputs.relevance[:, :p]) - 1.0  # [Q, P]
        self.share = (inputs.num_relevant / inputs.ideal_dcg / (count * p))[:, None] * self.gains
        self.ids = inputs.pair_index[:, :p].contiguous()
        self.users = inputs.query_index
        self.state = torch.full((inputs.num_pairs,), torch.nan, device=device)
        self.thresholds = torch.zeros(4 * count, device=device)
        self.curvatures = torch.full((4 * count,), torch.nan, device=device)

    def reset(self) -> None:
        self.state.fill_(torch.nan)
        self.thresholds.zero_()
        self.curvatures.fill_(torch.nan)


def _gradient(h: Tensor, a: _Arguments, num_items: int, top_k: int | None) -> Tensor:
    """Of one step; ids are taken to be distinct (ours need not assume it)."""
    p, size = a.ids.shape[1], h.shape[1]
    h_pos = h[:, :p]
    z = torch.relu(h.unsqueeze(1) - (h_pos - MARGIN).unsqueeze(2))  # [Q, P, S]
    g = z.square().mean(2)
    old = a.state[a.ids]
    u = torch.where(old.isnan(), g, torch.lerp(old, g, GAMMA))
    a.state[a.ids] = u
    rank = 1.0 + num_items * u
    logs = rank.log2()
    weight = a.share * num_items / (rank * logs.square() * math.log(2.0))
    pushed = shift = None
    if top_k is not None:
        threshold = a.thresholds[a.users].unsqueeze(1)
        above = torch.sigmoid((h - threshold) / TAU1)
        steep = above * (1.0 - above) / TAU1
        slope = (top_k + EPSILON) / num_items + TAU2 * threshold.squeeze(1) - above.mean(1)
        a.thresholds[a.users] = threshold.squeeze(1) - ETA * slope
        curvature = TAU2 + steep.mean(1)
        before = a.curvatures[a.users]
        s = torch.where(before.isnan(), curvature, torch.lerp(before, curvature, GAMMA))
        a.curvatures[a.users] = s
        psi = torch.sigmoid(ALPHA * (h_pos - threshold))
        pushed = -a.share / logs * ALPHA * psi * (1.0 - psi)
        shift = pushed.sum(1, keepdim=True) * (steep / (size * s.unsqueeze(1))).clamp(max=1.0)
        weight = weight * psi
    weight = weight * (2.0 / size)
    gradient = (weight.unsqueeze(2) * z).sum(1)
    own = weight * z.sum(2)
    gradient[:, :p] -= own if pushed is None else own - pushed
    return gradient if shift is None else gradient - shift


def _closed_form(
    inputs: NDCGInputs, name: str, function: Callable[..., Tensor], arguments: _Arguments
) -> Contestant:
    scores = inputs.scores

    def call() -> None:
        with torch.no_grad():
            scores.grad = function(scores.detach(), arguments, inputs.num_items, inputs.top_k)

    return Contestant(name, call, arguments.reset, lambda: truth.ndcg_error(inputs, scores.grad))


@peer("ndcg", "eager")
def eager(inputs: NDCGInputs) -> Contestant:
    return _closed_form(inputs, "eager", _gradient, _Arguments(inputs))


@peer("ndcg", "compiled_eager")
def compiled(inputs: NDCGInputs) -> Contestant:
    function = torch.compile(_gradient, fullgraph=True, dynamic=False)
    contestant = _closed_form(inputs, "compiled_eager", function, _Arguments(inputs))
    try:
        with torch._dynamo.config.patch(recompile_limit=256):
            contestant.call()
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UnavailableError(f"torch.compile: {reason[0]}") from error
    contestant.reset()
    return contestant
