"""moving_average_update_ against the float64 reference, and what it promises about the state."""

import math
from typing import Any

import pytest
import torch
from helpers import DTYPES, INF, NAN, assert_bitwise, each_simd, randn
from torch import Tensor

from xrisk_ext import ops, reference

update_ = ops.moving_average_update_
each_log = pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
each_state_dtype = pytest.mark.parametrize(
    "state_dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


def untouched(*shape: int, log: bool, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full(shape, -INF if log else NAN, dtype=dtype)


def randint(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of the state's dtype; nan, inf and -inf must be the same."""
    single = actual.dtype == torch.float32
    rtol, atol = (2.5e-7, 1e-7) if single else (1e-13, 1e-13)
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True
    )


def check(state: Tensor, index: Tensor, values: Tensor, gamma: float | Tensor, log: bool) -> None:
    """Updates `state` and holds it to the reference: values, what is returned, what is left."""
    expected_state = state.clone()
    expected = reference.moving_average_update_(expected_state, index, values, gamma, log=log)
    inputs = index.clone(), values.clone()
    stored = update_(state, index, values, gamma, log=log)
    assert stored.dtype == state.dtype
    assert stored.shape == values.shape
    assert_near(stored, expected)
    assert_near(state, expected_state)
    kept = state[index.long()]
    same = (stored == kept) | ~stored.isfinite()
    assert bool(same.all()), "what is returned is not what is stored"
    left_out = torch.ones(state.shape[0], dtype=torch.bool)
    left_out[index.long()] = False
    assert_bitwise(state[left_out], expected_state[left_out])
    assert torch.equal(inputs[0], index)
    assert_bitwise(values, inputs[1])


@each_simd
@each_log
@each_state_dtype
@pytest.mark.parametrize("columns", [None, 2])
def test_every_dtype_and_gamma(
    columns: int | None, state_dtype: torch.dtype, log: bool, simd: str
) -> None:
    tail = [] if columns is None else [columns]
    per_entry = torch.linspace(0.0, 1.0, 24)
    for dtype in DTYPES:
        for gamma in (0.3, 1, 0.0, torch.tensor(0.3), torch.tensor(0.7).double(), per_entry):
            state = untouched(12, *tail, log=log, dtype=state_dtype)
            for step in range(2):  # first touch, then blends; ids twice, and ids that come back
                index = randint(12, 24, seed=step).to([torch.int64, torch.int32][step])
                values = randn(24, *tail, seed=step).mul(3.0).to(dtype)
                check(state, index, values, gamma, log=log)


@each_simd
@each_log
@each_state_dtype
def test_sizes(state_dtype: torch.dtype, log: bool, simd: str) -> None:
    for size in (0, 1, 2, 63, 64, 65, 127, 129):  # around the blocks
        for columns in ([], [2]):
            state = randn(200, *columns, seed=1).to(state_dtype)
            state[::5] = -INF if log else NAN
            index = torch.randperm(200, generator=torch.Generator().manual_seed(size))[:size]
            check(state, index, randn(size, *columns, seed=2), 0.25, log=log)
            half = size // 2
            check(state, index[:half].repeat(2), randn(2 * half, *columns), 0.25, log=log)


@each_log
@each_state_dtype
@pytest.mark.parametrize(
    ("size", "rows"), [(16_385, 20_000), (65_537, 1 << 22), (100_000, 3000), (1_000_000, 700_000)]
)
def test_large_batches_on_a_sample(
    size: int, rows: int, state_dtype: torch.dtype, log: bool
) -> None:
    before = randn(rows, seed=1).to(state_dtype)
    before[::5] = -INF if log else NAN
    state = before.clone()
    index, values = randint(rows, size, seed=2), randn(size, seed=3).float()
    gamma = torch.rand(size, generator=torch.Generator().manual_seed(4))
    stored = update_(state, index, values, gamma, log=log)
    assert torch.equal(stored, state[index])
    written = torch.zeros(rows, dtype=torch.bool)
    written[index] = True
    assert_bitwise(state[~written], before[~written])
    # the reference sees 60 of the rows, by new ids, with all of their entries
    sample = torch.tensor(sorted(set(index[:: size // 60].tolist())))
    chosen = torch.isin(index, sample)
    ids = torch.searchsorted(sample, index[chosen])
    small = before[sample]
    expected = reference.moving_average_update_(small, ids, values[chosen], gamma[chosen], log=log)
    assert_near(state[sample], small)
    assert_near(stored[chosen], expected)


@each_log
def test_threads_change_no_bit(log: bool, restore_threads: None) -> None:
    for rows in (150_000, 1 << 22, 37):
        index, values = randint(rows, 120_000, seed=1), randn(120_000, 2, seed=2)
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            state = untouched(rows, 2, log=log, dtype=torch.float32)
            steps = [update_(state, index, values * (s + 1), 0.3, log=log) for s in range(2)]
            results.append((state, *steps))
        for one, two in zip(*results, strict=True):
            assert_bitwise(one, two)


@each_log
@each_state_dtype
def test_order_of_the_entries_does_not_matter(log: bool, state_dtype: torch.dtype) -> None:
    gamma = torch.linspace(0.0, 1.0, 300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    for index in (torch.arange(300), randint(50, 300, seed=1)):
        states = [randn(300, seed=2).to(state_dtype) for _ in range(2)]
        values = randn(300, seed=4)
        stored = update_(states[0], index, values, gamma, log=log)
        shuffled = update_(states[1], index[order], values[order], gamma[order], log=log)
        assert_near(states[0], states[1])
        assert_near(stored[order], shuffled)


def test_duplicates_by_hand() -> None:
    state = torch.tensor([4.0, NAN, 9.0, 0.0])
    index = torch.tensor([0, 1, 0, 1, 0, 3])
    values = torch.tensor([8.0, 1.0, 0.0, 5.0, 16.0, 4.0])
    gamma = torch.tensor([0.5, 0.5, 0.25, 0.5, 1.0, 0.25])
    stored = update_(state, index, values, gamma)
    # row 0: mean of 6, 3 and 16, each from the old 4; row 1 (first touch): mean of 1 and 5; a zero
    # is a value like others
    assert_bitwise(state, [25.0 / 3.0, 3.0, 9.0, 1.0])
    assert_bitwise(stored, [25.0 / 3.0, 3.0, 25.0 / 3.0, 3.0, 25.0 / 3.0, 1.0])


@each_log
def test_gamma_zero_and_one(log: bool) -> None:
    sentinel = -INF if log else NAN
    state = torch.tensor([sentinel, 2.0, 2.0, sentinel])
    index, values = torch.tensor([0, 1]), torch.tensor([5.0, 7.0])
    update_(state, index, values, 0.0, log=log)
    assert_bitwise(state, [5.0, 2.0, 2.0, sentinel])  # the first touch assigns all the same
    update_(state, index, values + 1.0, 1.0, log=log)
    assert_bitwise(state, [6.0, 8.0, 2.0, sentinel])


@each_simd
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("bad", "log"),  # but not -inf in logs: the log of zero, see the test below
    [(NAN, False), (INF, False), (-INF, False), (NAN, True), (INF, True)],
)
def test_non_finite_observations_are_never_written(
    bad: float, gamma: float, log: bool, simd: str
) -> None:
    for state_dtype in (torch.float32, torch.float64):
        state = randn(100, seed=1).to(state_dtype)
        state[3] = -INF if log else NAN
        before = state.clone()
        index = torch.cat([torch.arange(70), torch.tensor([5, 6, 6, 3])])
        values = randn(74, seed=2)
        values[[2, 3, 5, 72]] = bad  # alone, first touch, beside a duplicate, twice with the next
        values[71] = bad
        check(state, index, values, gamma, log=log)
        assert_bitwise(state[[2, 3, 5, 6]], before[[2, 3, 5, 6]])
        assert bool(state[[0, 1, 4]].isfinite().all())


def test_the_log_of_zero_is_stored() -> None:
    state = torch.tensor([1.0, -INF, 1.0])
    check(
        state,
        torch.tensor([0, 1, 2]),
        torch.full((3,), -INF),
        torch.tensor([1.0, 0.5, 0.5]),
        log=True,
    )
    assert_bitwise(state, [-INF, -INF, 1.0 + math.log(0.5)])


@each_log
def test_what_does_not_fit_the_state_is_not_written(log: bool) -> None:
    state = torch.tensor([1.0, 1.0, 1.0])
    values = torch.tensor([1e300, 3e38, 2.0], dtype=torch.float64)
    stored = update_(state, torch.arange(3), values, 1.0, log=log)
    assert_bitwise(stored, [INF, 3e38, 2.0])
    assert_bitwise(state, [1.0, 3e38, 2.0])


def test_log_does_not_overflow() -> None:
    for size in (1e3, 1e6, 1e300):
        state = torch.tensor([size, -size, size], dtype=torch.float64)
        values = torch.tensor([size, -size, -size], dtype=torch.float64)
        check(state, torch.arange(3), values, 0.5, log=True)
        assert abs(float(state[2]) - (size - math.log(2.0))) <= 1e-15 * size


@each_simd
@pytest.mark.parametrize("gamma", [0.0, 1e-6, 0.1, 0.9, 1.0])
def test_log_is_the_linear_update_in_logs(gamma: float, simd: str) -> None:
    linear, logs = untouched(30, 2, log=False), untouched(30, 2, log=True)
    for step in range(5):
        index = randint(30, 80, seed=step)
        values = randn(80, 2, seed=step).mul(4.0).exp()
        stored = update_(linear, index, values, gamma)
        log_stored = update_(logs, index, values.log(), gamma, log=True)
        torch.testing.assert_close(log_stored.exp(), stored, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(logs.exp(), linear.nan_to_num(0.0), rtol=1e-12, atol=0.0)


@each_log
def test_inputs_of_any_layout(log: bool) -> None:
    base, index = randn(20, 3, seed=1), randint(20, 16, seed=2)
    values, gamma = randn(3, 16, seed=3), torch.rand(32)
    states = [base.clone(), base.clone()]
    stored = update_(states[0], index.repeat_interleave(2)[::2], values.t(), gamma[::2], log=log)
    expected = update_(states[1], index, values.t().contiguous(), gamma[::2].clone(), log=log)
    assert torch.equal(stored, expected)
    assert torch.equal(states[0], states[1])
    state = base[:, 0].clone()
    assert update_(state, index, torch.tensor(0.5).expand(16), 0.5, log=log).shape == (16,)


def test_a_state_may_be_part_of_a_tensor() -> None:
    base = torch.zeros(3, 4, 2)
    version = base._version
    update_(base[1], torch.tensor([3, 0]), torch.ones(2, 2), 0.5)
    assert base._version > version
    assert base.sum() == 2.0
    assert_bitwise(base[1, [0, 3]], [[0.5, 0.5], [0.5, 0.5]])


def test_empty_batches() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    for state in (randn(4), randn(4, 3), randn(0), randn(0, 3), randn(4, 0)):
        before = state.clone()
        values = torch.zeros(0, *state.shape[1:])
        for gamma in (0.5, torch.zeros(0)):
            assert update_(state, none, values, gamma).shape == values.shape
        assert torch.equal(state, before)
    assert update_(randn(4, 0), torch.tensor([1, 2]), torch.zeros(2, 0), 0.5).shape == (2, 0)


def test_version_counter_and_saved_tensors() -> None:
    state, index, ones = torch.ones(3), torch.tensor([1]), torch.ones(1)
    before = state._version
    update_(state, index, ones, 0.5)
    assert state._version > before
    x = torch.ones(3, requires_grad=True)
    product = (x * state).sum()  # saves the state
    update_(state, index, 2.0 * ones, 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        inference = torch.ones(3)
        update_(inference, index, 2.0 * ones, 0.5)
    assert_bitwise(inference, [1.0, 1.5, 1.0])


def test_nothing_is_differentiable() -> None:
    state, values = torch.zeros(3), torch.ones(2, requires_grad=True)
    stored = update_(state, torch.tensor([0, 2]), values, 0.5)
    assert not stored.requires_grad
    assert not state.requires_grad
    assert_bitwise(state, [0.5, 0.0, 0.5])


def test_autocast_changes_nothing() -> None:
    index, values = randint(9, 30, seed=1), randn(30, seed=2)
    states = [torch.zeros(9), torch.zeros(9)]
    expected = update_(states[0], index, values, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stored = update_(states[1], index, values, 0.3)
    assert stored.dtype == torch.float32
    assert torch.equal(stored, expected)
    assert torch.equal(states[0], states[1])


IDS, ONES = torch.tensor([0, 1]), torch.ones(2)
BAD_INPUT: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (IndexError, "index", {"index": torch.tensor([0, 3])}),
    (IndexError, "index", {"index": torch.tensor([0, -1])}),
    (IndexError, "index", {"index": torch.tensor([0, -(2**63)])}),
    (IndexError, "index", {"index": torch.tensor([2**40, 0])}),
    (IndexError, "index", {"index": torch.tensor([0, -1], dtype=torch.int32)}),
    (IndexError, "index", {"state": torch.zeros(0)}),
    (ValueError, "index", {"index": IDS[:, None]}),
    (ValueError, "index", {"index": torch.tensor(0)}),
    (TypeError, "index", {"index": ONES}),
    (TypeError, "index", {"index": IDS.to(torch.int16)}),
    (TypeError, "index", {"index": torch.tensor([True, False])}),
    (TypeError, "index", {"index": [0, 1]}),
    (ValueError, "values", {"values": torch.ones(3)}),
    (ValueError, "values", {"values": torch.ones(2, 1)}),
    (ValueError, "values", {"values": torch.ones(2), "state": torch.zeros(3, 2)}),
    (ValueError, "values", {"values": torch.ones(2, 3), "state": torch.zeros(3, 2)}),
    (TypeError, "values", {"values": IDS}),
    (TypeError, "values", {"values": ONES.to(torch.complex64)}),
    (TypeError, "values", {"values": [1.0, 1.0]}),
    (TypeError, "values", {"values": None}),
    (ValueError, "gamma", {"gamma": 1.5}),
    (ValueError, "gamma", {"gamma": -1e-9}),
    (ValueError, "gamma", {"gamma": NAN}),
    (ValueError, "gamma", {"gamma": torch.tensor(1.5)}),
    (ValueError, "gamma", {"gamma": torch.tensor([0.5, -0.1])}),
    (ValueError, "gamma", {"gamma": torch.tensor([NAN, 0.5])}),
    (ValueError, "gamma", {"gamma": torch.full((3,), 0.5)}),
    (ValueError, "gamma", {"gamma": torch.full((1,), 0.5)}),
    (ValueError, "gamma", {"gamma": torch.full((2, 1), 0.5)}),
    (ValueError, "gamma", {"gamma": torch.tensor(0.5, requires_grad=True)}),
    (TypeError, "gamma", {"gamma": "0.5"}),
    (TypeError, "gamma", {"gamma": None}),
    (TypeError, "gamma", {"gamma": True}),
    (TypeError, "state", {"state": torch.zeros(3, dtype=torch.float16)}),
    (TypeError, "state", {"state": torch.zeros(3, dtype=torch.int64)}),
    (TypeError, "state", {"state": None}),
    (ValueError, "state", {"state": torch.tensor(0.0)}),
    (ValueError, "state", {"state": torch.zeros(3, 1, 1)}),
    (ValueError, "state", {"state": torch.zeros(3, 2)[:, 0]}),
    (ValueError, "state", {"state": torch.zeros(3, requires_grad=True)}),
]


@each_log
@pytest.mark.parametrize(("error", "argument", "change"), BAD_INPUT)
def test_bad_input_leaves_the_state(
    error: type[Exception], argument: str, change: dict[str, Any], log: bool
) -> None:
    call: dict[str, Any] = {"state": torch.zeros(3), "index": IDS, "values": ONES, "gamma": 0.5}
    call |= change
    state = call["state"]
    before = state.detach().clone() if isinstance(state, Tensor) else None
    with pytest.raises(error, match=argument):
        update_(**call, log=log)
    if before is not None:
        assert_bitwise(state.detach(), before)


@pytest.mark.parametrize("where", [0, 40_000, 99_999])
def test_one_bad_id_among_many_leaves_the_state(where: int) -> None:
    state = untouched(50_000, log=False)
    index = randint(50_000, 100_000, seed=1)
    index[where] = 50_000
    with pytest.raises(IndexError, match=f"50000 at position {where}"):
        update_(state, index, randn(100_000), 0.5)
    assert bool(state.isnan().all())
