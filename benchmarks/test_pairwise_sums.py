"""`algorithm="auto"` of pairwise_sums against each algorithm by name. Asserts no time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import cases
from benchmarks.peers import build_all
from benchmarks.race import Budget

WRONG = 1e-3


@pytest.mark.parametrize("case", cases.PAIRWISE_SUMS, ids=lambda case: case.name)
def test_auto(case: cases.PairwiseSumsCase, compete: Any, budget: Budget) -> None:
    contestants, left_out = build_all(
        f"pairwise_sums/{case.surrogate}",
        ("auto", *cases.ALGORITHMS[case.surrogate]),
        lambda: cases.pairwise_sums_inputs(case),
    )
    assert not {"auto", "direct"} & left_out.keys(), left_out
    result = compete(
        "pairwise_sums",
        case.name,
        contestants,
        left_out,
        limit=replace(budget, seconds=budget.seconds / 4),  # there are many
        pairs=case.pairs,
    )
    for name, found in result["contestants"].items():
        assert found["error"] < WRONG, name
