"""The named cases of partial AUC and the push losses; see cases.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xrisk_ext.testing.case import SEED, Case, Limit

LINE = 64  # bytes that memory moves for a row touched at random
GAMMA = 0.9
MARGIN = 1.0
MAX_FPR = 0.2
# Lane slots of a pair: the squared hinge in both passes, and an exponential for KL.
LANES = {"kl": 10, "two_way_kl": 10, "cvar": 5, "two_way_cvar": 5, "exact": 4, "p_norm_push": 4}


@dataclass(frozen=True)
class PartialAUCCase(Case):
    """One step: scores -> loss, gradient of the scores, state of the anchors."""

    work: ClassVar[str] = "partial_auc"
    rule: str
    batch: int
    positives: int
    num_samples: int = 100_000

    @property
    def name(self) -> str:
        return f"{self.rule} B={self.batch}"

    @property
    def quick(self) -> bool:
        return self.rule in ("kl", "cvar") and self.batch in (256, 4096)

    @property
    def pairs(self) -> int:
        return (self.batch - self.positives) * self.positives

    @property
    def under_o(self) -> tuple[str, ...]:
        return ("libauc",) if self.rule in ("kl", "cvar") else ()

    @property
    def notes(self) -> dict[str, Any]:
        return {"batch": self.batch}

    def inputs(self) -> PartialAUCInputs:
        generator = torch.Generator().manual_seed(SEED)
        labels = torch.zeros(self.batch)
        labels[torch.randperm(self.batch, generator=generator)[: self.positives]] = 1.0
        scores = torch.randn(self.batch, generator=generator) + labels
        index = torch.randperm(self.num_samples, generator=generator)[: self.batch]
        return PartialAUCInputs(
            scores.requires_grad_(), labels, index, self.num_samples, self.rule, GAMMA, MARGIN
        )

    def limit(self) -> Limit:
        """Scores, labels, gradient; id and state row (read and written) of each anchor."""
        anchors = self.positives if self.rule != "p_norm_push" else self.batch - self.positives
        state = 0 if self.rule == "exact" else 2 * min(anchors * LINE, self.num_samples * 4)
        return Limit(12 * self.batch + 8 * anchors + state, LANES[self.rule] * self.pairs)


PARTIAL_AUC = [
    PartialAUCCase(rule, batch, positives)
    for rule, sizes in {
        "kl": (256, 1024, 4096, 16384),
        "cvar": (256, 1024, 4096, 16384),
        "two_way_kl": (256, 1024, 4096),
        "two_way_cvar": (256, 1024, 4096),
        "exact": (256, 4096),
        "p_norm_push": (256, 4096),
    }.items()
    for batch, positives in {256: 26, 1024: 102, 4096: 410, 16384: 1638}.items()
    if batch in sizes
]


class PartialAUCInputs(NamedTuple):
    """Each contestant gets its own copy of the scores, whose `grad` it fills."""

    scores: Tensor  # [B] float32, requires grad
    labels: Tensor  # [B] float32, 0 or 1
    ids: Tensor  # [B] int64, distinct
    num_samples: int
    rule: str
    gamma: float
    margin: float
