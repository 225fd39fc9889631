"""The named cases of the top-K threshold; see cases.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from xrisk_ext.testing.case import SEED, Case, Limit
from xrisk_ext.testing.scores import SCORES


def mostly_zeros(n: int, generator: Generator) -> Tensor:
    """Nine of ten are zero, as after a ReLU or of a sparse recommender."""
    scores = torch.randn(n, generator=generator)
    return torch.where(torch.rand(n, generator=generator) < 0.9, 0.0, scores)


KINDS = SCORES | {mostly_zeros.__name__: mostly_zeros}


@dataclass(frozen=True)
class SelectionCase(Case):
    """Rows of scores -> the (k+1)-th largest of each; k is one in a hundred."""

    work: ClassVar[str] = "selection"
    rows: int
    length: int
    scores: str = "normal"  # of KINDS

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.length:g}" + (
            f", {self.scores}" if self.scores != "normal" else ""
        )

    @property
    def quick(self) -> bool:
        return self.name in ("1024x1000", "1x1e+06", "1x1e+06, mostly_zeros")

    @property
    def notes(self) -> dict[str, Any]:
        return {"size": self.rows * self.length}

    def inputs(self) -> SelectionInputs:
        generator = torch.Generator().manual_seed(SEED)
        scores = KINDS[self.scores](self.rows * self.length, generator)
        return SelectionInputs(scores.view(self.rows, self.length), self.length // 100)

    def limit(self) -> Limit:
        """The scores read once."""
        return Limit(4 * self.rows * self.length)


SELECTIONS = [
    SelectionCase(1024, 1000),
    SelectionCase(1, 100_000),
    SelectionCase(1, 1_000_000),
    SelectionCase(1, 1_000_000, "ties"),
    SelectionCase(1, 1_000_000, "mostly_zeros"),
    SelectionCase(1, 1_000_000, "bits"),
    SelectionCase(1, 1_000_000, "sorted_down"),
    SelectionCase(1, 10_000_000),
    SelectionCase(1, 100_000_000),
]


class SelectionInputs(NamedTuple):
    scores: Tensor  # [R, M] float32
    k: int
