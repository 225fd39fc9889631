"""xrisk_ext as a user calls it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import UnavailableError, peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import (
    ALGORITHMS,
    AveragePrecisionInputs,
    MovingAverageInputs,
    PairwiseSumsInputs,
)


def check_device(tensor: Tensor) -> None:
    """Refuse where this build has no kernels."""
    if tensor.is_cuda and not xrisk_ext._C.build_info()["cuda"]:
        raise UnavailableError("xrisk_ext was built without CUDA kernels")


@peer("average_precision", "ours", own=True)
def average_precision(inputs: AveragePrecisionInputs) -> Contestant:
    check_device(inputs.scores)
    scores, labels, index, num_samples, gamma, margin = inputs
    loss_fn = xrisk_ext.AveragePrecisionLoss(num_samples, margin=margin, gamma=gamma)
    loss_fn = loss_fn.to(scores.device)

    def call() -> None:
        scores.grad = None
        loss_fn(scores, labels, index).backward()

    return Contestant(
        "ours",
        call,
        loss_fn.reset_state,
        lambda: truth.average_precision_error(inputs, scores.grad),
    )


@peer("moving_average", "ours", own=True)
def moving_average(inputs: MovingAverageInputs) -> Contestant:
    check_device(inputs.values)
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


def _pairwise_sums(algorithm: str) -> Callable[[PairwiseSumsInputs], Contestant | None]:
    def build(inputs: PairwiseSumsInputs) -> Contestant | None:
        if algorithm not in ("auto", *ALGORITHMS[inputs.surrogate]):
            return None
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
                surrogate=inputs.surrogate,  # type: ignore[arg-type]
                margin=inputs.margin,
                scale=inputs.scale,
                algorithm=algorithm,  # type: ignore[arg-type]
            )
            if sums.requires_grad:  # zero_one is a count
                sums.backward(inputs.upstream)

        try:
            call()
        except (ValueError, NotImplementedError) as error:
            if algorithm in ("auto", "direct"):  # every build has these
                raise
            raise UnavailableError(str(error).splitlines()[0]) from error
        return Contestant(
            algorithm,
            call,
            error=lambda: truth.pairwise_sums_error(inputs, sums, anchors, items),
        )

    return build


for _algorithm in dict.fromkeys(("auto", *(a for some in ALGORITHMS.values() for a in some))):
    peer("pairwise_sums", _algorithm, own=True)(_pairwise_sums(_algorithm))
