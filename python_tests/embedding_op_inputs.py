"""What the ops over embeddings and logits are called with in test_registration.py."""

from collections.abc import Callable
from typing import Any

import torch
from helpers import randn

Arguments = tuple[Any, ...]


def scalar(value: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype)


def _contrastive_log_sums_rows() -> list[Arguments]:
    q, k, exclude = randn(4, 3, seed=1), randn(6, 3, seed=2), torch.tensor([0, -1, 5, 5])
    return [
        (q, k, scalar(0.5), None),
        (q.float(), k.float(), scalar(0.5), exclude),
        (q.half(), k.bfloat16(), randn(4).abs() + 0.1, exclude[:, None].int()),
        (q[:0], k, scalar(0.5), None),
    ]


def _contrastive_log_sums_gradients() -> list[Arguments]:
    q, k, row = randn(4, 3, seed=1), randn(6, 3, seed=2), torch.ones(4, dtype=torch.float64)
    return [
        (q, k, scalar(0.5), None, row, row, row, True, True),
        (q.float(), k.float(), scalar(0.5), None, row.float(), row, row, True, False),
        (q.half(), k.half(), row.float(), torch.zeros(4, 2).long(), row, row, row, False, True),
        (q, k[:0], scalar(0.5), None, row, row, row, True, True),
    ]


def _info_nce_step() -> list[Arguments]:
    a, b = randn(4, 3, seed=1), randn(4, 3, seed=2)
    return [
        (a, b, scalar(0.5), None, None, False, False, True, True),
        (a.float(), b.float(), scalar(0.5), scalar(9.0), None, False, False, True, True),
        (a.half(), b.bfloat16(), scalar(0.5, torch.float32), None, None, True, False, False, True),
        (a, b, scalar(0.5), None, None, False, True, True, False),
        (a, b, scalar(0.5), None, torch.tensor([2, 0, 2, 2]), False, False, True, True),
        (a[:1], b[:1], scalar(0.5), None, None, True, False, True, True),
    ]


def _query_step_() -> list[Arguments]:
    """queries, keys, positives, targets, index, state, schedules, temperature, normalize,
    update_state, for_queries, for_keys.
    """
    q, k, targets = randn(4, 3, seed=1), randn(6, 3, seed=2), torch.tensor([0, 5, 2, 5])
    index, one = torch.tensor([1, 3, 3, 0]), scalar(1.0)
    learnt, learnt_keys = q.clone().requires_grad_(), k.clone().requires_grad_()

    def state(dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((5,), -torch.inf, dtype=dtype)

    sox, scent = [scalar(0.6)], [scalar(0.4), scalar(1.3)]
    both = (True, True)
    return [
        (learnt, k, q, None, None, None, [], scalar(0.2), True, True, True, False),
        (q.half(), k.float(), q, None, None, None, [], scalar(0.2), True, True, False, False),
        (learnt, learnt_keys, None, targets, index, state(), sox, one, False, True, *both),
        (learnt.float(), learnt_keys.float(), None, targets.int(), index.int(),
         state(torch.float64), scent, one, False, False, *both),
        (q.bfloat16(), k.bfloat16(), None, targets, None, None, [], one, False, True, *both),
        (q[:0], k, None, targets[:0], index[:0], state(), sox, one, False, True, *both),
    ]  # fmt: skip


def _entropic_step_() -> list[Arguments]:
    """needs_gradient, logits, index, state, schedules, update_state."""
    logits, index = randn(4, 7), torch.tensor([1, 3, 3, 0])
    learnt, sox, scent = (
        logits.clone().requires_grad_(),
        [scalar(0.6)],
        [scalar(0.4), scalar(1.3)],
    )

    def state(dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((5,), -torch.inf, dtype=dtype)

    return [
        (True, learnt, index, state(), sox, True),
        (True, learnt.float(), index.int(), state(torch.float64), scent, True),
        (False, logits.half(), index, state(), scent, False),
        (True, learnt, None, None, [], True),
        (True, learnt[:0], index[:0], state(), sox, True),
    ]


def _enqueue_() -> list[Arguments]:
    """state, state_pointer, rows, normalize."""

    def queue(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(5, 3, dtype=dtype), torch.tensor(4)

    return [
        (*queue(), randn(2, 3), True),
        (*queue(torch.float64), randn(7, 3).float(), False),
        (*queue(), randn(3, 2).half().t(), True),
        (*queue(), randn(0, 3), True),
    ]


def _contrastive_step_() -> list[Arguments]:
    """Views, index, state, temperatures, momenta, gamma, temperature, eta; beta, second_beta,
    slope_limit, lowest, highest, rho, epsilon; bimodal, normalize, per_view, relative,
    temperature_weighted; update_state, needs_gradient.
    """

    def state(sides: int, value: float = -torch.inf) -> torch.Tensor:
        return torch.full((sides, 6), value)

    def three(sides: int) -> tuple[torch.Tensor, ...]:
        return state(sides), state(sides, 0.2), state(sides, 0.0)

    first, second, index = randn(5, 3, seed=1), randn(5, 3, seed=2), torch.tensor([0, 1, 2, 5, 1])
    learnt, half = first.clone().requires_grad_(), second.half().requires_grad_()
    schedules, rest = (scalar(0.3), scalar(0.2), scalar(0.01)), (0.05, 0.7, 0.3, 0.0)
    numbers, adam = (*schedules, 0.9, 0.0, torch.inf, *rest), (*schedules, 0.1, 0.001, 5.0, *rest)
    tau = torch.tensor(0.2, requires_grad=True)
    learned = (*numbers[:1], tau, *numbers[2:])
    one, own = (False, True, False, False, True), (False, True, False, True, True)
    two = (True, True, False, True, True)
    return [
        (first, second, index, state(1), None, None, *numbers, *one, True, True),
        (learnt, half, index.int(), *three(1), *numbers, *own, True, True),
        (learnt, second, index, state(2), None, None, *learned, *two, True, True),
        (learnt, half, index, *three(2), *numbers, *two, False, True),
        (learnt, half, index, state(2), state(2, 0.2), state(6, 0.0), *adam, *two, True, True),
        (first.half(), half, None, None, None, None, *numbers, *one, True, False),
        (first[:1], second[:1], index[:1], state(1), None, None, *numbers, *one, True, True),
    ]


EMBEDDING_INPUTS: dict[str, Callable[[], list[Arguments]]] = {
    "contrastive_log_sums_rows": _contrastive_log_sums_rows,
    "contrastive_log_sums_gradients": _contrastive_log_sums_gradients,
    "info_nce_step": _info_nce_step,
    "query_step_": _query_step_,
    "entropic_step_": _entropic_step_,
    "enqueue_": _enqueue_,
    "contrastive_step_": _contrastive_step_,
}
