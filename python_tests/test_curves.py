"""The ops under the metrics: the descending sort and the sums under the curves."""

from typing import Any

import pytest
import torch
from helpers import INF, NAN, each_dtype, randn
from hypothesis import given
from hypothesis import strategies as st
from metric_helpers import binary_tasks, quick, tied

from xrisk_ext.ops.curves import _curve_sums, curve_sums, sort_descending


@each_dtype
@pytest.mark.parametrize(
    "shape", [(0,), (1,), (70_001,), (3, 40_000), (700, 65), (2, 0), (4, 3, 9)]
)
def test_the_order_is_that_of_torch_sort(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    scores = randn(*shape).to(dtype)
    scores.view(-1)[::7] = 0.5
    for k, special in enumerate((NAN, INF, -INF, -0.0, 0.0, -NAN)):
        scores.view(-1)[k + 3 :: 31] = special
    for x in (scores, scores.movedim(0, -1), scores.unsqueeze(0).expand(2, *shape)):
        values, order = sort_descending(x)
        expected = torch.sort(x, dim=-1, descending=True, stable=True)
        assert torch.equal(order, expected.indices)
        torch.testing.assert_close(
            values, expected.values.to(values.dtype), rtol=0, atol=0, equal_nan=True
        )


def test_the_order_does_not_depend_on_the_threads(restore_threads: None) -> None:
    scores, labels, weights = tied(300_000, levels=3000), torch.arange(300_000) % 7 == 0, randn(
        300_000).abs()  # fmt: skip
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        sums = curve_sums(*(t[None] for t in sort_descending(scores)), labels[None], weights[None])
        results.append((sort_descending(scores)[1], sums))
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0], strict=True))


@quick
@given(binary_tasks(), st.booleans(), st.sampled_from((1.0, 0.3)), st.sampled_from((0.0, 0.4)))
def test_other_devices_compute_the_same(
    task: Any, weighted: bool, max_fpr: float, min_tpr: float
) -> None:
    scores, labels, weights = (t[None].expand(2, -1) for t in task)
    values, order = sort_descending(scores)
    arguments = values, order, labels, weights if weighted else None
    expected = curve_sums(*arguments, max_fpr=max_fpr, min_tpr=min_tpr)
    torch.testing.assert_close(
        _curve_sums(*arguments, max_fpr, min_tpr), expected, rtol=1e-12, atol=1e-12
    )


def test_other_devices_do_not_take_the_cpus_ops() -> None:
    with torch.profiler.profile() as profile:
        values, order = sort_descending(torch.empty(3, 5, dtype=torch.half, device="meta"))
        curve_sums(values, order, torch.empty(3, 5, dtype=torch.bool, device="meta"))
    names = {event.key for event in profile.key_averages()}
    assert "aten::sort" in names
    assert not any("xrisk_ext" in name for name in names)
    assert (values.dtype, order.dtype, values.shape) == (torch.float32, torch.int64, (3, 5))


def test_the_ops_refuse() -> None:
    with pytest.raises(TypeError, match="sort_descending: expected scores to be float32"):
        sort_descending(torch.arange(3))
    with pytest.raises(ValueError, match="sort_descending: expected scores of shape"):
        sort_descending(torch.tensor(1.0))
    values, order = sort_descending(tied(2, 5))
    positive = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="curve_sums: expected values of shape"):
        curve_sums(values[0], order[0], positive[0])
    with pytest.raises(ValueError, match="curve_sums: expected indices of shape"):
        curve_sums(values, order[:1], positive)
    with pytest.raises(TypeError, match="curve_sums: expected positive to be"):
        curve_sums(values, order, positive.long())
    with pytest.raises(TypeError, match="curve_sums: expected weights to be"):
        curve_sums(values, order, positive, torch.ones(2, 5))
    for bad in (-1, 5):
        with pytest.raises(IndexError, match="curve_sums: expected indices in"):
            curve_sums(values, order.clone().fill_(bad), positive)
    with pytest.raises(ValueError, match="max_fpr"):
        curve_sums(values, order, positive, max_fpr=0.0)
