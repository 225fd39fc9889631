"""The full-batch example runs, learns, and its curvature is what it says."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randn

pytest.importorskip("sklearn")
EXAMPLE = Path(__file__).parents[1] / "examples" / "full_batch.py"
SCALE = 2.0


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def test_every_model_learns(example: dict[str, Any]) -> None:
    found = example["main"](["--steps", "20", "--rounds", "15"])
    expected = {"linear, cross entropy", "linear, average precision"}
    try:
        import lightgbm  # noqa: F401
    except ImportError:
        print("boosted models NOT RUN: no LightGBM")
    else:
        expected |= {"boosted, cross entropy", "boosted, average precision"}
    assert set(found) == expected
    assert min(found.values()) > 0.5  # of 10% positives


def test_the_curvature_is_the_diagonal_of_the_weighted_pairs(example: dict[str, Any]) -> None:
    scores, labels = randn(300), torch.arange(300) % 7 == 0
    gradient, curvature = example["gradient_and_curvature"](scores, labels)
    d = scores[None, :] - scores[labels][:, None]  # [P, N]
    phi = torch.logaddexp(SCALE * d, torch.zeros_like(d))
    u_all, u_positive = phi.sum(dim=1), phi[:, labels].sum(dim=1)
    weights = u_positive / u_all.square() / len(u_all)
    sigma = torch.sigmoid(SCALE * d)
    second = weights[:, None] * SCALE**2 * sigma * (1.0 - sigma) * ~labels
    expected = second.sum(dim=0)
    expected[labels] = second.sum(dim=1)
    torch.testing.assert_close(curvature, expected, rtol=1e-9, atol=1e-12)
    h = scores.clone().requires_grad_()
    d = h[None, :] - h[labels][:, None]
    phi = torch.logaddexp(SCALE * d, torch.zeros_like(d))
    value = -(phi[:, labels].sum(dim=1) / phi.sum(dim=1)).mean()
    (truth,) = torch.autograd.grad(value, h)
    torch.testing.assert_close(gradient, truth, rtol=1e-9, atol=1e-12)
