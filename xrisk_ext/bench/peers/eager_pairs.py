"""All pairs by the closed form in eager PyTorch: slices of them in buffers that stay in the caches.

Values, and both gradients without autograd: a slice's differences are overwritten by its slopes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import PairwiseSumsInputs

PAIRS_SUMMED = 1 << 31  # that a way which visits them all is given time for
SLICE = 1 << 20  # pairs of a slice

# From the differences d, a spare buffer of their shape, margin and scale: puts the sum of each row
# into `sums`, overwrites d with the slopes but for a constant factor, and returns that factor.
Surrogate = Callable[[Tensor, Tensor, float, float, Tensor], float]


def _squared(d: Tensor, spare: Tensor, margin: float, _: float, sums: Tensor) -> float:
    d.add_(margin)
    torch.sum(torch.mul(d, d, out=spare), dim=1, out=sums)
    return 2.0


def _squared_hinge(d: Tensor, spare: Tensor, margin: float, _: float, sums: Tensor) -> float:
    d.add_(margin).relu_()
    torch.sum(torch.mul(d, d, out=spare), dim=1, out=sums)
    return 2.0


def _hinge(d: Tensor, _: Tensor, margin: float, __: float, sums: Tensor) -> float:
    torch.sum(d.add_(margin).relu_(), dim=1, out=sums)
    d.sign_()
    return 1.0


def _barrier_hinge(d: Tensor, spare: Tensor, margin: float, scale: float, sums: Tensor) -> float:
    above = d > (scale * margin / (scale - 1.0) if scale > 1.0 else torch.inf)
    below = d <= -margin  # at a kink the slope of its left
    torch.add(d, margin, out=spare)
    torch.where(below, spare * -scale, spare, out=spare)
    torch.where(above, (d - margin) * scale + margin, spare, out=spare)
    torch.sum(spare, dim=1, out=sums)
    d.fill_(1.0).masked_fill_(above, scale).masked_fill_(below, -scale)
    return 1.0


def _logistic(d: Tensor, _: Tensor, __: float, scale: float, sums: Tensor) -> float:
    torch.sum(torch.nn.functional.softplus(d.mul_(scale)), dim=1, out=sums)
    d.sigmoid_()
    return scale


def _sigmoid(d: Tensor, spare: Tensor, _: float, scale: float, sums: Tensor) -> float:
    torch.sum(d.mul_(scale).sigmoid_(), dim=1, out=sums)
    d.mul_(torch.sub(1.0, d, out=spare))
    return scale


def _exponential(d: Tensor, _: Tensor, __: float, scale: float, sums: Tensor) -> float:
    torch.sum(d.mul_(scale).exp_(), dim=1, out=sums)
    return scale


def _zero_one(d: Tensor, _: Tensor, __: float, ___: float, sums: Tensor) -> float:
    torch.sum(d.sign_().add_(1.0).mul_(0.5), dim=1, out=sums)
    return 0.0


SURROGATES: dict[str, Surrogate] = {
    "squared": _squared,
    "squared_hinge": _squared_hinge,
    "hinge": _hinge,
    "barrier_hinge": _barrier_hinge,
    "logistic": _logistic,
    "sigmoid": _sigmoid,
    "exponential": _exponential,
    "zero_one": _zero_one,
}


def closed_form(
    inputs: PairwiseSumsInputs, error: Callable[[Tensor, Tensor, Tensor], float]
) -> Contestant:
    """`error` takes the sums and the gradients of anchors and items."""
    x, y, upstream, margin, scale, name = inputs
    surrogate = SURROGATES[name]
    rows = max(1, min(len(x), SLICE // len(y)))
    differences, spare = (torch.empty(rows, len(y), device=x.device) for _ in range(2))
    out: list[Tensor] = []

    def call() -> None:
        with torch.no_grad():
            sums, slopes, by_item = torch.empty_like(x), torch.zeros_like(x), torch.zeros_like(y)
            factor = 0.0
            for first in range(0, len(x), rows):
                part = slice(first, min(len(x), first + rows))
                d = differences[: part.stop - first]
                torch.sub(y, x[part].unsqueeze(1), out=d)
                factor = surrogate(d, spare[: len(d)], margin, scale, sums[part])
                if factor:
                    torch.sum(d, dim=1, out=slopes[part])
                    by_item.addmv_(d.t(), upstream[part])
            out[:] = sums, slopes.mul_(-factor).mul_(upstream), by_item.mul_(factor)

    return Contestant("eager", call, error=lambda: error(*out))


@peer("pairwise_sums", "eager", max_pairs=PAIRS_SUMMED // 4)
def eager(inputs: PairwiseSumsInputs) -> Contestant:
    def error(sums: Tensor, by_anchor: Tensor, by_item: Tensor) -> float:
        anchors, items = (t.detach().requires_grad_() for t in inputs[:2])
        if inputs.surrogate != "zero_one":
            anchors.grad, items.grad = by_anchor, by_item
        return truth.pairwise_sums_error(inputs, sums, anchors, items)

    return closed_form(inputs, error)
