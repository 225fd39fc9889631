"""Pair sums against their size: our algorithms, and the closed form in eager PyTorch.

smooth, direct and eager do the logistic surrogate, sort the squared hinge.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import peer
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.scaling_cases import ScalingInputs

PAIRS_SUMMED = 1 << 31  # that a way which visits them all is given time for
SLICE = 1 << 20  # pairs: a buffer that stays in the caches


def _ours(algorithm: str, surrogate: str) -> Callable[[ScalingInputs], Contestant]:
    def build(inputs: ScalingInputs) -> Contestant:
        check_device(inputs.anchors)
        anchors = inputs.anchors.clone().requires_grad_()
        items = inputs.items.clone().requires_grad_()
        sums = anchors

        def call() -> None:
            nonlocal sums
            anchors.grad = items.grad = None
            sums = xrisk_ext.ops.pairwise_sums(
                anchors,
                items,
                surrogate=surrogate,  # type: ignore[arg-type]
                scale=inputs.scale,
                algorithm=algorithm,  # type: ignore[arg-type]
            )
            sums.backward(inputs.upstream)

        def error() -> float:
            assert anchors.grad is not None and items.grad is not None
            return truth.scaling_error(inputs, surrogate, sums, anchors.grad, items.grad)

        return Contestant(algorithm, call, error=error)

    return build


peer("scaling", "smooth")(_ours("smooth", "logistic"))
peer("scaling", "sort")(_ours("sort", "squared_hinge"))
peer("scaling", "direct", max_pairs=PAIRS_SUMMED)(_ours("direct", "logistic"))


@peer("scaling", "eager", max_pairs=PAIRS_SUMMED // 4)
def eager(inputs: ScalingInputs) -> Contestant:
    """softplus and sigmoid of slices of the pairs, without autograd."""
    x, y, upstream, scale = inputs
    n = len(x)
    rows = max(1, min(n, SLICE // n))
    buffer = torch.empty(rows, n, device=x.device)
    out: list[Tensor] = []

    def call() -> None:
        with torch.no_grad():
            sums, slopes, by_item = torch.empty_like(x), torch.empty_like(x), torch.zeros_like(y)
            for first in range(0, n, rows):
                part = slice(first, min(n, first + rows))
                z = buffer[: part.stop - first]
                torch.sub(y, x[part].unsqueeze(1), out=z)
                z.mul_(scale)
                torch.sum(torch.nn.functional.softplus(z), dim=1, out=sums[part])
                z.sigmoid_()
                torch.sum(z, dim=1, out=slopes[part])
                by_item.addmv_(z.t(), upstream[part])
            out[:] = sums, slopes.mul_(-scale).mul_(upstream), by_item.mul_(scale)

    return Contestant("eager", call, error=lambda: truth.scaling_error(inputs, "logistic", *out))
