"""xrisk_ext as a user calls it."""

from __future__ import annotations

from collections.abc import Callable

import xrisk_ext
from benchmarks import truth
from benchmarks.cases import (
    ALGORITHMS,
    AveragePrecisionInputs,
    MovingAverageInputs,
    PairwiseSumsInputs,
)
from benchmarks.peers import UnavailableError, peer
from benchmarks.race import Contestant


@peer("average_precision", "ours")
def average_precision(inputs: AveragePrecisionInputs) -> Contestant:
    scores, labels, index, num_samples, gamma, margin = inputs
    loss_fn = xrisk_ext.AveragePrecisionLoss(num_samples, margin=margin, gamma=gamma)

    def call() -> None:
        scores.grad = None
        loss_fn(scores, labels, index).backward()

    return Contestant(
        "ours",
        call,
        loss_fn.reset_state,
        lambda: truth.average_precision_error(inputs, scores.grad),
    )


@peer("moving_average", "ours")
def moving_average(inputs: MovingAverageInputs) -> Contestant:
    start, index, values, gamma, log = inputs
    state = start.clone()
    update = xrisk_ext.ops.moving_average_update_
    out = values

    def call() -> None:
        nonlocal out
        out = update(state, index, values, gamma, log=log)

    return Contestant(
        "ours",
        call,
        lambda: state.copy_(start),
        lambda: truth.moving_average_error(inputs, out, state),
    )


def _pairwise_sums(algorithm: str, surrogate: str) -> Callable[[PairwiseSumsInputs], Contestant]:
    def build(inputs: PairwiseSumsInputs) -> Contestant:
        anchors = inputs.anchors.clone().requires_grad_()
        items = inputs.items.clone().requires_grad_()
        sums = anchors

        def call() -> None:
            nonlocal sums
            anchors.grad = items.grad = None
            sums = xrisk_ext.ops.pairwise_sums(
                anchors,
                items,
                surrogate=surrogate,
                margin=inputs.margin,
                scale=inputs.scale,
                algorithm=algorithm,
            )
            if sums.requires_grad:  # zero_one is a count
                sums.backward(inputs.upstream)

        try:
            call()
        except (ValueError, NotImplementedError) as error:  # this build lacks it
            raise UnavailableError(str(error).splitlines()[0]) from error
        return Contestant(
            algorithm,
            call,
            error=lambda: truth.pairwise_sums_error(inputs, surrogate, sums, anchors, items),
        )

    return build


for _surrogate, _algorithms in ALGORITHMS.items():
    for _algorithm in ("auto", *_algorithms):
        peer(f"pairwise_sums/{_surrogate}", _algorithm)(_pairwise_sums(_algorithm, _surrogate))
