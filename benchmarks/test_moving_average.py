"""The state update against eager PyTorch with the same contract. Asserts no time."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import cases
from benchmarks.peers import build_all

WRONG = 1e-3  # states of order 1, or logs


@pytest.mark.parametrize("case", cases.MOVING_AVERAGE, ids=lambda case: case.name)
def test_update(case: cases.MovingAverageCase, compete: Any) -> None:
    contestants, left_out = build_all(
        "moving_average", ("ours", *case.peers), lambda: cases.moving_average_inputs(case)
    )
    result = compete("moving_average", case.name, contestants, left_out, rows=case.rows)
    for name, found in result["contestants"].items():
        assert found["error"] < WRONG, name
