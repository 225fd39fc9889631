"""The sort and the metrics: ours, PyTorch's, NumPy's and scikit-learn's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import xrisk_ext
from xrisk_ext.bench import truth
from xrisk_ext.bench.peers import UnavailableError, peer
from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.ranking_cases import MetricInputs, SortInputs

Sorted = tuple[Tensor, Tensor]


def _array(tensor: Tensor) -> Any:
    """The same memory as a NumPy array."""
    if tensor.is_cuda:
        raise UnavailableError("runs on the CPU")
    try:
        return tensor.numpy()
    except RuntimeError as error:  # NumPy is not installed
        raise UnavailableError(str(error)) from error


def _sort(name: str, inputs: SortInputs, sort: Callable[[Tensor], Sorted]) -> Contestant:
    out: Sorted

    def call() -> None:
        nonlocal out
        out = sort(inputs.scores)

    return Contestant(name, call, error=lambda: truth.sort_error(inputs, *out))


@peer("sort", "ours", own=True)
def sort(inputs: SortInputs) -> Contestant:
    return _sort("ours", inputs, xrisk_ext.ops.curves.sort_descending)


@peer("sort", "torch")
def torch_sort(inputs: SortInputs) -> Contestant:
    def stable(scores: Tensor) -> Sorted:
        return torch.sort(scores, descending=True, stable=True)

    return _sort("torch", inputs, stable)


@peer("sort", "numpy_values")
def numpy_values(inputs: SortInputs) -> Contestant:
    """The values alone. Ascending, which is its fastest; descending is a view of that."""
    out = scores = _array(inputs.scores)
    import numpy  # there, or `_array` would have refused

    def call() -> None:
        nonlocal out
        out = numpy.sort(scores)

    return Contestant(
        "numpy_values", call, error=lambda: truth.sort_error(inputs, torch.tensor(out[::-1].copy()))
    )


@peer("sort", "numpy_argsort")
def numpy_argsort(inputs: SortInputs) -> Contestant:
    """The places alone, ascending, with ties in any order: its fastest."""
    scores = _array(inputs.scores)
    out = scores

    def call() -> None:
        nonlocal out
        out = scores.argsort()

    def error() -> float:
        places = torch.tensor(out[::-1].copy())
        return truth.sort_error(inputs, inputs.scores[places], places, stable=False)

    return Contestant("numpy_argsort", call, error=error)


def _metric(name: str, inputs: MetricInputs, metric: Callable[[], Any]) -> Contestant:
    out: Any = None

    def call() -> None:
        nonlocal out
        out = metric()

    def error() -> float:
        return truth.metric_error(inputs, torch.as_tensor(out, dtype=torch.float64))

    return Contestant(name, call, error=error)


@peer("metrics", "ours", own=True)
def metric(inputs: MetricInputs) -> Contestant:
    scores, labels, name, max_fpr, k = inputs
    ours = xrisk_ext.metrics
    known: dict[str, Callable[[], Tensor]] = {
        "average_precision": lambda: ours.average_precision(scores, labels),
        "auroc": lambda: ours.auroc(scores, labels, max_fpr=max_fpr),
        "ndcg_at_k": lambda: ours.ndcg_at_k(scores, labels, k, gain="linear"),
    }
    return _metric("ours", inputs, known[name])


@peer("metrics", "sklearn")
def sklearn_metric(inputs: MetricInputs) -> Contestant:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise UnavailableError(str(error)) from error
    scores, labels = _array(inputs.scores), _array(inputs.labels)
    known = {
        "average_precision": functools.partial(metrics.average_precision_score, labels, scores),
        "auroc": functools.partial(metrics.roc_auc_score, labels, scores, max_fpr=inputs.max_fpr),
        "ndcg_at_k": functools.partial(metrics.ndcg_score, labels[None], scores[None], k=inputs.k),
    }
    return _metric("sklearn", inputs, known[inputs.metric])
