"""LambdaRank of lists so long that it does not visit their pairs, against the float64 reference."""

import pytest
import torch
from helpers import each_simd, randn
from listwise_helpers import Lists, step
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import reference

SIZE = 1100
SCORES = ("normal", "ties", "clusters", "wide", "all one", "far away", "huge", "ordered", "worst")
LEVELS = (2, 5, 0)  # 0: every item a level of its own


def scores_like(name: str, relevance: Tensor, size: int = SIZE) -> Tensor:
    h = randn(size, seed=3)
    return {
        "normal": h,
        "ties": (2.0 * h).round() / 2.0,
        "clusters": 1e-3 * h + 4.0 * torch.arange(size).remainder(7).double(),
        "wide": 400.0 * h,  # nearly every gap is many temperatures
        "all one": torch.full((size,), 0.25, dtype=torch.float64),
        "far away": 1e4 + h,
        "huge": 1e30 * h,
        "ordered": 0.1 * h + relevance,
        "worst": 0.1 * h - relevance,
    }[name]


def relevance_of(levels: int, size: int = SIZE) -> Tensor:
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return 3.0 * uniform if levels == 0 else (levels * uniform**2).floor()


def follow(scores: Tensor, relevance: Tensor, **options: float) -> None:
    lists = Lists(scores, relevance)
    value, gradient = step(xr.LambdaRankLoss(**options), lists)
    truth, slopes = reference.lambda_rank(scores[None], relevance[None], **options)
    tolerance = 1e-11 if scores.dtype == torch.float64 else 2e-6
    assert abs(float(value) - float(truth)) <= tolerance * (1e-6 + abs(float(truth)))
    error = (gradient.double() - slopes[0]).abs().max()
    assert error <= tolerance * slopes.abs().max()


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("levels", LEVELS)
def test_follows_the_reference(levels: int, name: str) -> None:
    relevance = relevance_of(levels)
    scores = scores_like(name, relevance)
    follow(scores, relevance)
    follow(scores.float(), relevance, temperature=0.3)


@each_simd
def test_follows_it_in_every_variant(simd: str) -> None:
    for levels in LEVELS:
        relevance = relevance_of(levels)
        scores = scores_like("normal", relevance)
        follow(scores, relevance, top_k=700)
        follow(scores.float(), relevance, top_k=900)


def test_padding_and_no_gradient() -> None:
    relevance = relevance_of(5)
    scores = scores_like("ties", relevance)
    value, gradient = step(xr.LambdaRankLoss(), Lists(scores, relevance))
    present = torch.rand(2 * SIZE, generator=torch.Generator().manual_seed(1)).argsort() < SIZE
    padded = Lists(
        torch.full((2 * SIZE,), torch.nan, dtype=torch.float64).masked_scatter(present, scores),
        torch.ones(2 * SIZE, dtype=torch.float64).masked_scatter(present, relevance),
        present,
    )
    same, its_gradient = step(xr.LambdaRankLoss(), padded)
    assert torch.equal(same, value)
    assert torch.equal(its_gradient[present], gradient)
    assert not its_gradient[~present].any()
    with torch.no_grad():
        assert torch.equal(xr.LambdaRankLoss()(scores, relevance), value)
