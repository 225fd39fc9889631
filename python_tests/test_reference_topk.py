"""The reference's top-K threshold against hand-worked numbers and finite differences."""

import math

import pytest
import torch
from helpers import INF, NAN, assert_bitwise, assert_close, finite_differences, randn

from xrisk_ext import reference


def test_exact_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [NAN, -INF, INF, 0.0]])
    for k, expected in enumerate(([3.0, NAN], [2.0, INF], [2.0, 0.0], [1.0, -INF], [-INF, -INF])):
        assert_bitwise(reference.topk_threshold(scores, k), expected)
    flat = reference.topk_threshold(scores[0], 1, offsets=torch.tensor([0, 1, 1, 4]))
    assert_bitwise(flat, [-INF, -INF, 2.0])


def test_exact_minimises_its_piecewise_linear_problem() -> None:
    h, k = randn(12), 4
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    objective = (k + 0.5) / 12 * grid + (h - grid[:, None]).clamp(min=0).mean(1)
    assert abs(grid[objective.argmin()] - reference.topk_threshold(h, k)) < 1e-3


def test_smooth_minimises_its_problem() -> None:
    h, kappa, tau1, tau2 = randn(12), 4.3 / 12, 0.2, 0.05
    t = reference.topk_threshold(h, 4, method="smooth", epsilon=0.3, tau1=tau1, tau2=tau2)

    def objective(t: torch.Tensor) -> torch.Tensor:
        return (
            kappa * t
            + tau2 / 2 * t**2
            + tau1 * torch.nn.functional.softplus((h - t[:, None]) / tau1).mean(1)
        )

    around = t + torch.tensor([-1e-3, -1e-5, 0.0, 1e-5, 1e-3], dtype=torch.float64)
    assert objective(around).argmin() == 2
    assert finite_differences(objective, t[None], 1e-6).abs() < 1e-9


def test_one_score_by_hand() -> None:
    """kappa + tau2 t = sigma((h - t) / tau1) with kappa 1/2 and tau2 0: t = h."""
    t = reference.topk_threshold(torch.tensor([3.0]), 0, method="smooth", tau2=0.0)
    assert_close(t, 3.0)
    quarter = reference.topk_threshold(
        torch.tensor([3.0]), 0, method="smooth", epsilon=0.25, tau1=0.5, tau2=0.0
    )
    assert_close(quarter, 3.0 + 0.5 * math.log(3.0))


@pytest.mark.parametrize("method", ["exact", "smooth"])
def test_gradients(method: str) -> None:
    h = randn(11, seed=3).requires_grad_()

    def f(x: torch.Tensor) -> torch.Tensor:
        return reference.topk_threshold(x, 3, method=method, tau1=0.2, tau2=0.01)

    (gradient,) = torch.autograd.grad(f(h), h)
    assert_close(gradient, finite_differences(f, h.detach()), rtol=1e-6, atol=1e-8)


def test_a_step_by_hand() -> None:
    """Two scores tau1 log 3 to both sides of lambda: sigma = 3/4 and 1/4, t_j = 3/16 / tau1."""
    reach = 0.5 * math.log(3.0)
    scores = torch.tensor([1.0 + reach, 1.0 - reach], dtype=torch.float64)
    options = {"kappa": 0.3, "eta": 0.1, "gamma": 0.25, "tau1": 0.5, "tau2": 0.01}
    bend = 0.01 + 0.375
    new, average, weights = reference.topk_threshold_step(scores, 1.0, NAN, **options)
    assert_close(new, 1.0 - 0.1 * (0.3 + 0.01 - 0.5))
    assert_close(average, bend)
    assert_close(weights, [0.375 / (2 * bend)] * 2)
    _, average, _ = reference.topk_threshold_step(scores, 1.0, 2.0, **options)
    assert_close(average, 0.75 * 2.0 + 0.25 * bend)
    new, _, weights = reference.topk_threshold_step(
        scores, 1.0, NAN, weights=torch.tensor([6.0, 2.0]), **options
    )
    assert_close(new, 1.0 - 0.1 * (0.3 + 0.01 - 0.625))
    assert_close(weights, [0.75 * 0.375 / bend, 0.25 * 0.375 / bend])


def test_steps_lead_to_the_solution() -> None:
    h, k = randn(40), 6
    options = {"tau1": 0.1, "tau2": 0.01}
    t, s = torch.tensor(0.0, dtype=torch.float64), NAN
    for _ in range(2000):
        new, average, weights = reference.topk_threshold_step(
            h, float(t), float(s), kappa=(k + 0.5) / 40, eta=0.1, gamma=0.5, **options
        )
        t, s = new, float(average)
    leaf = h.clone().requires_grad_()
    solved = reference.topk_threshold(leaf, k, method="smooth", **options)
    assert_close(t, solved.detach(), rtol=1e-9)
    assert_close(weights, torch.autograd.grad(solved, leaf)[0], rtol=1e-7)
