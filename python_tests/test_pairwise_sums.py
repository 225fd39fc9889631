"""pairwise_sums against the float64 reference: every surrogate, algorithm, dtype and SIMD variant.

What the op is held to is the accuracy rule in helpers.py. Large inputs are compared on a sample of
their rows and columns. Contracts other than numbers stand in test_pairwise_contract.py.
"""

from typing import Any

import pytest
import torch
from helpers import (
    MARGIN,
    SCALE,
    SIMD_VARIANTS,
    SURROGATE_ALGORITHMS,
    assert_accurate,
    computed_in,
    each_dtype,
    each_simd,
    each_surrogate_algorithm,
    plain_surrogate,
    randn,
    use_simd,
    value_and_gradients,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xrisk_ext import _C, ops, reference

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


def weight_sets(num_items: int, dtype: torch.dtype) -> list[Tensor | None]:
    """None, [M] >= 0, [M] of any sign, [C, M]; with zeros, and a channel that is all zero."""
    signed = randn(3, num_items, seed=77)
    signed[:, ::3] = 0.0
    many = signed.clone()
    many[1] = 0.0
    return [w if w is None else w.to(dtype) for w in (None, signed[0] ** 2, signed[1], many)]


def check(
    name: str,
    algorithm: str,
    anchors: Tensor,
    items: Tensor,
    weights: Tensor | None = None,
    *,
    margin: float = MARGIN,
    scale: float = SCALE,
    sample: int | None = None,
) -> None:
    """Holds values and both gradients to the accuracy rule, all or about `sample` of each."""
    p, m = anchors.shape[0], items.shape[0]
    rows = torch.arange(p) if sample is None else torch.arange(0, p, max(1, p // sample))
    columns = torch.arange(m) if sample is None else torch.arange(0, m, max(1, m // sample))
    shape = [p] if weights is None or weights.dim() == 1 else [weights.shape[0], p]
    dtype = computed_in(anchors.dtype)
    upstream = randn(*shape, seed=99).to(dtype)
    some_weights = None if weights is None else weights[..., columns]
    options: dict[str, Any] = {"surrogate": name, "margin": margin, "scale": scale}

    def row_side(f: Any, to: torch.dtype) -> tuple[Tensor, Tensor]:
        w = None if weights is None else weights.to(to)
        x, y, u = anchors[rows].to(to), items.to(to), upstream[..., rows]
        return value_and_gradients(f, x, y, u, item_weights=w, **options)[:2]

    def column_side(f: Any, to: torch.dtype) -> Tensor:
        w = None if some_weights is None else some_weights.to(to)
        x, y = anchors.to(to), items[columns].to(to)
        return value_and_gradients(f, x, y, upstream, item_weights=w, **options)[2]

    value, by_anchor, by_item = value_and_gradients(
        ops.pairwise_sums,
        anchors,
        items,
        upstream,
        item_weights=weights,
        algorithm=algorithm,
        **options,
    )
    assert value.dtype == dtype
    assert by_anchor.dtype == anchors.dtype
    assert by_item.dtype == items.dtype

    true_value, true_by_anchor = row_side(reference.pairwise_sums, torch.float64)
    true_by_item = column_side(reference.pairwise_sums, torch.float64)
    plain_value, plain_by_anchor = row_side(plain_sums, dtype)
    plain_by_item = column_side(plain_sums, dtype)

    sizes = torch.atleast_2d(torch.ones(m) if weights is None else weights.abs())
    sizes, shares = sizes.double(), torch.atleast_2d(upstream).abs().double()  # [C, M], [C, P]
    value_size = reference.pairwise_sums(
        anchors[rows], items, item_weights=sizes, **options
    ).view_as(true_value)

    def slopes(x: Tensor, y: Tensor) -> Tensor:
        d = y.double()[None, :] - x.double()[:, None]
        return reference.surrogate_slope(name, d, margin, scale).abs()

    by_anchor_size = (shares[:, rows] * (sizes @ slopes(anchors[rows], items).T)).sum(dim=0)
    by_item_size = (sizes[:, columns] * (shares @ slopes(anchors, items[columns]))).sum(dim=0)

    what = f"{name} {algorithm} {anchors.dtype} P={p} M={m} w={None if weights is None else shape}"
    assert_accurate(f"values of {what}", value[..., rows], plain_value, true_value, value_size)
    assert_accurate(
        f"d anchors of {what}",
        by_anchor[rows],
        plain_by_anchor,
        true_by_anchor,
        by_anchor_size,
    )
    assert_accurate(
        f"d items of {what}", by_item[columns], plain_by_item, true_by_item, by_item_size
    )


@each_simd
@each_dtype
@each_surrogate_algorithm
def test_values_and_gradients(name: str, algorithm: str, dtype: torch.dtype, simd: str) -> None:
    anchors, items = randn(37, seed=1).to(dtype), randn(301, seed=2).to(dtype)
    for weights in weight_sets(301, computed_in(dtype)):
        check(name, algorithm, anchors, items, weights)


# around the sizes of a register, of the kernels' blocks and of the sorts' switches
SIZES = [(0, 0), (0, 5), (5, 0), (1, 1), (1, 513), (3, 512), (4, 511), (5, 31), (63, 65), (64, 64)]
SIZES += [(65, 63), (129, 16), (130, 17), (300, 1030)]


@each_simd
@each_surrogate_algorithm
def test_sizes(name: str, algorithm: str, simd: str) -> None:
    for p, m in SIZES:
        anchors, items = randn(p, seed=p).float(), randn(m, seed=m + 1).float()
        for weights in (None, randn(m, seed=5).float(), randn(3, m, seed=6).float()):
            check(name, algorithm, anchors, items, weights)


@each_surrogate_algorithm
@pytest.mark.parametrize("channels", [0, 3])
def test_few_anchors_and_many_items(name: str, algorithm: str, channels: int) -> None:
    anchors, items = randn(5, seed=1).float(), randn(100_003, seed=2).float()
    weights = randn(channels, 100_003, seed=3).float() if channels else None
    check(name, algorithm, anchors, items, weights)


@each_surrogate_algorithm
@pytest.mark.parametrize("channels", [0, 2])
def test_many_anchors_and_few_items(name: str, algorithm: str, channels: int) -> None:
    anchors, items = randn(10_007, seed=1).float(), randn(67, seed=2).float()
    weights = randn(channels, 67, seed=3).float() if channels else None
    check(name, algorithm, anchors, items, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "algorithm"), SORT_ALGORITHMS)
@pytest.mark.parametrize("p", [4096, 4097, 16_384, 70_001])
def test_sort_of_many(name: str, algorithm: str, dtype: torch.dtype, p: int) -> None:
    # 100 000 anchors, three channels: the moments of a channel group fill their scratch memory
    anchors, items = randn(p, seed=1).to(dtype), randn(40_000, seed=2).to(dtype)
    weights = randn(3, 40_000, seed=3).to(dtype) if p == 70_001 else None
    check(name, algorithm, anchors, items, weights, sample=8)


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
    elif kind == "sorted":
        x = x.sort().values
    elif kind == "descending":
        x = x.sort(descending=True).values
    return x if kind == "outlier" else on_grid(x)


KINDS = ("clusters", "heavy_tails", "few_values", "all_equal", "outlier", "sorted", "descending")


@each_simd
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PIECEWISE)
def test_sort_of_any_distribution(name: str, kind: str, dtype: torch.dtype, simd: str) -> None:
    # breakpoints at -0.5 and 1: on the grid, so items stand exactly on the keys
    anchors, items = spread(kind, 3001, 1).to(dtype), spread(kind, 203, 2).to(dtype)
    for weights in (None, randn(203, seed=3).to(dtype)):
        check(name, "sort", anchors, items, weights, margin=0.5, scale=2.0)


@each_simd
@pytest.mark.parametrize("kind", KINDS)
@each_surrogate_algorithm
def test_small_sets_of_any_distribution(name: str, algorithm: str, kind: str, simd: str) -> None:
    if name in ("logistic", "sigmoid", "exponential") and kind in ("clusters", "outlier"):
        pytest.skip("exp(1e6) is inf, by definition")
    shrink = 2.0**-8 if kind == "heavy_tails" else 1.0
    anchors, items = spread(kind, 45, 1) * shrink, spread(kind, 70, 2) * shrink
    check(name, algorithm, anchors.float(), items.float(), margin=0.5, scale=2.0)


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


@pytest.mark.parametrize("margin", [0.02, 1.0])
@each_surrogate_algorithm
def test_scores_far_from_zero(name: str, algorithm: str, margin: float) -> None:
    # raw float32 moments lose everything here: relative error 4.5 (METHODS.md, P1)
    anchors = (30.0 + 0.05 * randn(800, seed=1)).float()
    items = (30.0 + 0.05 * randn(2500, seed=2)).float()
    value = ops.pairwise_sums(
        anchors, items, surrogate=name, algorithm=algorithm, margin=margin, scale=2.0
    )
    truth = reference.pairwise_sums(anchors, items, surrogate=name, margin=margin, scale=2.0)
    assert float(((value - truth) / truth.clamp(min=1e-3)).abs().max()) < 5e-7
    check(name, algorithm, anchors, items, margin=margin, scale=2.0)


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


@given(st.data())
def test_random_shapes_ties_and_extremes(data: st.DataObject) -> None:
    name, algorithm = data.draw(st.sampled_from(SURROGATE_ALGORITHMS))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16]))
    # eighths: ties abound, every difference is exact and every kink is hit or missed by far
    most = 64 if name in ("logistic", "sigmoid", "exponential") else 8000
    scores = st.one_of(st.integers(-8, 8), st.integers(-most, most))
    anchors = torch.tensor(data.draw(st.lists(scores, max_size=80)), dtype=dtype) / 8.0
    items = torch.tensor(data.draw(st.lists(scores, max_size=80)), dtype=dtype) / 8.0
    channels = data.draw(st.sampled_from([None, 1, 2]))
    weights = None
    if channels is not None:
        size = channels * items.shape[0]
        listed = data.draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
        weights = torch.tensor(listed, dtype=computed_in(dtype)).view(channels, items.shape[0])
        weights = weights[0] if channels == 1 else weights
    margin = data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.25]))
    scale = data.draw(st.sampled_from([1.0, 1.5, 2.0]))
    before = _C.build_info()["simd"]
    try:
        variant = data.draw(st.sampled_from(SIMD_VARIANTS))
        use_simd(variant)
        check(name, algorithm, anchors, items, weights, margin=margin, scale=scale)
    finally:
        _C.select_simd(before)
