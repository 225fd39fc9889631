"""The cases that tests and benchmarks share: well formed, and ours is right on each small one."""

import math

import pytest
import torch

from xrisk_ext.bench.peers import build_all
from xrisk_ext.testing import cases
from xrisk_ext.testing.scores import FINITE_SQUARES, SCORES

# The batch of a case with more than 100 000 pairs. The float64 truth of similarities takes seconds
# at 4096, and nothing else happens there than at 1024.
LARGE = {
    work: 1024 if "contrastive" in work else 4096 for work in cases.WORKS if work != "pairwise_sums"
}
SMALL = [
    case
    for case in cases.CASES
    if case.pairs <= 100_000 or case.notes.get("batch", 0) == LARGE.get(case.work, -1)
    if case.work != "libauc" or case.batch == 256
    if "cpu" in case.devices
    if case.notes.get("rows", 0) <= 10_000
    if case.notes.get("size", 0) <= 1_100_000
]


def test_names_are_distinct_and_every_work_has_a_quick_case() -> None:
    named = [(case.work, case.name) for case in cases.CASES]
    assert len(set(named)) == len(named)
    assert {case.work for case in cases.CASES if case.quick} == set(cases.WORKS)
    assert {case.work for case in SMALL} == set(cases.WORKS)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.work} {case.name}")
def test_inputs_come_again_and_ours_is_right(case: cases.Case) -> None:
    for mine, again in zip(case.inputs(), case.inputs(), strict=True):
        if isinstance(mine, torch.Tensor):
            assert mine is not again
            torch.testing.assert_close(mine, again, rtol=0, atol=0, equal_nan=True)
    (ours,), left_out = build_all(case, [])
    assert not left_out
    ours.reset()
    ours.call()
    assert ours.error is not None
    # bfloat16: the gradient is rounded to it
    allowed = 3e-3 if case.work.startswith("bfloat16") else 5e-6
    assert ours.error() < (1e-4 if "log" in case.name else allowed)


def test_limits_are_the_cheaper_way() -> None:
    for case in cases.CASES:
        limit = case.limit()
        # infinite: what the other one bounds alone
        assert limit is None or (0 < min(limit.bytes, limit.lanes) < math.inf)
    pairs = cases.PairwiseSumsCase(10, 20, "squared_hinge").limit()
    assert pairs == cases.Limit(16 * 10 + 8 * 20, 4 * 200)
    # 4 kB of scattered rows, but a state of 80 bytes is all there is to move
    assert cases.MovingAverageCase(10, 20, 0.0).limit().bytes == 16 * 10 + 2 * 80


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_scores_are_what_they_are_called(name: str, size: int) -> None:
    x = SCORES[name](size, torch.Generator().manual_seed(3))
    assert x.shape == (size,)
    assert x.dtype == torch.float32
    assert bool(x.isfinite().all())
    if size < 1000:
        return
    gaps = (x.unsqueeze(1) - x).square()
    assert bool(gaps.isfinite().all()) == (name in FINITE_SQUARES)
    distinct = len(x.unique())
    assert (distinct == 1) == (name == "ties")
    assert (distinct <= 5) == (name in ("ties", "few_values"))
    assert (x.abs().max() < torch.finfo(torch.float32).smallest_normal) == (name == "subnormal")
    if name == "bits":
        key = x.view(torch.int32)
        assert all(len(((key >> shift) & 255).unique()) > 20 for shift in (0, 8, 16, 24))
