"""pairwise_log_sums against the float64 reference. What it shares with pairwise_sums (layouts,
autograd, threads, memory, bad input) stands in test_pairwise_contract.py.
"""

import itertools
import math
from functools import lru_cache
from typing import Any

import pytest
import torch
from helpers import (
    INF,
    MARGIN,
    NAN,
    SCALE,
    assert_accurate,
    computed_in,
    each_dtype,
    each_simd,
    plain_surrogate,
    randn,
    value_and_gradients,
)
from torch import Tensor

from xrisk_ext import ops, reference

each_name = pytest.mark.parametrize("name", reference.SURROGATES)
each_temperature = pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 1e3])


def plain_log_sums(
    anchors: Tensor,
    items: Tensor,
    *,
    item_weights: Tensor | None,
    surrogate: str,
    margin: float,
    scale: float,
    temperature: float,
) -> Tensor:
    """What one writes in PyTorch: all pairs in the inputs' dtype."""
    terms = plain_surrogate(surrogate, items[None, :] - anchors[:, None], margin, scale)  # [P, M]
    exponents = terms / temperature
    if item_weights is not None:
        exponents = exponents + item_weights.log()
    return exponents.logsumexp(dim=1)


class Case:
    """Inputs, with the truth, plain PyTorch's answer and the sizes that errors are relative to.

    An exponent E is rounded to eps |E|, whatever the code: that is the error of the log sum, and
    the relative error of a pair's share of the gradient.
    """

    def __init__(
        self,
        name: str,
        anchors: Tensor,
        items: Tensor,
        weights: Tensor | None = None,
        temperature: float = 1.0,
        margin: float = MARGIN,
        scale: float = SCALE,
    ) -> None:
        self.anchors, self.items, self.weights = anchors, items, weights
        self.options: dict[str, Any] = {"surrogate": name, "margin": margin, "scale": scale}
        self.options["temperature"] = temperature
        dtype = computed_in(anchors.dtype)
        self.upstream = randn(anchors.shape[0], seed=99).to(dtype)
        x, y, u = anchors, items, self.upstream
        self.truth = value_and_gradients(
            reference.pairwise_log_sums,
            x.double(),
            y.double(),
            u,
            item_weights=weights,
            **self.options,
        )
        self.plain = value_and_gradients(
            plain_log_sums, x.to(dtype), y.to(dtype), u, item_weights=weights, **self.options
        )
        d = y.double()[None, :] - x.double()[:, None]
        w = torch.ones(y.shape[0]).double() if weights is None else weights.double()
        exponents = reference.surrogate(name, d, margin, scale) / temperature
        shares = (exponents - self.truth[0][:, None]).exp() * w  # [P, M], each row sums to 1
        shares = torch.where(w > 0, shares, 0.0)
        slopes = reference.surrogate_slope(name, d, margin, scale).abs() / temperature
        rough = 1.0 + exponents + slopes * (d.abs() + margin)
        pull = u.abs().double()[:, None] * shares * (slopes + 1.0 / temperature) * rough
        # exp underflows: a share far below the largest ones is kept in absolute terms only
        least = 1e-12 * float(pull.max()) if pull.numel() else 0.0
        self.sizes = (
            (shares * rough).sum(dim=1),
            pull.sum(dim=1),
            pull.sum(dim=0).clamp(min=least),
        )

    def check(self) -> None:
        actual = value_and_gradients(
            ops.pairwise_log_sums,
            self.anchors,
            self.items,
            self.upstream,
            item_weights=self.weights,
            **self.options,
        )
        assert actual[0].dtype == self.upstream.dtype
        assert actual[1].dtype == self.anchors.dtype
        assert actual[2].dtype == self.items.dtype
        for which, what in enumerate(("value", "d anchors", "d items")):
            assert_accurate(
                f"{what} of {self.options}, {self.anchors.shape[0]} x {self.items.shape[0]}",
                actual[which],
                self.plain[which],
                self.truth[which],
                self.sizes[which],
            )


@lru_cache(maxsize=64)
def normal_case(
    name: str,
    p: int,
    m: int,
    weighted: bool,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Case:
    weights = randn(m, seed=3) ** 2
    weights[1::3] = 0.0
    anchors, items = randn(p, seed=1).to(dtype), randn(m, seed=2).to(dtype)
    chosen = weights.to(computed_in(dtype)) if weighted else None
    return Case(name, anchors, items, chosen, temperature)


@each_simd
@each_dtype
@each_temperature
@each_name
def test_values_and_gradients(name: str, temperature: float, dtype: torch.dtype, simd: str) -> None:
    for weighted in (False, True):
        if (temperature, dtype) == (1e-3, torch.float16) and name in ("squared", "exponential"):
            continue  # float16 cannot hold the gradient
        normal_case(name, 23, 130, weighted, temperature, dtype).check()


@each_simd
@each_name
def test_sizes(name: str, simd: str) -> None:
    # around the sizes of a register and of the kernels' blocks
    for p, m in [(1, 1), (1, 513), (3, 512), (4, 511), (5, 31), (64, 64), (65, 63), (129, 16)]:
        for weighted in (False, True):
            normal_case(name, p, m, weighted).check()


@each_name
def test_few_anchors_and_many_items(name: str) -> None:
    for weighted in (False, True):
        normal_case(name, 5, 100_003, weighted).check()


@each_simd
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@each_name
def test_nothing_overflows(name: str, weighted: bool, dtype: torch.dtype, simd: str) -> None:
    # the top item outweighs all others (unless the surrogate is bounded): plain PyTorch is exact
    weights = torch.tensor([2.0, 0.5, 1.0, 0.0]) if weighted else None
    anchors = torch.tensor([0.1, -0.3], dtype=dtype)
    for gap, temperature in itertools.product((1e2, 1e4, 1e6), (1e-3, 0.1, 1.0, 1e3)):
        items = torch.tensor([0.937 * gap, -0.77 * gap, 0.2, 0.5 * gap], dtype=dtype)
        options: dict[str, Any] = {"surrogate": name, "temperature": temperature}
        options["item_weights"] = weights
        actual = value_and_gradients(ops.pairwise_log_sums, anchors, items, **options)
        if name == "exponential" and 0.937 * gap > math.log(torch.finfo(torch.float64).max):
            assert actual[0].tolist() == [INF] * 2  # phi alone is past every range
            continue
        truth = value_and_gradients(reference.pairwise_log_sums, anchors, items, **options)
        for a, t in zip(actual, truth, strict=True):
            t = t.to(dtype)
            close = torch.allclose(a, t, rtol=1e-5, atol=1e-5 / temperature)
            assert close, f"gap {gap}, temperature {temperature}: {a.tolist()}, not {t.tolist()}"


def test_scores_whose_pair_terms_leave_float() -> None:
    # phi is 1e40 here, the log sums of such pairs 1e38: both they and the gradients are numbers
    anchors = torch.tensor([1e20, -1e20], requires_grad=True)
    items = torch.tensor([0.0, 3e19, -2e19], requires_grad=True)
    keywords = {"surrogate": "squared_hinge", "temperature": 1e3}
    sums = ops.pairwise_log_sums(anchors, items, **keywords)
    sums.sum().backward()
    wide = [t.detach().double().requires_grad_() for t in (anchors, items)]
    truth = ops.pairwise_log_sums(*wide, **keywords)
    truth.sum().backward()
    assert torch.equal(sums, truth.float())
    for ours, theirs in zip((anchors, items), wide, strict=True):
        assert torch.equal(ours.grad, theirs.grad.float())
        assert bool(ours.grad.isfinite().all())


@each_simd
@pytest.mark.parametrize("temperature", [1e-3, 1.0])
@each_name
def test_equal_items_share_the_gradient(name: str, temperature: float, simd: str) -> None:
    # however large the exponent: shares are relative, and gradients sum to zero
    anchors, items = torch.tensor([-30.0, -20.0]), torch.full((37,), 1.5)
    options: dict[str, Any] = {"surrogate": name, "temperature": temperature, "scale": 1.0}
    actual = value_and_gradients(ops.pairwise_log_sums, anchors, items, **options)
    truth = value_and_gradients(reference.pairwise_log_sums, anchors, items, **options)
    for a, t in zip(actual, truth, strict=True):
        torch.testing.assert_close(a, t.to(a.dtype), rtol=1e-5, atol=1e-9)


@each_name
def test_translation(name: str) -> None:
    anchors, items = (randn(n, seed=n).mul(64).round().div(64).float() for n in (50, 70))
    here = value_and_gradients(ops.pairwise_log_sums, anchors, items, surrogate=name)
    there = value_and_gradients(ops.pairwise_log_sums, anchors + 8, items + 8, surrogate=name)
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a, b)
    total = float(here[1].abs().sum() + here[2].abs().sum())
    assert abs(float(here[1].sum() + here[2].sum())) <= 1e-6 * total


@each_simd
@each_name
@each_dtype
def test_weight_zero_leaves_an_item_out(name: str, dtype: torch.dtype, simd: str) -> None:
    anchors, items = randn(11, seed=1).to(dtype), randn(40, seed=2).to(dtype)
    weights = randn(40, seed=3).float() ** 2
    out = torch.arange(40) % 3 == 0  # the first item, too
    weights[out] = 0.0
    items[out] = torch.tensor([NAN, INF, -INF, 6e4]).repeat(4)[: int(out.sum())].to(dtype)
    value, by_anchor, by_item = value_and_gradients(
        ops.pairwise_log_sums, anchors, items, item_weights=weights, surrogate=name
    )
    rest = value_and_gradients(
        ops.pairwise_log_sums, anchors, items[~out], item_weights=weights[~out], surrogate=name
    )
    for a, b in zip((value, by_anchor, by_item[~out]), rest, strict=True):
        torch.testing.assert_close(a, b, rtol=max(2e-6, torch.finfo(a.dtype).eps), atol=1e-6)
    assert not by_item[out].any()


@each_name
@each_dtype
def test_no_items(name: str, dtype: torch.dtype) -> None:
    some, none = randn(3).to(dtype), torch.zeros(0, dtype=dtype)
    for items, weights in [(none, None), (none, none), (some, torch.zeros(3))]:
        value, by_anchor, by_item = value_and_gradients(
            ops.pairwise_log_sums, some, items, item_weights=weights, surrogate=name
        )
        assert value.tolist() == [-INF] * 3
        assert torch.equal(by_anchor, torch.zeros_like(some))
        assert torch.equal(by_item, torch.zeros_like(items))
    value, by_anchor, by_item = value_and_gradients(
        ops.pairwise_log_sums, none, some, surrogate=name
    )
    assert value.shape == by_anchor.shape == (0,)
    assert torch.equal(by_item, torch.zeros_like(some))
    assert ops.pairwise_log_sums(none, none, surrogate=name).shape == (0,)  # type: ignore[arg-type]


@each_simd
@each_name
def test_non_finite_scores_follow_ieee(name: str, simd: str) -> None:
    options: dict[str, Any] = {"surrogate": name, "margin": 0.5, "scale": 2.0}
    for x in (INF, -INF, NAN, 0.3):
        for y in (INF, -INF, NAN, -0.4):
            for others in ([], [0.2] * 20):
                anchors, items = torch.tensor([x]), torch.tensor([*others, y])
                value = ops.pairwise_log_sums(anchors, items, **options)
                truth = reference.pairwise_log_sums(anchors, items, **options)
                torch.testing.assert_close(
                    value, truth.float(), rtol=1e-6, atol=1e-6, equal_nan=True
                )


@each_simd
def test_weights_of_any_size(simd: str) -> None:
    anchors, items = randn(5, seed=1).float(), randn(60, seed=2).float()
    for smallest, largest in [(1e-37, 1e-30), (1e-12, 1e12), (1e6, 1e18)]:
        exponents = torch.linspace(0.0, 1.0, 60, dtype=torch.float64)
        weights = (smallest ** (1.0 - exponents) * largest**exponents).float()
        for order in (weights, weights.flip(0)):
            for temperature in (0.05, 1.0):
                Case("squared_hinge", anchors, items, order, temperature).check()


@each_name
def test_gradcheck(name: str) -> None:
    anchors, items = randn(5, seed=1), randn(7, seed=2)
    d = items[None, :] - anchors[:, None]
    kinks = torch.tensor([-MARGIN, 0.0, SCALE * MARGIN / (SCALE - 1.0)], dtype=torch.float64)
    assert (d[..., None] - kinks).abs().min() > 1e-4
    for weights in (None, randn(7, seed=3) ** 2):
        torch.autograd.gradcheck(
            lambda x, y, w=weights: ops.pairwise_log_sums(
                x,
                y,
                item_weights=w,
                surrogate=name,  # type: ignore[arg-type]
                margin=MARGIN,
                scale=SCALE,
                temperature=0.6,
            ),
            (anchors.requires_grad_(), items.requires_grad_()),
        )


def test_temperature_may_be_a_tensor() -> None:
    x, y = randn(5, seed=1), randn(7, seed=2)
    expected = reference.pairwise_log_sums(x, y, temperature=0.25)
    for temperature in (0.25, torch.tensor(0.25), torch.tensor([0.25]).double()):
        actual = ops.pairwise_log_sums(x, y, temperature=temperature)
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0.0)
