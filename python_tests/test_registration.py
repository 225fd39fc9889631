"""Every op of the library: its schema, its fake kernel, its mutations. Enumerated, not listed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from embedding_op_inputs import EMBEDDING_INPUTS, Arguments
from embedding_op_inputs import scalar as _scalar
from helpers import SCALE, randn, random_labels

import xrisk_ext  # noqa: F401  (registers the ops)

NAMESPACE = "xrisk_ext::"
OPS = sorted(
    name.removeprefix(NAMESPACE)
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith(NAMESPACE)
)


def _pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return randn(5, seed=1).to(dtype), randn(7, seed=2).to(dtype)


def _pairwise_sums_rows() -> list[Arguments]:
    weights = (None, randn(7, seed=3), randn(2, 7, seed=4), torch.ones(0, 7))
    return [
        (*_pairs(dtype), w, _scalar(SCALE), 0.5, surrogate, algorithm)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        for w, surrogate, algorithm in zip(weights, (1, 0, 3, 5), (0, 2, 2, 1), strict=True)
    ] + [  # sorted, and their order is returned, or not
        (1e4 * randn(1048), 1e4 * randn(1000), None, _scalar(SCALE), 0.5, surrogate, algorithm)
        for surrogate, algorithm in ((4, 0), (5, 3), (5, 1), (2, 0))
    ]


def _pairwise_sums_columns() -> list[Arguments]:
    plain, weighted = randn(5, seed=5), randn(2, 5, seed=6)
    order, none = torch.arange(12, dtype=torch.int32), torch.empty(0, dtype=torch.int32)
    return [
        (*_pairs(torch.float32), None, plain.float(), none, _scalar(SCALE), 0.5, 1, 0),
        (*_pairs(torch.float64), randn(7), plain, none, _scalar(SCALE), 0.5, 6, 2),
        (*_pairs(torch.float16), randn(2, 7), weighted.float(), order, _scalar(SCALE), 0.5, 4, 3),
        (torch.zeros(0), randn(7), None, torch.zeros(0), none, _scalar(SCALE), 0.5, 1, 0),
    ]


def _pairwise_log_sums_rows() -> list[Arguments]:
    return [
        (*_pairs(dtype), w, _scalar(SCALE), _scalar(0.5), 0.5, surrogate, algorithm)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        for w, surrogate, algorithm in ((None, 1, 3), (randn(7).abs(), 4, 0), (None, 2, 2))
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
            algorithm,
        )
        for dtype in (torch.float32, torch.float64)
        for w, algorithm in ((None, 0), (randn(7).abs(), 3))
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


def _topk_threshold() -> list[Arguments]:
    offsets = torch.tensor([0, 3, 3, 9])
    return [
        (randn(9).float(), 2, None, False, 0.5, 0.01, 1e-4),
        (randn(4, 9), 2, None, True, 0.5, 0.3, 1e-4),
        (randn(2, 3, 9).half().transpose(0, 2), 1, None, True, 0.5, 0.3, 1e-4),
        (randn(9), 2, offsets, False, 0.5, 0.01, 1e-4),
        (randn(9).float(), 0, offsets.int(), True, 0.5, 0.3, 1e-4),
        (torch.zeros(3, 0), 0, None, False, 0.5, 0.01, 1e-4),
    ]


def _topk_threshold_gradient() -> list[Arguments]:
    inputs = []
    for scores, *rest in _topk_threshold():
        _, roots = torch.ops.xrisk_ext.topk_threshold(scores, *rest)
        inputs.append((scores, roots, torch.ones_like(roots), *rest))
    return inputs


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


def _listwise_step() -> list[Arguments]:
    """scores, relevance, mask, item_weights, temperature, rank_temperature, loss, counts, numbers,
    reduction, needs_gradient.
    """
    scores, relevance = randn(3, 7), torch.arange(21).reshape(3, 7) % 3
    mask, heat = randn(3, 7, seed=1) > -1.0, (_scalar(0.7), _scalar(1.3))
    learnt = scores.clone().requires_grad_()
    return [
        (learnt, relevance, mask, None, *heat, 0, [1, 1], [], 1, True),
        (scores.float(), relevance, None, None, *heat, 1, [2], [], 0, True),
        (learnt, relevance.float(), None, None, *heat, 2, [], [], 0, True),
        (scores.half(), relevance, mask, None, *heat, 3, [], [], 2, True),
        (scores[0], relevance[0], None, None, *heat, 4, [], [], 0, False),
        (learnt, relevance, mask, None, *heat, 5, [3, 5], [0.0], 1, True),
        (learnt, relevance > 0, mask, scores.abs(), *heat, 6, [], [], 1, True),
        (scores.t(), relevance.t(), None, None, *heat, 7, [5], [-2.0, 2.0], 0, True),
        (scores[:0], relevance[:0], None, None, *heat, 8, [1, 2], [], 1, True),
    ]


def _ranking_step_() -> list[Arguments]:
    """needs_gradient, scores, relevance, pair_index, query_index, mask, offsets, item_weights,
    num_items, num_relevant, ideal_dcg, state, thresholds, curvatures, gamma, scale, schedules,
    margin, epsilon, top_k, rule, options, surrogate, algorithm, update_state, mean_reduction.
    """
    scores, relevance = randn(3, 5), random_labels(3, 5).long()
    pairs, users = torch.arange(15).reshape(3, 5) % 6, torch.tensor([1, 0, 1])
    offsets = torch.tensor([0, 7, 7, 15])

    def rows(count: int, value: float = float("nan")) -> torch.Tensor:
        return torch.full((count,), value)

    none = (None,) * 3
    schedules = [_scalar(value) for value in (0.9, 0.01, 0.2, 1e-4, 2.0)]
    gamma, scale = _scalar(0.3), _scalar(1.0)
    lists = (None, None, None, *none)  # mask, offsets, item_weights and the sizes
    ndcg, listwise, ap = (0, 0, 1, 0), (1, 0, 1, 0), (2, 0, 1, 0)
    flat = (scores.reshape(-1), relevance.reshape(-1), pairs.reshape(-1))
    sized = (None, None, randn(3, 5).abs(), _scalar(9.0), torch.ones(3), torch.ones(3))
    learnt = scores.float().requires_grad_()
    labels = torch.full((5, 6, 2), float("nan"))
    return [
        (True, learnt, relevance, pairs, users, *lists, rows(6), None, None, gamma, scale, [],
         1.0, 0.5, 0, *ndcg, True, True),
        (True, scores, relevance, pairs, users, *lists, rows(6), rows(2), rows(2), gamma, scale,
         schedules, 1.0, 0.5, 2, *ndcg, True, False),
        (False, scores.half(), relevance, None, None, relevance >= 0, None, None, *none, None,
         None, None, _scalar(1.0), scale, [], 1.0, 0.5, 0, *ndcg, False, True),
        (True, *flat, None, None, offsets, None, *none, rows(6, -torch.inf), None, None, gamma,
         scale, [], 1.0, 0.5, 0, *listwise, True, False),
        (True, scores, relevance, pairs.int(), users, *sized, rows(6), rows(2), rows(2), gamma,
         scale, schedules, 0.7, 0.0, 2, *ndcg, True, True),
        (True, learnt, relevance, torch.tensor([0, 5, 1]), None, *lists, labels, rows(5), rows(5),
         gamma, scale, schedules, 1.0, 0.5, 2, *ap, True, True),
    ]  # fmt: skip


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


def _partial_auc_step_() -> list[Arguments]:
    """scores, labels, index, item_weights, state, dual, outer, schedules, scale, margin, max_fpr,
    min_tpr, power, rule, surrogate, algorithm, update_state, needs_gradient, mean_reduction.
    """
    index = torch.tensor([0, 1, 2, 3, 4, 5, 2, 2])
    one, many = randn(8), randn(8, 3)
    ones, manys = random_labels(8), random_labels(8, 3)
    learnt, learnt_many = one.clone().requires_grad_(), many.float().requires_grad_()
    half, tenth, scale = _scalar(0.5), _scalar(0.1), _scalar(SCALE)
    log, wide = torch.full((1, 6), -torch.inf), torch.full((3, 6), -torch.inf)
    part = (scale, 0.5, 0.4, 0.3, 2.0)
    kl, two_way = [half, half], [half, half, half, half]
    none, always = (None, None, None), (True, True, True)
    return [
        (one, ones, index, None, log, None, None, kl, *part, 0, 1, 0, *always),
        (learnt, ones, index, one.abs(), log, None, None, kl, *part, 0, 4, 1, True, True, False),
        (learnt_many, manys, index.int(), None, wide, None, torch.full((3,), -torch.inf), two_way,
         *part, 1, 1, 0, *always),
        (learnt, ones, index, None, torch.zeros(1, 6), None, None, [tenth], *part, 2, 1, 2,
         *always),
        (many, manys, index, many.abs(), torch.zeros(3, 6).double(), torch.ones(3, 6).double(),
         torch.zeros(3).double(), [tenth] * 3, *part, 3, 3, 0, True, False, False),
        (one.half(), ones.bool(), None, None, *none, [], *part, 4, 1, 0, False, True, True),
        (one[:, None], ones[:, None], None, one.abs(), *none, [], *part, 5, 1, 0, *always),
        (learnt, ones, index, None, log, None, None, [half], *part, 6, 1, 0, False, True, True),
        (one[:0], ones[:0], index[:0], None, log, None, None, [half], *part, 6, 1, 0, *always),
    ]  # fmt: skip


def _auc_margin_step() -> list[Arguments]:
    y, a, b, alpha = random_labels(6, 2), randn(2), randn(2, seed=1), randn(2, seed=2).abs()
    prior = torch.tensor([0.1, 0.4])
    return [
        (randn(6, 2), y, None, a, b, alpha, None, 1.0, 0, True, True),
        (randn(6, 2).float(), y.bool(), randn(6).abs(), a, b, alpha, prior, 0.5, 1, True, False),
        (randn(6).half(), y[:, 0], None, a[:1], b[:1], alpha[:1], None, 1.0, 2, False, True),
        (randn(0, 2), y[:0], None, a, b, alpha, prior, 1.0, 2, True, True),
    ]


def _cross_entropy_step() -> list[Arguments]:
    y, pair = random_labels(6, 2), randn(2, 2, seed=1).abs()
    return [
        (randn(6, 2), y, None, None, None, 1.0, 0.0, True, True),
        (randn(6, 2).float(), y.bool(), randn(6, 2).abs(), pair, None, 1.0, 2.0, True, False),
        (randn(6).half(), y[:, 0], None, None, pair[:, :1], 30.0, 0.0, False, True),
        (randn(0, 2), y[:0], None, pair, pair, 2.0, 1.0, True, True),
    ]


def _pooled_margin_step_() -> list[Arguments]:
    """needs_gradient, values, denominators, labels, index, state, state_denominators, a, b, alpha,
    gamma, tau.
    """
    values, divisors, labels = randn(6).abs() + 0.1, randn(6, seed=1).abs() + 0.1, random_labels(6)
    learnt, index = values.clone().requires_grad_(), torch.tensor([0, 1, 2, 3, 3, 4])
    numbers = (randn(1), randn(1, seed=1), randn(1, seed=2).abs(), _scalar(0.4), 0.3)
    half = learnt.detach().half()[:, None].requires_grad_()

    def state(dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.ones(6, dtype=dtype)

    return [
        (True, learnt, None, labels, index, state(), None, *numbers),
        (True, half, divisors, labels > 0, index.int(), state(), state(), *numbers),
        (False, values, divisors, labels, index, state(torch.float64),
         state(torch.float64), *numbers),
        (True, learnt, None, labels, None, None, None, *numbers),
        (True, learnt[:0], None, labels[:0], index[:0], state(), None, *numbers),
    ]  # fmt: skip


def _ranked_precision_step() -> list[Arguments]:
    """needs_gradient, scores, labels, values, chosen, index, state, scale, margin, top_k, count,
    surrogate, algorithm.
    """
    scores, labels, values = randn(7, 3), random_labels(7, 3), randn(3)
    learnt, index, state = scores.clone().requires_grad_(), torch.arange(7), torch.ones(3, 8, 2)
    chosen, rest = torch.tensor([True, False, True]), (_scalar(SCALE), 0.5, 2.0)
    return [
        (True, learnt, labels, values, None, index, state, *rest, 3, 1, 0),
        (True, learnt.float(), labels > 0, values, chosen, index, state, *rest, 2, 4, 1),
        (False, scores.half(), labels, values.float(), None, index, state, *rest, 3, 1, 0),
        (True, learnt, labels, values, None, None, None, *rest, 3, 6, 0),
        (True, learnt[:0], labels[:0], values, None, index[:0], state, *rest, 3, 1, 0),
    ]


INPUTS: dict[str, Callable[[], list[Arguments]]] = {
    **EMBEDDING_INPUTS,
    "pairwise_sums_rows": _pairwise_sums_rows,
    "pairwise_sums_columns": _pairwise_sums_columns,
    "pairwise_log_sums_rows": _pairwise_log_sums_rows,
    "pairwise_log_sums_columns": _pairwise_log_sums_columns,
    "surrogate_values": _surrogate_values,
    "moving_average_update_": _moving_average_update_,
    "topk_threshold": _topk_threshold,
    "topk_threshold_gradient": _topk_threshold_gradient,
    "partial_auc_step_": _partial_auc_step_,
    "score_step_": _score_step_,
    "listwise_step": _listwise_step,
    "ranking_step_": _ranking_step_,
    "auc_margin_step": _auc_margin_step,
    "pooled_margin_step_": _pooled_margin_step_,
    "ranked_precision_step": _ranked_precision_step,
    "cross_entropy_step": _cross_entropy_step,
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
    # tracing, which takes most of the time, on the first two inputs alone
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    checks += ["test_aot_dispatch_dynamic"] if number < 2 else []
    arguments = INPUTS[name]()[number]
    torch.library.opcheck(overload(name), arguments, test_utils=checks)


@each_op
def test_what_the_schema_says_is_written_is_the_state(name: str) -> None:
    schema = overload(name)._schema
    written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    # a trailing underscore mutates, and nothing else does
    assert written[:1] == (["state"] if name.endswith("_") else [])
    states = {"dual", "outer", "thresholds", "curvatures"}
    assert all(argument in states or argument.startswith("state") for argument in written)
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
        flags = dict(zip((a.name for a in schema.arguments), arguments, strict=True))
        states = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
        assert bumped == (states & set(tensors) if flags.get("update_state", True) else set())


@each_op
def test_no_output_shares_memory_with_an_input_or_another_output(name: str) -> None:
    for arguments in INPUTS[name]():
        results = overload(name)(*arguments)
        outputs = results if isinstance(results, tuple) else (results,)
        outputs = () if results is None else outputs
        flat = [x for a in arguments for x in (a if isinstance(a, list) else (a,))]
        tensors = [t for t in (*flat, *outputs) if isinstance(t, torch.Tensor) and t.numel()]
        starts = [t.untyped_storage().data_ptr() for t in tensors]
        mine = starts[len(starts) - sum(o.numel() > 0 for o in outputs) :]
        assert all(starts.count(start) == 1 for start in mine)
