"""Ties the race to pytest-benchmark: its fixture times the leader, `extra_info` holds the rest.

The fixture's `pedantic` mode calls `setup` before each round and times the target alone; with the
other contestants' laps in `setup` and the leader's lap as the target, its rounds are the race's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from xrisk_ext.bench import limits, machine
from xrisk_ext.bench.race import Contestant, Race
from xrisk_ext.bench.selection import PREFIX, Selection
from xrisk_ext.testing.cases import Case

Compete = Callable[[Case, list[Contestant], dict[str, str]], dict[str, Any]]

_calls_a_lap = 1
_device = "cpu"


def per_call_clock() -> float:
    """Seconds divided by the calls in a lap, so that pytest-benchmark's own table is per call."""
    return time.perf_counter() / _calls_a_lap


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("xrisk_ext bench")
    for name in ("works", "names", "peers"):
        group.addoption(f"--{PREFIX}{name}", action="append")
    group.addoption(f"--{PREFIX}quick")
    group.addoption(f"--{PREFIX}seconds", type=float)
    group.addoption(f"--{PREFIX}device", default="cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=per_call_clock, disable_gc=True))


@pytest.fixture(scope="session")
def selection(pytestconfig: pytest.Config) -> Selection:
    return Selection.of(pytestconfig)


@pytest.fixture(scope="session", autouse=True)
def _settled(selection: Selection) -> None:
    """Threads, and the limits while nothing else runs."""
    global _device
    machine.settle()
    _device = selection.device
    limits.measure(_device)


@pytest.fixture
def compete(benchmark: Any, selection: Selection) -> Compete:
    """Race contestants, the first one leading; whoever checked the result stores it."""

    def run(case: Case, contestants: list[Contestant], left_out: dict[str, str]) -> dict[str, Any]:
        global _calls_a_lap
        budget = selection.budget()
        race = Race(contestants, replace(budget, seconds=budget.seconds * case.share))
        _calls_a_lap = race.leader.repeats
        benchmark.pedantic(race.lead, setup=race.others, rounds=race.rounds)
        result: dict[str, Any] = {"work": case.work, "case": case.name} | case.notes
        limit = case.limit()
        if limit is not None:
            result["limit"] = limits.note(limit, limits.measure(selection.device))
        result |= race.result() | {"left_out": left_out}
        benchmark.group = case.work
        return result

    return run


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    about = machine.describe() | {"device": _device, "rates": limits.measure(_device)}
    machine_info["xrisk"] = about
