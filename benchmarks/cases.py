"""The named cases: their sizes, their inputs, and which peers race in each.

To add one: append to a list here. To add a kind of work: a dataclass and a list here, peers for it
in peers/, and a test file that races them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SEED = 20240601
GAMMA = 0.9
MARGIN = 1.0

# Peers that hold all pairs at once (P x B) stop at this many.
AP_PAIR_PEERS = ("libauc", "eager", "eager_dense", "autograd_eager")
AP_ALL_PEERS = (*AP_PAIR_PEERS, "eager_sorted")


@dataclass(frozen=True)
class AveragePrecisionCase:
    """One AP step: scores -> loss, gradient of the scores, state of the positives."""

    batch: int
    positives: int
    num_samples: int = 100_000
    peers: tuple[str, ...] = AP_ALL_PEERS
    race_under_o: bool = True  # LibAUC once more under `python -O`

    @property
    def name(self) -> str:
        return f"B={self.batch}"


AVERAGE_PRECISION = [
    AveragePrecisionCase(64, 6),
    AveragePrecisionCase(256, 26, peers=(*AP_ALL_PEERS, "empty_function")),
    AveragePrecisionCase(1024, 102),
    AveragePrecisionCase(4096, 410),
    AveragePrecisionCase(16384, 1638),
    # 1e10 pairs: 40 GB for a peer that holds them
    AveragePrecisionCase(
        1_000_000, 10_000, num_samples=1_000_000, peers=("eager_sorted",), race_under_o=False
    ),
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
    """Normal scores, the positives' a standard deviation higher: a model that has learnt a bit."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.zeros(case.batch)
    labels[torch.randperm(case.batch, generator=generator)[: case.positives]] = 1.0
    scores = torch.randn(case.batch, generator=generator) + labels
    index = torch.randperm(case.num_samples, generator=generator)[: case.batch]
    return AveragePrecisionInputs(
        scores.requires_grad_(), labels, index, case.num_samples, GAMMA, MARGIN
    )


@dataclass(frozen=True)
class MovingAverageCase:
    """One update of `rows` entries of a state with `states` rows."""

    rows: int
    states: int
    duplicates: float  # share of the entries that repeat another entry's id
    log: bool = False
    peers: tuple[str, ...] = ("eager", "eager_unique")

    @property
    def name(self) -> str:
        ids = f"{self.duplicates:.0%} duplicates" if self.duplicates else "unique"
        return f"{self.rows:g} of {self.states:g}, {ids}{', log' if self.log else ''}"


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
class PairwiseSumsCase:
    """pairwise_sums forward and backward; the peers are the op's own algorithms."""

    anchors: int
    items: int
    surrogate: str

    @property
    def name(self) -> str:
        return f"{self.surrogate} {self.anchors}x{self.items}"

    @property
    def pairs(self) -> int:
        return self.anchors * self.items


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


def pairwise_sums_inputs(case: PairwiseSumsCase) -> PairwiseSumsInputs:
    generator = torch.Generator().manual_seed(SEED)
    anchors = torch.randn(case.anchors, generator=generator) + 1.0
    items = torch.randn(case.items, generator=generator)
    upstream = torch.randn(case.anchors, generator=generator) / case.pairs
    return PairwiseSumsInputs(anchors, items, upstream, 1.0, 2.0)
