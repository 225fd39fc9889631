"""Regressions between two records, by ratio to the peers, so that the machine's speed cancels.

A peer's time over ours, in the old record over that in the new one, says how much slower we became
beside this peer. A case's slowdown is the median over the peers that both records have, so that
one peer that changed (a new PyTorch, say) does not decide. Absolute times are never compared.
A race during which others had the machine is shown and not judged: PyTorch's many small parallel
regions suffer far more from that than ours do, and no ratio makes up for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from xrisk_ext.bench import tables
from xrisk_ext.bench.peers import is_own

Key = tuple[str, str]  # work, case


@dataclass
class Change:
    """1.0: as before; 2.0: twice as slow beside the peers."""

    work: str
    case: str
    slowdown: float
    by_peer: dict[str, float]
    busy: bool  # the machine, in either record

    def verdict(self, tolerance: float) -> str:
        if self.busy:
            return "busy machine, not judged"
        return "REGRESSION" if self.slowdown > tolerance else ""


def changes(
    old: dict[str, Any], new: dict[str, Any], peers: Iterable[str] | None = None
) -> tuple[list[Change], list[str]]:
    """One change per case with a peer in both records, and what could not be compared."""
    before, after = _ratios(old), _ratios(new)
    wanted = None if peers is None else set(peers)
    busy = {(r["work"], r["case"]) for record in (old, new) for r in busy_in(record)}
    found: list[Change] = []
    lone: dict[str, list[str]] = {}
    for key in dict.fromkeys([*before, *after]):
        if key not in before or key not in after:
            which = "old" if key in before else "new"
            lone.setdefault(f"only in the {which} record, of {key[0]}", []).append(key[1])
            continue
        common = before[key].keys() & after[key].keys()
        by_peer = {
            name: ratio / after[key][name]
            for name, ratio in before[key].items()
            if name in common and (wanted is None or name in wanted)
        }
        if by_peer:
            slowdown = statistics.median(by_peer.values())
            found.append(Change(*key, slowdown, by_peer, key in busy))
        else:
            lone.setdefault(f"without such a peer in both, of {key[0]}", []).append(key[1])
    missing = [f"{what}: {len(names)} (first: {names[0]})" for what, names in lone.items()]
    return found, missing


def busy_in(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The races during which the machine was not ours alone."""
    return [race for race in record["races"] if tables.busy_races([race])]


def main(
    old: dict[str, Any], new: dict[str, Any], tolerance: float, peers: list[str] | None = None
) -> int:
    """Print every change; 0 without a regression, 1 with one, 2 if nothing could be compared."""
    found, missing = changes(old, new, peers)
    head = ["work", "case", "slowdown", "beside each peer", ""]
    rows = [
        [
            change.work,
            change.case,
            f"{change.slowdown:.2f}",
            ", ".join(f"{name} {ratio:.2f}" for name, ratio in change.by_peer.items()),
            change.verdict(tolerance),
        ]
        for change in sorted(found, key=lambda change: -change.slowdown)
    ]
    print("\n".join(tables.table(head, rows)))
    for line in (*missing, *_caveats(old, new)):
        print(f"note: {line}")
    judged = [change for change in found if not change.busy]
    if not judged:
        print("nothing to compare")
        return 2
    worse = [change for change in judged if change.slowdown > tolerance]
    print(
        f"{len(worse)} of {len(judged)} cases are more than {tolerance}x slower beside their peers"
    )
    return 1 if worse else 0


def _ratios(record: dict[str, Any]) -> dict[Key, dict[str, float]]:
    """Per race: each peer's time over the leader's. Our other algorithms are no peers: what slows
    them all would not be seen.
    """
    ratios: dict[Key, dict[str, float]] = {}
    for race in record["races"]:
        mine = ratios.setdefault((race["work"], race["case"]), {})
        for found, mark in ((race, ""), (race.get("under_o"), " -O")):
            for name, contestant in (found or {}).get("contestants", {}).items():
                if name != found["leader"] and not is_own(race["work"], name):
                    mine[name + mark] = contestant["ratio"]["median"]
    return ratios


def _caveats(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Ratios cancel a machine's speed, not everything."""
    caveats = []
    for key in ("cpu", "threads", "torch_simd", "gpu"):
        was, now = old["machine"].get(key), new["machine"].get(key)
        if was != now:
            caveats.append(f"{key} differs: {was} before, {now} now")
    was, now = (r["machine"].get("versions", {}).get("torch") for r in (old, new))
    if was != now:
        caveats.append(f"torch differs: {was} before, {now} now")
    for name, record in (("old", old), ("new", new)):
        if record.get("quick"):
            caveats.append(f"the {name} record is of short races: noisy")
        busy = busy_in(record)
        if busy:
            caveats.append(f"the machine was busy in {len(busy)} races of the {name} record")
    return caveats
