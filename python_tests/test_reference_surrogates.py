"""The reference's surrogates held against the table, LibAUC and finite differences."""

import importlib
import math
from collections.abc import Callable

import pytest
import torch
from helpers import (
    LIBAUC_SURROGATES,
    MARGIN,
    NAN,
    SCALE,
    assert_bitwise,
    assert_close,
    finite_differences,
    libauc_hyperparameter,
    phi,
    randn,
)
from torch import Tensor

from xrisk_ext import reference


@pytest.mark.parametrize(
    ("name", "margin", "scale", "d", "value", "slope"),
    [
        ("squared", 1.0, 1.0, -3.0, 4.0, -4.0),
        ("squared_hinge", 1.0, 1.0, -0.25, 0.5625, 1.5),
        ("squared_hinge", 1.0, 1.0, -3.0, 0.0, 0.0),
        ("hinge", 0.5, 1.0, 0.25, 0.75, 1.0),
        ("hinge", 0.5, 1.0, -0.75, 0.0, 0.0),
        ("barrier_hinge", 1.0, 3.0, 2.0, 4.0, 3.0),
        ("barrier_hinge", 1.0, 3.0, 0.5, 1.5, 1.0),
        ("barrier_hinge", 1.0, 3.0, -2.0, 3.0, -3.0),
        ("barrier_hinge", 1.0, 1.0, 1e6, 1e6 + 1.0, 1.0),
        ("logistic", 1.0, 2.0, 0.0, math.log(2.0), 1.0),
        ("sigmoid", 1.0, 2.0, 0.0, 0.5, 0.5),
        ("exponential", 1.0, 2.0, math.log(3.0), 9.0, 18.0),
        ("zero_one", 1.0, 1.0, 1e-300, 1.0, 0.0),
        ("zero_one", 1.0, 1.0, 0.0, 0.5, 0.0),
        ("zero_one", 1.0, 1.0, -1e-300, 0.0, 0.0),
    ],
)
def test_surrogate_by_hand(
    name: str, margin: float, scale: float, d: float, value: float, slope: float
) -> None:
    at = torch.tensor([d], dtype=torch.float64)
    assert_close(reference.surrogate(name, at, margin, scale), [value], rtol=1e-15)
    assert_close(reference.surrogate_slope(name, at, margin, scale), [slope], rtol=1e-15)


@pytest.mark.parametrize("name", reference.SURROGATES)
def test_surrogate_is_the_table(name: str) -> None:
    d = randn(50) * 3.0
    expected = [phi(name, x, MARGIN, SCALE) for x in d.tolist()]
    assert_close(reference.surrogate(name, d, MARGIN, SCALE), expected)


@pytest.mark.parametrize("name", LIBAUC_SURROGATES)
def test_surrogate_is_libauc_at_minus_d(name: str) -> None:
    theirs = importlib.import_module("libauc.losses.surrogate").get_surrogate_loss(name)
    d = randn(50) * 3.0
    assert_close(
        reference.surrogate(name, d, MARGIN, SCALE), theirs(libauc_hyperparameter(name), -d)
    )


@pytest.mark.parametrize("name", reference.SURROGATES)
def test_slope_is_the_derivative(name: str) -> None:
    d = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64) + 0.0123  # off every kink
    slope = reference.surrogate_slope(name, d, MARGIN, SCALE)
    numeric = finite_differences(lambda x: reference.surrogate(name, x, MARGIN, SCALE), d)
    assert_close(slope, numeric, rtol=1e-7, atol=1e-8)


def test_slope_at_a_kink_is_the_left_one() -> None:
    m, s = 0.5, 3.0  # s m / (s - 1) = 0.75, exact in binary
    up = 1e-9
    for name in ("squared_hinge", "hinge"):
        at = torch.tensor([-m], dtype=torch.float64)
        assert_bitwise(reference.surrogate_slope(name, at, m), [0.0])
    kinks = torch.tensor([-m, -m + up, 0.75, 0.75 + up], dtype=torch.float64)
    assert_bitwise(reference.surrogate_slope("barrier_hinge", kinks, m, s), [-s, 1.0, 1.0, s])
    assert_bitwise(reference.surrogate_slope("hinge", kinks, m), [0.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", reference.SURROGATES)
def test_autograd_of_surrogate_is_the_slope_even_at_kinks(name: str) -> None:
    d = torch.tensor([-2.0, -0.5, 0.0, 0.75, 3.0], dtype=torch.float64, requires_grad=True)
    reference.surrogate(name, d, 0.5, 3.0).sum().backward()  # type: ignore[no-untyped-call]
    assert d.grad is not None
    assert_bitwise(d.grad, reference.surrogate_slope(name, d, 0.5, 3.0))


def test_logistic_and_sigmoid_far_out() -> None:
    d = torch.tensor([-1e4, -700.0, 25.0, 1e4], dtype=torch.float64)
    tail, right = math.exp(-700.0), math.exp(-25.0)
    assert_close(reference.surrogate("logistic", d), [0.0, tail, 25.0 + right, 1e4], 1e-14, 0.0)
    assert_close(
        reference.surrogate_slope("sigmoid", d),
        [0.0, tail, right / (1.0 + right) ** 2, 0.0],
        1e-13,
        0.0,
    )
    assert_close(
        reference.surrogate_slope("logistic", d), [0.0, tail, 1.0 / (1.0 + right), 1.0], 1e-13, 0.0
    )


def test_surrogate_parameters_that_do_not_matter() -> None:
    d = randn(20)
    for name in reference.SURROGATES:
        value = reference.surrogate(name, d, 0.5, 2.0)
        uses_margin = not torch.equal(value, reference.surrogate(name, d, 0.75, 2.0))
        uses_scale = not torch.equal(value, reference.surrogate(name, d, 0.5, 3.0))
        assert uses_margin == (name in ("squared", "squared_hinge", "hinge", "barrier_hinge"))
        assert uses_scale == (name in ("barrier_hinge", "logistic", "sigmoid", "exponential"))


@pytest.mark.parametrize("function", [reference.surrogate, reference.surrogate_slope])
def test_surrogate_refuses_bad_parameters(function: Callable[..., Tensor]) -> None:
    d = randn(3)
    for name, margin, scale, message in [
        ("cubed", 1.0, 1.0, "surrogate"),
        ("hinge", -0.1, 1.0, "margin"),
        ("hinge", NAN, 1.0, "margin"),
        ("logistic", 1.0, 0.0, "scale"),
        ("sigmoid", 1.0, -2.0, "scale"),
        ("barrier_hinge", 1.0, 0.5, "scale"),
    ]:
        with pytest.raises(ValueError, match=message):
            function(name, d, margin, scale)
