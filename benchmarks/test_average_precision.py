"""One AP step (forward, backward, state) against LibAUC and eager PyTorch. Asserts no time."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import cases, optimized
from benchmarks.peers import build_all
from benchmarks.race import Budget

WRONG = 1e-3  # a gradient that far off is a bug, and its time means nothing


@pytest.mark.parametrize("case", cases.AVERAGE_PRECISION, ids=lambda case: case.name)
def test_step(
    case: cases.AveragePrecisionCase, compete: Any, budget: Budget, benchmark: Any
) -> None:
    contestants, left_out = build_all(
        "average_precision", ("ours", *case.peers), lambda: cases.average_precision_inputs(case)
    )
    result = compete("average_precision", case.name, contestants, left_out, batch=case.batch)
    raced = list(result["contestants"].items())
    if case.race_under_o and "libauc" not in left_out:
        under_o = optimized.race_in_child(case, budget)
        assert under_o["optimize"] == 1
        benchmark.extra_info["under_o"] = under_o
        raced += under_o["contestants"].items()
    for name, found in raced:
        assert found["error"] is None or found["error"] < WRONG, name
