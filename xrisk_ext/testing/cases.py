"""The named cases: their sizes, their inputs and the least work that they need.

To add one: append to a list here or in ranking_cases.py. To add a kind of work (a new op, a new
loss): a subclass of `Case` with a list that goes into CASES, its float64 error in
`xrisk_ext/bench/truth.py`, and peers, ours among them, in a file of `xrisk_ext/bench/peers/`. The
races, the tables, the JSON and the regression check take it from there. The tests build their
inputs from the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.baseline_cases import BASELINES
from xrisk_ext.testing.case import SEED
from xrisk_ext.testing.case import Case as Case
from xrisk_ext.testing.case import Limit as Limit
from xrisk_ext.testing.contrastive_cases import CONTRASTIVE
from xrisk_ext.testing.libauc_cases import LIBAUC
from xrisk_ext.testing.listwise_cases import LISTS
from xrisk_ext.testing.ndcg_cases import NDCG
from xrisk_ext.testing.partial_auc_cases import PARTIAL_AUC
from xrisk_ext.testing.ranking_cases import METRICS, SORTS
from xrisk_ext.testing.scaling_cases import SCALING
from xrisk_ext.testing.scores import SCORES
from xrisk_ext.testing.selection_cases import SELECTIONS

GAMMA = 0.9
MARGIN = 1.0

LINE = 64  # bytes that memory moves for a row touched at random


@dataclass(frozen=True)
class AveragePrecisionCase(Case):
    """One AP step: scores -> loss, gradient of the scores, state of the positives."""

    work: ClassVar[str] = "average_precision"
    batch: int
    positives: int
    num_samples: int = 100_000
    scores: str = "normal"  # of scores.py

    @property
    def name(self) -> str:
        return f"B={self.batch}" + (f", {self.scores}" if self.scores != "normal" else "")

    @property
    def quick(self) -> bool:
        return self.batch in (256, 4096) and self.scores == "normal"

    @property
    def pairs(self) -> int:
        return self.batch * self.positives

    @property
    def under_o(self) -> tuple[str, ...]:
        return ("libauc",) if self.scores == "normal" else ()

    @property
    def notes(self) -> dict[str, Any]:
        return {"batch": self.batch, "scores": self.scores}

    def inputs(self) -> AveragePrecisionInputs:
        return average_precision_inputs(self)

    def limit(self) -> Limit:
        """Scores, labels, gradient; id and state row (read and written) of each positive."""
        state = 2 * min(self.positives * LINE, self.num_samples * 8)
        return Limit(
            12 * self.batch + 8 * self.positives + state, LANES["squared_hinge"] * self.pairs
        )


AVERAGE_PRECISION = [
    AveragePrecisionCase(64, 6),
    AveragePrecisionCase(256, 26),
    AveragePrecisionCase(1024, 102),
    AveragePrecisionCase(4096, 410),
    AveragePrecisionCase(4096, 410, scores="ties"),
    AveragePrecisionCase(4096, 410, scores="bits"),
    AveragePrecisionCase(16384, 1638),
    AveragePrecisionCase(1_000_000, 10_000, num_samples=1_000_000),
]


class AveragePrecisionInputs(NamedTuple):
    """Each contestant gets its own copy of the scores, whose `grad` it fills."""

    scores: Tensor  # [B] float32, requires grad
    labels: Tensor  # [B] float32, 0 or 1
    ids: Tensor  # [B] int64, distinct
    num_samples: int
    gamma: float
    margin: float


def average_precision_inputs(case: AveragePrecisionCase) -> AveragePrecisionInputs:
    """The positives' scores are 1 higher: of normal ones, a model that has learnt a bit."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.zeros(case.batch)
    labels[torch.randperm(case.batch, generator=generator)[: case.positives]] = 1.0
    scores = SCORES[case.scores](case.batch, generator) + labels
    index = torch.randperm(case.num_samples, generator=generator)[: case.batch]
    return AveragePrecisionInputs(
        scores.requires_grad_(), labels, index, case.num_samples, GAMMA, MARGIN
    )


@dataclass(frozen=True)
class MovingAverageCase(Case):
    """One update of `rows` entries of a state with `states` rows."""

    work: ClassVar[str] = "moving_average"
    rows: int
    states: int
    duplicates: float  # share of the entries that repeat another entry's id
    log: bool = False

    @property
    def name(self) -> str:
        ids = f"{self.duplicates:.0%} duplicates" if self.duplicates else "unique"
        return f"{self.rows:g} of {self.states:g}, {ids}{', log' if self.log else ''}"

    @property
    def quick(self) -> bool:
        return self.states <= 1_000_000 and not self.log and not self.duplicates

    @property
    def notes(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def inputs(self) -> MovingAverageInputs:
        return moving_average_inputs(self)

    def limit(self) -> Limit:
        """Id, value and result of each entry; its state row read and written, each row once."""
        rows = self.rows - round(self.rows * self.duplicates)
        return Limit(16 * self.rows + 2 * min(rows * LINE, self.states * 4))


MOVING_AVERAGE = [
    MovingAverageCase(rows, states, duplicates, log)
    for log in (False, True)
    for rows, states in ((4096, 1_000_000), (1_000_000, 1_000_000), (1_000_000, 10_000_000))
    for duplicates in (0.0, 0.1)
]


class MovingAverageInputs(NamedTuple):
    start: Tensor  # [N] float32, a tenth untouched
    ids: Tensor  # [B] int64
    values: Tensor  # [B] float32
    gamma: float
    log: bool


def moving_average_inputs(case: MovingAverageCase) -> MovingAverageInputs:
    generator = torch.Generator().manual_seed(SEED)
    index = torch.randperm(case.states, generator=generator)[: case.rows]
    repeats = round(case.rows * case.duplicates)
    if repeats:
        order = torch.randperm(case.rows, generator=generator)
        kept = order[repeats:]
        source = torch.randint(len(kept), (repeats,), generator=generator)
        index[order[:repeats]] = index[kept[source]]
    start = torch.rand(case.states, generator=generator)
    values = torch.rand(case.rows, generator=generator)
    if case.log:  # far outside the range of exp in float32
        start, values = 400 * (start - 0.5), 400 * (values - 0.5)
    start[torch.rand(case.states, generator=generator) < 0.1] = (
        -torch.inf if case.log else torch.nan
    )
    return MovingAverageInputs(start, index, values, GAMMA, case.log)


@dataclass(frozen=True)
class PairwiseSumsCase(Case):
    """pairwise_sums forward and backward; the peers are the op's own algorithms."""

    work: ClassVar[str] = "pairwise_sums"
    leader: ClassVar[str] = "auto"
    share: ClassVar[float] = 0.25
    anchors: int
    items: int
    surrogate: str

    @property
    def name(self) -> str:
        return f"{self.surrogate} {self.anchors}x{self.items}"

    @property
    def pairs(self) -> int:
        return self.anchors * self.items

    @property
    def quick(self) -> bool:
        shapes = ((32, 256), (410, 4096))
        return (
            self.surrogate in ("squared_hinge", "sigmoid") and (self.anchors, self.items) in shapes
        )

    @property
    def notes(self) -> dict[str, Any]:
        return {"pairs": self.pairs}

    def inputs(self) -> PairwiseSumsInputs:
        return pairwise_sums_inputs(self)

    def limit(self) -> Limit:
        """Anchors, upstream, sums and gradient of an anchor; an item and its gradient."""
        return Limit(16 * self.anchors + 8 * self.items, LANES[self.surrogate] * self.pairs)


# Lane slots of one pair with its slope: add, clamp, two accumulations for the squared hinge; six
# stand for an exponential and what is around it.
LANES = {
    "squared": 3,
    "squared_hinge": 4,
    "hinge": 4,
    "barrier_hinge": 6,
    "exponential": 6,
    "zero_one": 2,
    "logistic": 6,
    "sigmoid": 6,
}
# Every algorithm that may serve a surrogate; one the build refuses is reported as left out.
ALGORITHMS = {
    "squared": ("direct", "sort"),
    "squared_hinge": ("direct", "sort"),
    "hinge": ("direct", "sort"),
    "barrier_hinge": ("direct", "sort"),
    "exponential": ("direct", "sort"),
    "zero_one": ("direct", "sort"),
    "logistic": ("direct", "smooth"),
    "sigmoid": ("direct", "smooth"),
}
# Around each crossing of the algorithms, the two thin shapes, and one where only sorting is sane.
PAIR_SHAPES = [
    (8, 64),
    (32, 256),
    (64, 1024),
    (410, 4096),
    (4096, 4096),
    (1638, 16384),
    (16, 100_000),
    (100_000, 16),
    (1000, 100_000),
]
PAIRWISE_SUMS = [
    PairwiseSumsCase(anchors, items, surrogate)
    for surrogate in ALGORITHMS
    for anchors, items in PAIR_SHAPES
]


class PairwiseSumsInputs(NamedTuple):
    anchors: Tensor  # [P] float32
    items: Tensor  # [M] float32
    upstream: Tensor  # [P] float32, the gradient that comes from above
    margin: float
    scale: float
    surrogate: str


def pairwise_sums_inputs(case: PairwiseSumsCase) -> PairwiseSumsInputs:
    generator = torch.Generator().manual_seed(SEED)
    anchors = torch.randn(case.anchors, generator=generator) + 1.0
    items = torch.randn(case.items, generator=generator)
    upstream = torch.randn(case.anchors, generator=generator) / case.pairs
    return PairwiseSumsInputs(anchors, items, upstream, 1.0, 2.0, case.surrogate)


@dataclass(frozen=True)
class RetrievalCase(Case):
    """Embeddings -> cosine similarities -> every item's own AP over the others, and back."""

    work: ClassVar[str] = "retrieval_average_precision"
    classes: int
    per_class: int
    dimension: int = 64

    @property
    def name(self) -> str:
        return f"{self.classes} classes of {self.per_class}"

    @property
    def quick(self) -> bool:
        return self.classes == 16

    @property
    def pairs(self) -> int:
        return (self.classes * self.per_class) ** 3  # pairs of items, for every query

    @property
    def notes(self) -> dict[str, Any]:
        return {"batch": self.classes * self.per_class}

    def inputs(self) -> RetrievalInputs:
        return retrieval_inputs(self)

    def limit(self) -> Limit:
        """Similarities and both factors' gradients, and the pairs of each query's positives."""
        batch = self.classes * self.per_class
        pairs = batch * (self.per_class - 1) * batch
        return Limit(8 * batch * self.dimension, 3 * batch**2 * self.dimension + 6 * pairs)


RETRIEVAL = [RetrievalCase(8, 4), RetrievalCase(16, 4), RetrievalCase(32, 4)]


class RetrievalInputs(NamedTuple):
    embeddings: Tensor  # [B, D] float32, requires grad
    classes: Tensor  # [B] int64, in blocks of one size (a peer insists)


def retrieval_inputs(case: RetrievalCase) -> RetrievalInputs:
    generator = torch.Generator().manual_seed(SEED)
    classes = torch.arange(case.classes).repeat_interleave(case.per_class)
    centres = torch.randn(case.classes, case.dimension, generator=generator)
    noise = torch.randn(len(classes), case.dimension, generator=generator)
    return RetrievalInputs((centres[classes] + noise).requires_grad_(), classes)


CASES: list[Case] = [
    *AVERAGE_PRECISION,
    *MOVING_AVERAGE,
    *PAIRWISE_SUMS,
    *RETRIEVAL,
    *PARTIAL_AUC,
    *LISTS,
    *BASELINES,
    *SORTS,
    *METRICS,
    *CONTRASTIVE,
    *NDCG,
    *LIBAUC,
    *SCALING,
    *SELECTIONS,
]
WORKS = tuple(dict.fromkeys(case.work for case in CASES))
