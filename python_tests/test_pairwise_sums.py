"""pairwise_sums against the float64 reference: every surrogate, algorithm, dtype and SIMD variant.

By the accuracy rule in helpers.py; large inputs on a sample of their rows and columns. Contracts
other than numbers stand in test_pairwise_contract.py.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from helpers import (
    MARGIN,
    SCALE,
    SMOOTH_BOUNDS,
    SURROGATE_ALGORITHMS,
    assert_accurate,
    assert_within,
    computed_in,
    each_dtype,
    each_simd,
    each_surrogate_algorithm,
    may_be_smooth,
    plain_surrogate,
    randn,
    value_and_gradients,
)
from torch import Tensor

from xrisk_ext import ops, reference

SORT_ALGORITHMS = [(name, a) for name, a in SURROGATE_ALGORITHMS if a == "sort"]
PIECEWISE = ("squared_hinge", "hinge", "barrier_hinge", "zero_one")


def plain_sums(
    anchors: Tensor,
    items: Tensor,
    *,
    item_weights: Tensor | None,
    surrogate: str,
    margin: float,
    scale: float,
) -> Tensor:
    """What one writes in PyTorch: all pairs in the inputs' dtype."""
    terms = plain_surrogate(surrogate, items[None, :] - anchors[:, None], margin, scale)  # [P, M]
    if item_weights is None:
        return terms.sum(dim=1)
    if item_weights.dim() == 1:
        return (terms * item_weights).sum(dim=1)
    return torch.stack([(terms * w).sum(dim=1) for w in item_weights])


class Case:
    """Inputs, with the truth, plain PyTorch's answer and the sizes that errors are relative to.

    All of the rows and columns are compared, or about `sample` of each.
    """

    def __init__(
        self,
        name: str,
        anchors: Tensor,
        items: Tensor,
        weights: Tensor | None = None,
        margin: float = MARGIN,
        scale: float = SCALE,
        sample: int | None = None,
    ) -> None:
        p, m = anchors.shape[0], items.shape[0]
        dtype = computed_in(anchors.dtype)
        shape = [p] if weights is None or weights.dim() == 1 else [weights.shape[0], p]
        self.anchors, self.items, self.weights = anchors, items, weights
        self.options: dict[str, Any] = {"surrogate": name, "margin": margin, "scale": scale}
        self.upstream = randn(*shape, seed=99).to(dtype)
        self.rows = torch.arange(0, p, 1 if sample is None else max(1, p // sample))
        self.columns = torch.arange(0, m, 1 if sample is None else max(1, m // sample))
        self.truth = self._answer(reference.pairwise_sums, torch.float64)
        self.plain = self._answer(plain_sums, dtype)
        self.sizes = self._sizes()

    def _answer(self, f: Callable[..., Tensor], to: torch.dtype) -> tuple[Tensor, ...]:
        x, y = self.anchors.to(to), self.items.to(to)
        w = None if self.weights is None else self.weights.to(to)
        some_x, some_y = x[self.rows], y[self.columns]
        some_w = None if w is None else w[..., self.columns]
        u, some_u = self.upstream, self.upstream[..., self.rows]
        value, by_anchor, _ = value_and_gradients(
            f, some_x, y, some_u, item_weights=w, **self.options
        )
        _, _, by_item = value_and_gradients(f, x, some_y, u, item_weights=some_w, **self.options)
        return value, by_anchor, by_item

    def _sizes(self) -> tuple[Tensor, ...]:
        some_anchors, some_items = self.anchors[self.rows], self.items[self.columns]
        w = torch.ones(self.items.shape[0]) if self.weights is None else self.weights
        w, u = (torch.atleast_2d(x).abs().double() for x in (w, self.upstream))  # type: ignore[no-untyped-call]
        value = reference.pairwise_sums(some_anchors, self.items, item_weights=w, **self.options)
        by_anchor = (u[:, self.rows] * (w @ self._slopes(some_anchors, self.items).T)).sum(dim=0)
        by_item = (w[:, self.columns] * (u @ self._slopes(self.anchors, some_items))).sum(dim=0)
        return value.view_as(self.truth[0]), by_anchor, by_item

    def _ones(self) -> tuple[Tensor, ...]:
        """The sizes with 1 for phi and scale for its slope."""
        w = torch.ones(self.items.shape[0]) if self.weights is None else self.weights
        w, u = (torch.atleast_2d(x).abs().double() for x in (w, self.upstream))  # type: ignore[no-untyped-call]
        total, scale = w.sum(dim=1, keepdim=True), self.options["scale"]
        value = total.expand(-1, len(self.rows)).reshape(self.truth[0].shape)
        by_anchor = scale * (u[:, self.rows] * total).sum(dim=0)
        by_item = scale * (w[:, self.columns] * u.sum(dim=1, keepdim=True)).sum(dim=0)
        return value, by_anchor, by_item

    def _slopes(self, x: Tensor, y: Tensor) -> Tensor:
        options = dict(self.options)
        d = y.double()[None, :] - x.double()[:, None]
        return reference.surrogate_slope(options.pop("surrogate"), d, **options).abs()

    def check(self, algorithm: str) -> None:
        """Holds values and both gradients to the accuracy rule."""
        value, by_anchor, by_item = value_and_gradients(
            ops.pairwise_sums,
            self.anchors,
            self.items,
            self.upstream,
            item_weights=self.weights,
            algorithm=algorithm,
            **self.options,
        )
        assert value.dtype == self.upstream.dtype
        assert by_anchor.dtype == self.anchors.dtype
        assert by_item.dtype == self.items.dtype
        actual = (value[..., self.rows], by_anchor[self.rows], by_item[self.columns])
        what = f"{algorithm}, {self.options}, {list(value.shape)} x {self.items.shape[0]}"
        if may_be_smooth(self.options["surrogate"], algorithm):
            bound = SMOOTH_BOUNDS[self.upstream.dtype]
            for k, one in enumerate(self._ones()):
                size = self.sizes[k] + one
                assert_within(f"{k} of {what}", actual[k], self.truth[k], size, bound)
            return
        for k, result in enumerate(("value", "d anchors", "d items")):
            assert_accurate(
                f"{result} of {what}", actual[k], self.plain[k], self.truth[k], self.sizes[k]
            )


@lru_cache(maxsize=64)
def normal_case(
    name: str,
    p: int,
    m: int,
    channels: int = 0,
    dtype: torch.dtype = torch.float32,
    sample: int | None = None,
) -> Case:
    """Normal scores. channels: 0 no weights, 1 [M] >= 0, -1 [M] of any sign, C [C, M] of any sign.

    A third of the weights is 0, and so is all of the second channel.
    """
    weights = randn(3, m, seed=m)[: max(1, channels)]
    weights[:, ::3] = 0.0
    weights[1:2] = 0.0
    kinds = {0: None, 1: weights[0] ** 2, -1: weights[0]}
    chosen = kinds.get(channels, weights)
    chosen = None if chosen is None else chosen.to(computed_in(dtype))
    anchors, items = randn(p, seed=1).to(dtype), randn(m, seed=2).to(dtype)
    return Case(name, anchors, items, chosen, sample=sample)


@each_simd
@each_dtype
@each_surrogate_algorithm
def test_values_and_gradients(name: str, algorithm: str, dtype: torch.dtype, simd: str) -> None:
    for channels in (0, 1, -1, 3):
        normal_case(name, 37, 301, channels, dtype).check(algorithm)


# around the sizes of a register, of the kernels' blocks and of the sorts' switches
SIZES = [(0, 0), (0, 5), (5, 0), (1, 1), (1, 513), (3, 512), (4, 511), (5, 31), (63, 65), (64, 64)]
SIZES += [(65, 63), (129, 16), (130, 17), (70, 1030)]


@each_simd
@each_surrogate_algorithm
def test_sizes(name: str, algorithm: str, simd: str) -> None:
    for (p, m), channels in itertools.product(SIZES, (0, -1, 2)):
        normal_case(name, p, m, channels).check(algorithm)


@each_surrogate_algorithm
@pytest.mark.parametrize("channels", [0, 3])
def test_few_anchors_and_many_items(name: str, algorithm: str, channels: int) -> None:
    normal_case(name, 5, 100_003, channels).check(algorithm)


@each_surrogate_algorithm
@pytest.mark.parametrize("channels", [0, 2])
def test_many_anchors_and_few_items(name: str, algorithm: str, channels: int) -> None:
    normal_case(name, 10_007, 35, channels).check(algorithm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("name", "algorithm"), SORT_ALGORITHMS)
@pytest.mark.parametrize("p", [4096, 16_384, 100_001])
def test_sort_of_many(name: str, algorithm: str, dtype: torch.dtype, p: int) -> None:
    # at 100 001 anchors the moments of three channels do not fit the scratch memory at once
    channels = 3 if p == 100_001 else 0
    normal_case(name, p, 30_000, channels, dtype, sample=8).check(algorithm)


def on_grid(x: Tensor, step: float = 2.0**-10) -> Tensor:
    """Scores whose differences are exact in float32, so that a kink lies where it should."""
    return (x / step).round() * step


def spread(kind: str, size: int, seed: int) -> Tensor:
    """Distributions that crowd, stretch or collapse the buckets of the rank search."""
    x = randn(size, seed=seed)
    if kind == "clusters":  # nearly all of them in two narrow places
        x = torch.where(torch.arange(size) % 50 == 0, 300.0 * x, 0.01 * x + x.sign())
    elif kind == "heavy_tails":
        x = (x / randn(size, seed=seed + 50)).clamp(-4000.0, 4000.0)
    elif kind == "few_values":
        x = (2.0 * x).round() / 2.0
    elif kind == "all_equal":
        x = torch.full_like(x, 0.25)
    elif kind == "outlier":
        x[0], x[size // 2] = 1e6, -1e6
    elif kind in ("sorted", "descending"):
        x = x.sort(descending=kind == "descending").values
    return x if kind == "outlier" else on_grid(x)


KINDS = ("clusters", "heavy_tails", "few_values", "all_equal", "outlier", "sorted", "descending")


@lru_cache(maxsize=64)
def spread_case(name: str, kind: str, p: int, m: int, dtype: torch.dtype, weighted: bool) -> Case:
    # breakpoints at -0.5 and 1: on the grid, so items stand exactly on the keys
    anchors, items = spread(kind, p, 1).to(dtype), spread(kind, m, 2).to(dtype)
    if kind == "heavy_tails" and name not in PIECEWISE:
        anchors, items = anchors / 256.0, items / 256.0  # exp(4000) is inf, by definition
    weights = randn(m, seed=3).to(dtype) if weighted else None
    return Case(name, anchors, items, weights, margin=0.5, scale=2.0, sample=50)


@each_simd
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PIECEWISE)
def test_sort_of_any_distribution(name: str, kind: str, dtype: torch.dtype, simd: str) -> None:
    for weighted in (False, True):
        spread_case(name, kind, 3001, 203, dtype, weighted).check("sort")


SMALL_CASES = [
    (name, algorithm, kind)
    for name, algorithm in SURROGATE_ALGORITHMS
    for kind in KINDS
    if name in ("squared", *PIECEWISE) or kind not in ("clusters", "outlier")  # exp(1e6) is inf
]


@each_simd
@pytest.mark.parametrize(("name", "algorithm", "kind"), SMALL_CASES)
def test_small_sets_of_any_distribution(name: str, algorithm: str, kind: str, simd: str) -> None:
    spread_case(name, kind, 45, 70, torch.float32, False).check(algorithm)


@each_simd
@pytest.mark.parametrize("algorithm", ["direct", "sort"])
@pytest.mark.parametrize("name", PIECEWISE)
def test_ties_are_exact(name: str, algorithm: str, simd: str) -> None:
    # quarters, integer weights: every sum is exact in float32, so nothing at all may differ
    anchors, items = on_grid(randn(90, seed=1), 0.25), on_grid(randn(150, seed=2), 0.25)
    weights = (2.0 * randn(2, 150, seed=3)).round()
    upstream = (2.0 * randn(2, 90, seed=4)).round()
    options: dict[str, Any] = {"surrogate": name, "margin": 0.5, "scale": 2.0}
    truth = value_and_gradients(
        reference.pairwise_sums, anchors, items, upstream, item_weights=weights, **options
    )
    actual = value_and_gradients(
        ops.pairwise_sums,
        anchors.float(),
        items.float(),
        upstream,
        item_weights=weights.float(),
        algorithm=algorithm,
        **options,
    )
    for a, t in zip(actual, truth, strict=True):
        assert torch.equal(a.double(), t)


@lru_cache(maxsize=4)
def far_case(name: str, margin: float) -> Case:
    anchors, items = 30.0 + 0.05 * randn(200, seed=1), 30.0 + 0.05 * randn(1000, seed=2)
    return Case(name, anchors.float(), items.float(), margin=margin, scale=2.0)


@each_simd
@pytest.mark.parametrize("margin", [0.05, 1.0])
@each_surrogate_algorithm
def test_scores_far_from_zero(name: str, algorithm: str, margin: float, simd: str) -> None:
    # raw float32 moments lose everything here: relative error 4.5 (METHODS.md, P1)
    case = far_case(name, margin)
    options: dict[str, Any] = {"algorithm": algorithm, **case.options}
    value = ops.pairwise_sums(case.anchors, case.items, **options)
    assert float((value - case.truth[0]).abs().max()) < 5e-7 * float(case.truth[0].max())
    case.check(algorithm)


@each_simd
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["direct", "sort"])
@pytest.mark.parametrize("name", ["hinge", "barrier_hinge"])
def test_items_beside_a_breakpoint(
    name: str, algorithm: str, dtype: torch.dtype, simd: str
) -> None:
    # Far from zero a breakpoint, anchor - margin, is no number of the dtype. The items are the
    # numbers next to it: differences are exact, so it is known which slope each of them takes.
    margin, scale = 0.3, 2.0
    anchors = (30.0 + randn(40, seed=1)).to(dtype)
    beside = [(anchors.double() + c * margin).to(dtype) for c in (-1.0, 2.0)]
    items = torch.cat([x for b in beside for x in (b, b.nextafter(b + 1), b.nextafter(b - 1))])
    options: dict[str, Any] = {"surrogate": name, "margin": margin, "scale": scale}
    truth = value_and_gradients(reference.pairwise_sums, anchors, items, **options)
    actual = value_and_gradients(ops.pairwise_sums, anchors, items, algorithm=algorithm, **options)
    torch.testing.assert_close(actual[0].double(), truth[0], rtol=1e-6, atol=0.0)
    assert torch.equal(actual[1], truth[1])
    assert torch.equal(actual[2], truth[2])


@each_surrogate_algorithm
def test_translation(name: str, algorithm: str) -> None:
    anchors, items = on_grid(randn(300, seed=1)).float(), on_grid(randn(500, seed=2)).float()
    weights = randn(500, seed=3).float()
    options: dict[str, Any] = {
        "item_weights": weights,
        "surrogate": name,
        "algorithm": algorithm,
        "margin": 0.5,
        "scale": 2.0,
    }
    here = value_and_gradients(ops.pairwise_sums, anchors, items, **options)
    there = value_and_gradients(ops.pairwise_sums, anchors + 64.0, items + 64.0, **options)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(a.abs().max()))
    _, by_anchor, by_item = (x.double() for x in here)
    total = float(by_anchor.abs().sum() + by_item.abs().sum())
    assert abs(float(by_anchor.sum() + by_item.sum())) <= 1e-6 * total
    assert total > 0.0 or name == "zero_one"


def test_auto_is_one_of_the_two() -> None:
    for name, algorithm in SORT_ALGORITHMS:
        for p, m in [(2, 2), (8, 8), (50, 50), (1000, 1000), (2, 5000), (5000, 2)]:
            anchors, items = randn(p, seed=1).float(), randn(m, seed=2).float()
            sums = [
                ops.pairwise_sums(anchors, items, surrogate=name, algorithm=a)  # type: ignore[arg-type]
                for a in ("auto", "direct", algorithm)
            ]
            assert torch.equal(sums[0], sums[1]) or torch.equal(sums[0], sums[2])


@each_surrogate_algorithm
def test_gradcheck(name: str, algorithm: str) -> None:
    anchors, items = randn(5, seed=1), randn(7, seed=2)
    d = items[None, :] - anchors[:, None]
    kinks = torch.tensor([-MARGIN, 0.0, SCALE * MARGIN / (SCALE - 1.0)], dtype=torch.float64)
    assert (d[..., None] - kinks).abs().min() > 1e-4
    for weights in (None, randn(7, seed=3), randn(2, 7, seed=4)):
        torch.autograd.gradcheck(
            lambda x, y, w=weights: ops.pairwise_sums(
                x,
                y,
                item_weights=w,
                surrogate=name,  # type: ignore[arg-type]
                margin=MARGIN,
                scale=SCALE,
                algorithm=algorithm,  # type: ignore[arg-type]
            ),
            (anchors.requires_grad_(), items.requires_grad_()),
        )


@each_simd
@each_surrogate_algorithm
@pytest.mark.parametrize("hidden", [1e3, 1e18, -1e18])
def test_weight_zero_hides_a_large_score(
    name: str, algorithm: str, hidden: float, simd: str
) -> None:
    # finite, so nothing sends it to the direct algorithm: it must not become the centre
    anchors, items = randn(5, seed=1).float(), randn(9, seed=2).float()
    weights = randn(9, seed=3).float().abs()
    weights[::2] = 0.0
    options: dict[str, Any] = {"surrogate": name, "algorithm": algorithm, "item_weights": weights}
    expected = value_and_gradients(ops.pairwise_sums, anchors, items, **options)
    items[::2] = hidden
    actual = value_and_gradients(ops.pairwise_sums, anchors, items, **options)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)
    # nor does an anchor whose sum nobody uses
    upstream = torch.ones(5)
    upstream[2] = 0.0
    options["item_weights"] = None
    calm = randn(9, seed=2).float()
    expected = value_and_gradients(ops.pairwise_sums, anchors, calm, upstream, **options)
    if name != "exponential":
        anchors[2] = hidden
    actual = value_and_gradients(ops.pairwise_sums, anchors, calm, upstream, **options)
    torch.testing.assert_close(actual[2], expected[2], rtol=2e-6, atol=1e-6)
