"""The contestants: one function each, registered under the work it does and its name.

    @peer("average_precision", "libauc", max_pairs=PAIRS_HELD)
    def libauc(inputs: AveragePrecisionInputs) -> Contestant: ...

Every module of this folder is imported on first use, so a new peer is a new file or function, and
it races in every case of its work. A peer that cannot run here raises `UnavailableError` with the
reason, which is reported, as is a case that is too large for it; nothing is silently left out. One
that has no part in a case (an algorithm that the surrogate does not have) returns None.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from xrisk_ext.bench.race import Contestant
from xrisk_ext.testing.cases import Case

Builder = Callable[[Any], Contestant | None]
Registered = TypeVar("Registered", bound=Builder)
PAIRS_HELD = 1 << 28  # float32 pairs of which a peer holds several copies: gigabytes


class UnavailableError(RuntimeError):
    """This peer cannot run on this machine or in this build, and why."""


@dataclass
class _Peer:
    build: Builder
    max_pairs: float
    own: bool


_PEERS: dict[tuple[str, str], _Peer] = {}


def peer(
    work: str, name: str, *, max_pairs: float = float("inf"), own: bool = False
) -> Callable[[Registered], Registered]:
    """Register a function from the work's inputs to a contestant; `own`: xrisk_ext's kernels."""

    def register(build: Registered) -> Registered:
        if (work, name) in _PEERS:
            raise ValueError(f"peer {name!r} of {work!r} is registered twice")
        _PEERS[work, name] = _Peer(build, max_pairs, own)
        return build

    return register


def names_of(work: str) -> list[str]:
    """The peers registered for this work, in the order of their modules."""
    _load_all()
    return [name for registered, name in _PEERS if registered == work]


def is_own(work: str, name: str) -> bool:
    """Whether xrisk_ext's kernels run it: where they get slower, it is no measure of them."""
    _load_all()
    found = _PEERS.get((work, name))
    return found is not None and found.own


def build_all(
    case: Case, wanted: Iterable[str] | None = None, device: str = "cpu"
) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can run, the leader first, and why the others cannot.

    Each has inputs of its own. `wanted`: only these, and the leader.
    """
    names = names_of(case.work)
    if case.leader not in names:
        raise KeyError(f"no peer {case.leader!r} for {case.work!r}, known: {names}")
    names.sort(key=lambda name: name != case.leader)  # the sort is stable
    wanted = None if wanted is None else set(wanted)
    contestants: list[Contestant] = []
    left_out: dict[str, str] = {}
    for name in names:
        if wanted is not None and name not in wanted and name != case.leader:
            continue
        registered = _PEERS[case.work, name]
        if case.pairs > registered.max_pairs:
            left_out[name] = "holds every pair, too many here"
            continue
        try:
            contestant = registered.build(to_device(case.inputs(), device))
        except UnavailableError as reason:
            left_out[name] = str(reason)
            continue
        if contestant is not None:
            contestant.device = device
            contestant.own = registered.own
            contestants.append(contestant)
    return contestants, left_out


def to_device(inputs: Any, device: str) -> Any:
    """The named tuple with its tensors there; leaves that take a gradient stay such leaves."""
    if device == "cpu":
        return inputs
    return inputs._make(
        x.detach().to(device).requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x
        for x in inputs
    )


def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
