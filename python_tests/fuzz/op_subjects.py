"""Every public op and metric as a subject of the contract tests."""

from functools import partial
from typing import Any

import torch
from draws import SAMPLES, WIDTH, Draw, lists, scored
from hypothesis import strategies as st
from subjects import Subject, Tensors
from torch import Tensor, nn

from xrisk_ext import metrics, ops, reference
from xrisk_ext.state import MovingAverage


class Average(nn.Module):
    """moving_average_update_ of a state that the module keeps."""

    def __init__(self, log: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.log = log
        self.average = MovingAverage((SAMPLES,), log=log, dtype=dtype)

    def forward(self, index: Tensor, values: Tensor) -> Tensor:
        return ops.moving_average_update_(self.average.value, index, values, 0.3, log=self.log)


def _pair(d: Draw) -> Tensors:
    few = d.data.draw(st.sampled_from((5, 0, 1, 40)), label="few")
    sizes = (few, d.size) if d.data.draw(st.booleans(), label="few anchors") else (d.size, few)
    drawn = {"anchors": d.scores(sizes[0]), "items": d.scores(sizes[1])}
    return drawn | ({"item_weights": d.weights(sizes[1])} if d.weigh else {})


def _values(d: Draw) -> Tensors:
    return {"index": d.ids(d.size, SAMPLES), "values": d.scores(d.size)}


def _rows(d: Draw) -> Tensors:
    shape = d.data.draw(st.sampled_from(((), (3,), (2, 3))), label="rows")
    return {"scores": d.scores(*shape, d.size)}


def _differences(d: Draw) -> Tensors:
    columns = d.data.draw(st.sampled_from(((), (3,))), label="columns")
    return {"differences": d.scores(d.size, *columns)}


def _embeddings(d: Draw) -> Tensors:
    rows, keys = min(d.size, 300), d.data.draw(st.sampled_from((17, 1, 0, 70)), label="keys")
    drawn = {"queries": d.scores(rows, WIDTH), "keys": d.scores(keys, WIDTH)}
    if d.weigh:
        excluded = torch.randint(-1, max(keys, 1), (rows, 2), generator=d.generator)
        drawn["exclude"] = excluded.clamp(max=keys - 1)
    return drawn


def _contrastive(temperature: float) -> Any:
    return partial(ops.contrastive_log_sums, temperature=temperature)


def _functions(*functions: Any) -> tuple[Any, ...]:
    """What makes the functions: there is nothing to make."""
    return tuple(partial(_itself, f) for f in functions)


def _itself(function: Any) -> Any:
    return function


_pairs = {"leaves": ("anchors", "items"), "labels": (), "bad": "defined"}
OPS: dict[str, Subject] = {
    "pairwise_sums": Subject(
        _functions(ops.pairwise_sums,
         partial(ops.pairwise_sums, surrogate="sigmoid"),
         partial(ops.pairwise_sums, surrogate="barrier_hinge", scale=2.0, algorithm="direct")),
        _pair, **_pairs,
    ),
    "pairwise_log_sums": Subject(
        _functions(partial(ops.pairwise_log_sums, surrogate="squared_hinge", temperature=0.5),
         partial(ops.pairwise_log_sums, surrogate="logistic", temperature=2.0)),
        _pair, empty=-torch.inf, **_pairs,
    ),
    "moving_average_update_": Subject(
        (partial(Average, False), partial(Average, True)), _values, leaves=("values",), labels=(),
        ids=("index",), among=(SAMPLES,), bad="defined", may_be_infinite=True,
    ),
    "surrogate_values": Subject(
        _functions(*(partial(ops.surrogate_values, surrogate=name, margin=1.0, scale=1.5)
                     for name in reference.SURROGATES if name != "exponential")),
        _differences, leaves=("differences",), labels=(), bad="defined",
    ),
    "topk_threshold": Subject(
        _functions(partial(ops.topk_threshold, k=3),
                   partial(ops.topk_threshold, k=1, method="smooth"),
                   partial(ops.topk_threshold, k=6, method="smooth", tau1=0.3)),
        _rows, labels=(), bad="defined", empty=-torch.inf,
    ),
    "contrastive_log_sums": Subject(
        _functions(_contrastive(0.5), _contrastive(0.01)), _embeddings, leaves=("queries", "keys"),
        labels=(), bad="defined", empty=-torch.inf, terms=100.0, finite_below=1e17,
    ),
}  # fmt: skip

_masked = {"bad": "refused", "left_out_by": ("mask",), "entries_in": 1}
_graded = {"draw": lists(), "labels": ("relevance",), **_masked}
_hits = {"draw": lists(labels="labels"), **_masked}
_weighed = {"draw": scored(index=False), "bad": "refused", "left_out_by": ("item_weights",)}
METRICS: dict[str, Subject] = {
    "average_precision": Subject(
        _functions(metrics.average_precision), **_weighed
    ),
    "auroc": Subject(
        _functions(metrics.auroc, partial(metrics.auroc, max_fpr=0.3),
         partial(metrics.auroc, max_fpr=0.4, min_tpr=0.3)),
        **_weighed,
    ),
    "ndcg_at_k": Subject(
        _functions(metrics.ndcg_at_k, partial(metrics.ndcg_at_k, k=3, gain="linear")), **_graded
    ),
    "recall_at_k": Subject(_functions(partial(metrics.recall_at_k, k=3)), **_hits),
    "precision_at_k": Subject(_functions(partial(metrics.precision_at_k, k=3)), **_hits),
}  # fmt: skip
