"""MeanAveragePrecisionLoss: against the reference, and against one AP loss per label."""

from functools import partial
from typing import Any

import pytest
import torch
from helpers import INF, MARGIN, NAN, assert_close, finite_differences, randn, random_labels
from loss_helpers import (
    NUM_LABELS,
    NUM_SAMPLES,
    Batch,
    assert_near,
    bits_equal,
    call,
    each_precision,
    each_surrogate,
    follow_reference,
    make_batch,
    make_batches,
    make_loss,
    state_of,
    step,
)
from torch import Tensor

from xrisk_ext import AveragePrecisionLoss, MeanAveragePrecisionLoss

each_reduction = pytest.mark.parametrize("reduction", ["mean", "none"])


def column(batch: Batch, label: int) -> Batch:
    """The batch that an AveragePrecisionLoss sees of one label."""
    weights = batch.weights
    if weights is not None and weights.dim() == 2:
        weights = weights[:, label]
    return Batch(batch.scores[:, label], batch.labels[:, label], batch.index, weights)


def without_positives(batch: Batch, label: int) -> Batch:
    labels = batch.labels.clone()
    labels[:, label] = 0
    return batch._replace(labels=labels)


# ----------------------------------------------------------------------------------- the reference


@each_surrogate
@each_precision
def test_steps_follow_the_reference(options: dict[str, Any], dtype: torch.dtype) -> None:
    loss = make_loss("map", state_dtype=dtype, **options)
    follow_reference(loss, make_batches("map", dtype=dtype))
    assert not loss.state.value.isnan().all()


@each_reduction
@pytest.mark.parametrize("weights", ["entry", "label"])
@pytest.mark.parametrize("algorithm", ["direct", "sort"])
def test_weighted_steps_follow_the_reference(weights: str, algorithm: str, reduction: str) -> None:
    options = {"state_dtype": torch.float64, "algorithm": algorithm, "reduction": reduction}
    follow_reference(make_loss("map", **options), make_batches("map", weights=weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_scores_follow_the_reference(dtype: torch.dtype) -> None:
    follow_reference(make_loss("map"), make_batches("map", dtype=dtype))


@pytest.mark.parametrize(
    ("scores", "state"), [(torch.float64, torch.float32), (torch.float32, torch.float64)]
)
def test_scores_and_state_of_different_dtypes(scores: torch.dtype, state: torch.dtype) -> None:
    loss = make_loss("map", state_dtype=state)
    follow_reference(loss, make_batches("map", dtype=scores), computed=torch.float32)
    assert loss.state.value.dtype == state


@pytest.mark.parametrize("initial_state", ["assign", "zero"])
@pytest.mark.parametrize("gamma", [0.1, 0.9, 1.0])
def test_gamma_and_initial_state_follow_the_reference(gamma: float, initial_state: str) -> None:
    loss = make_loss("map", gamma=gamma, initial_state=initial_state, state_dtype=torch.float64)
    follow_reference(loss, make_batches("map"))


@pytest.mark.parametrize("num_labels", [1, 2, 40])
def test_any_number_of_labels(num_labels: int) -> None:
    loss = MeanAveragePrecisionLoss(16, num_labels, gamma=0.3, state_dtype=torch.float64)
    batches = []
    for k in range(3):
        labels = random_labels(90, num_labels, seed=k)
        index = torch.arange(90) * (k + 1) % 16
        batches.append(Batch(randn(90, num_labels, seed=k), labels, index))
    follow_reference(loss, batches)


# ---------------------------------------------------------------------------------- label by label


@pytest.mark.parametrize("weights", ["", "entry", "label"])
def test_each_label_is_an_average_precision_loss(weights: str) -> None:
    loss = make_loss("map", reduction="none")
    singles = [make_loss("ap") for _ in range(NUM_LABELS)]
    upstream = torch.tensor([1.0, -2.0, 0.5])
    for batch in make_batches("map", weights=weights, dtype=torch.float32):
        batch = batch._replace(index=batch.index.clamp(min=0))
        value, gradient = step(loss, batch, upstream)
        for label, single in enumerate(singles):
            one_value, one_gradient = step(single, column(batch, label), upstream[label])
            assert torch.equal(value[label], one_value)
            assert torch.equal(gradient[:, label], one_gradient)
            assert single.state is not None
            assert bits_equal(loss.state.value[label], single.state.value[0])


def test_mean_is_the_mean_over_all_labels() -> None:
    batch = without_positives(make_batch("map"), 1)
    mean, none = make_loss("map"), make_loss("map", reduction="none")
    value, gradient = step(mean, batch)
    values, gradients = step(none, batch)
    assert values.shape == (NUM_LABELS,)
    assert float(values[1]) == 0.0
    assert_close(value, values.sum() / NUM_LABELS)  # the label without positives counts as 0
    assert_close(gradient, gradients / NUM_LABELS)
    assert bits_equal(state_of(mean), state_of(none))


@each_reduction
def test_a_label_without_positives_leaves_its_state_alone(reduction: str) -> None:
    loss = make_loss("map", reduction=reduction)
    step(loss, make_batch("map"))
    before = state_of(loss)
    value, gradient = step(loss, without_positives(make_batch("map", seed=1), 1))
    assert before is not None
    assert value.isfinite().all()
    assert not gradient[:, 1].any()
    assert gradient[:, 0].any()
    assert bits_equal(loss.state.value[1], before[1])
    assert not bits_equal(loss.state.value[0], before[0])


@each_reduction
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_score_poisons_its_label_alone(bad: float, reduction: str) -> None:
    batch = make_batch("map")
    clean, loss = make_loss("map", reduction=reduction), make_loss("map", reduction=reduction)
    clean_gradient = step(clean, batch)[1]
    scores = batch.scores.clone()
    scores[5, 1] = bad
    before, after_clean = state_of(loss), state_of(clean)
    value, gradient = step(loss, batch._replace(scores=scores))
    assert before is not None
    assert after_clean is not None
    assert value.isnan().tolist() == (True if reduction == "mean" else [False, True, False])
    assert gradient[:, 1].isnan().all()
    assert bits_equal(loss.state.value[1], before[1])
    for label in (0, 2):
        assert torch.equal(gradient[:, label], clean_gradient[:, label])
        assert bits_equal(loss.state.value[label], after_clean[label])


def test_a_missing_label_is_missing_there_alone() -> None:
    batch = make_batch("map")
    weights = torch.ones(12, NUM_LABELS)
    weights[4, 2] = 0.0
    scores = batch.scores.clone()
    scores[4, 2] = NAN
    loss, whole = make_loss("map", reduction="none"), make_loss("map", reduction="none")
    value, gradient = step(loss, batch._replace(scores=scores, weights=weights))
    whole_value, whole_gradient = step(whole, batch)
    assert torch.equal(value[:2], whole_value[:2])
    assert torch.equal(gradient[:, :2], whole_gradient[:, :2])
    assert value[2].isfinite()
    assert value[2] != whole_value[2]
    assert float(gradient[4, 2]) == 0.0


def test_a_bad_id_of_the_last_label_leaves_the_first_label_alone() -> None:
    labels = torch.zeros(4, NUM_LABELS)
    labels[0, 0] = labels[3, -1] = 1
    loss = make_loss("map")
    before = state_of(loss)
    with pytest.raises(IndexError, match="index"):
        loss(randn(4, NUM_LABELS), labels, torch.tensor([0, 1, 2, NUM_SAMPLES]))
    assert bits_equal(state_of(loss), before)


def test_one_label_is_average_precision() -> None:
    loss, single = MeanAveragePrecisionLoss(NUM_SAMPLES, 1, gamma=0.3), make_loss("ap")
    assert isinstance(single, AveragePrecisionLoss)
    for batch in make_batches("ap", dtype=torch.float32):
        value, gradient = step(
            loss, Batch(batch.scores[:, None], batch.labels[:, None], batch.index)
        )
        expected_value, expected_gradient = step(single, batch)
        assert torch.equal(value, expected_value)
        assert torch.equal(gradient[:, 0], expected_gradient)
    assert bits_equal(state_of(loss), state_of(single))


# -------------------------------------------------------------------------------------- identities


def objective(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over labels of -AP, squared hinge; scores and labels [B, L]."""
    total = scores.new_zeros(())
    for h, y in zip(scores.unbind(1), labels.unbind(1), strict=True):
        losses = (margin + h[None, :] - h[:, None]).clamp(min=0.0) ** 2
        total -= (losses * (y > 0)).sum(1).div(losses.sum(1))[y > 0].mean()
    return total / scores.shape[1]


@pytest.mark.parametrize("training", [True, False])
def test_gradient_at_gamma_one_is_that_of_the_objective(training: bool) -> None:
    batch = make_batch("map", size=9)._replace(index=torch.arange(9))
    loss = make_loss("map", 9, gamma=1.0, margin=MARGIN).double().train(training)
    value, gradient = step(loss, batch)
    numeric = finite_differences(lambda h: objective(h, batch.labels, MARGIN), batch.scores)
    assert_close(value, objective(batch.scores, batch.labels, MARGIN))
    assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)


@each_surrogate
def test_gradcheck_without_state(options: dict[str, Any]) -> None:
    batch = make_batch("map", size=6, weights="label")
    for loss in (make_loss("map", None, gamma=1.0, **options), make_loss("map", **options).eval()):
        leaf = batch.scores.clone().requires_grad_()
        assert torch.autograd.gradcheck(partial(call, loss, batch), leaf)


@pytest.mark.parametrize("weights", ["", "entry", "label"])
def test_score_gradients_sum_to_zero_and_a_shift_changes_nothing(weights: str) -> None:
    plain, shifted = (make_loss("map", state_dtype=torch.float64) for _ in range(2))
    shift = torch.tensor([3.25, -1.5, 0.5], dtype=torch.float64)  # each label has its own
    for batch in make_batches("map", weights=weights):
        value, gradient = step(plain, batch)
        moved_value, moved_gradient = step(shifted, batch._replace(scores=batch.scores + shift))
        assert_close(gradient.sum(dim=0), [0.0] * NUM_LABELS, atol=1e-12)
        assert gradient.any()
        assert_close(moved_value, value, rtol=1e-9)
        assert_close(moved_gradient, gradient, rtol=1e-9, atol=1e-12)
        assert_close(shifted.state.value, plain.state.value, rtol=1e-9)


# ----------------------------------------------------------------------------- sizes and arguments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_batch_sorted_equals_direct(dtype: torch.dtype) -> None:
    size = 100_000
    scores = randn(size, 2).to(dtype)
    labels = torch.stack([torch.arange(size) % k == 0 for k in (200, 500)], dim=1)
    results = []
    for algorithm in ("direct", "sort", "auto"):
        loss = MeanAveragePrecisionLoss(
            size, 2, gamma=0.3, algorithm=algorithm, state_dtype=torch.float64
        )
        for _ in range(2):
            value, gradient = step(loss, Batch(scores, labels, torch.arange(size)))
        results.append((value, gradient, state_of(loss)))
    for other in results[1:]:
        for name, a, b in zip(("value", "gradient", "state"), other, results[0], strict=True):
            assert b is not None
            assert_near(name, a, b.double(), dtype)


def test_num_labels_is_held_to() -> None:
    loss = make_loss("map")
    before = state_of(loss)
    for shape in [(4,), (4, 1), (4, NUM_LABELS + 1), (NUM_LABELS, 4), (4, NUM_LABELS, 1), ()]:
        with pytest.raises(ValueError, match="scores"):
            loss(torch.ones(shape), torch.ones(shape), torch.arange(4))
    assert bits_equal(state_of(loss), before)


@pytest.mark.parametrize("num_labels", [0, -1, 2.0, None])
def test_num_labels_is_a_positive_integer(num_labels: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="num_labels"):
        MeanAveragePrecisionLoss(4, num_labels)
