"""What the harness asks of a named case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

SEED = 20240601


class Limit(NamedTuple):
    """The least that the cheapest way known must do; whichever of the two is faster counts.

    `bytes` is what has to move when the inputs are read once and the results written once,
    `lanes` the multiply-and-add slots of the way that visits every pair.
    """

    bytes: float
    lanes: float = math.inf


@dataclass(frozen=True)
class Case:
    """What the harness asks of a case."""

    work: ClassVar[str]
    leader: ClassVar[str] = "ours"  # whom the others are compared with
    share: ClassVar[float] = 1.0  # of a race's time, where there are many cases
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")  # where it is raced
    wrong: ClassVar[float] = 1e-3  # an error that large is a bug, and the time means nothing

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def quick(self) -> bool:
        """Is it among the few of `bench --quick`?"""
        return False

    @property
    def pairs(self) -> int:
        """What a peer holds that stores every pair."""
        return 0

    @property
    def under_o(self) -> tuple[str, ...]:
        """Peers raced once more under `python -O`, whose asserts cost them time."""
        return ()

    @property
    def notes(self) -> dict[str, Any]:
        """Sizes that the tables and the plot need."""
        return {}

    def inputs(self) -> Any:
        """Fresh ones with each call, the same every time."""
        raise NotImplementedError

    def limit(self) -> Limit | None:
        return None
