"""The kernels' own surrogates against the reference, in every dtype and SIMD variant."""

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
)
from torch import Tensor

from xrisk_ext import ops, reference

each_name = pytest.mark.parametrize("name", reference.SURROGATES)


def truth_of(name: str, d: Tensor, margin: float, scale: float) -> tuple[Tensor, Tensor]:
    return (
        reference.surrogate(name, d, margin, scale),
        reference.surrogate_slope(name, d, margin, scale),
    )


@each_simd
@each_name
@each_dtype
def test_values_and_slopes(name: str, dtype: torch.dtype, simd: str) -> None:
    d = torch.linspace(-30.0, 30.0, 4001, dtype=torch.float64).add(0.0123).to(dtype)
    values, slopes = ops.surrogate_values(d, surrogate=name, margin=MARGIN, scale=SCALE)
    true_values, true_slopes = truth_of(name, d, MARGIN, SCALE)
    assert values.dtype == slopes.dtype == computed_in(dtype)

    leaf = d.clone().to(computed_in(dtype)).requires_grad_()
    plain_values = plain_surrogate(name, leaf, MARGIN, SCALE)
    (plain_slopes,) = torch.autograd.grad(plain_values.sum(), leaf)
    # the rounding of d + m is part of any answer: it costs the slope times |d| + m
    reach = d.double().abs() + MARGIN
    size = true_values.abs() + true_slopes.abs() * reach
    assert_accurate(f"{name} value", values, plain_values.detach(), true_values, size)
    curvature = reach if name in ("squared", "squared_hinge") else true_slopes.abs() * reach
    size = true_slopes.abs() + curvature
    assert_accurate(f"{name} slope", slopes, plain_slopes, true_slopes, size)


@each_simd
@each_name
@each_dtype
def test_kinks_take_the_left_slope(name: str, dtype: torch.dtype, simd: str) -> None:
    # every breakpoint (-0.5, 0 and 0.75) and its neighbours, all exact in all dtypes
    d = torch.tensor([-0.75, -0.5, -0.25, -0.0, 0.0, 0.5, 0.75, 1.0], dtype=dtype)
    values, slopes = ops.surrogate_values(d, surrogate=name, margin=0.5, scale=3.0)
    true_values, true_slopes = truth_of(name, d, 0.5, 3.0)
    smooth = name in ("logistic", "sigmoid", "exponential")
    rtol = (1e-15 if dtype == torch.float64 else 3e-7) if smooth else 0.0
    torch.testing.assert_close(values.double(), true_values, rtol=rtol, atol=0.0)
    torch.testing.assert_close(slopes.double(), true_slopes, rtol=rtol, atol=0.0)


@each_simd
@each_name
@each_dtype
def test_far_out(name: str, dtype: torch.dtype, simd: str) -> None:
    d = torch.tensor([3e4, -3e4, 110.0, -110.0, 100.0, -100.0, 85.0, -85.0], dtype=dtype)
    values, slopes = ops.surrogate_values(d, surrogate=name, margin=0.5, scale=1.0)
    for actual, truth in zip((values, slopes), truth_of(name, d, 0.5, 1.0), strict=True):
        # past the range of float32 the truth is inf, below it a subnormal with fewer digits
        expected = truth.to(actual.dtype)
        atol = 3e-45 if actual.dtype == torch.float32 else 0.0
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=atol)


@each_simd
@each_name
@each_dtype
@pytest.mark.parametrize("scale", [1.0, 2.0])  # the barrier hinge has a steep piece above 1 only
def test_not_finite(name: str, dtype: torch.dtype, simd: str, scale: float) -> None:
    d = torch.tensor([INF, -INF, NAN], dtype=dtype)
    values, slopes = ops.surrogate_values(d, surrogate=name, margin=0.5, scale=scale)
    true_values, true_slopes = truth_of(name, d, 0.5, scale)
    torch.testing.assert_close(values.double(), true_values, rtol=0.0, atol=0.0, equal_nan=True)
    torch.testing.assert_close(slopes.double(), true_slopes, rtol=0.0, atol=0.0, equal_nan=True)


@each_simd
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_length_and_layout(dtype: torch.dtype, simd: str) -> None:
    d = torch.linspace(-3.0, 3.0, 70, dtype=dtype)
    values, slopes = ops.surrogate_values(d, surrogate="logistic")
    for size in range(70):  # every partial register at the end, and nothing at all
        head_values, head_slopes = ops.surrogate_values(d[:size], surrogate="logistic")
        assert torch.equal(head_values, values[:size])
        assert torch.equal(head_slopes, slopes[:size])
    strided = ops.surrogate_values(d.view(7, 10).t()[::2], surrogate="logistic")
    assert torch.equal(strided[0], values.view(7, 10).t()[::2])
    assert torch.equal(strided[1], slopes.view(7, 10).t()[::2])
    assert ops.surrogate_values(d[3].requires_grad_(), surrogate="hinge")[0].shape == ()


@pytest.mark.parametrize(
    ("error", "argument", "options"),
    [
        (ValueError, "surrogate", {"surrogate": "cubed"}),
        (ValueError, "margin", {"margin": -0.1}),
        (ValueError, "margin", {"margin": NAN}),
        (ValueError, "scale", {"scale": 0.0}),
        (ValueError, "scale", {"scale": torch.ones(2)}),
        (ValueError, "scale", {"scale": 0.5, "surrogate": "barrier_hinge"}),
        (TypeError, "scale", {"scale": "1"}),
        (TypeError, "differences", {"differences": torch.arange(3)}),
        (TypeError, "differences", {"differences": [0.5]}),
    ],
)
def test_bad_input(error: type[Exception], argument: str, options: dict[str, Any]) -> None:
    call: dict[str, Any] = {"differences": torch.zeros(3), "surrogate": "hinge", **options}
    with pytest.raises(error, match=argument):
        ops.surrogate_values(call.pop("differences"), **call)
