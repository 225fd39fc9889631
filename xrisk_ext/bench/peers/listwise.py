"""The losses of ranked lists: ours, allRank's, torchsort's, the formulas in PyTorch and compiled.

`eager` is what one writes: the formula over [Q, S] or [Q, S, S] tensors, its gradient by autograd;
`compiled` is torch.compile of it. allRank's own losses are imported without the modules that they
take one constant or one device from, which need torchvision and Google's cloud clients.
"""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.peers.compiled import compile_by
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.listwise_cases import ListwiseInputs

Loss = Callable[[Tensor, Tensor], Tensor]
OURS: dict[str, Callable[[], torch.nn.Module]] = {
    "rank_net": xrisk_ext.RankNetLoss,
    "lambda_rank": xrisk_ext.LambdaRankLoss,
    "list_net": xrisk_ext.ListNetLoss,
    "list_mle": xrisk_ext.ListMLELoss,
    "approx_ndcg": xrisk_ext.ApproxNDCGLoss,
    "neural_ndcg": xrisk_ext.NeuralNDCGLoss,
    "smooth_ap": xrisk_ext.SmoothAPLoss,
    "fast_ap": xrisk_ext.FastAPLoss,
    "recall_at_k": xrisk_ext.RecallAtKLoss,
}


def _contestant(name: str, inputs: ListwiseInputs, loss: Loss, *, exact: bool = True) -> Contestant:
    scores, relevance, _ = inputs

    def call() -> None:
        scores.grad = None
        loss(scores, relevance).backward()

    if not exact:
        return Contestant(name, call)
    return Contestant(name, call, error=lambda: truth.listwise_error(inputs, scores.grad))


@peer("listwise", "ours", own=True)
def ours(inputs: ListwiseInputs) -> Contestant:
    check_device(inputs.scores)
    return _contestant("ours", inputs, OURS[inputs.loss]().to(inputs.scores.device))


# ------------------------------------------------------------------------------------ the formulas


def _gains(y: Tensor) -> Tensor:
    place = torch.arange(2.0, y.shape[1] + 2, device=y.device)
    ideal = ((y.sort(descending=True).values.exp2() - 1) / place.log2()).sum(1, keepdim=True)
    return (y.exp2() - 1) / ideal


def _soft_ranks(h: Tensor, temperature: float) -> Tensor:
    """[Q, i, j]: sigma((h_j - h_i) / temperature), without j = i."""
    above = torch.sigmoid((h[:, None, :] - h[:, :, None]) / temperature)
    return above * (1 - torch.eye(h.shape[1], device=h.device))


def rank_net(h: Tensor, y: Tensor) -> Tensor:
    pairs = (y[:, :, None] > y[:, None, :]).float()
    losses = softplus(h[:, None, :] - h[:, :, None]) * pairs
    return (losses.sum((1, 2)) / pairs.sum((1, 2))).mean()


def lambda_rank(h: Tensor, y: Tensor) -> Tensor:
    order = h.detach().argsort(1, descending=True)
    h, gains, y = h.gather(1, order), _gains(y).gather(1, order), y.gather(1, order)
    discounts = 1 / torch.arange(2.0, h.shape[1] + 2, device=h.device).log2()
    weights = (gains[:, :, None] - gains[:, None, :]).abs()
    weights = weights * (discounts[:, None] - discounts).abs() * (y[:, :, None] > y[:, None, :])
    losses = softplus(h[:, None, :] - h[:, :, None]) / math.log(2.0)
    return (weights * losses).sum((1, 2)).mean()


def list_net(h: Tensor, y: Tensor) -> Tensor:
    return -(y.softmax(1) * h.log_softmax(1)).sum(1).mean()


def list_mle(h: Tensor, y: Tensor) -> Tensor:
    ordered = h.gather(1, torch.sort(y, descending=True, stable=True).indices)
    return (ordered.flip(1).logcumsumexp(1).flip(1) - ordered).sum(1).mean()


def approx_ndcg(h: Tensor, y: Tensor) -> Tensor:
    ranks = 1 + _soft_ranks(h, 1.0).sum(2)
    return -(_gains(y) / torch.log2(1 + ranks)).sum(1).mean()


def neural_ndcg(h: Tensor, y: Tensor) -> Tensor:
    n = h.shape[1]
    place = torch.arange(1.0, n + 1, device=h.device)
    distance = (h[:, :, None] - h[:, None, :]).abs().sum(1)
    p = ((n + 1 - 2 * place)[:, None] * h[:, None, :] - distance[:, None, :]).softmax(2)
    for _ in range(50):
        p = p / p.sum(1, keepdim=True).clamp(min=1e-10)
        p = p / p.sum(2, keepdim=True).clamp(min=1e-10)
        if bool(((p.sum(1) - 1).abs() < 1e-6).all()):
            break
    return -((p @ _gains(y)[:, :, None])[:, :, 0] / (1 + place).log2()).sum(1).mean()


def smooth_ap(h: Tensor, y: Tensor) -> Tensor:
    above = _soft_ranks(h, 0.01)
    ratio = (1 + (above @ y[:, :, None])[:, :, 0]) / (1 + above.sum(2))
    return 1 - ((ratio * y).sum(1) / y.sum(1)).mean()


def fast_ap(h: Tensor, y: Tensor) -> Tensor:
    edges = torch.arange(11.0, device=h.device)
    pulses = (1 - ((1 - h)[:, :, None] * 5 - edges).abs()).clamp(min=0)
    any_, positive = pulses.sum(1), (pulses * y[:, :, None]).sum(1)
    terms = positive * positive.cumsum(1) / any_.cumsum(1).clamp(min=1e-10)
    return 1 - (terms.sum(1) / y.sum(1)).mean()


def recall_at_k(h: Tensor, y: Tensor) -> Tensor:
    ranks = 1 + _soft_ranks(h, 0.01).sum(2)
    cutoffs = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], device=h.device)
    inside = torch.sigmoid(cutoffs[:, None, None] - ranks) * y
    recalls = inside.sum(2) / torch.minimum(cutoffs[:, None], y.sum(1))
    return 1 - recalls.mean()


EAGER: dict[str, Loss] = {
    function.__name__: function
    for function in (
        rank_net, lambda_rank, list_net, list_mle, approx_ndcg, neural_ndcg, smooth_ap, fast_ap,
        recall_at_k,
    )
}  # fmt: skip


@peer("listwise", "eager", max_pairs=PAIRS_HELD)
def eager(inputs: ListwiseInputs) -> Contestant:
    return _contestant("eager", inputs, EAGER[inputs.loss])


@peer("listwise", "compiled", max_pairs=PAIRS_HELD)
def compiled(inputs: ListwiseInputs) -> Contestant | None:
    if inputs.loss == "neural_ndcg":
        return None  # when to stop is not known to a compiler
    scores, relevance, _ = inputs

    def once(loss: Loss) -> None:
        scores.grad = None
        loss(scores, relevance).backward()

    return _contestant("compiled", inputs, compile_by(EAGER[inputs.loss], once))


# ------------------------------------------------------------------------------------ allRank

ALLRANK = {
    "rank_net": ("rankNet", {}),
    "lambda_rank": ("lambdaLoss", {"weighing_scheme": "lambdaRank_scheme"}),
    "list_net": ("listNet", {}),
    "list_mle": ("listMLE", {}),
    "approx_ndcg": ("approxNDCGLoss", {}),
    "neural_ndcg": ("neuralNDCG", {}),
}


@functools.lru_cache(maxsize=1)
def import_allrank() -> Any:
    """allRank's losses."""
    constants = types.ModuleType("allrank.data.dataset_loading")
    constants.PADDED_Y_VALUE = -1  # type: ignore[attr-defined]
    device = types.ModuleType("allrank.models.model_utils")
    device.get_torch_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
    stand_ins = {module.__name__: module for module in (constants, device)}
    sys.modules.update(stand_ins)
    try:
        from allrank.models import losses
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    finally:
        for name in stand_ins:
            del sys.modules[name]
    return losses


@peer("listwise", "allrank", max_pairs=PAIRS_HELD)
def allrank(inputs: ListwiseInputs) -> Contestant | None:
    """Its ListMLE shuffles ties; its RankNet pools the pairs, its LambdaRank sums over the lists:
    other gradients than ours by default, so no error is shown for these.
    """
    if inputs.loss not in ALLRANK:
        return None
    if inputs.scores.is_cuda:
        raise UnavailableError("run on the CPU here")
    name, options = ALLRANK[inputs.loss]
    loss = functools.partial(getattr(import_allrank(), name), **options)
    exact = inputs.loss in ("list_net", "approx_ndcg", "neural_ndcg")
    return _contestant("allrank", inputs, loss, exact=exact)


# ------------------------------------------------------------------------------------ torchsort


@peer("listwise", "torchsort")
def torchsort(inputs: ListwiseInputs) -> Contestant | None:
    """NDCG of the soft ranks of Blondel et al. (ICML 2020), by its fused projection: the aim of
    ApproxNDCG by another smoothing, so no error is shown.
    """
    if inputs.loss != "approx_ndcg":
        return None
    try:
        from torchsort import soft_rank
    except ImportError as error:
        raise UnavailableError(str(error)) from error

    def loss(h: Tensor, y: Tensor) -> Tensor:
        return -(_gains(y) / torch.log2(1 + soft_rank(-h))).sum(1).mean()

    return _contestant("torchsort", inputs, loss, exact=False)
