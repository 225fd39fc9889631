"""Pair sums against their size: our algorithms, and the closed form in eager PyTorch.

smooth, direct and eager do the logistic surrogate, sort the squared hinge.
"""

from __future__ import annotations

from collections.abc import Callable

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import peer
from xrisk_ext.bench.peers.eager_pairs import PAIRS_SUMMED, closed_form
from xrisk_ext.bench.peers.ours import check_device
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import PairwiseSumsInputs
from xrisk_ext.testing.scaling_cases import ScalingInputs


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


peer("scaling", "smooth", own=True)(_ours("smooth", "logistic"))
peer("scaling", "sort", own=True)(_ours("sort", "squared_hinge"))
peer("scaling", "direct", max_pairs=PAIRS_SUMMED, own=True)(_ours("direct", "logistic"))


@peer("scaling", "eager", max_pairs=PAIRS_SUMMED // 4)
def eager(inputs: ScalingInputs) -> Contestant:
    x, y, upstream, scale = inputs
    return closed_form(
        PairwiseSumsInputs(x, y, upstream, 0.0, scale, "logistic"),
        lambda *found: truth.scaling_error(inputs, "logistic", *found),
    )
