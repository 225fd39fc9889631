"""PairwiseAUCLoss: value and gradient against the reference and against what AUC is."""

from functools import partial
from typing import Any

import pytest
import torch
from helpers import INF, MARGIN, NAN, assert_close, finite_differences, phi, randn, random_labels
from loss_helpers import (
    Batch,
    assert_near,
    call,
    each_precision,
    each_surrogate,
    follow_reference,
    make_batch,
    make_batches,
    make_loss,
    step,
)
from sklearn.metrics import roc_auc_score
from torch import Tensor

from xrisk_ext import PairwiseAUCLoss

NO_INDEX = torch.zeros(0, dtype=torch.int64)


@each_surrogate
@each_precision
@pytest.mark.parametrize("weights", ["", "entry"])
def test_follows_the_reference(options: dict[str, Any], dtype: torch.dtype, weights: str) -> None:
    follow_reference(make_loss("auc", **options), make_batches("auc", dtype=dtype, weights=weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_scores_follow_the_reference(dtype: torch.dtype) -> None:
    follow_reference(make_loss("auc"), make_batches("auc", dtype=dtype))


@pytest.mark.parametrize("algorithm", ["direct", "sort"])
@pytest.mark.parametrize("positives", [1, 300, 599])
def test_wide_batches_follow_the_reference(algorithm: str, positives: int) -> None:
    labels = torch.arange(600) < positives
    labels = labels[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    loss = make_loss("auc", algorithm=algorithm)
    follow_reference(loss, [Batch(randn(600, seed=k), labels, NO_INDEX) for k in range(2)])


@pytest.mark.parametrize("surrogate", ["squared_hinge", "barrier_hinge", "sigmoid", "zero_one"])
def test_by_hand(surrogate: str) -> None:
    h, positive = [0.5, 0.75, -0.25, -1.0, 0.5], [True, False, True, False, False]
    loss = PairwiseAUCLoss(surrogate=surrogate, margin=0.5, scale=2.0)
    terms = [phi(surrogate, h[j] - h[i], 0.5, 2.0) for i in (0, 2) for j in (1, 3, 4)]
    value = loss(torch.tensor(h).double(), torch.tensor(positive))
    assert_close(value, sum(terms) / 6)


def test_gradient_by_hand() -> None:
    # positives 1 and 0, negative 0.5, m = 1: slopes 1 and 3, of which each anchor has a half
    value, gradient = step(
        PairwiseAUCLoss(), Batch(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1, 0, 1]), NO_INDEX)
    )
    assert float(value) == 1.25
    assert gradient.tolist() == [-0.5, 2.0, -1.5]


# -------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("algorithm", ["direct", "sort"])
def test_squared_is_the_variance_identity(algorithm: str) -> None:
    scores, labels = randn(50, seed=6), random_labels(50, seed=6)
    loss = PairwiseAUCLoss(surrogate="squared", margin=MARGIN, algorithm=algorithm)
    up, down = scores[labels == 1], scores[labels == 0]
    expected = up.var(correction=0) + down.var(correction=0)
    expected += (MARGIN + down.mean() - up.mean()) ** 2
    assert_close(loss(scores, labels), expected)


@pytest.mark.parametrize("algorithm", ["direct", "sort"])
@pytest.mark.parametrize("weighted", [False, True])
def test_zero_one_is_one_minus_auroc(algorithm: str, weighted: bool) -> None:
    scores = randn(200).mul(3.0).round()  # many ties
    labels = random_labels(200)
    weights = randn(200, seed=3) ** 2 if weighted else None
    loss = PairwiseAUCLoss(surrogate="zero_one", algorithm=algorithm)
    value, gradient = step(loss, Batch(scores, labels, NO_INDEX, weights))
    assert_close(value, 1.0 - roc_auc_score(labels, scores, sample_weight=weights), rtol=1e-10)
    assert not gradient.any()


def objective(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    difference = scores[labels <= 0][None, :] - scores[labels > 0][:, None]
    return ((margin + difference).clamp(min=0.0) ** 2).mean()


def test_gradient_is_that_of_the_objective() -> None:
    batch = make_batch("auc")
    value, gradient = step(make_loss("auc", margin=MARGIN), batch)
    numeric = finite_differences(lambda h: objective(h, batch.labels, MARGIN), batch.scores)
    assert_close(value, objective(batch.scores, batch.labels, MARGIN))
    assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)


@each_surrogate
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(options: dict[str, Any], training: bool) -> None:
    batch = make_batch("auc", weights="entry")
    loss = make_loss("auc", **options).train(training)
    leaf = batch.scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(partial(call, loss, batch), leaf)


@each_surrogate
def test_score_gradients_sum_to_zero_and_a_shift_changes_nothing(options: dict[str, Any]) -> None:
    loss, batch = make_loss("auc", **options), make_batch("auc")
    value, gradient = step(loss, batch)
    moved_value, moved_gradient = step(loss, batch._replace(scores=batch.scores + 3.25))
    assert abs(float(gradient.sum())) < 1e-12
    assert options["surrogate"] == "zero_one" or gradient.any()
    assert_close(moved_value, value, rtol=1e-9)
    assert_close(moved_gradient, gradient, rtol=1e-9, atol=1e-12)


def test_every_positive_pulls_up_and_every_negative_down() -> None:
    batch = make_batch("auc", size=40)
    gradient = step(PairwiseAUCLoss(surrogate="logistic"), batch)[1]
    assert bool((gradient[batch.labels > 0] < 0).all())
    assert bool((gradient[batch.labels <= 0] > 0).all())


# --------------------------------------------------------------------------- stateless, degenerate


def test_there_is_no_state() -> None:
    loss = make_loss("auc")
    batch = make_batch("auc")
    first = step(loss, batch)
    step(loss, make_batch("auc", seed=1))
    for again in (step(loss, batch), step(loss.eval(), batch)):
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    assert loss.state is None
    assert set(loss.state_dict()) == {"gamma", "scale"}
    loss.reset_state()  # nothing to forget, and no error


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_that_is_missing_gives_zero(label: int) -> None:
    # even where a score is not finite: there is no pair
    for scores in (randn(5), torch.tensor([1.0, NAN, 2.0, INF, 0.0])):
        batch = Batch(scores, torch.full((5,), label), NO_INDEX)
        value, gradient = step(make_loss("auc"), batch)
        assert float(value) == 0.0
        assert gradient.tolist() == [0.0] * 5
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])  # only one class is left
    labels = torch.tensor([label, label, 1 - label, 1 - label, 1 - label])
    value, gradient = step(make_loss("auc"), Batch(randn(5), labels, NO_INDEX, weights))
    assert float(value) == 0.0
    assert gradient.tolist() == [0.0] * 5


def test_pairs_at_the_margin_pull_neither_way() -> None:
    # at the kink of the hinge the slope is that of the left piece
    batch = Batch(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), NO_INDEX)
    for algorithm in ("direct", "sort"):
        value, gradient = step(PairwiseAUCLoss(surrogate="hinge", algorithm=algorithm), batch)
        assert float(value) == 0.0
        assert gradient.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("surrogate", ["squared_hinge", "barrier_hinge", "exponential"])
def test_a_large_batch_sorted_equals_direct(dtype: torch.dtype, surrogate: str) -> None:
    scores = randn(100_000).to(dtype)
    if surrogate == "barrier_hinge":
        # Its slopes jump, so one rounding at a kink moves a whole pair: make the differences exact.
        scores = scores.mul(64.0).round().div(64.0)
    batch = Batch(scores, torch.arange(100_000) % 200 == 0, NO_INDEX)
    direct, sort, auto = (
        step(PairwiseAUCLoss(surrogate=surrogate, algorithm=algorithm, scale=1.5), batch)
        for algorithm in ("direct", "sort", "auto")
    )
    for other in (sort, auto):
        for name, a, b in zip(("value", "gradient"), other, direct, strict=True):
            assert_near(name, a, b.double(), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("surrogate", ["logistic", "sigmoid"])
def test_a_large_batch_smooth_equals_direct(dtype: torch.dtype, surrogate: str) -> None:
    labels = torch.arange(60_000) % 200 == 0
    for shift in (0.0, 12.0):  # well separated: every pair term is tiny, and keeps its digits
        batch = Batch((randn(60_000) + shift * labels).to(dtype), labels, NO_INDEX)
        direct, smooth, auto = (
            step(PairwiseAUCLoss(surrogate=surrogate, algorithm=algorithm, scale=1.5), batch)
            for algorithm in ("direct", "smooth", "auto")
        )
        for other in (smooth, auto):
            for name, a, b in zip(("value", "gradient"), other, direct, strict=True):
                assert_near(name, a, b.double(), dtype)
