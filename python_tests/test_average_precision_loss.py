"""AveragePrecisionLoss: value, gradient and state against the reference and against the paper."""

from functools import partial
from typing import Any

import pytest
import torch
from helpers import INF, MARGIN, NAN, assert_close, finite_differences, phi, randn, random_labels
from loss_helpers import (
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

from xrisk_ext import AveragePrecisionLoss, reference

# ----------------------------------------------------------------------------------- the reference


@each_surrogate
@each_precision
def test_steps_follow_the_reference(options: dict[str, Any], dtype: torch.dtype) -> None:
    loss = make_loss("ap", state_dtype=dtype, **options)
    follow_reference(loss, make_batches("ap", dtype=dtype))
    assert not loss.state.value.isnan().all()


@each_surrogate
@pytest.mark.parametrize("weights", ["entry", "label"])
def test_weighted_steps_follow_the_reference(options: dict[str, Any], weights: str) -> None:
    loss = make_loss("ap", state_dtype=torch.float64, **options)
    follow_reference(loss, make_batches("ap", weights=weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_scores_follow_the_reference(dtype: torch.dtype) -> None:
    follow_reference(make_loss("ap"), make_batches("ap", dtype=dtype))


@pytest.mark.parametrize(
    ("scores", "state"), [(torch.float64, torch.float32), (torch.float32, torch.float64)]
)
def test_scores_and_state_of_different_dtypes(scores: torch.dtype, state: torch.dtype) -> None:
    loss = make_loss("ap", state_dtype=state)
    follow_reference(loss, make_batches("ap", dtype=scores), computed=torch.float32)
    assert loss.state.value.dtype == state


# (0, "zero") never leaves 0 / 0
START = [(g, "assign") for g in (0.0, 0.1, 0.9, 1.0)] + [(g, "zero") for g in (0.1, 0.9, 1.0)]


@pytest.mark.parametrize(("gamma", "initial_state"), START)
def test_gamma_and_initial_state_follow_the_reference(gamma: float, initial_state: str) -> None:
    loss = make_loss("ap", gamma=gamma, initial_state=initial_state, state_dtype=torch.float64)
    follow_reference(loss, make_batches("ap"))


def test_first_touch_assigns_or_averages_with_zero() -> None:
    batch = make_batch("ap")
    batch = batch._replace(index=torch.arange(12))
    assign, zero = (
        make_loss("ap", 12, initial_state=name, state_dtype=torch.float64)
        for name in ("assign", "zero")
    )
    step(assign, batch)
    step(zero, batch)
    touched = batch.labels > 0
    assert_close(zero.state.value[0, touched], 0.3 * assign.state.value[0, touched])
    assert assign.state.value[0, ~touched].isnan().all()
    assert not zero.state.value[0, ~touched].any()


def test_many_steps_with_wide_batches_follow_the_reference() -> None:
    # past one tile of the kernels; every id several times in a batch
    for algorithm in ("direct", "sort"):
        loss = make_loss("ap", 64, state_dtype=torch.float64, algorithm=algorithm)
        batches = [
            Batch(randn(600, seed=k), random_labels(600, seed=k), torch.arange(600) * (k + 1) % 64)
            for k in range(3)
        ]
        follow_reference(loss, batches)


# ----------------------------------------------------------------------------- by hand, identities


@pytest.mark.parametrize("surrogate", ["squared_hinge", "logistic", "zero_one"])
def test_one_step_by_hand(surrogate: str) -> None:
    # positives 0.5 and -0.25 with ids 1 and 0, negatives 0.75 and -1
    h, positive = [0.5, 0.75, -0.25, -1.0], [True, False, True, False]
    loss = AveragePrecisionLoss(2, surrogate=surrogate, margin=0.5, scale=2.0, gamma=0.25)
    loss.double().state.value.copy_(torch.tensor([[[0.5, 0.25], [2.0, 1.0]]]))
    value = loss(torch.tensor(h).double(), torch.tensor(positive), torch.tensor([1, -1, 0, -1]))
    expected, rows = 0.0, {2: 0, 0: 1}
    for i, row in rows.items():
        terms = [phi(surrogate, h[j] - h[i], 0.5, 2.0) for j in range(4)]
        old_all, old_pos = ((0.5, 0.25), (2.0, 1.0))[row]
        u_all = 0.75 * old_all + 0.25 * sum(terms) / 4
        u_pos = 0.75 * old_pos + 0.25 * (terms[0] + terms[2]) / 4
        assert_close(loss.state.value[0, row], [u_all, u_pos])
        expected -= u_pos / u_all / 2
    assert_close(value, expected)


def objective(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    """-mean over positives of (sum over positives) / (sum over all), squared hinge."""
    losses = (margin + scores[None, :] - scores[:, None]).clamp(min=0.0) ** 2
    return -(losses * (labels > 0)).sum(1).div(losses.sum(1))[labels > 0].mean()


@pytest.mark.parametrize("training", [True, False])
def test_gradient_at_gamma_one_is_that_of_the_objective(training: bool) -> None:
    batch = make_batch("ap")._replace(index=torch.arange(12))
    for loss in (make_loss("ap", 12, gamma=1.0, margin=MARGIN), make_loss("ap", 12, margin=MARGIN)):
        loss.double().train(training)  # the first step of an id is as if gamma were 1
        value, gradient = step(loss, batch)
        numeric = finite_differences(lambda h: objective(h, batch.labels, MARGIN), batch.scores)
        assert_close(value, objective(batch.scores, batch.labels, MARGIN))
        assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)


@each_surrogate
def test_gradcheck_without_state(options: dict[str, Any]) -> None:
    batch = make_batch("ap", weights="entry")
    for loss in (make_loss("ap", None, gamma=1.0, **options), make_loss("ap", **options).eval()):
        leaf = batch.scores.clone().requires_grad_()
        assert torch.autograd.gradcheck(partial(call, loss, batch), leaf)


@each_surrogate
def test_score_gradients_sum_to_zero_and_a_shift_changes_nothing(options: dict[str, Any]) -> None:
    plain, shifted = (make_loss("ap", state_dtype=torch.float64, **options) for _ in range(2))
    for batch in make_batches("ap"):
        value, gradient = step(plain, batch)
        moved = batch._replace(scores=batch.scores + 3.25)
        moved_value, moved_gradient = step(shifted, moved)
        assert abs(float(gradient.sum())) < 1e-12
        assert_close(moved_value, value, rtol=1e-9)
        assert_close(moved_gradient, gradient, rtol=1e-9, atol=1e-12)
        assert_close(shifted.state.value, plain.state.value, rtol=1e-9)
    assert options["surrogate"] == "zero_one" or gradient.any()


def test_value_is_between_minus_one_and_zero() -> None:
    loss = make_loss("ap")
    for batch in make_batches("ap", count=6):
        assert -1.0 <= float(step(loss, batch)[0]) <= 0.0
    perfect = Batch(
        torch.tensor([9.0, 8.0, 0.0]), torch.tensor([1, 1, 0]), torch.tensor([6, 7, -1])
    )
    assert float(step(make_loss("ap"), perfect)[0]) == -1.0


# ----------------------------------------------------------------------------- ids and their state


def test_duplicates_read_the_old_row_and_store_their_mean() -> None:
    # two positives of one id see g_all = (1 + 0.25) / 2 and (2.25 + 1) / 2, g_pos the same
    loss = make_loss("ap", 1, gamma=0.5)
    loss.state.value.copy_(torch.tensor([[[3.0, 1.0]]]))
    loss(torch.tensor([1.0, 0.5]), torch.tensor([1, 1]), torch.tensor([0, 0]))
    mean = (0.625 + 1.625) / 2
    assert loss.state.value.tolist() == [[[(3.0 + mean) / 2, (1.0 + mean) / 2]]]


def test_duplicates_do_not_depend_on_their_order() -> None:
    batch = make_batch("ap", size=40)
    batch = batch._replace(index=torch.arange(40) % 4)
    results = []
    for order in (torch.arange(40), torch.arange(40).flip(0), torch.randperm(40)):
        loss = make_loss("ap", state_dtype=torch.float64)
        shuffled = Batch(batch.scores[order], batch.labels[order], batch.index[order])
        value, gradient = step(loss, shuffled)
        results.append((value, gradient[order.argsort()], state_of(loss)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_close(a, b)


def test_num_samples_may_count_the_positives_alone() -> None:
    batch = make_batch("ap")
    positive = batch.labels > 0
    whole = make_loss("ap", 100, state_dtype=torch.float64)
    small = make_loss("ap", int(positive.sum()), state_dtype=torch.float64)
    ids = torch.full((12,), -1)
    ids[positive] = torch.arange(int(positive.sum()))
    for _ in range(2):
        everyone = step(whole, batch._replace(index=torch.arange(12)))
        positives_only = step(small, batch._replace(index=ids))
        for a, b in zip(everyone, positives_only, strict=True):
            assert torch.equal(a, b)
    assert torch.equal(whole.state.value[0, :12][positive], small.state.value[0])
    assert whole.state.value[0, :12][~positive].isnan().all()


@pytest.mark.parametrize("ignored", [-1, -(2**31), 2**31 - 1, NUM_SAMPLES])
def test_ids_of_non_positives_are_ignored(ignored: int) -> None:
    batch = make_batch("ap")
    other = batch.index.clone()
    other[batch.labels <= 0] = ignored
    losses = [make_loss("ap") for _ in range(2)]
    for a, b in zip(
        step(losses[0], batch), step(losses[1], batch._replace(index=other)), strict=True
    ):
        assert torch.equal(a, b)
    assert bits_equal(state_of(losses[0]), state_of(losses[1]))


def test_the_id_of_a_removed_positive_is_ignored() -> None:
    batch = make_batch("ap", weights="entry")  # weights[3] is 0
    labels, index = batch.labels.clone(), batch.index.clone()
    labels[3], index[3] = 1, 10**6
    loss = make_loss("ap")
    call(loss, batch._replace(labels=labels, index=index))
    with pytest.raises(IndexError):
        call(loss, Batch(batch.scores, labels, index))


# -------------------------------------------------------------------------- degenerate, non-finite


def test_the_floor_of_u() -> None:
    # margin 0 and the positive on top: every phi is 0, and 0 / 0 must not be NaN
    loss = make_loss("ap", margin=0.0)
    batch = Batch(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), torch.tensor([0, -1]))
    value, gradient = step(loss, batch)
    assert float(value) == 0.0
    assert gradient.tolist() == [0.0, 0.0]
    assert loss.state.value[0, 0].tolist() == [0.0, 0.0]


def test_a_state_of_zero_gives_no_gradient() -> None:
    # a slope times 1 / u would be 1e30: the pair has a loss, but its average is still zero
    loss = make_loss("ap", initial_state="zero", gamma=0.0)
    batch = Batch(torch.tensor([0.0, 1.0]), torch.tensor([1, 0]), torch.tensor([0, -1]))
    value, gradient = step(loss, batch)
    assert float(value) == 0.0
    assert gradient.tolist() == [0.0, 0.0]
    reference_value, reference_gradient = reference.average_precision(
        batch.scores, batch.labels, batch.index, torch.zeros(1, 2), 0.0
    )
    assert float(reference_value) == 0.0
    assert reference_gradient.tolist() == [0.0, 0.0]


def test_a_batch_of_one() -> None:
    loss = make_loss("ap", margin=0.5)
    value, gradient = step(loss, Batch(torch.ones(1), torch.ones(1), torch.tensor([3])))
    assert (float(value), gradient.tolist()) == (-1.0, [0.0])  # alone, a positive is on top
    assert loss.state.value[0, 3].tolist() == [0.25, 0.25]  # phi(0) of the pair with itself


def test_no_negatives() -> None:
    loss = make_loss("ap")
    batch = make_batch("ap")._replace(labels=torch.ones(12), index=torch.arange(12) % NUM_SAMPLES)
    value, gradient = step(loss, batch)
    assert float(value) == -1.0
    assert_near("gradient", gradient, torch.zeros(12))
    assert bool(loss.state.value.isfinite().all())
    assert torch.equal(loss.state.value[..., 0], loss.state.value[..., 1])


def test_a_blend_that_is_not_finite_is_not_written() -> None:
    # a plain exponential may be inf: it poisons this value, not the state, and not the next step
    loss = make_loss("ap", surrogate="exponential")
    batch = Batch(torch.tensor([-400.0, 400.0]), torch.tensor([1, 0]), torch.tensor([0, -1]))
    call(loss, batch)
    assert not loss.state.value.isinf().any()
    value, gradient = step(loss, batch._replace(scores=torch.tensor([0.5, 0.25])))
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("positive", [True, False])
def test_a_removed_score_may_be_anything(bad: float, positive: bool) -> None:
    batch = make_batch("ap", weights="entry")
    scores, labels = batch.scores.clone(), batch.labels.clone()
    scores[3], labels[3] = bad, int(positive)
    loss, rest = make_loss("ap"), make_loss("ap")
    kept = torch.arange(12) != 3
    assert batch.weights is not None
    value, gradient = step(loss, batch._replace(scores=scores, labels=labels))
    without = Batch(scores[kept], labels[kept], batch.index[kept], batch.weights[kept])
    expected_value, expected_gradient = step(rest, without)
    assert torch.equal(value, expected_value)
    assert torch.equal(gradient[kept], expected_gradient)
    assert float(gradient[3]) == 0.0
    assert bits_equal(state_of(loss), state_of(rest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("surrogate", ["logistic", "sigmoid"])
def test_a_large_batch_smooth_equals_direct(surrogate: str, dtype: torch.dtype) -> None:
    # the whole objective in one call, without state; and separated so well that the anchors' own
    # pairs are all that is left of their sums
    count = 60_000
    labels = torch.arange(count) % 300 == 0
    for shift in (0.0, 12.0):
        scores = (randn(count) + shift * labels).to(dtype)
        direct, smooth, auto = (
            step(
                AveragePrecisionLoss(gamma=1.0, surrogate=surrogate, algorithm=algorithm, scale=2),
                Batch(scores, labels, torch.arange(count)),
            )
            for algorithm in ("direct", "smooth", "auto")
        )
        # the terms of an anchor's gradient cancel: an error is relative to their sizes, 1 / P
        size = max(float(direct[1].abs().max()), 1.0 / int(labels.sum()))
        tolerance = 3e-6 if dtype == torch.float32 else 1e-12
        for value, gradient in (smooth, auto):
            assert_near("value", value, direct[0].double(), dtype)
            assert float((gradient - direct[1]).abs().max()) < tolerance * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_batch_sorted_equals_direct(dtype: torch.dtype) -> None:
    size = 100_000
    scores = randn(size).to(dtype)
    labels = torch.arange(size) % 200 == 0
    index = torch.where(labels, torch.arange(size) // 200, -1)
    results = []
    for algorithm in ("direct", "sort", "auto"):
        loss = make_loss("ap", size // 200, algorithm=algorithm, state_dtype=torch.float64)
        for _ in range(2):
            value, gradient = step(loss, Batch(scores, labels, index))
        results.append((value, gradient, state_of(loss)))
    for other in results[1:]:
        for name, a, b in zip(("value", "gradient", "state"), other, results[0], strict=True):
            assert b is not None
            assert_near(name, a, b.double(), dtype)
