"""Empty sets, ties, scores that are not finite, and gaps of any size: never NaN, never a crash.

A NaN comes out only where one went in, and it stays out of the state.
"""

from typing import Any

import pytest
import torch
from helpers import (
    DIFFERENTIABLE,
    INF,
    NAN,
    algorithms_of,
    assert_bitwise,
    computed_in,
    randn,
    random_labels,
)
from loss_helpers import (
    NUM_LABELS,
    NUM_SAMPLES,
    PAIRS,
    Batch,
    assert_near,
    bits_equal,
    call,
    each_loss,
    each_stateful_loss,
    each_surrogate,
    follow_reference,
    make_batch,
    make_loss,
    reference_step,
    state_of,
    step,
)
from torch import Tensor

from xrisk_ext import PairwiseAUCLoss
from xrisk_ext.losses._score_loss import ScoreLoss

each_bad = pytest.mark.parametrize("bad", [NAN, INF, -INF])
each_float = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)


def shape_of(kind: str, size: int) -> tuple[int, ...]:
    return (size, NUM_LABELS) if kind == "map" else (size,)


def warm(kind: str, **options: Any) -> ScoreLoss:
    """A loss whose state has seen a batch."""
    loss = make_loss(kind, **options)
    step(loss, make_batch(kind))
    return loss


def assert_zero_and_state_untouched(loss: ScoreLoss, batch: Batch) -> None:
    before = state_of(loss)
    value, gradient = step(loss, batch)
    assert_bitwise(value, torch.zeros_like(value))
    assert_bitwise(gradient, torch.zeros_like(batch.scores))
    assert bits_equal(state_of(loss), before)


# --------------------------------------------------------------------------------------- empty sets


@each_loss
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_an_empty_batch(kind: str, reduction: str) -> None:
    batch = Batch(
        torch.zeros(shape_of(kind, 0)),
        torch.zeros(shape_of(kind, 0)),
        torch.zeros(0, dtype=torch.int64),
    )
    for training in (True, False):
        loss = warm(kind, reduction=reduction).train(training)
        assert_zero_and_state_untouched(loss, batch)
        assert_zero_and_state_untouched(loss, batch._replace(weights=torch.zeros(0)))


@each_loss
@each_float
def test_no_positives(kind: str, dtype: torch.dtype) -> None:
    scores = randn(*shape_of(kind, 9)).to(dtype)
    none = Batch(scores, torch.zeros_like(scores), torch.full((9,), -1))
    assert_zero_and_state_untouched(warm(kind), none)
    removed = none._replace(labels=torch.ones_like(scores), weights=torch.zeros(9))
    assert_zero_and_state_untouched(warm(kind), removed)
    # there is nothing to poison either
    assert_zero_and_state_untouched(warm(kind), none._replace(scores=scores * NAN))


@each_loss
@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one(kind: str, label: int) -> None:
    scores = torch.full(shape_of(kind, 1), 0.75)
    batch = Batch(scores, torch.full(shape_of(kind, 1), label), torch.tensor([5]))
    loss = make_loss(kind)
    before = state_of(loss)
    value, gradient = step(loss, batch)
    assert not gradient.any()
    assert float(value) == (-1.0 if label == 1 and kind not in PAIRS else 0.0)
    assert bits_equal(state_of(loss), before) == (label == 0 or kind in PAIRS)


@each_loss
def test_a_batch_of_one_class_is_finite(kind: str) -> None:
    for label in (0, 1):
        scores = randn(*shape_of(kind, 9))
        loss = make_loss(kind, state_dtype=torch.float64)
        index = torch.arange(9) % NUM_SAMPLES
        follow_reference(loss, [Batch(scores, torch.full_like(scores, label), index)])


@each_loss
@each_surrogate
def test_all_ties(kind: str, options: dict[str, Any]) -> None:
    loss = make_loss(kind, state_dtype=torch.float64, **options)
    batch = make_batch(kind)
    for tie in (0.0, -0.0, 0.3, 1e5):
        follow_reference(loss, [batch._replace(scores=torch.full_like(batch.scores, tie))])


@each_loss
@pytest.mark.parametrize("algorithm", ["direct", "sort"])
def test_ties_with_differences_at_the_margin(kind: str, algorithm: str) -> None:
    # every difference is a multiple of the margin: kinks everywhere, and exact in binary
    shape = shape_of(kind, 40)
    for surrogate in ("hinge", "squared_hinge", "barrier_hinge", "zero_one"):
        loss = make_loss(kind, surrogate=surrogate, algorithm=algorithm, margin=0.5, scale=2.0)
        scores = randn(*shape).mul(2.0).round().mul(0.5)
        labels = random_labels(*shape)
        follow_reference(loss.double(), [Batch(scores, labels, torch.arange(40) % NUM_SAMPLES)])


# --------------------------------------------------------------------------------------- not finite


@each_loss
@each_bad
@each_float
@pytest.mark.parametrize("where", [0, 1, 11])  # a positive, a negative, the last
def test_a_bad_score_gives_nan_and_leaves_the_state(
    kind: str, bad: float, dtype: torch.dtype, where: int
) -> None:
    loss, never_saw = warm(kind), warm(kind)
    batch = make_batch(kind, seed=3, dtype=dtype)
    scores = batch.scores.clone()
    scores[where] = bad  # of every label
    before = state_of(loss)
    value, gradient = step(loss, batch._replace(scores=scores))
    assert value.isnan().all()
    assert gradient.isnan().all()
    assert gradient.dtype == dtype
    assert bits_equal(state_of(loss), before)
    for a, b in zip(step(loss, batch), step(never_saw, batch), strict=True):
        assert bits_equal(a, b)
    assert bits_equal(state_of(loss), state_of(never_saw))


@each_loss
@each_bad
@pytest.mark.parametrize("algorithm", ["direct", "sort"])
def test_a_bad_score_in_a_wide_batch(kind: str, bad: float, algorithm: str) -> None:
    shape = shape_of(kind, 1000)
    for where in (0, 517, 999):
        scores = randn(*shape).float()
        scores[where] = bad
        loss = warm(kind, algorithm=algorithm)
        before = state_of(loss)
        batch = Batch(scores, random_labels(*shape), torch.arange(1000) % NUM_SAMPLES)
        value, gradient = step(loss, batch)
        assert value.isnan()
        assert gradient.isnan().all()
        assert bits_equal(state_of(loss), before)


# --------------------------------------------------------------------------------- gaps of any size

# A plain exponential may reach inf by definition; zero_one has no slope, and follows too.
GAP_SURROGATES = [name for name in DIFFERENTIABLE if name != "exponential"]


each_gap_surrogate = pytest.mark.parametrize(
    ("name", "algorithm"),
    [(name, a) for name in GAP_SURROGATES for a in algorithms_of(name)],
)
each_gap = pytest.mark.parametrize(
    ("gap", "dtype"),
    [
        (1e4, torch.float16),
        (1e30, torch.bfloat16),
        (1e4, torch.float32),
        (1e9, torch.float32),
        (1e18, torch.float32),
        (1e25, torch.float32),
        (1e9, torch.float64),
        (1e120, torch.float64),
    ],
    ids=str,
)


def spread(kind: str, gap: float, dtype: torch.dtype, seed: int = 0) -> Batch:
    """Positives and negatives at both ends of a gap, and some between."""
    batch = make_batch(kind, seed=seed)
    return batch._replace(scores=batch.scores.clamp(-0.5, 0.5).mul(gap).to(dtype))


def assert_within_range(kind: str, value: Tensor) -> None:
    """A ratio is finite; a mean of squares may be past the range of float32, and is inf then."""
    assert bool(value.isfinite()) or (kind == "kl" and float(value) == INF), value


def assert_finite(what: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        assert bool(tensor.isfinite().all()), f"{what}: {tensor}"


@each_loss
@each_gap_surrogate
@each_gap
def test_a_gap_of_any_size_follows_the_reference(
    kind: str, name: str, algorithm: str, gap: float, dtype: torch.dtype
) -> None:
    loss = make_loss(kind, surrogate=name, algorithm=algorithm, scale=1.5).double()
    truth = state_of(loss)
    batch = spread(kind, gap, dtype)
    value, gradient = step(loss, batch)
    expected_value, expected_gradient = reference_step(loss, batch, truth)
    assert_finite("reference", expected_value, expected_gradient)
    for what, actual, expected in [
        ("value", value, expected_value),
        ("gradient", gradient, expected_gradient),
    ]:
        rounded = expected.to(actual.dtype)  # what is past the range of the dtype is inf
        assert bool((actual.isfinite() | rounded.isinf()).all()), f"{what}: {actual}, {expected}"
        if rounded.isfinite().all():
            assert_near(what, actual, expected, computed_in(dtype))


@each_stateful_loss
@each_gap_surrogate
@each_gap
def test_a_gap_of_any_size_passes_a_float32_state(
    kind: str, name: str, algorithm: str, gap: float, dtype: torch.dtype
) -> None:
    # The state may be too narrow for u. Then u is used, and not stored.
    loss = make_loss(kind, surrogate=name, algorithm=algorithm, scale=1.5)
    for seed in range(3):
        value, gradient = step(loss, spread(kind, gap, dtype, seed))
        assert_finite(f"gradient of step {seed}", gradient)
        assert_within_range(kind, value)
        assert not (loss.state.value == INF).any()
    assert_finite("an ordinary step after", *step(loss, make_batch(kind)))


@each_stateful_loss
@each_gap_surrogate
@pytest.mark.parametrize("size", [1e9, 1e25])
def test_a_margin_and_a_scale_of_any_size(
    kind: str, name: str, algorithm: str, size: float
) -> None:
    for options in ({"margin": size}, {"scale": size}):
        loss = make_loss(kind, surrogate=name, algorithm=algorithm, **options)
        for dtype in (torch.float32, torch.float64):
            value, gradient = step(loss, make_batch(kind, dtype=dtype))
            assert_finite(f"gradient, {options}", gradient)
            assert_within_range(kind, value)


@each_stateful_loss
def test_an_exponential_past_its_range_never_reaches_the_state(kind: str) -> None:
    loss = make_loss(kind, surrogate="exponential")
    call(loss, spread(kind, 1e4, torch.float32))  # inf by definition, and so NaN
    assert loss.state is not None
    assert not (loss.state.value == INF).any()
    assert_finite("the step after", *step(loss, make_batch(kind)))


@pytest.mark.parametrize("algorithm", ["direct", "sort"])
def test_scores_far_from_zero_keep_their_differences(algorithm: str) -> None:
    # near 30 with spread 0.05, where float32 moments that are not centred are useless
    labels = random_labels(200)
    for surrogate in ("squared", "squared_hinge", "hinge"):
        scores = (30.0 + 0.05 * randn(200)).float()
        batch = Batch(scores, labels, torch.arange(200) % NUM_SAMPLES)
        loss = make_loss("ap", surrogate=surrogate, algorithm=algorithm, margin=0.05)
        follow_reference(loss, [batch])
        auc = PairwiseAUCLoss(surrogate=surrogate, algorithm=algorithm, margin=0.05)
        follow_reference(auc, [batch])
