"""Which races to run: what the command line asks for, carried into pytest as options."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from xrisk_ext.bench import peers
from xrisk_ext.bench.race import Budget
from xrisk_ext.testing import cases

PREFIX = "xrisk-"


@dataclass
class Selection:
    """None stands for all."""

    works: list[str] | None = None
    names: list[str] | None = None
    peers: list[str] | None = None
    quick: bool = False
    seconds: float | None = None
    device: str = "cpu"

    @property
    def everything(self) -> bool:
        return self == Selection(device=self.device)

    def _raced(self) -> list[cases.Case]:
        """Those of the works asked for that run on this device."""
        return [
            case
            for case in cases.CASES
            if self.device in case.devices and (self.works is None or case.work in self.works)
        ]

    def cases(self) -> list[cases.Case]:
        """`quick` keeps the few cases marked so, unless cases are named."""
        wanted = set(self.peers or ())
        return [
            case
            for case in self._raced()
            if (case.name in self.names if self.names else not self.quick or case.quick)
            and (not wanted or wanted & {*peers.names_of(case.work)})
        ]

    def complaint(self) -> str | None:
        """What nobody knows among the names."""
        within = self._raced()
        works = dict.fromkeys(case.work for case in within)
        known: dict[str, tuple[list[str] | None, list[str]]] = {
            "op": (self.works, list(cases.WORKS)),
            "case": (self.names, [case.name for case in within]),
            "peer": (self.peers, sorted({n for work in works for n in peers.names_of(work)})),
        }
        for what, (asked, there) in known.items():
            for name in asked or ():
                if name not in there:
                    return f"unknown {what} {name!r}, expected one of: {'; '.join(there)}"
        return None if self.cases() else "no case has all that was asked for"

    def budget(self) -> Budget:
        budget = Budget(1.0, 3, 15) if self.quick else Budget()
        budget.seconds = self.seconds or budget.seconds
        return budget

    def as_options(self) -> list[str]:
        """For pytest's command line; `of` reads them back."""
        options = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or value is False:
                continue
            values = value if isinstance(value, list) else [value]
            options += [f"--{PREFIX}{field.name}={one}" for one in values]
        return options

    @classmethod
    def of(cls, config: Any) -> Selection:
        found = {
            f.name: config.getoption(f"{PREFIX}{f.name}".replace("-", "_")) for f in fields(cls)
        }
        found["quick"] = bool(found["quick"])
        return cls(**found)
