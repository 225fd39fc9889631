"""Every op of the library: its schema, its fake kernel, its mutations. Enumerated, not listed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import SCALE, randn, random_labels

import xrisk_ext  # noqa: F401  (registers the ops)

NAMESPACE = "xrisk_ext::"
OPS = sorted(
    name.removeprefix(NAMESPACE)
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith(NAMESPACE)
)
Arguments = tuple[Any, ...]


def _scalar(value: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype)


def _pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return randn(5, seed=1).to(dtype), randn(7, seed=2).to(dtype)


def _pairwise_sums_rows() -> list[Arguments]:
    weights = (None, randn(7, seed=3), randn(2, 7, seed=4), torch.ones(0, 7))
    return [
        (*_pairs(dtype), w, _scalar(SCALE), 0.5, surrogate, algorithm)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        for w, surrogate, algorithm in zip(weights, (1, 0, 3, 5), (0, 2, 2, 1), strict=True)
    ]


def _pairwise_sums_columns() -> list[Arguments]:
    plain, weighted = randn(5, seed=5), randn(2, 5, seed=6)
    return [
        (*_pairs(torch.float32), None, plain.float(), _scalar(SCALE), 0.5, 1, 0),
        (*_pairs(torch.float64), randn(7), plain, _scalar(SCALE), 0.5, 6, 2),
        (*_pairs(torch.float16), randn(2, 7), weighted.float(), _scalar(SCALE), 0.5, 4, 1),
        (torch.zeros(0), randn(7), None, torch.zeros(0), _scalar(SCALE), 0.5, 1, 0),
    ]


def _pairwise_log_sums_rows() -> list[Arguments]:
    return [
        (*_pairs(dtype), w, _scalar(SCALE), _scalar(0.5), 0.5, surrogate)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        for w, surrogate in ((None, 1), (randn(7).abs(), 4))
    ]


def _pairwise_log_sums_columns() -> list[Arguments]:
    return [
        (
            *_pairs(dtype),
            w,
            randn(5).to(dtype),
            randn(5).to(dtype),
            _scalar(1.0),
            _scalar(0.5),
            1.0,
            1,
        )
        for dtype in (torch.float32, torch.float64)
        for w in (None, randn(7).abs())
    ]


def _surrogate_values() -> list[Arguments]:
    differences = [randn(6).float(), randn(2, 3), randn(4).half(), torch.zeros(0), randn(3, 4).t()]
    return [(d, _scalar(SCALE), 0.5, k) for k, d in enumerate(differences)]


def _moving_average_update_() -> list[Arguments]:
    index, values = torch.tensor([0, 3, 3, 1]), randn(4, 2)
    state = torch.full((5, 2), float("nan"))
    return [
        (state, index, values.float(), _scalar(0.3), False),
        (state[:, 0].contiguous(), index.int(), values[:, 0].float(), _scalar(0.3), False),
        (state.double(), index, values, torch.full((4,), 0.5), False),
        (torch.full((5, 2), -torch.inf), index, values.half(), _scalar(0.3, torch.float32), True),
        (state, index[:0], values[:0].float(), _scalar(0.3), False),
    ]


def _contrastive_log_sums_rows() -> list[Arguments]:
    q, k, exclude = randn(4, 3, seed=1), randn(6, 3, seed=2), torch.tensor([0, -1, 5, 5])
    return [
        (q, k, _scalar(0.5), None),
        (q.float(), k.float(), _scalar(0.5), exclude),
        (q.half(), k.bfloat16(), randn(4).abs() + 0.1, exclude[:, None].int()),
        (q[:0], k, _scalar(0.5), None),
    ]


def _contrastive_log_sums_gradients() -> list[Arguments]:
    q, k, row = randn(4, 3, seed=1), randn(6, 3, seed=2), torch.ones(4, dtype=torch.float64)
    return [
        (q, k, _scalar(0.5), None, row, row, row, True, True),
        (q.float(), k.float(), _scalar(0.5), None, row.float(), row, row, True, False),
        (q.half(), k.half(), row.float(), torch.zeros(4, 2).long(), row, row, row, False, True),
        (q, k[:0], _scalar(0.5), None, row, row, row, True, True),
    ]


def _info_nce_step() -> list[Arguments]:
    a, b = randn(4, 3, seed=1), randn(4, 3, seed=2)
    return [
        (a, b, _scalar(0.5), None, False, False, True, True),
        (a.float(), b.float(), _scalar(0.5), _scalar(9.0), False, False, True, True),
        (a.half(), b.bfloat16(), _scalar(0.5, torch.float32), None, True, False, False, True),
        (a, b, _scalar(0.5), None, False, True, True, False),
        (a[:1], b[:1], _scalar(0.5), None, True, False, True, True),
    ]


def _contrastive_step_() -> list[Arguments]:
    """Views, index, state, temperatures, momenta, gamma, temperature, eta; beta, lowest, highest,
    rho, epsilon; bimodal, normalize, per_view, relative, temperature_weighted; update_state,
    needs_gradient.
    """

    def state(sides: int, value: float = -torch.inf) -> torch.Tensor:
        return torch.full((sides, 6), value)

    def three(sides: int) -> tuple[torch.Tensor, ...]:
        return state(sides), state(sides, 0.2), state(sides, 0.0)

    first, second, index = randn(5, 3, seed=1), randn(5, 3, seed=2), torch.tensor([0, 1, 2, 5, 1])
    learnt, half = first.clone().requires_grad_(), second.half().requires_grad_()
    numbers = (_scalar(0.3), _scalar(0.2), _scalar(0.01), 0.9, 0.05, 0.7, 0.3, 0.0)
    tau = torch.tensor(0.2, requires_grad=True)
    learned = (*numbers[:1], tau, *numbers[2:])
    one, own = (False, True, False, False, True), (False, True, False, True, True)
    two = (True, True, False, True, True)
    return [
        (first, second, index, state(1), None, None, *numbers, *one, True, True),
        (learnt, half, index.int(), *three(1), *numbers, *own, True, True),
        (learnt, second, index, state(2), None, None, *learned, *two, True, True),
        (learnt, half, index, *three(2), *numbers, *two, False, True),
        (first.half(), half, None, None, None, None, *numbers, *one, True, False),
        (first[:1], second[:1], index[:1], state(1), None, None, *numbers, *one, True, True),
    ]


def _score_step_() -> list[Arguments]:
    """scores, labels, index, item_weights, state, gamma, scale, margin, rule, surrogate, algorithm,
    update_state, needs_gradient, mean_reduction.
    """

    def state(num_labels: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((num_labels, 6, 2), float("nan"), dtype=dtype)

    schedules, index = (_scalar(0.3), _scalar(SCALE), 0.5), torch.tensor([0, 1, 2, 3, 4, 5, 2, 2])
    one, many = randn(8), randn(8, 3)
    ones, manys = random_labels(8), random_labels(8, 3)
    learnt, learnt_many = one.clone().requires_grad_(), many.float().requires_grad_()
    step = (0, 1, 0)  # rule, surrogate, algorithm
    return [
        (one, ones, index, None, state(1), *schedules, *step, True, True, True),
        (learnt, ones, index, None, state(1), *schedules, *step, True, True, True),
        (learnt, ones, index, one.abs(), state(1), *schedules, 0, 4, 1, True, True, False),
        (learnt_many, manys, index.int(), None, state(3), *schedules, 0, 3, 2, True, True, True),
        (many, manys, index, many.abs(), state(3).double(), *schedules, *step, True, False, False),
        (one.half(), ones.bool(), index, None, state(1), *schedules, *step, False, True, True),
        (one.float(), ones, None, None, None, *schedules, *step, True, True, True),
        (learnt, ones, None, None, None, *schedules, 1, 6, 0, False, True, True),
        (
            one[:, None],
            ones[:, None],
            None,
            one.abs(),
            None,
            *schedules,
            1,
            5,
            0,
            False,
            True,
            False,
        ),
        (one[:0], ones[:0], index[:0], None, state(1), *schedules, *step, True, True, True),
    ]


def _sort_descending() -> list[Arguments]:
    scores = [
        randn(6).float(),
        randn(2, 70),
        randn(3, 4).half().t(),
        torch.zeros(0),
        randn(1, 9, 2),
    ]
    return [(x,) for x in scores]


def _curve_sums() -> list[Arguments]:
    def rows(
        length: int, num_labels: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        values, order = torch.sort(randn(num_labels, length).to(dtype), descending=True)
        return values, order, randn(num_labels, length, seed=1) > 0

    return [
        (*rows(6, 1, torch.float32), None, 1.0, 0.0),
        (*rows(70, 3, torch.float64), randn(3, 70, seed=2).abs(), 0.3, 0.0),
        (*rows(5, 2, torch.float32), randn(2, 1).abs().expand(2, 5), 0.3, 0.5),
        (*rows(0, 2, torch.float64), None, 1.0, 0.0),
    ]


INPUTS: dict[str, Callable[[], list[Arguments]]] = {
    "pairwise_sums_rows": _pairwise_sums_rows,
    "pairwise_sums_columns": _pairwise_sums_columns,
    "pairwise_log_sums_rows": _pairwise_log_sums_rows,
    "pairwise_log_sums_columns": _pairwise_log_sums_columns,
    "surrogate_values": _surrogate_values,
    "moving_average_update_": _moving_average_update_,
    "contrastive_log_sums_rows": _contrastive_log_sums_rows,
    "info_nce_step": _info_nce_step,
    "contrastive_log_sums_gradients": _contrastive_log_sums_gradients,
    "contrastive_step_": _contrastive_step_,
    "score_step_": _score_step_,
    "sort_descending": _sort_descending,
    "curve_sums": _curve_sums,
}
each_op = pytest.mark.parametrize("name", OPS)


def overload(name: str) -> Any:
    return getattr(torch.ops.xrisk_ext, name).default


def test_every_op_has_its_inputs_here() -> None:
    assert set(OPS) == set(INPUTS), "give every op its opcheck"
    assert all(len(inputs()) >= 4 for inputs in INPUTS.values())
    overloads = {name: getattr(torch.ops.xrisk_ext, name).overloads() for name in OPS}
    assert overloads == {name: ["default"] for name in OPS}


@pytest.mark.parametrize(
    ("name", "number"), [(name, k) for name in INPUTS for k in range(len(INPUTS[name]()))]
)
def test_opcheck(name: str, number: int) -> None:
    arguments = INPUTS[name]()[number]
    torch.library.opcheck(overload(name), arguments)


@each_op
def test_what_the_schema_says_is_written_is_the_state(name: str) -> None:
    schema = overload(name)._schema
    written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    # a trailing underscore mutates, and nothing else does
    assert written[:1] == (["state"] if name.endswith("_") else [])
    assert all(argument.startswith("state") for argument in written)
    assert schema.is_mutable == name.endswith("_")
    assert not any(returned.alias_info for returned in schema.returns)


@each_op
def test_every_op_has_a_fake_kernel_and_a_cpu_kernel(name: str) -> None:
    for key in ("CPU", "Meta"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(NAMESPACE + name, key)


@each_op
def test_writing_bumps_the_version_and_reading_does_not(name: str) -> None:
    for arguments in INPUTS[name]():
        schema = overload(name)._schema
        tensors = {
            a.name: value
            for a, value in zip(schema.arguments, arguments, strict=True)
            if isinstance(value, torch.Tensor)
        }
        before = {key: t._version for key, t in tensors.items()}
        overload(name)(*arguments)
        bumped = {key for key, t in tensors.items() if t._version > before[key]}
        written = {key for key in tensors if key.startswith("state")}
        switches = {a.name: v for a, v in zip(schema.arguments, arguments, strict=True)}
        writes = name.endswith("_") and switches.get("update_state", True)
        assert bumped == (written if writes else set())


@each_op
def test_no_output_shares_memory_with_an_input_or_another_output(name: str) -> None:
    for arguments in INPUTS[name]():
        results = overload(name)(*arguments)
        outputs = results if isinstance(results, tuple) else (results,)
        tensors = [t for t in (*arguments, *outputs) if isinstance(t, torch.Tensor) and t.numel()]
        starts = [t.untyped_storage().data_ptr() for t in tensors]
        mine = starts[len(starts) - sum(o.numel() > 0 for o in outputs) :]
        assert all(starts.count(start) == 1 for start in mine)
