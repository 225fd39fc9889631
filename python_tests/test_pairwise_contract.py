"""What pairwise_sums and pairwise_log_sums promise besides numbers.

Empty sets, non-finite scores, weights of zero, layouts, autograd, threads, memory and bad input.
"""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    DTYPES,
    INF,
    NAN,
    SURROGATE_ALGORITHMS,
    each_dtype,
    each_simd,
    each_surrogate_algorithm,
    randn,
    value_and_gradients,
)
from torch import Tensor

from xrisk_ext import ops, reference
from xrisk_ext.ops.surrogates import algorithm_number, surrogate_number

TWINS = {
    "sums": (ops.pairwise_sums, reference.pairwise_sums),
    "log_sums": (ops.pairwise_log_sums, reference.pairwise_log_sums),
}
each_function = pytest.mark.parametrize("f", [t[0] for t in TWINS.values()], ids=TWINS)
each_twin = pytest.mark.parametrize(("f", "truth"), TWINS.values(), ids=TWINS)
# every kind of kernel: direct, moments, separable, one key set, ties, two key sets
KINDS = [("hinge", "direct"), ("squared", "sort"), ("exponential", "sort")]
KINDS += [("squared_hinge", "sort"), ("zero_one", "sort"), ("barrier_hinge", "sort")]
KINDS += [("logistic", "smooth"), ("sigmoid", "smooth")]
each_kind = pytest.mark.parametrize(("name", "algorithm"), KINDS)


@each_surrogate_algorithm
@each_dtype
def test_no_items_sum_to_zero(name: str, algorithm: str, dtype: torch.dtype) -> None:
    some, none = randn(3).to(dtype), torch.zeros(0, dtype=dtype)
    for weights, shape in [(None, (3,)), (none, (3,)), (none[None].expand(2, 0), (2, 3))]:
        value, by_anchor, by_item = value_and_gradients(
            ops.pairwise_sums,
            some,
            none,
            item_weights=weights,
            surrogate=name,
            algorithm=algorithm,
        )
        assert value.shape == shape
        assert not value.any()
        assert torch.equal(by_anchor, torch.zeros_like(some))
        assert by_item.shape == (0,)


@each_surrogate_algorithm
def test_no_anchors_and_no_channels(name: str, algorithm: str) -> None:
    some, none = randn(3).float(), torch.zeros(0)
    options: dict[str, Any] = {"surrogate": name, "algorithm": algorithm}
    for weights, shape in [(None, (0,)), (torch.ones(3), (0,)), (torch.ones(2, 3), (2, 0))]:
        value, by_anchor, by_item = value_and_gradients(
            ops.pairwise_sums, none, some, item_weights=weights, **options
        )
        assert value.shape == shape
        assert by_anchor.shape == (0,)
        assert torch.equal(by_item, torch.zeros(3))
    assert ops.pairwise_sums(none, none, **options).shape == (0,)
    value, by_anchor, by_item = value_and_gradients(
        ops.pairwise_sums, some, some, item_weights=torch.ones(0, 3), **options
    )
    assert value.shape == (0, 3)
    assert not by_anchor.any()
    assert not by_item.any()


def assert_same(actual: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> None:
    for a, t in zip(actual, truth, strict=True):
        expected = t.to(a.dtype)  # what is past the range of the dtype is inf
        torch.testing.assert_close(a, expected, rtol=2e-6, atol=1e-12, equal_nan=True)


@each_simd
@each_surrogate_algorithm
@pytest.mark.parametrize("weighted", [False, True])
def test_non_finite_scores_follow_ieee(
    name: str, algorithm: str, weighted: bool, simd: str
) -> None:
    options: dict[str, Any] = {"surrogate": name, "margin": 0.5, "scale": 2.0}
    options["item_weights"] = torch.tensor([2.0]) if weighted else None
    for x in (INF, -INF, NAN, 0.3):
        for y in (INF, -INF, NAN, -0.4):
            pair = torch.tensor([x]), torch.tensor([y])
            actual = value_and_gradients(ops.pairwise_sums, *pair, algorithm=algorithm, **options)
            assert_same(actual, value_and_gradients(reference.pairwise_sums, *pair, **options))


@each_simd
@each_surrogate_algorithm
@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_one_bad_score_among_many(name: str, algorithm: str, bad: float, simd: str) -> None:
    # values only: which slopes an infinity leaves finite is the previous test's
    options: dict[str, Any] = {"surrogate": name, "margin": 0.5, "scale": 2.0}
    for where in (0, 77, 149):  # also in the last, partial register
        anchors, items = randn(21, seed=1).float(), randn(150, seed=2).float()
        items[where] = bad
        for weights in (None, torch.full((2, 150), 0.5)):
            options["item_weights"] = weights
            value = ops.pairwise_sums(anchors, items, algorithm=algorithm, **options)  # type: ignore[arg-type]
            assert_same((value,), (reference.pairwise_sums(anchors, items, **options),))
        options["item_weights"] = None
        value = ops.pairwise_sums(items, anchors, algorithm=algorithm, **options)  # type: ignore[arg-type]
        assert_same((value,), (reference.pairwise_sums(items, anchors, **options),))


@each_simd
@each_surrogate_algorithm
@each_dtype
def test_weight_zero_leaves_an_item_out(
    name: str, algorithm: str, dtype: torch.dtype, simd: str
) -> None:
    anchors, items = randn(11, seed=1).to(dtype), randn(40, seed=2).to(dtype)
    weights = randn(2, 40, seed=3).float() ** 2
    out = torch.arange(40) % 3 == 1
    weights[:, out] = 0.0
    items[out] = torch.tensor([NAN, INF, -INF, 6e4]).repeat(4)[: int(out.sum())].to(dtype)
    options: dict[str, Any] = {"surrogate": name, "algorithm": algorithm}
    for w in (weights, weights[0]):
        rest = value_and_gradients(
            ops.pairwise_sums, anchors, items[~out], item_weights=w[..., ~out], **options
        )
        value, by_anchor, by_item = value_and_gradients(
            ops.pairwise_sums, anchors, items, item_weights=w, **options
        )
        for a, b in zip((value, by_anchor, by_item[~out]), rest, strict=True):
            rtol = max(2e-6, torch.finfo(a.dtype).eps)  # the algorithms may differ
            torch.testing.assert_close(a, b, rtol=rtol, atol=1e-5)
        assert not by_item[out].any()
    weights[1, 1] = 1.0  # the NaN belongs to the second channel now, and to that one alone
    value = ops.pairwise_sums(anchors, items, item_weights=weights, **options)
    assert value[0].isfinite().all()
    assert value[1].isnan().all()


@each_function
def test_scores_of_any_layout(f: Callable[..., Tensor]) -> None:
    x, y, w = randn(9, seed=1), randn(14, seed=2), randn(14, seed=3).abs()
    expected = value_and_gradients(f, x, y, item_weights=w)
    strided = torch.stack([x, x]).t()[:, 1], y.repeat_interleave(3)[::3]
    for a, b in zip(
        value_and_gradients(f, *strided, item_weights=w.flip(0).flip(0)), expected, strict=True
    ):
        assert torch.equal(a, b)
    columns = torch.stack([w, w, w], dim=1)[:, 1]
    assert not columns.is_contiguous()
    assert torch.equal(f(x, y, item_weights=columns), expected[0])
    # an expanded leaf collects the gradients of all that share it
    one = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(f(x, one.expand(14), item_weights=w).sum(), one)
    copies = value_and_gradients(f, x, torch.full((14,), 0.3).double(), item_weights=w)
    torch.testing.assert_close(gradient, copies[2].sum())


def test_channel_weights_and_upstream_of_any_layout() -> None:
    x, y, w = randn(9, seed=1), randn(14, seed=2), randn(14, 3, seed=3)
    upstream = randn(9, 3, seed=4)
    expected = value_and_gradients(
        ops.pairwise_sums, x, y, upstream.t().contiguous(), item_weights=w.t().contiguous()
    )
    actual = value_and_gradients(ops.pairwise_sums, x, y, upstream.t(), item_weights=w.t())
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@each_twin
def test_dtypes_may_differ(f: Callable[..., Tensor], truth: Callable[..., Tensor]) -> None:
    for first in DTYPES:
        for second in DTYPES:
            x, y, w = randn(9, seed=1).to(first), randn(14, seed=2).to(second), randn(14) ** 2
            result = torch.float64 if torch.float64 in (first, second) else torch.float32
            for weights in (w.to(first), w.float(), w):
                value, by_anchor, by_item = value_and_gradients(f, x, y, item_weights=weights)
                assert (value.dtype, by_anchor.dtype, by_item.dtype) == (result, first, second)
                expected = value_and_gradients(truth, x.double(), y.double(), item_weights=weights)
                torch.testing.assert_close(value.double(), expected[0], rtol=1e-6, atol=1e-6)
                for a, b in zip((by_anchor, by_item), expected[1:], strict=True):
                    rtol = max(1e-5, torch.finfo(a.dtype).eps)
                    torch.testing.assert_close(a, b.to(a.dtype), rtol=rtol, atol=1e-5)


@each_function
def test_inputs_are_kept_and_may_be_the_same_tensor(f: Callable[..., Tensor]) -> None:
    x = randn(12, seed=1).requires_grad_()
    before = x.detach().clone()
    (both,) = torch.autograd.grad(f(x, x).sum(), x)
    _, by_anchor, by_item = value_and_gradients(f, before, before)
    torch.testing.assert_close(both, by_anchor + by_item)
    assert torch.equal(x.detach(), before)


@each_function
def test_gradients_of_one_side_only(f: Callable[..., Tensor]) -> None:
    x, y = randn(5, seed=1), randn(7, seed=2)
    _, by_anchor, by_item = value_and_gradients(f, x, y)
    x_leaf, y_leaf = x.clone().requires_grad_(), y.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(f(x_leaf, y).sum(), x_leaf)[0], by_anchor)
    assert torch.equal(torch.autograd.grad(f(x, y_leaf).sum(), y_leaf)[0], by_item)
    assert not f(x, y).requires_grad
    with torch.no_grad():
        assert not f(x_leaf, y_leaf).requires_grad


@each_function
def test_gradient_asked_for_again_and_of_scores_written_since(f: Callable[..., Tensor]) -> None:
    x, y = randn(5, seed=1).requires_grad_(), randn(7, seed=2).requires_grad_()
    loss = f(x, y).square().sum()
    first = torch.autograd.grad(loss, (x, y), retain_graph=True)
    for one, two in zip(first, torch.autograd.grad(loss, (x, y)), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, (x, y))
    loss = f(x, y).sum()
    with torch.no_grad():
        y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, (x, y))


@each_function
def test_function_transforms_are_refused(f: Callable[..., Tensor]) -> None:
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: f(x, randn(7, seed=2)).sum())(randn(5, seed=1))


@each_function
@pytest.mark.parametrize("linear", [True, False])  # is the upstream gradient a constant?
def test_double_backward_raises(f: Callable[..., Tensor], linear: bool) -> None:
    x, y = randn(5, seed=1).requires_grad_(), randn(7, seed=2).requires_grad_()
    for leaf in (x, y):
        loss = f(x, y).sum() if linear else f(x, y).square().sum()
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate"):
            # a gradient penalty beside another loss must not be dropped in silence
            (gradient.square().sum() + leaf.sum()).backward()  # type: ignore[no-untyped-call]


@each_function
@each_dtype
def test_autocast_changes_nothing(f: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x, y = randn(40, seed=1).to(dtype), randn(60, seed=2).to(dtype)
    weights = torch.ones(60, dtype=torch.float64)
    expected = value_and_gradients(f, x, y, item_weights=weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = value_and_gradients(f, x, y, item_weights=weights)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@each_twin
def test_scale_may_be_a_tensor(f: Callable[..., Tensor], truth: Callable[..., Tensor]) -> None:
    x, y = randn(5, seed=1), randn(7, seed=2)
    expected = truth(x, y, surrogate="sigmoid", scale=2.5)
    for scale in (2.5, torch.tensor(2.5), torch.tensor([2.5]).double(), torch.tensor(2.5).half()):
        torch.testing.assert_close(f(x, y, surrogate="sigmoid", scale=scale), expected)
    torch.testing.assert_close(
        f(x, y, surrogate="sigmoid", scale=2), truth(x, y, surrogate="sigmoid", scale=2.0)
    )


@each_kind
@pytest.mark.parametrize(("p", "m"), [(40, 200_000), (40_000, 100_000)])
def test_threads_change_no_bit(
    name: str, algorithm: str, p: int, m: int, restore_threads: None
) -> None:
    if algorithm == "direct" and p > 40:
        m = 1500
    anchors, items = randn(p, seed=1).float(), randn(m, seed=2).float()
    for channels in (0, 2):
        weights = randn(channels, m, seed=3).float() if channels else None
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(
                value_and_gradients(
                    ops.pairwise_sums,
                    anchors,
                    items,
                    item_weights=weights,
                    surrogate=name,
                    algorithm=algorithm,
                )
            )
        for one, two in zip(*results, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["squared_hinge", "barrier_hinge", "logistic", "squared"])
@pytest.mark.parametrize("p", [40, 20_000])  # squared: always direct
def test_threads_change_no_bit_of_log_sums(p: int, name: str, restore_threads: None) -> None:
    anchors, items = (
        randn(p, seed=1).float(),
        randn(40_000 if name != "squared" else 1000, seed=2).float(),
    )
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(value_and_gradients(ops.pairwise_log_sums, anchors, items, surrogate=name))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, limits memory")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="asan reserves terabytes")
@pytest.mark.parametrize("kind", [*KINDS, "log_sums"], ids=str)
def test_no_memory_for_pairs(kind: Any) -> None:
    # under a limit that leaves 96 MiB a matrix of 20 000 x 20 000 bytes does not fit
    anchors, items = randn(20_000, seed=1).float(), randn(20_000, seed=2).float()
    if kind == "log_sums":
        call: Callable[[Tensor, Tensor], Tensor] = ops.pairwise_log_sums
    else:
        call = lambda x, y: ops.pairwise_sums(x, y, surrogate=kind[0], algorithm=kind[1])  # noqa: E731
    value_and_gradients(call, anchors[:10], items[:10])  # what is only set up once is set up now
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        limit = pages * resource.getpagesize() + (96 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        value, by_anchor, by_item = value_and_gradients(call, anchors, items)
        with pytest.raises(RuntimeError, match="memory"):
            (items > anchors[:, None]).sum()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert value.isfinite().all()
    assert by_anchor.isfinite().all()
    assert by_item.isfinite().all()


ONES, FOUR = torch.ones(3), torch.ones(4)
BAD_INPUT: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "anchors", {"anchors": torch.ones(3, 1)}),
    (ValueError, "anchors", {"anchors": torch.tensor(1.0)}),
    (ValueError, "items", {"items": torch.ones(1, 4)}),
    (ValueError, "items", {"items": torch.tensor(1.0)}),
    (TypeError, "anchors", {"anchors": torch.arange(3)}),
    (TypeError, "anchors", {"anchors": [0.5]}),
    (TypeError, "anchors", {"anchors": None}),
    (TypeError, "anchors", {"anchors": ONES.to(torch.complex64)}),
    (TypeError, "items", {"items": torch.ones(4, dtype=torch.bool)}),
    (TypeError, "items", {"items": 0.5}),
    (ValueError, "item_weights", {"item_weights": ONES}),
    (ValueError, "item_weights", {"item_weights": torch.ones(4, 3)}),
    (ValueError, "item_weights", {"item_weights": torch.tensor(1.0)}),
    (ValueError, "item_weights", {"item_weights": torch.ones(1, 1, 4)}),
    (ValueError, "item_weights", {"item_weights": torch.tensor([1.0, NAN, 1.0, 1.0])}),
    (ValueError, "item_weights", {"item_weights": torch.tensor([1.0, INF, 1.0, 1.0])}),
    (ValueError, "item_weights", {"item_weights": FOUR.clone().requires_grad_()}),
    (TypeError, "item_weights", {"item_weights": torch.ones(4, dtype=torch.int64)}),
    (TypeError, "item_weights", {"item_weights": [1.0] * 4}),
    (ValueError, "surrogate", {"surrogate": "cubed"}),
    (ValueError, "surrogate", {"surrogate": None}),
    (ValueError, "surrogate", {"surrogate": 3}),
    (ValueError, "margin", {"margin": -1.0}),
    (ValueError, "margin", {"margin": NAN}),
    (ValueError, "margin", {"margin": INF}),
    (TypeError, "margin", {"margin": "1"}),
    (TypeError, "margin", {"margin": None}),
    (ValueError, "scale", {"scale": 0.0}),
    (ValueError, "scale", {"scale": -1.0}),
    (ValueError, "scale", {"scale": NAN}),
    (ValueError, "scale", {"scale": INF}),
    (ValueError, "scale", {"scale": torch.ones(2)}),
    (ValueError, "scale", {"scale": torch.tensor(1.0, requires_grad=True)}),
    (TypeError, "scale", {"scale": "1"}),
    (TypeError, "scale", {"scale": True}),
    (TypeError, "scale", {"scale": None}),
    (ValueError, "scale", {"scale": 0.9, "surrogate": "barrier_hinge"}),
]
BAD_FOR_SUMS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "algorithm", {"algorithm": "quick"}),
    (ValueError, "algorithm", {"algorithm": None}),
    (ValueError, "algorithm", {"algorithm": "sort", "surrogate": "logistic"}),
    (ValueError, "algorithm", {"algorithm": "sort", "surrogate": "sigmoid"}),
    (ValueError, "algorithm", {"algorithm": "smooth", "surrogate": "squared_hinge"}),
    (ValueError, "algorithm", {"algorithm": "smooth", "surrogate": "exponential"}),
]
BAD_FOR_LOG_SUMS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "algorithm", {"algorithm": "quick"}),
    (ValueError, "algorithm", {"algorithm": "sort", "surrogate": "squared_hinge"}),
    (ValueError, "algorithm", {"algorithm": "smooth", "surrogate": "logistic"}),
    (ValueError, "item_weights", {"item_weights": -FOUR}),
    (ValueError, "item_weights", {"item_weights": torch.ones(2, 4)}),
    (ValueError, "temperature", {"temperature": 0.0}),
    (ValueError, "temperature", {"temperature": -1.0}),
    (ValueError, "temperature", {"temperature": NAN}),
    (ValueError, "temperature", {"temperature": torch.ones(3)}),
    (TypeError, "temperature", {"temperature": "1"}),
]
BAD_CALLS = [
    pytest.param(f, *bad, id=f"{f.__name__}-{bad[1]}-{number}")
    for f, more in ((ops.pairwise_sums, BAD_FOR_SUMS), (ops.pairwise_log_sums, BAD_FOR_LOG_SUMS))
    for number, bad in enumerate(BAD_INPUT + more)
]


@pytest.mark.parametrize(("f", "error", "argument", "change"), BAD_CALLS)
def test_bad_input(
    f: Callable[..., Tensor], error: type[Exception], argument: str, change: dict[str, Any]
) -> None:
    call: dict[str, Any] = {"anchors": ONES, "items": FOUR, **change}
    with pytest.raises(error, match=argument):
        f(**call)


def test_bad_input_is_found_in_empty_sets_too() -> None:
    none = torch.zeros(0)
    for name, algorithm in SURROGATE_ALGORITHMS:
        for options in ({"margin": -1.0}, {"scale": 0.0}, {"item_weights": torch.ones(3)}):
            with pytest.raises(ValueError, match=next(iter(options))):
                ops.pairwise_sums(none, none, surrogate=name, algorithm=algorithm, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["logistic", "sigmoid"])
def test_the_order_that_rows_leave_changes_no_bit_of_the_columns(
    name: str, dtype: torch.dtype
) -> None:
    # about one score in every fifth temperature: they are sorted and scanned
    anchors, items = (1e4 * randn(1500, seed=1)).to(dtype), (1e4 * randn(1500, seed=2)).to(dtype)
    options = (torch.tensor(1.0), 1.0, surrogate_number(name), algorithm_number("smooth"))
    *_, order = torch.ops.xrisk_ext.pairwise_sums_rows(anchors, items, None, *options)
    assert torch.equal(torch.cat([anchors, items])[order], torch.cat([anchors, items]).sort()[0])
    none, upstream = order[:0], randn(1500, seed=3).to(dtype)
    columns = torch.ops.xrisk_ext.pairwise_sums_columns
    expected = columns(anchors, items, None, upstream, none, *options)
    assert torch.equal(columns(anchors, items, None, upstream, order, *options), expected)
    for bad in (order[1:], order + 1, torch.zeros_like(order), order.long(), order.flip(0)[::2]):
        with pytest.raises(ValueError, match="expected the order that pairwise_sums_rows returned"):
            columns(anchors, items, None, upstream, bad, *options)
