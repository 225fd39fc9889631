"""The fair race: same process, interleaved laps A B C A B C ..., ratios taken round by round.

What keeps it fair:

- every contestant gets the same inputs, dtype and threads, and a lap of its own in every round, so
  that a slow second of the machine hits all of them and leaves their ratio alone;
- before each lap its state goes back to the start, untimed; a cheap call then runs once untimed,
  because the lap of another contestant has just emptied the caches;
- a lap repeats the call until it lasts MIN_LAP_S (or is one call), so that the clock, a single
  interrupt and the pause before the lap do not decide it (after the pause two threads need about a
  millisecond to come up to speed, which with laps of 2 ms made calls of 0.3 ms look half as long
  again, and long calls no longer); garbage is collected between laps, never inside one;
- everything that happens once (imports, compilation, lazy set-up) falls into the warm-up;
- on a GPU a lap ends when the queue is empty;
- reported are medians and quartiles, of the times and of the per-round ratios.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from xrisk_ext.bench import launches
from xrisk_ext.bench.machine import ForeignLoad
from xrisk_ext.bench.memory import peak_growth_mb

MIN_LAP_S = 1e-2
REWARM_BELOW_S = 0.05  # a longer call re-warms the caches by itself


@dataclass
class Contestant:
    """One way to do the work. `call` is what is timed; all else happens off the clock."""

    name: str
    call: Callable[[], Any]
    reset: Callable[[], Any] = lambda: None
    error: Callable[[], float] | None = None  # of the last call, after a reset, against float64
    own: bool = False  # runs kernels of ours
    device: str = "cpu"  # "cuda" where its calls only queue work: laps then wait for it

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


@dataclass
class Budget:
    """How long one race may last. Rounds follow from it, within their bounds."""

    seconds: float = 8.0
    min_rounds: int = 5
    max_rounds: int = 60

    def rounds(self, round_seconds: float) -> int:
        affordable = math.floor(self.seconds / max(round_seconds, 1e-9))
        return max(self.min_rounds, min(self.max_rounds, affordable))


@dataclass
class _Lane:
    contestant: Contestant
    repeats: int = 1
    call_s: float = 0.0
    laps: list[float] = field(default_factory=list)  # seconds per call
    error: float | None = None
    memory_mb: float = 0.0
    first_call_mb: float = 0.0
    launches: dict[str, int] | None = None

    def run(self) -> None:
        call = self.contestant.call
        for _ in range(self.repeats):
            call()
        self.contestant.wait()


class Race:
    """Warms up on construction; then `finish()`, or `others()` and `lead()` in `rounds` rounds."""

    def __init__(self, contestants: Sequence[Contestant], budget: Budget | None = None) -> None:
        if len({c.name for c in contestants}) != len(contestants):
            raise ValueError(f"expected distinct names, got {[c.name for c in contestants]}")
        self._lanes = [_Lane(c) for c in contestants]
        for lane in self._lanes:
            _warm_up(lane)
        self._foreign_load = ForeignLoad()
        start = time.perf_counter()  # a trial round, thrown away, says how many fit the budget
        self.others()
        self.lead()
        self.rounds = (budget or Budget()).rounds(time.perf_counter() - start)
        for lane in self._lanes:
            lane.laps.clear()

    @property
    def leader(self) -> _Lane:
        """The contestant that the others are compared with."""
        return self._lanes[0]

    def others(self) -> None:
        """One lap of every contestant but the leader, and the leader made ready for its own."""
        for lane in self._lanes[1:]:
            _get_ready(lane)
            _timed_lap(lane)
        _get_ready(self.leader)

    def lead(self) -> None:
        """The leader's lap, which ends the round."""
        _timed_lap(self.leader)

    def finish(self) -> dict[str, Any]:
        """Run all rounds and return the result."""
        for _ in range(self.rounds):
            self.others()
            self.lead()
        return self.result()

    def result(self) -> dict[str, Any]:
        """Times in ms, errors, memory; `ratio` is contestant / leader, taken in each round.

        `fastest_rival` turns it round: leader / the fastest of our other algorithms.
        """
        lead = self.leader.laps
        contestants: dict[str, Any] = {}
        for lane in self._lanes:
            ratios = [mine / ours for mine, ours in zip(lane.laps, lead, strict=True)]
            contestants[lane.contestant.name] = {
                "ms": spread([lap * 1e3 for lap in lane.laps]),
                "ratio": spread(ratios),
                "error": lane.error,
                "memory_mb": lane.memory_mb,
                "first_call_mb": lane.first_call_mb,
                **({"launches": lane.launches} if lane.launches else {}),
                "calls_a_lap": lane.repeats,
                "laps_ms": [round(lap * 1e3, 6) for lap in lane.laps],
            }
        result = {
            "leader": self.leader.contestant.name,
            "rounds": len(lead),
            "foreign_load": self._foreign_load.share(),
            "contestants": contestants,
        }
        rivals = [lane for lane in self._lanes[1:] if lane.contestant.own]
        if rivals:
            rival = min(rivals, key=lambda lane: statistics.median(lane.laps))
            ratios = [ours / theirs for ours, theirs in zip(lead, rival.laps, strict=True)]
            result["fastest_rival"] = {"name": rival.contestant.name, "ratio": spread(ratios)}
        return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        low = middle = high = values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q1": low, "q3": high}


def _warm_up(lane: _Lane) -> None:
    """Error and memory of the first calls, then the call's time and the calls a lap needs."""
    contestant = lane.contestant
    contestant.reset()
    lane.first_call_mb = peak_growth_mb(contestant.call, contestant.device)
    if contestant.error is not None:
        lane.error = contestant.error()
    lane.memory_mb = peak_growth_mb(contestant.call, contestant.device)
    if contestant.device != "cpu":
        lane.launches = launches.count(contestant.call)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.1 and len(times) < 500):
        start = time.perf_counter()
        contestant.call()
        contestant.wait()
        times.append(time.perf_counter() - start)
        if times[0] > 0.2:
            break
    lane.call_s = statistics.median(times)
    lane.repeats = max(1, math.ceil(MIN_LAP_S / lane.call_s))


def _get_ready(lane: _Lane) -> None:
    lane.contestant.reset()
    if lane.call_s < REWARM_BELOW_S:
        lane.contestant.call()
    lane.contestant.wait()
    gc.collect()


def _timed_lap(lane: _Lane) -> None:
    enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        lane.run()
        lane.laps.append((time.perf_counter() - start) / lane.repeats)
    finally:
        if enabled:
            gc.enable()
