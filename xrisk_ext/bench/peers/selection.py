"""The top-K threshold: ours exact and smoothed; PyTorch's ways to it, NumPy's, FlashInfer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import UnavailableError, peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.selection_cases import SelectionInputs

SORTED = 10_000_000  # scores that are sorted within seconds
FLASHINFER_ROW = 1 << 21  # of longer rows its blocks wait for others, which need not fit on a GPU
Error = Callable[[SelectionInputs, Tensor], float]


def _selection(
    name: str,
    inputs: SelectionInputs,
    select: Callable[[], Any],
    error: Error = truth.selection_error,
) -> Contestant:
    out: Any = None

    def call() -> None:
        nonlocal out
        out = select()

    return Contestant(name, call, error=lambda: error(inputs, torch.as_tensor(out)))


@peer("selection", "ours", own=True)
def ours(inputs: SelectionInputs) -> Contestant:
    return _selection("ours", inputs, lambda: xrisk_ext.ops.topk_threshold(*inputs))


@peer("selection", "ours_smooth", own=True)
def ours_smooth(inputs: SelectionInputs) -> Contestant:
    """The smoothed threshold, which no peer has."""

    def solve() -> Tensor:
        return xrisk_ext.ops.topk_threshold(*inputs, method="smooth")

    return _selection("ours_smooth", inputs, solve, truth.smooth_selection_error)


@peer("selection", "topk")
def topk(inputs: SelectionInputs) -> Contestant:
    scores, k = inputs
    return _selection("topk", inputs, lambda: torch.topk(scores, k + 1).values[:, -1])


@peer("selection", "kthvalue")
def kthvalue(inputs: SelectionInputs) -> Contestant:
    scores, k = inputs
    place = scores.shape[1] - k
    return _selection("kthvalue", inputs, lambda: torch.kthvalue(scores, place).values)


@peer("selection", "sort")
def sort(inputs: SelectionInputs) -> Contestant:
    scores, k = inputs
    if scores.numel() > SORTED:
        raise UnavailableError("takes tens of seconds to sort so many")
    return _selection("sort", inputs, lambda: torch.sort(scores, descending=True).values[:, k])


@peer("selection", "numpy_partition")
def numpy_partition(inputs: SelectionInputs) -> Contestant:
    scores, k = inputs
    if scores.is_cuda:
        raise UnavailableError("runs on the CPU")
    try:
        array = scores.numpy()
    except RuntimeError as error:  # NumPy is not installed
        raise UnavailableError(str(error)) from error
    import numpy  # there, or .numpy() would have refused

    place = array.shape[1] - 1 - k
    return _selection(
        "numpy_partition", inputs, lambda: numpy.partition(array, place, axis=1)[:, place].copy()
    )


@peer("selection", "flashinfer")
def flashinfer(inputs: SelectionInputs) -> Contestant:
    """The least of its top k + 1, unsorted, which is its faster way."""
    scores, k = inputs
    if not scores.is_cuda:
        raise UnavailableError("runs on a GPU")
    if scores.shape[1] > FLASHINFER_ROW:
        raise UnavailableError("may hang on so long a row")
    try:
        from flashinfer import top_k
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    return _selection("flashinfer", inputs, lambda: top_k(scores, k + 1)[0].amin(dim=1))
