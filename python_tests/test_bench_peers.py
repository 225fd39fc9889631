"""The benchmarks' peers compute what they claim, the harness sees what it claims: no clock here."""

from __future__ import annotations

import dataclasses
import math
import os

import pytest
import torch
from torch import Tensor

from xrisk_ext import reference
from xrisk_ext.bench import truth
from xrisk_ext.bench.memory import peak_growth_mb
from xrisk_ext.bench.peers import compiled
from xrisk_ext.bench.peers.eager import ClosedForm, Dense, Sorted
from xrisk_ext.bench.peers.eager_moving_average import EagerMovingAverage
from xrisk_ext.bench.race import Budget, Contestant, Race
from xrisk_ext.testing import cases
from xrisk_ext.testing.ranking_cases import METRICS, MetricCase, MetricInputs, SortInputs
from xrisk_ext.testing.scores import SCORES


class Compiled(ClosedForm):
    """The formulas that are handed to torch.compile, not compiled."""

    def step(self, scores: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        positive, ids = compiled._positives(labels, index)
        return compiled._closed_form(
            scores, labels, positive, ids, self.state, self.gamma, self.margin
        )


class CompiledAutograd(Compiled):
    def step(self, scores: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        before = self.state.clone()
        positive, ids = compiled._positives(labels, index)
        scores = scores.detach().requires_grad_()
        compiled._dynamic_loss(
            scores, labels, positive, ids, self.state, self.gamma, self.margin
        ).backward()
        other = ClosedForm(len(self.state), self.gamma, self.margin)
        other.state = before
        value, _ = other.step(scores, labels, index)  # its own value is the dynamic loss
        assert scores.grad is not None
        return value, scores.grad


@pytest.mark.parametrize("solver", [ClosedForm, Dense, Sorted, Compiled, CompiledAutograd])
@pytest.mark.parametrize(("batch", "positives"), [(2, 1), (64, 6), (3000, 250)])
def test_eager_average_precision(solver: type[ClosedForm], batch: int, positives: int) -> None:
    """Three steps with ids that come back, against the reference; 3000 takes the sliced path."""
    case = cases.AveragePrecisionCase(batch, positives, num_samples=2 * batch)
    mine = solver(2 * batch, cases.GAMMA, cases.MARGIN)
    state = mine.state.double()
    scores, labels, index, *_ = cases.average_precision_inputs(case)
    for shift in range(3):
        h = scores.detach().roll(shift) + 30.0
        value, gradient = mine.step(h, labels, index)
        true_value, true_gradient = reference.average_precision(
            h, labels, index, state, cases.GAMMA, margin=cases.MARGIN
        )
        assert truth.relative_error(gradient, true_gradient) < 1e-4
        assert truth.relative_error(value, true_value) < 1e-5
        torch.testing.assert_close(mine.state.double(), state, rtol=1e-4, atol=0, equal_nan=True)


def test_sorted_truth_is_the_reference() -> None:
    inputs = cases.average_precision_inputs(cases.AveragePrecisionCase(2000, 150))
    for start in (float("nan"), 0.0):
        state = torch.full((inputs.num_samples, 2), start, dtype=torch.float64)
        _, gradient = reference.average_precision(
            inputs.scores, inputs.labels, inputs.ids, state, inputs.gamma, margin=inputs.margin
        )
        found = truth.sorted_average_precision(inputs, start)
        assert truth.relative_error(found, gradient) < 1e-11


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("duplicates", [0.0, 0.1, 0.9])
def test_moving_averages(log: bool, duplicates: float) -> None:
    """The eager peer and the fast truth, two steps, against the reference."""
    case = cases.MovingAverageCase(500, 2000, duplicates, log)
    start, index, values, gamma, _ = cases.moving_average_inputs(case)
    eager = EagerMovingAverage(start.clone(), len(index), gamma, log)
    fast, state = start.double(), start.double()
    for observed in (values, values.roll(1)):
        out = reference.moving_average_update_(state, index, observed, gamma, log=log)
        found = eager.update(index, observed)
        again = truth.grouped_moving_average_(fast, index, observed, gamma, log)
        for mine, tolerance in ((found, 1e-5), (again, 1e-13)):
            torch.testing.assert_close(mine.double(), out, rtol=tolerance, atol=tolerance)
        for mine, tolerance in ((eager.state, 1e-5), (fast, 1e-13)):
            torch.testing.assert_close(
                mine.double(), state, rtol=tolerance, atol=tolerance, equal_nan=True
            )


def _over_pairs(inputs: MetricInputs) -> float:
    """The metric by its definition, over all pairs and ranks; one item at a time."""
    scores, labels, metric, max_fpr, k = inputs
    h, y = scores.double(), labels.double()
    above = (h > h[:, None]).double()  # [i, j]: j scores more than i
    level = (h == h[:, None]).double()
    if metric == "average_precision":
        reached = above + level
        return float((y * (reached @ y) / reached.sum(1)).sum() / y.sum())
    if metric == "auroc":
        # Negatives from the highest down, in a tie each a share of the group's whole chord.
        step = 1 / (1 - y).sum()
        first = (above @ (1 - y)) * step  # FPR at a group's begin
        width = (level @ (1 - y)) * step
        low, rise = (above @ y) / y.sum(), (level @ y) / y.sum()
        part = (((max_fpr or 1) - first) / width).clamp(0, 1)[y == 0]
        share = step * part * (low[y == 0] + rise[y == 0] * part / 2)
        if max_fpr is None:
            return float(share.sum())
        chance = max_fpr**2 / 2
        return float((1 + (share.sum() - chance) / (max_fpr - chance)) / 2)
    total = 0.0
    for i in range(len(h)):  # the mean discount over the places that an item's tie leaves it
        start = int(above[i].sum())
        places = torch.arange(start, start + int(level[i].sum()))
        total += float(y[i] * ((places < k) / (places + 2.0).double().log2()).mean())
    ideal = y.sort(descending=True).values[:k]
    return total / float((ideal / torch.arange(2, len(ideal) + 2).double().log2()).sum())


@pytest.mark.parametrize("scores", ["normal", "few_values", "ties"])
@pytest.mark.parametrize("case", METRICS, ids=lambda case: case.name)
def test_metric_truths_are_the_definitions(case: MetricCase, scores: str) -> None:
    """In ties, too, and with `max_fpr` and k inside one."""
    inputs = dataclasses.replace(case, size=300, k=case.k and 77).inputs()
    made = SCORES[scores](300, torch.Generator().manual_seed(1))
    inputs = inputs._replace(scores=made + (0 if scores == "ties" else inputs.labels))
    value = truth.METRICS[case.metric](inputs)
    assert float(value) == pytest.approx(_over_pairs(inputs), rel=1e-12)


def test_a_wrong_order_is_no_sort() -> None:
    inputs = SortInputs(torch.tensor([1.0, 3.0, 1.0, 2.0]))
    values, places = torch.sort(inputs.scores, descending=True, stable=True)
    swapped = torch.tensor([1, 3, 2, 0])
    assert truth.sort_error(inputs, values) == truth.sort_error(inputs, values, places) == 0
    assert math.isnan(truth.sort_error(inputs, values, swapped))
    assert truth.sort_error(inputs, values, swapped, stable=False) == 0
    assert truth.sort_error(inputs, values.flip(0)) > 0.1
    assert truth.sort_error(inputs, values, torch.tensor([1, 0, 2, 3]), stable=False) > 0.1
    assert math.isnan(truth.sort_error(inputs, values, torch.tensor([1, 3, 0, 0]), stable=False))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_memory_sees_a_short_lived_buffer() -> None:
    """80 MB that live for a moment are seen, twice in a row; arithmetic in place is not."""
    held = torch.zeros(20_000_000)
    for _ in range(2):
        assert 75 < peak_growth_mb(lambda: torch.zeros(20_000_000).add_(1)) < 100
    assert peak_growth_mb(lambda: held.add_(1)) < 16
    # below the allocator's mmap threshold its pages are reused, and must count all the same
    small = [torch.zeros(1_000_000) for _ in range(20)]
    del small
    growth = peak_growth_mb(lambda: [torch.zeros(1_000_000) for _ in range(20)] and None)
    assert 70 < growth < 100


def test_race_interleaves_and_resets() -> None:
    """Every round: each contestant reset once, then its lap, the leader last."""
    log: list[str] = []

    def contestant(name: str) -> Contestant:
        return Contestant(name, lambda: sum(range(20_000)), lambda: log.append(name))

    race = Race([contestant("a"), contestant("b"), contestant("c")], Budget(0.0, 3, 3))
    log.clear()
    result = race.finish()
    assert log == ["b", "c", "a"] * 3
    assert result["rounds"] == 3
    assert result["contestants"]["a"]["ratio"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    laps = {name: c["laps_ms"] for name, c in result["contestants"].items()}
    assert {len(x) for x in laps.values()} == {3}
