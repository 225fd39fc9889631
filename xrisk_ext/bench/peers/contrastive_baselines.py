"""The contrastive baselines: ours, what one writes in PyTorch, and pytorch-metric-learning's.

The others hold a matrix of similarities, several copies of it with autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import PAIRS_HELD, UnavailableError, peer
from xrisk_ext.bench.peers.compiled import compile_by
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.baseline_cases import ALPHA, TEMPERATURE, BaselineInputs

WORK = "contrastive_baselines"
BYTES_HELD = 4 << 30  # by metric_learning


def _zero(inputs: BaselineInputs) -> None:
    inputs.view1.grad = inputs.view2.grad = None


def measure_error(inputs: BaselineInputs) -> float:
    return truth.baseline_error(inputs, inputs.view1.grad, inputs.view2.grad, TEMPERATURE)


@peer(WORK, "ours", own=True)
def ours(inputs: BaselineInputs) -> Contestant:
    check_device(inputs.view1)
    options = {"dim": inputs.queue.shape[1], "queue_size": len(inputs.queue)}
    kind = getattr(xrisk_ext, f"{inputs.loss}Loss")
    loss_fn = kind(temperature=TEMPERATURE, **(options if len(inputs.queue) else {}))
    loss_fn = loss_fn.to(inputs.view1.device)
    labels = (inputs.labels,) if inputs.loss == "SupCon" else ()

    def reset() -> None:
        if len(inputs.queue):
            loss_fn.queue.copy_(inputs.queue)

    def call() -> None:
        _zero(inputs)
        loss_fn(inputs.view1, inputs.view2, *labels).backward()

    reset()
    return Contestant("ours", call, reset, lambda: measure_error(inputs))


def _plain(a: Tensor, b: Tensor, inputs: BaselineInputs) -> Tensor:
    """The loss of unit rows, in the dtype that they have."""
    here = torch.arange(len(a), device=a.device)
    if inputs.loss == "CLIP":
        logits = a @ b.T / TEMPERATURE
        return (F.cross_entropy(logits, here) + F.cross_entropy(logits.T, here)) / 2
    if inputs.loss == "MoCo":
        key = b.detach()
        positive = (a * key).sum(1, keepdim=True)
        logits = torch.cat((positive, a @ inputs.queue.T), 1) / TEMPERATURE
        return F.cross_entropy(logits, torch.zeros_like(here))
    z = torch.cat((a, b))
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    if inputs.loss == "NTXent":
        return F.cross_entropy(logits, torch.cat((here + len(a), here)))
    if inputs.loss in ("FlatNCE", "EqCo"):
        partner = torch.cat((here + len(a), here)).unsqueeze(1)
        positive = logits.gather(1, partner).squeeze(1)
        odds = logits.scatter(1, partner, -torch.inf).logsumexp(1) - positive
        if inputs.loss == "EqCo":
            odds = F.softplus(odds + math.log(ALPHA / (2 * len(a) - 2)))
        return odds.mean()
    labels = inputs.labels.repeat(2)
    same = (labels.unsqueeze(1) == labels).fill_diagonal_(False)
    means = torch.where(same, logits, 0.0).sum(1) / same.sum(1)
    return (logits.logsumexp(1) - means).mean()


@peer(WORK, "eager", max_pairs=PAIRS_HELD)
def eager(inputs: BaselineInputs) -> Contestant:
    queue, slots = inputs.queue.clone(), torch.arange(len(inputs.view1))

    def reset() -> None:
        queue.copy_(inputs.queue)

    def call() -> None:
        _zero(inputs)
        a, b = F.normalize(inputs.view1, dim=1), F.normalize(inputs.view2, dim=1)
        if not len(queue):
            _plain(a, b, inputs).backward()
            return
        # As MoCo's code: the keys take the place of the oldest ones before the backward.
        loss = _plain(a, b, inputs._replace(queue=queue.clone()))
        queue[slots] = b.detach()
        slots.add_(len(slots)).remainder_(len(queue))
        loss.backward()

    return Contestant("eager", call, reset, lambda: measure_error(inputs))


@peer(WORK, "compiled", max_pairs=PAIRS_HELD)
def compiled(inputs: BaselineInputs) -> Contestant | None:
    """The same under torch.compile; MoCo's queue belongs to its code, not to a formula."""
    if len(inputs.queue):
        return None

    def loss(view1: Tensor, view2: Tensor) -> Tensor:
        return _plain(F.normalize(view1, dim=1), F.normalize(view2, dim=1), inputs)

    def step(function: Callable[..., Tensor]) -> None:
        _zero(inputs)
        function(inputs.view1, inputs.view2).backward()

    function = compile_by(loss, step)
    return Contestant("compiled", lambda: step(function), error=lambda: measure_error(inputs))


@peer(WORK, "metric_learning", max_pairs=PAIRS_HELD)
def metric_learning(inputs: BaselineInputs) -> Contestant | None:
    if inputs.loss not in ("NTXent", "SupCon"):
        return None
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    loss_fn = getattr(losses, f"{inputs.loss}Loss")(temperature=TEMPERATURE)
    labels = inputs.labels
    if inputs.loss == "NTXent":
        # a matrix of the 2B positive pairs by the 2B (2B - 2) negative ones, several times
        needed = 8 * 8 * len(labels) ** 3
        if needed > BYTES_HELD:
            raise UnavailableError(f"holds pairs of pairs, {needed / 1e9:.0f} GB here")
        labels = torch.arange(len(labels), device=labels.device)
    labels = labels.repeat(2)

    def call() -> None:
        _zero(inputs)
        loss_fn(torch.cat((inputs.view1, inputs.view2)), labels).backward()

    return Contestant("metric_learning", call, error=lambda: measure_error(inputs))
