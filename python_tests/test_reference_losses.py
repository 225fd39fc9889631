"""The reference's losses held against formulas, finite differences and scikit-learn."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    DIFFERENTIABLE,
    INF,
    MARGIN,
    NAN,
    SCALE,
    assert_bitwise,
    assert_close,
    finite_differences,
    phi,
    randn,
    random_labels,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from xrisk_ext import reference

# -------------------------------------------------------------------------------- average precision


def ap_objective(scores: list[float], labels: list[int], weights: list[float], name: str) -> float:
    """-AP of the batch at gamma = 1, from its formula, entry by entry."""
    entries = list(zip(scores, labels, weights, strict=True))
    total, mass = 0.0, 0.0
    for h_i, y_i, w_i in entries:
        if y_i:
            terms = [(w_j * phi(name, h_j - h_i, MARGIN, SCALE), y_j) for h_j, y_j, w_j in entries]
            total -= w_i * sum(t for t, y in terms if y) / sum(t for t, _ in terms)
            mass += w_i
    return total / mass


def test_average_precision_by_hand() -> None:
    # one positive at 1, one negative at 0.5: phi = 1 and 0.25, F = -1 / (1 + (1 + d)^2), d = -0.5
    scores, labels = torch.tensor([1.0, 0.5]), torch.tensor([1, 0])
    value, gradient = reference.average_precision(scores, labels)
    assert_close(value, -0.8)
    assert_close(gradient, [-0.64, 0.64])
    # u = (0.5, 0.25) blends with g = (0.625, 0.5) to (0.5625, 0.375): p = 0.375 / 0.5625^2 / 2
    state = torch.tensor([[NAN, NAN], [0.5, 0.25]])
    index = torch.tensor([1, -1])
    value, gradient = reference.average_precision(scores, labels, index, state, 0.5)
    assert_close(value, -2.0 / 3.0)
    assert_close(gradient, [-16.0 / 27.0, 16.0 / 27.0])
    assert_bitwise(state, [[NAN, NAN], [0.5625, 0.375]])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_average_precision_is_its_objective_at_gamma_one(name: str) -> None:
    scores, labels, weights = randn(9, seed=4), random_labels(9, seed=4), randn(9, seed=5) ** 2
    value, gradient = reference.average_precision(
        scores, labels, item_weights=weights, surrogate=name, margin=MARGIN, scale=SCALE
    )

    def objective(h: Tensor) -> Tensor:
        loops = ap_objective(h.tolist(), labels.tolist(), weights.tolist(), name)
        return torch.tensor(loops, dtype=torch.float64)

    assert_close(value, objective(scores))
    assert_close(gradient, finite_differences(objective, scores), rtol=1e-6, atol=1e-8)
    assert abs(float(gradient.sum())) < 1e-13


def test_average_precision_zero_one_has_no_gradient() -> None:
    scores, labels = torch.tensor([3.0, 2.0, 1.0, 2.0]), torch.tensor([0, 1, 0, 1])
    value, gradient = reference.average_precision(scores, labels, surrogate="zero_one")
    # each positive meets: one above, itself and the other at a tie, one below: 1 / 2
    assert_close(value, -0.5)
    assert_bitwise(gradient, [0.0] * 4)


def test_average_precision_first_touch_assigns() -> None:
    scores, labels, index = randn(8), random_labels(8), torch.arange(8)
    state = torch.full((8, 2), NAN, dtype=torch.float64)
    first = reference.average_precision(scores, labels, index, state, 0.3)
    without = reference.average_precision(scores, labels)
    assert_close(first[0], without[0])
    assert_close(first[1], without[1])
    assert torch.equal(state.isnan().any(dim=1), labels == 0)


def test_average_precision_is_translation_invariant() -> None:
    states = [torch.full((6, 2), NAN, dtype=torch.float64) for _ in range(2)]
    for step in range(3):
        scores, labels = randn(12, seed=step), random_labels(12, seed=step)
        index = (torch.arange(12) * (step + 1)) % 6  # with duplicates
        a = reference.average_precision(scores, labels, index, states[0], 0.4)
        b = reference.average_precision(scores + 3.25, labels, index, states[1], 0.4)
        assert_close(a[0], b[0], rtol=1e-10)
        assert_close(a[1], b[1], rtol=1e-10)
        assert_close(states[0], states[1], rtol=1e-10)
        assert abs(float(a[1].sum())) < 1e-13


@given(st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_average_precision_integer_weights_are_repetition(counts: list[int]) -> None:
    scores, labels, index = randn(7), random_labels(7), torch.arange(7)
    times = torch.tensor(counts)
    state = randn(7, 2, seed=9) ** 2 + 0.1
    other = state.clone()
    value, gradient = reference.average_precision(
        scores, labels, index, state, 0.3, item_weights=times
    )
    copies = index.repeat_interleave(times)
    value_of_copies, gradient_of_copies = reference.average_precision(
        scores[copies], labels[copies], copies, other, 0.3
    )
    summed = torch.zeros(7, dtype=torch.float64).index_add_(0, copies, gradient_of_copies)
    assert_close(value, value_of_copies)
    assert_close(gradient, summed)
    assert_close(state, other)


def test_average_precision_weight_zero_removes_an_entry() -> None:
    scores = torch.tensor([0.5, NAN, 0.2, INF, 0.1], dtype=torch.float64)
    labels, index = torch.tensor([1, 1, 0, 0, 1]), torch.tensor([0, -1, -1, 7, 1])
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5])
    state = torch.tensor([[0.4, 0.2], [0.6, 0.1]])
    other, kept = state.clone(), weights > 0
    value, gradient = reference.average_precision(
        scores, labels, index, state, 0.5, item_weights=weights
    )
    rest, rest_gradient = reference.average_precision(
        scores[kept], labels[kept], index[kept], other, 0.5, item_weights=weights[kept]
    )
    assert_close(value, rest)
    assert_close(gradient[kept], rest_gradient)
    assert_bitwise(gradient[~kept], [0.0, 0.0])
    assert_bitwise(state, other)


@pytest.mark.parametrize("weights_per_label", [False, True])
def test_average_precision_labels_are_columns(weights_per_label: bool) -> None:
    scores, labels = randn(8, 3), random_labels(8, 3)
    labels[:, 1] = 0  # a label without positives among the others
    index, state = torch.arange(8), randn(3, 8, 2, seed=9) ** 2
    weights = (randn(8, 3, seed=7) if weights_per_label else randn(8, seed=7)) ** 2
    expected_state = state.clone()
    value, gradient = reference.average_precision(
        scores, labels, index, state, 0.6, item_weights=weights
    )
    assert value.shape == (3,)
    for label in range(3):
        one_value, one_gradient = reference.average_precision(
            scores[:, label],
            labels[:, label],
            index,
            expected_state[label],
            0.6,
            item_weights=weights[:, label] if weights_per_label else weights,
        )
        assert one_value.shape == ()
        assert_bitwise(value[label], one_value)
        assert_bitwise(gradient[:, label], one_gradient)
    assert_bitwise(state, expected_state)
    assert_bitwise(value[1], 0.0)


def test_average_precision_duplicates_share_the_mean_blend() -> None:
    # two positives of one id see g_all = (1 + 0.25) / 2 and (2.25 + 1) / 2, g_pos the same
    scores, labels, index = torch.tensor([1.0, 0.5]), torch.tensor([1, 1]), torch.tensor([0, 0])
    state = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    value, _ = reference.average_precision(scores, labels, index, state, 0.5)
    mean = (0.625 + 1.625) / 2
    assert_bitwise(state, [[(3.0 + mean) / 2, (1.0 + mean) / 2]])
    assert_close(value, -(1.0 + mean) / (3.0 + mean))


def test_average_precision_without_positives() -> None:
    state = randn(4, 2)
    before = state.clone()
    scores, index = torch.tensor([1.0, NAN, 2.0]), torch.tensor([-1, 9, 0])
    for labels, weights in [([0, 0, 0], [1.0, 1.0, 1.0]), ([0, 0, 1], [1.0, 1.0, 0.0])]:
        value, gradient = reference.average_precision(
            scores, torch.tensor(labels), index, state, 0.5, item_weights=torch.tensor(weights)
        )
        assert_bitwise(value, 0.0)
        assert_bitwise(gradient, [0.0] * 3)
        assert_bitwise(state, before)
    value, gradient = reference.average_precision(torch.zeros(0), torch.zeros(0))
    assert (float(value), gradient.shape) == (0.0, (0,))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_average_precision_non_finite_score_poisons_its_label_only(bad: float) -> None:
    scores, labels = randn(5, 2), torch.tensor([[1, 1], [0, 0], [0, 1], [1, 0], [0, 0]])
    scores[2, 0] = bad
    state = torch.full((2, 5, 2), 0.5, dtype=torch.float64)
    value, gradient = reference.average_precision(scores, labels, torch.arange(5), state, 0.5)
    assert_bitwise(value.isnan(), [True, False])
    assert gradient[:, 0].isnan().all()
    assert gradient[:, 1].isfinite().all()
    assert (state[0] == 0.5).all()
    assert (state[1] != 0.5).any()


def test_average_precision_floors_u_all() -> None:
    # margin 0 and the positive on top: every phi is 0, and 0 / 0 must not be NaN
    value, gradient = reference.average_precision(
        torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), margin=0.0
    )
    assert_bitwise(value, 0.0)
    assert_bitwise(gradient, [0.0, 0.0])


def test_average_precision_refuses_bad_input_before_writing() -> None:
    scores, labels, index = randn(4, 2), torch.ones(4, 2), torch.arange(4)
    labels[3, 0] = 0
    state = torch.full((2, 3, 2), 0.5)  # id 3 is outside, and a positive of the second label only
    f = reference.average_precision
    big, one = torch.zeros(2, 4, 2), scores[:, 0]
    refusals: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (IndexError, "index", lambda: f(scores, labels, index, state, 0.5)),
        (ValueError, "index", lambda: f(scores, labels, None, big, 0.5)),
        (ValueError, "index", lambda: f(scores, labels, index[:3], big, 0.5)),
        (ValueError, "state", lambda: f(scores, labels, index, big[:1], 0.5)),
        (ValueError, "state", lambda: f(one, labels[:, 0], index, big, 0.5)),
        (ValueError, "gamma", lambda: f(scores, labels, index, big, 2.0)),
        (ValueError, "labels", lambda: f(scores, labels[:, 0])),
        (ValueError, "scores", lambda: f(scores[0, 0], labels[0, 0])),
        (ValueError, "item_weights", lambda: f(scores, labels, item_weights=torch.ones(3))),
        (ValueError, "item_weights", lambda: f(scores, labels, item_weights=-torch.ones(4))),
        (ValueError, "surrogate", lambda: f(one, torch.zeros(4), surrogate="nothing")),
    ]
    for error, argument, call in refusals:
        with pytest.raises(error, match=argument):
            call()
        assert bool((state == 0.5).all())
        assert bool((big == 0.0).all())


# ------------------------------------------------------------------------------------- pairwise AUC


def test_pairwise_auc_by_hand() -> None:
    # positives 1 and 0, negative 0.5, m = 1: phi = 0.5^2 and 1.5^2, slopes 1 and 3, halves of each
    scores, labels = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1, 0, 1])
    value, gradient = reference.pairwise_auc(scores, labels)
    assert_close(value, 1.25)
    assert_close(gradient, [-0.5, 2.0, -1.5])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_pairwise_auc_gradient_is_finite_differences(name: str) -> None:
    scores, labels, weights = randn(9, seed=4), random_labels(9, seed=4), randn(9, seed=5) ** 2

    def f(h: Tensor) -> tuple[Tensor, Tensor]:
        return reference.pairwise_auc(
            h, labels, item_weights=weights, surrogate=name, margin=MARGIN, scale=SCALE
        )

    gradient = f(scores)[1]
    numeric = finite_differences(lambda h: f(h)[0], scores)
    assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)
    assert abs(float(gradient.sum())) < 1e-13


def test_pairwise_auc_zero_one_is_one_minus_auroc() -> None:
    scores = randn(60).mul(3.0).round()  # many ties
    labels, weights = random_labels(60), randn(60, seed=3) ** 2
    for w in (None, weights):
        value, gradient = reference.pairwise_auc(
            scores, labels, item_weights=w, surrogate="zero_one"
        )
        auroc = roc_auc_score(labels, scores, sample_weight=w)
        assert_close(value, 1.0 - auroc, rtol=1e-10)
        assert_bitwise(gradient, [0.0] * 60)


def test_pairwise_auc_squared_is_the_variance_identity() -> None:
    scores, labels = randn(20, seed=6), random_labels(20, seed=6)
    up, down = scores[labels == 1], scores[labels == 0]
    expected = (
        up.var(correction=0) + down.var(correction=0) + (MARGIN + down.mean() - up.mean()) ** 2
    )
    value, _ = reference.pairwise_auc(scores, labels, surrogate="squared", margin=MARGIN)
    assert_close(value, expected)


@given(st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_pairwise_auc_integer_weights_are_repetition(counts: list[int]) -> None:
    scores, labels, times = randn(7), random_labels(7), torch.tensor(counts)
    value, gradient = reference.pairwise_auc(scores, labels, item_weights=times)
    copies = torch.arange(7).repeat_interleave(times)
    value_of_copies, gradient_of_copies = reference.pairwise_auc(scores[copies], labels[copies])
    assert_close(value, value_of_copies)
    summed = torch.zeros(7, dtype=torch.float64).index_add_(0, copies, gradient_of_copies)
    assert_close(gradient, summed)


def test_pairwise_auc_degenerate_batches() -> None:
    for labels, weights in itertools.product(
        (torch.ones(3), torch.zeros(3), torch.tensor([1.0, 1.0, 0.0])),
        (torch.tensor([1.0, 1.0, 0.0]), torch.zeros(3)),
    ):
        value, gradient = reference.pairwise_auc(
            torch.tensor([1.0, NAN, 2.0]), labels, item_weights=weights
        )
        assert_bitwise(value, 0.0)
        assert_bitwise(gradient, [0.0] * 3)
    assert float(reference.pairwise_auc(torch.zeros(0), torch.zeros(0))[0]) == 0.0


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_pairwise_auc_non_finite_score_poisons_its_label_only(bad: float) -> None:
    scores, labels = randn(5, 2), torch.tensor([[1, 1], [0, 0], [0, 1], [1, 0], [0, 0]])
    clean = reference.pairwise_auc(scores[:, 1], labels[:, 1])
    scores[3, 0] = bad
    value, gradient = reference.pairwise_auc(scores, labels)
    assert value[0].isnan()
    assert gradient[:, 0].isnan().all()
    assert_bitwise(value[1], clean[0])
    assert_bitwise(gradient[:, 1], clean[1])
    weights = torch.ones(5, 2)
    weights[3, 0] = 0.0  # without the entry the label is sound again
    value, gradient = reference.pairwise_auc(scores, labels, item_weights=weights)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[3, 0] == 0.0


def test_average_precision_of_averages_whose_squares_leave_the_range() -> None:
    # one id: both anchors share u_all = 6e165, and the far one still pulls at every item
    scores = torch.tensor([-1.0, 0.5, 1.0, -1e83], dtype=torch.float64)
    state = torch.full((1, 2), float("nan"), dtype=torch.float64)
    _, gradient = reference.average_precision(
        scores, torch.tensor([0, 0, 1, 1]), torch.zeros(4).long(), state, surrogate="squared"
    )
    assert gradient.isfinite().all()
    assert gradient[0] > 0.0
