"""The reference's pairwise sums and log-sums held against loops and finite differences."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    DIFFERENTIABLE,
    INF,
    MARGIN,
    NAN,
    SCALE,
    assert_bitwise,
    assert_close,
    phi,
    randn,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xrisk_ext import reference


@pytest.mark.parametrize("name", reference.SURROGATES)
def test_pairwise_sums_is_the_double_loop(name: str) -> None:
    anchors, items = randn(4, seed=1), randn(6, seed=2)
    items[2] = anchors[1]  # a tie
    weights = randn(3, 6, seed=3)  # of any sign
    expected = [
        [
            sum(
                w * phi(name, y - x, MARGIN, SCALE)
                for w, y in zip(row, items.tolist(), strict=True)
            )
            for x in anchors.tolist()
        ]
        for row in weights.tolist()
    ]
    options: dict[str, Any] = {"surrogate": name, "margin": MARGIN, "scale": SCALE}
    sums = reference.pairwise_sums(anchors, items, item_weights=weights, **options)
    assert_close(sums, expected)
    one = reference.pairwise_sums(anchors, items, item_weights=weights[1], **options)
    assert_close(one, expected[1])
    plain = reference.pairwise_sums(anchors, items, algorithm="direct", **options)
    ones = reference.pairwise_sums(anchors, items, item_weights=torch.ones(6), **options)
    assert_close(plain, ones)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("log", [False, True])
def test_pairwise_gradients_are_finite_differences(name: str, log: bool) -> None:
    weights = randn(7, seed=3) ** 2

    def f(anchors: Tensor, items: Tensor) -> Tensor:
        options: dict[str, Any] = {"surrogate": name, "margin": MARGIN, "scale": SCALE}
        if log:
            return reference.pairwise_log_sums(
                anchors, items, item_weights=weights, temperature=0.6, **options
            )
        both = torch.stack([weights, weights.flip(0) - 1.0])
        return reference.pairwise_sums(anchors, items, item_weights=both, **options)

    anchors = randn(5, seed=1).requires_grad_()
    items = randn(7, seed=2).requires_grad_()
    torch.autograd.gradcheck(f, (anchors, items), atol=1e-6, rtol=1e-6)
    by_anchor, by_item = torch.autograd.grad(f(anchors, items).sum(), (anchors, items))
    assert abs(float(by_anchor.sum() + by_item.sum())) < 1e-10  # translation


def test_pairwise_sums_slope_at_a_tie() -> None:
    # item - anchor = -margin exactly: squared hinge and hinge are flat, barrier hinge has slope -s
    for name, slope in [("squared_hinge", 0.0), ("hinge", 0.0), ("barrier_hinge", -2.0)]:
        anchors = torch.tensor([1.0], requires_grad=True)
        items = torch.tensor([0.5], requires_grad=True)
        out = reference.pairwise_sums(anchors, items, surrogate=name, margin=0.5, scale=2.0)
        by_anchor, by_item = torch.autograd.grad(out.sum(), (anchors, items))
        assert (float(by_anchor), float(by_item)) == (-slope, slope)


def test_pairwise_results_are_computed_in_float64() -> None:
    # both are float32 numbers, their difference 2 + 2^-23 is not, and its square still less so
    anchors, items = torch.tensor([-1.0]), torch.tensor([1.0 + 2.0**-23])
    out = reference.pairwise_sums(anchors, items, margin=0.0)
    assert_bitwise(out, [(2.0 + 2.0**-23) ** 2])
    log_sum = reference.pairwise_log_sums(anchors.bfloat16(), items.half(), temperature=4.0)
    assert_bitwise(log_sum, [2.25])  # (1 + 2)^2 / 4
    assert log_sum.dtype == torch.float64


def test_pairwise_items_of_weight_zero_are_left_out() -> None:
    anchors = randn(3).requires_grad_()
    items = torch.tensor([0.3, NAN, -0.4, INF], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0])
    for f in (reference.pairwise_sums, reference.pairwise_log_sums):
        out = f(anchors, items, item_weights=weights, surrogate="exponential")
        assert_close(
            out, f(anchors, items[::2], item_weights=weights[::2], surrogate="exponential")
        )
        by_item = torch.autograd.grad(out.sum(), items)[0]
        assert by_item[1] == 0.0
        assert by_item[3] == 0.0
        assert by_item[0] > 0.0


def test_pairwise_empty_sets() -> None:
    none, some = torch.zeros(0), randn(3)
    assert_bitwise(reference.pairwise_sums(some, none), [0.0] * 3)
    assert_bitwise(reference.pairwise_sums(some, none, item_weights=none[None]), [[0.0] * 3])
    assert reference.pairwise_sums(some, some, item_weights=torch.ones(0, 3)).shape == (0, 3)
    for f in (reference.pairwise_sums, reference.pairwise_log_sums):
        assert f(none, some).shape == (0,)
        assert f(none, none).shape == (0,)
    anchors = randn(3).requires_grad_()
    for items, weights in [(none, none), (some, torch.zeros(3))]:
        out = reference.pairwise_log_sums(anchors, items, item_weights=weights)
        assert_bitwise(out.detach(), [-INF] * 3)
        assert_bitwise(torch.autograd.grad(out.sum(), anchors)[0], [0.0] * 3)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sampled_from(reference.SURROGATES))
def test_pairwise_integer_weights_are_repetition(counts: list[int], name: str) -> None:
    anchors, items, times = randn(3, seed=1), randn(4, seed=2), torch.tensor(counts)
    for f in (reference.pairwise_sums, reference.pairwise_log_sums):
        weighted = f(anchors, items, item_weights=times, surrogate=name)
        assert_close(weighted, f(anchors, items.repeat_interleave(times), surrogate=name))


@pytest.mark.parametrize("name", reference.SURROGATES)
def test_pairwise_log_sums_is_the_log_of_the_sum(name: str) -> None:
    anchors, items, weights = randn(4, seed=1), randn(6, seed=2), randn(6, seed=3) ** 2
    expected = [
        math.log(
            sum(
                w * math.exp(phi(name, y - x, MARGIN, SCALE) / 0.4)
                for w, y in zip(weights.tolist(), items.tolist(), strict=True)
            )
        )
        for x in anchors.tolist()
    ]
    options: dict[str, Any] = {"surrogate": name, "margin": MARGIN, "scale": SCALE}
    out = reference.pairwise_log_sums(
        anchors,
        items,
        item_weights=weights,
        temperature=torch.tensor(0.4, dtype=torch.float64),
        **options,
    )
    assert_close(out, expected)


def test_pairwise_log_sums_does_not_overflow() -> None:
    # hinge beyond its kink is linear: log(e^n + 3 e^(n - 1)) = n + log(1 + 3 / e), n = 1e6 2^10
    anchors, step = torch.zeros(1, dtype=torch.float64, requires_grad=True), 2.0**-10
    items = torch.tensor([1e6 - 1.0, 1e6 - 1.0 - step], dtype=torch.float64)
    out = reference.pairwise_log_sums(
        anchors, items, item_weights=torch.tensor([1.0, 3.0]), surrogate="hinge", temperature=step
    )
    assert_close(out.detach(), [1e6 / step + math.log(1.0 + 3.0 / math.e)], rtol=1e-15)
    assert_close(torch.autograd.grad(out.sum(), anchors)[0], [-1.0 / step])
    # exp(exp(1000)) is beyond any shift: inf, and not NaN
    out = reference.pairwise_log_sums(anchors.detach(), items[:1], surrogate="exponential")
    assert_bitwise(out, [INF])


def test_pairwise_refuses_bad_input() -> None:
    x, y = randn(3), randn(4)
    sums, log_sums = reference.pairwise_sums, reference.pairwise_log_sums
    refusals: list[tuple[str, Callable[[], Tensor]]] = [
        ("anchors", lambda: sums(x[:, None], y)),
        ("items", lambda: sums(x, y[:, None])),
        ("item_weights", lambda: sums(x, y, item_weights=x)),
        ("item_weights", lambda: log_sums(x, y, item_weights=torch.ones(2, 4))),
        ("item_weights", lambda: log_sums(x, y, item_weights=-torch.ones(4))),
        ("temperature", lambda: log_sums(x, y, temperature=0.0)),
        ("margin", lambda: sums(x[:0], y, margin=-1.0)),
        ("scale", lambda: log_sums(x, y[:0], scale=0.0)),
    ]
    for argument, call in refusals:
        with pytest.raises(ValueError, match=argument):
            call()
