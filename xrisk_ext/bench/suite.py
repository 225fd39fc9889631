"""The races, as pytest runs them: one per case that `selection` names. No time is asserted."""

from __future__ import annotations

from typing import Any

import pytest

from xrisk_ext.bench import optimized
from xrisk_ext.bench.peers import build_all
from xrisk_ext.bench.selection import Selection
from xrisk_ext.testing.cases import Case


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = Selection.of(metafunc.config).cases()
    metafunc.parametrize("case", cases, ids=[f"{case.work} {case.name}" for case in cases])


def test_race(case: Case, compete: Any, selection: Selection, benchmark: Any) -> None:
    contestants, left_out = build_all(case, selection.peers, selection.device)
    if case.leader in left_out:
        pytest.skip(f"{case.leader}: {left_out[case.leader]}")
    result = compete(case, contestants, left_out)
    raced = list(result["contestants"].items())
    again = [c.name for c in contestants if c.name in case.under_o and c.device == "cpu"]
    if again:
        under_o = optimized.race_in_child(case, again, selection.budget())
        assert under_o["optimize"] == 1
        result["under_o"] = under_o
        raced += under_o["contestants"].items()
    errors = [(name, found["error"]) for name, found in raced if found["error"] is not None]
    wrong = [name for name, error in errors if not error < case.wrong]  # so is NaN
    if wrong:  # nobody's time is recorded beside a wrong result
        pytest.fail(f"wrong by {case.wrong:g} or more: {', '.join(wrong)}")
    benchmark.extra_info.update(result)
