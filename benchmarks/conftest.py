"""Ties the race to pytest-benchmark: its fixture times the leader, `extra_info` holds the rest.

The fixture's `pedantic` mode calls `setup` before each round and times the target alone; with the
other contestants' laps in `setup` and the leader's lap as the target, its rounds are the race's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import machine
from benchmarks.race import Budget, Contestant, Race

Compete = Callable[..., dict[str, Any]]


_calls_a_lap = 1


def per_call_clock() -> float:
    """Seconds divided by the calls in a lap, so that pytest-benchmark's own table is per call."""
    return time.perf_counter() / _calls_a_lap


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("race")
    group.addoption("--quick", action="store_true", help="short races: noisy figures, fast")
    group.addoption("--race-seconds", type=float, help="length of one race")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "compete" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=per_call_clock, disable_gc=True))


@pytest.fixture(scope="session", autouse=True)
def _same_threads() -> None:
    machine.settle()


@pytest.fixture(scope="session")
def budget(pytestconfig: pytest.Config) -> Budget:
    """Of one race; cases with many small races divide it."""
    chosen = Budget(1.0, 3, 15) if pytestconfig.getoption("quick") else Budget()
    chosen.seconds = pytestconfig.getoption("race_seconds") or chosen.seconds
    return chosen


@pytest.fixture
def compete(benchmark: Any, budget: Budget) -> Compete:
    """Race contestants, the first one leading, and store the result with the benchmark."""

    def run(
        work: str,
        case: str,
        contestants: list[Contestant],
        left_out: dict[str, str],
        limit: Budget = budget,
        **notes: Any,
    ) -> dict[str, Any]:
        global _calls_a_lap
        race = Race(contestants, limit)
        _calls_a_lap = race.leader.repeats
        benchmark.pedantic(race.lead, setup=race.others, rounds=race.rounds)
        result = {"work": work, "case": case} | notes | race.result() | {"left_out": left_out}
        benchmark.group = work
        benchmark.extra_info.update(result)
        return result

    return run


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["xrisk"] = machine.describe()
