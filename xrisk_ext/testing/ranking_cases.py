"""The named cases of the sort and of the metrics; see cases.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.case import SEED, Case, Limit
from xrisk_ext.testing.scores import SCORES


@dataclass(frozen=True)
class SortCase(Case):
    """Scores -> the scores in descending order and their places."""

    work: ClassVar[str] = "sort"
    size: int
    scores: str = "normal"  # of scores.py

    @property
    def name(self) -> str:
        return f"{self.size:g}" + (f", {self.scores}" if self.scores != "normal" else "")

    @property
    def quick(self) -> bool:
        return self.scores == "normal"

    @property
    def notes(self) -> dict[str, Any]:
        return {"size": self.size}

    def inputs(self) -> SortInputs:
        generator = torch.Generator().manual_seed(SEED)
        return SortInputs(SCORES[self.scores](self.size, generator))

    def limit(self) -> Limit:
        """The score read; its value and its place written."""
        return Limit(16 * self.size)


# The last: no radix pass can be skipped.
SORTS = [SortCase(10_000), SortCase(1_000_000), SortCase(1_000_000, "bits")]


class SortInputs(NamedTuple):
    scores: Tensor  # [N] float32


@dataclass(frozen=True)
class MetricCase(Case):
    """Scores and labels -> one metric of `xrisk_ext.metrics`."""

    work: ClassVar[str] = "metrics"
    metric: str
    max_fpr: float | None = None  # of auroc
    k: int | None = None  # of ndcg_at_k
    size: int = 1_000_000

    @property
    def name(self) -> str:
        options = {"max_fpr": self.max_fpr, "k": self.k}
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        return ", ".join([f"{self.metric} of {self.size:g}", *given])

    @property
    def quick(self) -> bool:
        return self.max_fpr is None

    @property
    def notes(self) -> dict[str, Any]:
        return {"size": self.size}

    def inputs(self) -> MetricInputs:
        return metric_inputs(self)

    def limit(self) -> Limit:
        """Scores and labels."""
        return Limit(12 * self.size)


METRICS = [
    MetricCase("average_precision"),
    MetricCase("auroc"),
    MetricCase("auroc", max_fpr=0.3),
    MetricCase("ndcg_at_k", k=100),
]


class MetricInputs(NamedTuple):
    scores: Tensor  # [N] float32
    labels: Tensor  # [N] int64, 0 or 1; relevance 0 to 4 for ndcg_at_k
    metric: str
    max_fpr: float | None
    k: int | None


def metric_inputs(case: MetricCase) -> MetricInputs:
    """A tenth are positive, and score 1 higher; each step of relevance 1 more.

    At a million, float32 scores have ties: thousands of pairs.
    """
    generator = torch.Generator().manual_seed(SEED)
    uniform = torch.rand(case.size, generator=generator)
    grades = 4 if case.metric == "ndcg_at_k" else 1
    labels = sum((uniform < 0.1**grade).long() for grade in range(1, grades + 1))
    assert isinstance(labels, Tensor)
    scores = torch.randn(case.size, generator=generator) + labels
    return MetricInputs(scores, labels, case.metric, case.max_fpr, case.k)
