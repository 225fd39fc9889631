"""The named cases of pair sums against their size, for the picture; see cases.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from xrisk_ext.testing.case import SEED, Case, Limit


@dataclass(frozen=True)
class ScalingCase(Case):
    """n anchors against n items: sums, and the gradients of both sides."""

    work: ClassVar[str] = "scaling"
    leader: ClassVar[str] = "smooth"
    share: ClassVar[float] = 0.5
    size: int
    scale: float = 1.0  # of the logistic surrogate: one over the temperature
    scores: str = "normal"  # of SPREADS

    @property
    def name(self) -> str:
        parts = [f"n={self.size:g}"]
        parts += [f"scale {self.scale:g}"] if self.scale != 1.0 else []
        parts += [self.scores] if self.scores != "normal" else []
        return ", ".join(parts)

    @property
    def pairs(self) -> int:
        return self.size * self.size

    @property
    def quick(self) -> bool:
        return self.size == 4096 and self.scale == 1.0

    @property
    def plain(self) -> bool:
        """Is it a point of the picture?"""
        return self.scale == 1.0 and self.scores == "normal"

    @property
    def notes(self) -> dict[str, Any]:
        return {"size": self.size, "plain": self.plain}

    def inputs(self) -> ScalingInputs:
        generator = torch.Generator().manual_seed(SEED)
        make = SPREADS[self.scores]
        anchors, items = make(self.size, generator), make(self.size, generator)
        upstream = torch.randn(self.size, generator=generator) / self.size
        return ScalingInputs(anchors, items, upstream, self.scale)

    def limit(self) -> Limit:
        """Anchors, upstream, sums and gradient of an anchor; an item and its gradient."""
        return Limit(24 * self.size, 6 * self.pairs)


class ScalingInputs(NamedTuple):
    anchors: Tensor  # [n] float32
    items: Tensor  # [n] float32
    upstream: Tensor  # [n] float32, the gradient that comes from above
    scale: float


def _normal(n: int, generator: Generator) -> Tensor:
    return 3.0 * torch.randn(n, generator=generator)


def _clusters(n: int, generator: Generator) -> Tensor:
    centre = torch.where(torch.rand(n, generator=generator) < 0.5, 40.0, -55.0)
    return centre + 1e-3 * torch.randn(n, generator=generator)


def _cauchy(n: int, generator: Generator) -> Tensor:
    return torch.tan(3.1415 * (torch.rand(n, generator=generator) - 0.5))


def _outlier(n: int, generator: Generator) -> Tensor:
    scores = _normal(n, generator)
    scores[0] = 1e6
    return scores


def _spread(n: int, generator: Generator) -> Tensor:
    """Nearly every score has its own temperature: the worst case."""
    return torch.rand(n, generator=generator) * (10.0 * n)


SPREADS = {
    "normal": _normal,
    "ties": lambda n, generator: torch.full((n,), 0.6),
    "clusters": _clusters,
    "Cauchy": _cauchy,
    "outlier": _outlier,
    "spread": _spread,
}
MILLION = 1_000_000
SCALING = [
    *(ScalingCase(n) for n in (100, 512, 1000, 4096, 10_000, 100_000, MILLION, 10 * MILLION)),
    *(ScalingCase(MILLION, scale) for scale in (10.0, 100.0)),
    *(ScalingCase(MILLION, 1.0, scores) for scores in SPREADS if scores != "normal"),
]
