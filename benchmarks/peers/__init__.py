"""The contestants: one function each, registered under the work it does and its name.

    @peer("average_precision", "libauc")
    def libauc(inputs: AveragePrecisionInputs) -> Contestant: ...

Every module of this folder is imported on first use, so a new peer is a new file or function and
its name in a case. A peer that cannot run here raises `UnavailableError` with the reason, which is
reported; nothing is silently left out.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.race import Contestant

Builder = Callable[[Any], Contestant]
_BUILDERS: dict[tuple[str, str], Builder] = {}


class UnavailableError(RuntimeError):
    """This peer cannot run on this machine or in this build, and why."""


def peer(work: str, name: str) -> Callable[[Builder], Builder]:
    """Register a function from the work's inputs to a contestant."""

    def register(build: Builder) -> Builder:
        if (work, name) in _BUILDERS:
            raise ValueError(f"peer {name!r} of {work!r} is registered twice")
        _BUILDERS[work, name] = build
        return build

    return register


def build(work: str, name: str, inputs: Any) -> Contestant:
    """The contestant `name` for this work, on inputs of its own."""
    _load_all()
    if (work, name) not in _BUILDERS:
        known = sorted(n for w, n in _BUILDERS if w == work)
        raise KeyError(f"no peer {name!r} for {work!r}, known: {known}")
    return _BUILDERS[work, name](inputs)


def build_all(
    work: str, names: Iterable[str], make_inputs: Callable[[], Any]
) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can run, each on fresh inputs, and why the others cannot."""
    contestants: list[Contestant] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            contestants.append(build(work, name, make_inputs()))
        except UnavailableError as reason:
            left_out[name] = str(reason)
    return contestants, left_out


def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
