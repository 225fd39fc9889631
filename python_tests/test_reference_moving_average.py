"""The reference's moving average held against hand-worked numbers and log = linear."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import INF, NAN, assert_bitwise, assert_close
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xrisk_ext import reference


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
