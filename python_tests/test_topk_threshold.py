"""The top-K threshold against torch.topk, the reference and finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import INF, NAN, assert_bitwise, computed_in, each_dtype, each_simd, randn
from torch import Tensor

from xrisk_ext import ops, reference

threshold = ops.topk_threshold
METHODS = ("exact", "smooth")
each_method = pytest.mark.parametrize("method", METHODS)


def gradient(f: Callable[..., Tensor], scores: Tensor, *args: Any, **options: Any) -> Tensor:
    leaf = scores.detach().clone().requires_grad_()
    value = f(leaf, *args, **options)
    upstream = randn(value.numel(), seed=9).reshape(value.shape).to(value.dtype)
    return torch.autograd.grad(value, leaf, upstream)[0]


# ----------------------------------------------------------------------------------------- exact

ROWS: dict[str, Callable[[int], Tensor]] = {
    "normal": lambda n: randn(n),
    "ties": lambda n: randn(n).round(),
    "equal": lambda n: torch.full((n,), 0.3, dtype=torch.float64),
    "mostly zero": lambda n: randn(n) * (randn(n, seed=1) > 1.28),
    "both zeros": lambda n: torch.where(randn(n) > 0, 0.0, -0.0).double(),
    "sorted": lambda n: randn(n).sort().values,
    "infinite": lambda n: torch.where(randn(n) > 0.5, INF, torch.where(randn(n) < 0, -INF, 1.0)),
    "bits": lambda n: torch.ldexp(randn(n), (60 * randn(n, seed=2)).clamp(-120, 120)),
}


@each_simd
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("length", [1, 10, 63, 64, 65, 1000, 5000, 70_001])
def test_exact_is_what_topk_finds(simd: str, kind: str, length: int) -> None:
    for dtype in (torch.float32, torch.float64):
        row = ROWS[kind](length).to(dtype)
        for k in {0, 1, length // 100, length // 2, length - 1} - {length}:
            expected = row.topk(k + 1).values[-1]
            assert_bitwise(threshold(row, k) + 0.0, expected + 0.0)  # -0 and 0 are the same


@each_dtype
def test_exact_dtypes_and_shapes(dtype: torch.dtype) -> None:
    scores = randn(3, 4, 50).to(dtype)
    value = threshold(scores, 7)
    assert value.dtype == computed_in(dtype)
    assert_bitwise(value, scores.float().topk(8).values[..., -1] if dtype != torch.float64
                   else scores.topk(8).values[..., -1])  # fmt: skip
    turned = scores.transpose(0, 2)  # not contiguous
    assert_bitwise(threshold(turned, 1), turned.to(value.dtype).topk(2).values[..., -1])
    assert gradient(threshold, scores, 7).dtype == dtype


@each_method
def test_a_row_of_at_most_k_has_no_threshold(method: Any) -> None:
    scores = randn(2, 5)
    for k in (5, 6, 10**12):
        assert_bitwise(threshold(scores, k, method=method), torch.full((2,), -INF))
        assert_bitwise(gradient(threshold, scores, k, method=method), torch.zeros(2, 5))
    assert threshold(torch.zeros(0), 0, method=method).tolist() == -INF
    assert threshold(torch.zeros(3, 0), 0, method=method).tolist() == [-INF] * 3
    assert threshold(torch.zeros(0, 4), 0, method=method).shape == (0,)


@pytest.mark.parametrize("sign", [1, -1])
def test_nan_stands_above_infinity(sign: int) -> None:
    nan = torch.tensor(NAN).copysign(torch.tensor(float(sign)))
    row = torch.cat((randn(300).float(), nan.expand(3), torch.tensor([INF])))
    assert threshold(row, 2).isnan()
    assert threshold(row, 3) == INF
    assert_bitwise(threshold(row, 4), row[:300].max())
    assert gradient(threshold, row, 1).nonzero().tolist() == [[300]]
    # in the smoothed problem a NaN counts as inf
    options: dict[str, Any] = {"k": 20, "method": "smooth", "tau1": 0.1}
    infinite = row.nan_to_num(nan=INF)
    assert_bitwise(threshold(row, **options), threshold(infinite, **options))
    assert_bitwise(gradient(threshold, row, **options), gradient(threshold, infinite, **options))


def test_the_gradient_goes_to_the_first_of_equals() -> None:
    row = torch.tensor([1.0, 0.0, -0.0, 2.0, 0.0])
    for k in (2, 3, 4):
        assert gradient(threshold, row, k).nonzero().tolist() == [[1]]
    long_row = torch.zeros(100_000)
    long_row[:7] = -1.0
    assert gradient(threshold, long_row, 50_000).nonzero().tolist() == [[7]]
    row = torch.tensor([-INF, 1.0, -INF])
    assert gradient(threshold, row, 1).nonzero().tolist() == [[0]]


# ---------------------------------------------------------------------------------------- smooth

SMOOTH_CASES = [
    (length, centre, spread, k, tau1)
    for length in (1, 3, 40, 129, 3000, 70_000)
    for centre, spread in ((0.0, 1.0), (30.0, 0.05))
    for k in sorted({0, length // 100, length // 2})
    for tau1 in (1e-3, 0.01, 0.3)
    if length < 5000 or (k > 0 and tau1 < 0.3)
]


@each_simd
def test_smooth_solves_the_problem(simd: str) -> None:
    """L' changes its sign around the value: the root to the precision of the dtype."""
    for length, centre, spread, k, tau1 in SMOOTH_CASES:
        for dtype in (torch.float32, torch.float64):
            row = (centre + spread * randn(length)).to(dtype)
            value = threshold(row, k, method="smooth", tau1=tau1)
            assert_root(row, value, k, tau1, 1e-4)


def assert_root(row: Tensor, value: Tensor, k: int, tau1: float, tau2: float) -> None:
    kappa, at, h = (k + 0.5) / len(row), value.double(), row.double()

    def above(t: Tensor) -> Tensor:
        return torch.sigmoid((h - t) / tau1).mean()

    slope = torch.sigmoid((h - at) / tau1)
    curvature = tau2 + (slope * (1 - slope)).mean() / tau1
    # a rounding of the value, and of the sum that has to come out as kappa + tau2 t
    rounding = 4 * torch.finfo(value.dtype).eps
    off = rounding * (at.abs() + above(at) / curvature)
    what = (len(row), k, tau1, row.dtype, float(at))
    assert kappa + tau2 * (at - off) - above(at - off) < 0, what
    assert kappa + tau2 * (at + off) - above(at + off) > 0, what


@each_simd
@each_method
@pytest.mark.parametrize("length", [2, 64, 65, 300])
def test_gradients_are_those_of_the_reference(simd: str, method: Any, length: int) -> None:
    for tau1, tau2 in ((0.01, 1e-4), (0.3, 0.1)):
        options = {"k": length // 3, "method": method, "tau1": tau1, "tau2": tau2}
        scores = randn(3, length, seed=length)
        expected = gradient(reference.topk_threshold, scores, **options)
        torch.testing.assert_close(
            gradient(threshold, scores, **options), expected, rtol=1e-9, atol=1e-12
        )
        single = gradient(threshold, scores.float(), **options).double()
        rounded = gradient(reference.topk_threshold, scores.float(), **options).double()
        # a score is rounded to eps |h|, which the sigmoid sees in units of tau1
        torch.testing.assert_close(single, rounded, rtol=1e-4, atol=1e-6)


@each_method
def test_gradcheck(method: Any) -> None:
    scores = randn(2, 9, seed=4).requires_grad_()
    for k in (0, 3, 8):
        assert torch.autograd.gradcheck(
            lambda x, k=k: threshold(x, k, method=method, tau1=0.3), scores
        )
    offsets = torch.tensor([0, 4, 9])
    assert torch.autograd.gradcheck(
        lambda x: threshold(x, 1, method=method, tau1=0.3, offsets=offsets),
        randn(9, seed=5).requires_grad_(),
    )


def test_smooth_slopes_sum_to_one_less_the_quadratic_term() -> None:
    scores, tau1, tau2 = randn(1000), 0.05, 0.3
    slopes = gradient(threshold, scores[None], 100, method="smooth", tau1=tau1, tau2=tau2)
    upstream = randn(1, seed=9)
    at = threshold(scores, 100, method="smooth", tau1=tau1, tau2=tau2)
    above = torch.sigmoid((scores - at) / tau1)
    curvature = tau2 + (above * (1 - above)).mean() / tau1
    torch.testing.assert_close(slopes.sum(), (upstream * (1 - tau2 / curvature)).sum())


def test_smooth_tends_to_the_exact_threshold() -> None:
    scores = randn(5, 200)
    near = threshold(scores, 20, method="smooth", tau1=1e-9, tau2=1e-12)
    torch.testing.assert_close(near, threshold(scores, 20), rtol=0, atol=1e-7)


def test_smooth_with_infinite_scores_and_large_gaps() -> None:
    row = torch.tensor([INF, 3.0, 2.0, 1.0, -INF], dtype=torch.float64)
    for k in range(1, 4):
        value = threshold(row, k, method="smooth")
        torch.testing.assert_close(
            value, reference.topk_threshold(row, k, method="smooth"), rtol=1e-12, atol=0
        )
        assert gradient(threshold, row, k, method="smooth").isfinite().all()
    for far, expected in ((1e15, 0.5 / 1e-4), (-1e15, -0.5 / 1e-4)):  # kappa + tau2 t = 1 or 0
        row = torch.full((1,), far, dtype=torch.float64)
        assert abs(float(threshold(row, 0, method="smooth")) - expected) < 1e-6
    for gap in (1e3, 1e6, 1e12):
        row = torch.arange(50, dtype=torch.float64) * gap
        assert_root(row, threshold(row, 7, method="smooth", tau2=0.0), 7, 0.01, 0.0)


# ------------------------------------------------------------------- ragged rows, threads, errors


@each_method
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32])
def test_ragged_rows(method: Any, index_dtype: torch.dtype) -> None:
    lengths = [5, 0, 70_000, 3, 900, 4]
    rows = [randn(n, seed=n) for n in lengths]
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(index_dtype)
    flat = torch.cat(rows)
    value = threshold(flat, 3, method=method, offsets=offsets)
    apart = torch.stack([threshold(row, 3, method=method) for row in rows])
    assert_bitwise(value, apart)
    slopes = gradient(threshold, flat, 3, method=method, offsets=offsets).split(lengths)
    upstream = randn(len(rows), seed=9)
    for row, slope, weight in zip(rows, slopes, upstream, strict=True):
        leaf = row.clone().requires_grad_()
        threshold(leaf, 3, method=method).backward(weight)
        assert leaf.grad is not None
        assert_bitwise(slope, leaf.grad)


@each_method
@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_changes_nothing(method: Any) -> None:
    inputs = (randn(300, 500).float(), randn(1, 200_000).float().round(), randn(1, 150_000))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(
            [f for x in inputs for f in (threshold(x, 40, method=method),
                                         gradient(threshold, x, 40, method=method))]
        )  # fmt: skip
    for one, two in zip(*results, strict=True):
        assert_bitwise(one, two)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "complaint"),
    [
        ((torch.zeros(()), 0), {}, ValueError, "scores of shape"),
        ((torch.zeros(3), -1), {}, ValueError, "k >= 0"),
        ((torch.zeros(3), 1.0), {}, TypeError, "k to be an int"),
        ((torch.zeros(3), True), {}, TypeError, "k to be an int"),
        (([1.0], 0), {}, TypeError, "scores to be a tensor"),
        ((torch.zeros(3).long(), 0), {}, TypeError, "scores to be float"),
        ((torch.zeros(3), 0), {"method": "fuzzy"}, ValueError, "method"),
        ((torch.zeros(3), 0), {"method": "smooth", "tau1": 0.0}, ValueError, "tau1 > 0"),
        ((torch.zeros(3), 0), {"method": "smooth", "tau1": INF}, ValueError, "tau1 > 0"),
        ((torch.zeros(3), 0), {"method": "smooth", "tau2": -1.0}, ValueError, "tau2 >= 0"),
        ((torch.zeros(3), 0), {"method": "smooth", "epsilon": 1.5}, ValueError, "epsilon"),
        ((torch.zeros(3), 0), {"tau1": "x"}, TypeError, "tau1"),
        ((torch.zeros(3, 1), 0), {"offsets": torch.tensor([0, 3])}, ValueError, "flat scores"),
        ((torch.zeros(3), 0), {"offsets": torch.tensor([0, 2])}, ValueError, "ascend"),
        ((torch.zeros(3), 0), {"offsets": torch.tensor([1, 3])}, ValueError, "ascend"),
        ((torch.zeros(3), 0), {"offsets": torch.tensor([0, 4, 3])}, ValueError, "ascend"),
        ((torch.zeros(3), 0), {"offsets": torch.tensor([[0, 3]])}, ValueError, "offsets"),
        ((torch.zeros(3), 0), {"offsets": torch.zeros(0).long()}, ValueError, "offsets"),
        ((torch.zeros(3), 0), {"offsets": torch.tensor([0.0, 3.0])}, TypeError, "offsets"),
        ((torch.zeros(3), 0), {"offsets": [0, 3]}, TypeError, "offsets"),
        ((torch.zeros(3), 0), {"offsets": torch.tensor([0, 3], device="meta")}, ValueError,
         "offsets on the device"),
    ],
)  # fmt: skip
def test_bad_input(arguments: Any, options: Any, error: Any, complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        threshold(*arguments, **options)


@each_method
def test_it_cannot_be_differentiated_twice(method: Any) -> None:
    scores = randn(20).requires_grad_()
    value = threshold(scores, 3, method=method)
    (slopes,) = torch.autograd.grad(value, scores, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        slopes.sum().backward()


def test_under_autocast_nothing_is_lowered() -> None:
    scores = randn(100).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_bitwise(threshold(scores, 3), scores.topk(4).values[-1])


@each_method
def test_compiles(method: Any) -> None:
    offsets = torch.tensor([0, 8, 30])
    for rows in (None, offsets):

        def squared(scores: Tensor, rows: Tensor | None = rows) -> Tensor:
            return threshold(scores, 3, method=method, offsets=rows).square()

        run = torch.compile(squared, fullgraph=True, backend="aot_eager")
        scores = randn(30)
        assert_bitwise(run(scores), squared(scores))
        assert_bitwise(gradient(run, scores), gradient(squared, scores))
