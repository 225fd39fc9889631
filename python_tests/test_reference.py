"""The reference held against facts that do not come from it.

Hand-worked numbers, loops written from the formulas, finite differences, scikit-learn, LibAUC, and
the identities of the methods' note (translation, log = linear, weights = repetition).
"""

import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from xrisk_ext import reference

INF, NAN = math.inf, math.nan
DIFFERENTIABLE = tuple(name for name in reference.SURROGATES if name != "zero_one")
LIBAUC_SURROGATES = ("squared", "squared_hinge", "hinge", "barrier_hinge", "logistic")
# (margin, scale) that suit every surrogate and are not round numbers in binary
MARGIN, SCALE = 0.7, 1.3


def phi(name: str, d: float, m: float, s: float) -> float:
    """The table of surrogates, once more, for one difference."""
    return {
        "squared": lambda: (m + d) ** 2,
        "squared_hinge": lambda: max(m + d, 0.0) ** 2,
        "hinge": lambda: max(m + d, 0.0),
        "barrier_hinge": lambda: max(s * (d - m) + m, m + d, -s * (d + m)),
        "logistic": lambda: math.log(1.0 + math.exp(s * d)),
        "sigmoid": lambda: 1.0 / (1.0 + math.exp(-s * d)),
        "exponential": lambda: math.exp(s * d),
        "zero_one": lambda: 1.0 if d > 0 else 0.5 if d == 0 else 0.0,
    }[name]()


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_labels(*shape: int, seed: int = 0) -> Tensor:
    """About a third of ones; the first two entries are a positive and a negative."""
    generator = torch.Generator().manual_seed(seed + 1000)
    labels = (torch.rand(*shape, generator=generator) < 0.35).long()
    labels[0], labels[1] = 1, 0
    return labels


def finite_differences(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """d sum(f) / d at, by central differences."""
    gradient = torch.zeros_like(at)
    for k in range(at.numel()):
        shift = torch.zeros_like(at).view(-1)
        shift[k] = step
        shift = shift.view_as(at)
        gradient.view(-1)[k] = (f(at + shift) - f(at - shift)).sum() / (2.0 * step)
    return gradient


def assert_close(actual: Tensor, expected: Any, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    assert actual.dtype == torch.float64
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)


def assert_bitwise(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0.0, atol=0.0, equal_nan=True
    )


# ------------------------------------------------------------------------------- surrogates


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
    assert_close(reference.surrogate(name, d, MARGIN, SCALE), theirs(_hparam(name), -d))


def _hparam(name: str) -> Any:
    """LibAUC's one hyper-parameter; its barrier hinge unpacks (margin, scale)."""
    return {"logistic": SCALE, "barrier_hinge": (MARGIN, SCALE)}.get(name, MARGIN)


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


# ------------------------------------------------------------------------------ pairwise sums


@pytest.mark.parametrize("name", reference.SURROGATES)
def test_pairwise_sums_is_the_double_loop(name: str) -> None:
    anchors, items = randn(4, seed=1), randn(6, seed=2)
    items[2] = anchors[1]  # a tie
    weights = randn(3, 6, seed=3)  # of any sign
    expected = [
        [
            sum(
                w * phi(name, y - x, MARGIN, SCALE)
                for w, y in zip(row, items.tolist(), strict=True)
            )
            for x in anchors.tolist()
        ]
        for row in weights.tolist()
    ]
    options: dict[str, Any] = {"surrogate": name, "margin": MARGIN, "scale": SCALE}
    sums = reference.pairwise_sums(anchors, items, item_weights=weights, **options)
    assert_close(sums, expected)
    one = reference.pairwise_sums(anchors, items, item_weights=weights[1], **options)
    assert_close(one, expected[1])
    plain = reference.pairwise_sums(anchors, items, algorithm="direct", **options)
    ones = reference.pairwise_sums(anchors, items, item_weights=torch.ones(6), **options)
    assert_close(plain, ones)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("log", [False, True])
def test_pairwise_gradients_are_finite_differences(name: str, log: bool) -> None:
    weights = randn(7, seed=3) ** 2

    def f(anchors: Tensor, items: Tensor) -> Tensor:
        options: dict[str, Any] = {"surrogate": name, "margin": MARGIN, "scale": SCALE}
        if log:
            return reference.pairwise_log_sums(
                anchors, items, item_weights=weights, temperature=0.6, **options
            )
        both = torch.stack([weights, weights.flip(0) - 1.0])
        return reference.pairwise_sums(anchors, items, item_weights=both, **options)

    anchors = randn(5, seed=1).requires_grad_()
    items = randn(7, seed=2).requires_grad_()
    torch.autograd.gradcheck(f, (anchors, items), atol=1e-6, rtol=1e-6)
    by_anchor, by_item = torch.autograd.grad(f(anchors, items).sum(), (anchors, items))
    assert abs(float(by_anchor.sum() + by_item.sum())) < 1e-10  # translation


def test_pairwise_sums_slope_at_a_tie() -> None:
    # item - anchor = -margin exactly: squared hinge and hinge are flat, barrier hinge has slope -s
    for name, slope in [("squared_hinge", 0.0), ("hinge", 0.0), ("barrier_hinge", -2.0)]:
        anchors = torch.tensor([1.0], requires_grad=True)
        items = torch.tensor([0.5], requires_grad=True)
        out = reference.pairwise_sums(anchors, items, surrogate=name, margin=0.5, scale=2.0)
        by_anchor, by_item = torch.autograd.grad(out.sum(), (anchors, items))
        assert (float(by_anchor), float(by_item)) == (-slope, slope)


def test_pairwise_results_are_computed_in_float64() -> None:
    # both are float32 numbers, their difference 2 + 2^-23 is not, and its square still less so
    anchors, items = torch.tensor([-1.0]), torch.tensor([1.0 + 2.0**-23])
    out = reference.pairwise_sums(anchors, items, margin=0.0)
    assert_bitwise(out, [(2.0 + 2.0**-23) ** 2])
    log_sum = reference.pairwise_log_sums(anchors.bfloat16(), items.half(), temperature=4.0)
    assert_bitwise(log_sum, [2.25])  # (1 + 2)^2 / 4
    assert log_sum.dtype == torch.float64


def test_pairwise_items_of_weight_zero_are_left_out() -> None:
    anchors = randn(3).requires_grad_()
    items = torch.tensor([0.3, NAN, -0.4, INF], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0])
    for f in (reference.pairwise_sums, reference.pairwise_log_sums):
        out = f(anchors, items, item_weights=weights, surrogate="exponential")
        assert_close(
            out, f(anchors, items[::2], item_weights=weights[::2], surrogate="exponential")
        )
        by_item = torch.autograd.grad(out.sum(), items)[0]
        assert by_item[1] == 0.0
        assert by_item[3] == 0.0
        assert by_item[0] > 0.0


def test_pairwise_empty_sets() -> None:
    none, some = torch.zeros(0), randn(3)
    assert_bitwise(reference.pairwise_sums(some, none), [0.0] * 3)
    assert_bitwise(reference.pairwise_sums(some, none, item_weights=none[None]), [[0.0] * 3])
    assert reference.pairwise_sums(some, some, item_weights=torch.ones(0, 3)).shape == (0, 3)
    for f in (reference.pairwise_sums, reference.pairwise_log_sums):
        assert f(none, some).shape == (0,)
        assert f(none, none).shape == (0,)
    anchors = randn(3).requires_grad_()
    for items, weights in [(none, none), (some, torch.zeros(3))]:
        out = reference.pairwise_log_sums(anchors, items, item_weights=weights)
        assert_bitwise(out.detach(), [-INF] * 3)
        assert_bitwise(torch.autograd.grad(out.sum(), anchors)[0], [0.0] * 3)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sampled_from(reference.SURROGATES))
@settings(max_examples=25, deadline=None)
def test_pairwise_integer_weights_are_repetition(counts: list[int], name: str) -> None:
    anchors, items, times = randn(3, seed=1), randn(4, seed=2), torch.tensor(counts)
    for f in (reference.pairwise_sums, reference.pairwise_log_sums):
        weighted = f(anchors, items, item_weights=times, surrogate=name)
        assert_close(weighted, f(anchors, items.repeat_interleave(times), surrogate=name))


@pytest.mark.parametrize("name", reference.SURROGATES)
def test_pairwise_log_sums_is_the_log_of_the_sum(name: str) -> None:
    anchors, items, weights = randn(4, seed=1), randn(6, seed=2), randn(6, seed=3) ** 2
    expected = [
        math.log(
            sum(
                w * math.exp(phi(name, y - x, MARGIN, SCALE) / 0.4)
                for w, y in zip(weights.tolist(), items.tolist(), strict=True)
            )
        )
        for x in anchors.tolist()
    ]
    options: dict[str, Any] = {"surrogate": name, "margin": MARGIN, "scale": SCALE}
    out = reference.pairwise_log_sums(
        anchors,
        items,
        item_weights=weights,
        temperature=torch.tensor(0.4, dtype=torch.float64),
        **options,
    )
    assert_close(out, expected)


def test_pairwise_log_sums_does_not_overflow() -> None:
    # hinge beyond its kink is linear: log(e^n + 3 e^(n - 1)) = n + log(1 + 3 / e), n = 1e6 2^10
    anchors, step = torch.zeros(1, dtype=torch.float64, requires_grad=True), 2.0**-10
    items = torch.tensor([1e6 - 1.0, 1e6 - 1.0 - step], dtype=torch.float64)
    out = reference.pairwise_log_sums(
        anchors, items, item_weights=torch.tensor([1.0, 3.0]), surrogate="hinge", temperature=step
    )
    assert_close(out.detach(), [1e6 / step + math.log(1.0 + 3.0 / math.e)], rtol=1e-15)
    assert_close(torch.autograd.grad(out.sum(), anchors)[0], [-1.0 / step])
    # exp(exp(1000)) is beyond any shift: inf, and not NaN
    out = reference.pairwise_log_sums(anchors.detach(), items[:1], surrogate="exponential")
    assert_bitwise(out, [INF])


def test_pairwise_refuses_bad_input() -> None:
    x, y = randn(3), randn(4)
    sums, log_sums = reference.pairwise_sums, reference.pairwise_log_sums
    refusals: list[tuple[str, Callable[[], Tensor]]] = [
        ("anchors", lambda: sums(x[:, None], y)),
        ("items", lambda: sums(x, y[:, None])),
        ("item_weights", lambda: sums(x, y, item_weights=x)),
        ("item_weights", lambda: log_sums(x, y, item_weights=torch.ones(2, 4))),
        ("item_weights", lambda: log_sums(x, y, item_weights=-torch.ones(4))),
        ("temperature", lambda: log_sums(x, y, temperature=0.0)),
        ("margin", lambda: sums(x[:0], y, margin=-1.0)),
        ("scale", lambda: log_sums(x, y[:0], scale=0.0)),
    ]
    for argument, call in refusals:
        with pytest.raises(ValueError, match=argument):
            call()


# ----------------------------------------------------------------------------- moving average


def test_moving_average_by_hand() -> None:
    state = torch.tensor([NAN, 2.0, 4.0, NAN])
    index = torch.tensor([2, 0, 1])
    stored = reference.moving_average_update_(state, index, torch.tensor([8.0, 5.0, 3.0]), 0.25)
    assert_bitwise(stored, [5.0, 5.0, 2.25])  # 0.75 * 4 + 0.25 * 8; assigned; 0.75 * 2 + 0.25 * 3
    assert stored.dtype == torch.float64
    assert_bitwise(state, [5.0, 2.25, 5.0, NAN])


def test_moving_average_zero_is_not_untouched() -> None:
    state = torch.zeros(1)
    stored = reference.moving_average_update_(state, torch.tensor([0]), torch.ones(1), 0.25)
    assert_bitwise(stored, [0.25])


def test_moving_average_works_on_elements_of_rows() -> None:
    state = torch.tensor([[1.0, NAN], [NAN, 3.0]], dtype=torch.float64)
    values = torch.tensor([[3.0, NAN], [7.0, INF]])
    stored = reference.moving_average_update_(state, torch.tensor([0, 1]), values, 0.5)
    assert_bitwise(stored, [[2.0, NAN], [7.0, INF]])
    assert_bitwise(state, [[2.0, NAN], [7.0, 3.0]])


def test_moving_average_gamma_may_be_per_entry() -> None:
    index, values = torch.tensor([0, 1]), torch.tensor([[8.0, 0.0], [8.0, 0.0]])
    state = torch.full((2, 2), 4.0)
    gamma = torch.tensor([0.25, 0.75])
    stored = reference.moving_average_update_(state, index, values, gamma)
    assert_bitwise(stored, [[5.0, 3.0], [7.0, 1.0]])
    state = torch.full((2,), 4.0)
    reference.moving_average_update_(state, index, values[:, 0], gamma)
    assert_bitwise(state, [5.0, 7.0])
    reference.moving_average_update_(state, index, values[:, 0], torch.tensor(1.0))
    assert_bitwise(state, [8.0, 8.0])


def test_moving_average_duplicates_read_the_old_state_and_share_the_mean() -> None:
    state = torch.tensor([4.0, NAN])
    index = torch.tensor([0, 1, 0, 1, 0], dtype=torch.int32)
    values = torch.tensor([8.0, 1.0, 0.0, 5.0, 16.0], dtype=torch.float64)
    gamma = torch.tensor([0.5, 0.5, 0.25, 0.5, 1.0])
    stored = reference.moving_average_update_(state, index, values, gamma)
    # row 0: mean of 6, 3, 16; row 1 (untouched): mean of 1, 5
    assert_close(stored, [25 / 3, 3.0, 25 / 3, 3.0, 25 / 3], rtol=1e-7)
    assert_bitwise(stored, state[index.long()].double())
    log_state = torch.tensor([math.log(4.0), -INF], dtype=torch.float64)
    log_stored = reference.moving_average_update_(log_state, index, values.log(), gamma, log=True)
    assert_close(log_stored.exp(), [25 / 3, 3.0, 25 / 3, 3.0, 25 / 3])
    assert_bitwise(log_stored, log_state[index.long()])


def test_moving_average_returns_what_fits_the_state() -> None:
    state = torch.tensor([NAN, NAN])
    values = torch.tensor([0.1, 1e300], dtype=torch.float64)
    stored = reference.moving_average_update_(state, torch.tensor([0, 1]), values, 0.5)
    assert_bitwise(stored, [float(torch.tensor(0.1)), INF])  # 1e300 is no float32: not written
    assert_bitwise(state, [0.1, NAN])
    assert state.dtype == torch.float32


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_moving_average_never_writes_a_non_finite_observation(bad: float, gamma: float) -> None:
    for log in (False, True):
        if log and bad == -INF:
            continue  # a legal zero
        untouched = -INF if log else NAN
        state = torch.tensor([1.0, untouched, 2.0, 3.0], dtype=torch.float64)
        index = torch.tensor([0, 1, 2, 2, 3])
        values = torch.tensor([bad, bad, bad, 1.0, 3.0], dtype=torch.float64)
        stored = reference.moving_average_update_(state, index, values, gamma, log=log)
        assert_close(state, [1.0, untouched, 2.0, 3.0])
        assert not stored[:4].isfinite().any()
        assert_close(stored[4:], [3.0])


def test_moving_average_log_zero_and_the_ends_of_gamma() -> None:
    index = torch.arange(4)
    old = torch.tensor([-INF, -INF, 2.0, 2.0], dtype=torch.float64)
    values = torch.tensor([-INF, 5.0, -INF, 5.0], dtype=torch.float64)
    for gamma, expected in [
        (0.0, [-INF, 5.0, 2.0, 2.0]),
        (0.5, [-INF, 5.0, 2.0 - math.log(2.0), math.log((math.exp(2) + math.exp(5)) / 2)]),
        (1.0, [-INF, 5.0, -INF, 5.0]),
    ]:
        state = old.clone()
        stored = reference.moving_average_update_(state, index, values, gamma, log=True)
        assert_close(stored, expected)
        assert_bitwise(state, stored)


def test_moving_average_log_does_not_overflow() -> None:
    state = torch.tensor([1e5, 1e5], dtype=torch.float64)
    values = torch.tensor([1e5, -1e5], dtype=torch.float64)
    index = torch.tensor([0, 1])
    reference.moving_average_update_(state, index, values, 0.5, log=True)
    assert_close(state, [1e5, 1e5 - math.log(2.0)], rtol=1e-15)


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_moving_average_log_is_the_linear_one_in_logs(seed: int, gamma: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    linear = torch.full((4, 2), NAN, dtype=torch.float64)
    logs = torch.full((4, 2), -INF, dtype=torch.float64)
    for _ in range(3):
        index = torch.randint(4, (5,), generator=generator)
        values = torch.rand(5, 2, generator=generator, dtype=torch.float64) + 0.01
        stored = reference.moving_average_update_(linear, index, values, gamma)
        stored_logs = reference.moving_average_update_(logs, index, values.log(), gamma, log=True)
        assert_close(stored_logs.exp(), stored)
        assert_close(logs.exp(), linear.nan_to_num(0.0))


def test_moving_average_refuses_bad_input_before_writing() -> None:
    state, index, values = torch.zeros(3), torch.tensor([0, 1]), torch.ones(2)
    update = reference.moving_average_update_
    refusals: list[tuple[type[Exception], str, Callable[[], Tensor]]] = [
        (IndexError, "index", lambda: update(state, torch.tensor([0, 3]), values, 0.5)),
        (IndexError, "index", lambda: update(state, torch.tensor([0, -1]), values, 0.5)),
        (ValueError, "gamma", lambda: update(state, index, values, 1.5)),
        (ValueError, "gamma", lambda: update(state, index, values, NAN)),
        (ValueError, "gamma", lambda: update(state, index, values, torch.tensor([0.5, -0.1]))),
        (ValueError, "gamma", lambda: update(state, index, values, torch.full((3,), 0.5))),
        (ValueError, "values", lambda: update(state, index, torch.ones(3), 0.5)),
        (ValueError, "values", lambda: update(state, index, torch.ones(2, 1), 0.5)),
        (ValueError, "state", lambda: update(state.long(), index, values, 0.5)),
        (ValueError, "index", lambda: update(state, index[:, None], values, 0.5)),
        (TypeError, "index", lambda: update(state, index.float(), values, 0.5)),
    ]
    for error, argument, call in refusals:
        with pytest.raises(error, match=argument):
            call()
        assert_bitwise(state, [0.0] * 3)
    assert update(state, index[:0], values[:0], 0.5).shape == (0,)


# --------------------------------------------------------------------------- average precision


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
@settings(max_examples=25, deadline=None)
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
    # margin 0 and the positive on top: every phi is 0, so u = 0 and 0 / 1e-30 = 0, not NaN
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


# ------------------------------------------------------------------------------- pairwise AUC


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
@settings(max_examples=25, deadline=None)
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


# -------------------------------------------------------------------------------------- LibAUC


def _steps(num_samples: int, batch: int, shape: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """Four batches without an id twice in a batch, but with ids that come back."""
    labels = random_labels(num_samples, *shape, seed=11)
    labels[: num_samples // 3] = 1  # LibAUC fails on a batch without a positive
    steps: list[tuple[Tensor, ...]] = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        index = torch.randperm(num_samples, generator=generator)[:batch]
        steps.append((randn(batch, *shape, seed=20 + step), labels[index], index))
    return steps


@pytest.mark.parametrize("name", LIBAUC_SURROGATES)
def test_average_precision_has_libauc_gradients(name: str) -> None:
    libauc = importlib.import_module("libauc.losses.auc")
    theirs = libauc.APLoss(20, gamma=0.3, margin=_hparam(name), surr_loss=name, device="cpu")
    theirs.u_all, theirs.u_pos = theirs.u_all.double(), theirs.u_pos.double()
    state = torch.zeros(20, 2, dtype=torch.float64)
    for scores, labels, index in _steps(20, 12, ()):
        leaf = scores.clone().requires_grad_()
        theirs(leaf, labels, index).backward()
        _, gradient = reference.average_precision(
            scores, labels, index, state, 0.3, surrogate=name, margin=MARGIN, scale=SCALE
        )
        assert leaf.grad is not None
        assert_close(gradient, leaf.grad, rtol=1e-10)
        assert_close(state, torch.cat([theirs.u_all, theirs.u_pos], dim=1))
    assert (state > 0).any()


def test_mean_average_precision_has_libauc_gradients() -> None:
    libauc = importlib.import_module("libauc.losses.auc")
    theirs = libauc.mAPLoss(20, num_labels=3, gamma=0.3, margin=MARGIN, device="cpu")
    theirs.u_all, theirs.u_pos = theirs.u_all.double(), theirs.u_pos.double()
    state = torch.zeros(3, 20, 2, dtype=torch.float64)
    for scores, labels, index in _steps(20, 12, (3,)):
        leaf = scores.clone().requires_grad_()
        theirs(leaf, labels, index).backward()
        _, gradient = reference.average_precision(scores, labels, index, state, 0.3, margin=MARGIN)
        assert leaf.grad is not None
        assert_close(gradient / 3.0, leaf.grad, rtol=1e-10)
        assert_close(state, torch.cat([theirs.u_all, theirs.u_pos], dim=2))


@pytest.mark.parametrize("name", LIBAUC_SURROGATES)
def test_pairwise_auc_is_libauc(name: str) -> None:
    libauc = importlib.import_module("libauc.losses.auc")
    theirs = libauc.PairwiseAUCLoss(surr_loss=name, hparam=_hparam(name))
    scores, labels = randn(15, seed=8), random_labels(15, seed=8)
    leaf = scores.clone().requires_grad_()
    loss = theirs(leaf, labels)
    loss.backward()
    value, gradient = reference.pairwise_auc(
        scores, labels, surrogate=name, margin=MARGIN, scale=SCALE
    )
    assert leaf.grad is not None
    assert_close(value, loss.detach())
    assert_close(gradient, leaf.grad)
