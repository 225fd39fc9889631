"""P4: contrastive_log_sums against its float64 twin: gradients, precision, bad input."""

import math
from typing import Any

import pytest
import torch
from helpers import (
    DTYPES,
    INF,
    NAN,
    assert_accurate,
    assert_bitwise,
    assert_close,
    each_dtype,
    each_simd,
    randn,
)
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import reference

# rows, keys, width: one tile, odd edges, several blocks of 256 rows and tiles, long sums, vectors
SHAPES = [
    (7, 9, 5), (1, 1, 3), (3, 40, 1), (300, 530, 17), (520, 20, 8), (3, 700, 1100), (1, 40, 6),
    (40, 1, 6),
]  # fmt: skip
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(randn(*shape, seed=seed), dim=1)


def random_exclude(rows: int, keys: int, entries: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, keys, (rows, entries), generator=generator)


def with_gradients(f: Any, *inputs: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """The value, and the gradients of its sum with weights cos(k)."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    value = f(leaves[0], leaves[1], temperature=leaves[2], **options)
    weights = torch.cos(torch.arange(value.numel(), dtype=value.dtype))
    return value.detach(), *torch.autograd.grad(value, leaves, weights)


@each_shape
@each_simd
def test_follows_the_reference(shape: tuple[int, int, int], simd: str) -> None:
    rows, keys, width = shape
    inputs = (randn(rows, width, seed=1), randn(keys, width, seed=2), randn(rows).abs() + 0.2)
    exclude = random_exclude(rows, keys) if keys > 2 else None
    actual = with_gradients(xr.ops.contrastive_log_sums, *inputs, exclude=exclude)
    expected = with_gradients(reference.contrastive_log_sums, *inputs, exclude=exclude)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, rtol=1e-10, atol=1e-11)
    single = with_gradients(
        xr.ops.contrastive_log_sums, *(t.float() for t in inputs), exclude=exclude
    )
    for a, e in zip(single, expected, strict=True):
        assert a.dtype == torch.float32
        assert_close(a.double(), e, rtol=3e-5, atol=3e-5 * float(e.abs().max()))


def test_gradcheck() -> None:
    q, k = randn(4, 3, seed=1).requires_grad_(), randn(6, 3, seed=2).requires_grad_()
    each = (randn(4, seed=3).abs() + 0.5).requires_grad_()
    one = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    exclude = torch.tensor([[0, 1], [-1, -1], [5, 5], [2, -1]])
    for temperature in (each, one):
        assert torch.autograd.gradcheck(
            lambda q, k, t: xr.ops.contrastive_log_sums(q, k, temperature=t, exclude=exclude),
            (q, k, temperature),
        )


@each_dtype
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 1e-3])
def test_no_temperature_overflows(dtype: torch.dtype, temperature: float) -> None:
    q, k = unit(40, 64, seed=1).to(dtype), unit(60, 64, seed=2).to(dtype)
    exact = (q.double(), k.double(), torch.tensor(temperature, dtype=torch.float64))
    mine = (q, k, torch.tensor(temperature))
    actual = with_gradients(xr.ops.contrastive_log_sums, *mine)
    truth = with_gradients(reference.contrastive_log_sums, *exact)
    single = dtype != torch.float64
    compute = torch.float32 if single else torch.float64

    def plain(q: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
        s = q.to(compute) @ k.to(compute).T / temperature
        return s.logsumexp(1) - math.log(len(k))

    near = with_gradients(plain, q.to(compute), k.to(compute), mine[2].to(compute))
    for what, a, p, t in zip(("value", "dq", "dk", "dt"), actual, near, truth, strict=True):
        size = float(t.abs().max())  # a log of about 0 is the log of a sum of about 1
        scale = torch.full_like(t, max(1.0, size) if what == "value" else size)
        assert_accurate(what, a, p, t, scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "half"])
def test_halves_and_autocast_keep_float32_similarities(dtype: torch.dtype) -> None:
    # A product of halves through ATen returns halves: an exponent at temperature 0.01 would be off
    # by tenths. The inputs are exact in the half type, so that only the product can lose.
    q, k = unit(64, 128, seed=1).to(dtype), unit(96, 128, seed=2).to(dtype)
    truth = reference.contrastive_log_sums(q, k, temperature=0.01)
    lowered = ((q @ k.T).double() / 0.01).logsumexp(1) - math.log(96)
    assert float((lowered - truth).abs().max()) > 1e-3  # what this test is there to see
    plain = xr.ops.contrastive_log_sums(q, k, temperature=0.01)
    with torch.autocast("cpu", dtype=dtype):
        inside = xr.ops.contrastive_log_sums(q.float(), k.float(), temperature=0.01)
        leaf = q.float().requires_grad_()
        (gradient,) = torch.autograd.grad(
            xr.ops.contrastive_log_sums(leaf, k.float(), temperature=0.01).sum(), leaf
        )
    (outside,) = torch.autograd.grad(
        xr.ops.contrastive_log_sums(leaf, k.float(), temperature=0.01).sum(), leaf
    )
    for value in (plain, inside):
        assert value.dtype == torch.float32
        assert float((value.double() - truth).abs().max()) < 1e-4
    assert_bitwise(gradient, outside)


def test_mixed_dtypes_and_strides() -> None:
    q, k = randn(8, 5, seed=1), randn(5, 9, seed=2).T
    expected = reference.contrastive_log_sums(q, k.float())
    assert_close(xr.ops.contrastive_log_sums(q, k.float()), expected)
    for dtype in DTYPES:
        value = xr.ops.contrastive_log_sums(q.float(), k.to(dtype))
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_exclusions() -> None:
    q, k = randn(3, 4, seed=1), randn(2, 4, seed=2)
    one = (q @ k.T) / 0.1
    exclude = torch.tensor([[0, 0], [-1, 1], [0, 1]])
    leaf = q.clone().requires_grad_()
    value = xr.ops.contrastive_log_sums(leaf, k, exclude=exclude)
    assert_close(value.detach(), torch.stack([one[0, 1], one[1, 0], torch.tensor(-INF)]))
    (gradient,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    assert_close(gradient, torch.stack([k[1] / 0.1, k[0] / 0.1, torch.zeros(4)]))
    flat = xr.ops.contrastive_log_sums(q, k, exclude=torch.tensor([0, 1, -1], dtype=torch.int32))
    assert_close(flat[:2], torch.stack([one[0, 1], one[1, 0]]))


def test_nothing_to_sum() -> None:
    q = randn(3, 4).requires_grad_()
    nothing = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    value = xr.ops.contrastive_log_sums(q, nothing)
    assert_bitwise(value.detach(), [-INF] * 3)
    for gradient in torch.autograd.grad(value.nan_to_num().sum(), (q, nothing)):
        assert not gradient.any()
    assert xr.ops.contrastive_log_sums(nothing, q).shape == (0,)
    flat = xr.ops.contrastive_log_sums(torch.zeros(2, 0), torch.zeros(5, 0))
    assert_bitwise(flat, [0.0, 0.0])


def test_what_is_not_finite_stays_in_its_row() -> None:
    q, k = randn(3, 4, seed=1), randn(5, 4, seed=2)
    q[1, 2] = NAN
    value = xr.ops.contrastive_log_sums(q, k)
    assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("rows", "keys", "width"),
    [(300, 700, 32), (100, 1500, 16), (1, 300, 16), (300, 1, 16), (100, 150, 1100)],
)
def test_threads_change_nothing(rows: int, keys: int, width: int, restore_threads: None) -> None:
    """A BLAS with more threads sums long sums, and products of vectors, in another order."""
    q, k = unit(rows, width, seed=1).float(), unit(keys, width, seed=2).float()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(
            with_gradients(
                xr.ops.contrastive_log_sums, q, k, torch.full((rows,), 0.05),
                exclude=random_exclude(rows, keys) if keys > 2 else None,
            )
        )  # fmt: skip
    for one, two in zip(*results, strict=True):
        assert_bitwise(one, two)


def test_compiles() -> None:
    def f(q: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return 2.0 * xr.ops.contrastive_log_sums(q, k, temperature=t, exclude=torch.arange(6))

    inputs = (randn(6, 4, seed=1), randn(8, 4, seed=2), randn(6).abs() + 0.1)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    actual = with_gradients(lambda q, k, temperature: compiled(q, k, temperature), *inputs)
    expected = with_gradients(lambda q, k, temperature: f(q, k, temperature), *inputs)
    for a, e in zip(actual, expected, strict=True):
        assert_bitwise(a, e)


def test_second_derivative_raises() -> None:
    q, k = randn(3, 4).requires_grad_(), randn(5, 4, seed=1)
    (gradient,) = torch.autograd.grad(xr.ops.contrastive_log_sums(q, k).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queries": [1.0]}, TypeError, "queries"),
        ({"keys": None}, TypeError, "keys"),
        ({"queries": torch.zeros(3)}, ValueError, "queries of shape"),
        ({"keys": torch.zeros(3, 5)}, ValueError, "keys of shape"),
        ({"keys": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "keys"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"temperature": -0.1}, ValueError, "temperature"),
        ({"temperature": NAN}, ValueError, "temperature"),
        ({"temperature": "warm"}, TypeError, "temperature"),
        ({"temperature": torch.ones(4)}, ValueError, "temperature"),
        ({"exclude": torch.tensor([0, 1, 3])}, IndexError, "exclude"),
        ({"exclude": torch.tensor([0, 1, -2])}, IndexError, "exclude"),
        ({"exclude": torch.tensor([0, 1])}, ValueError, "exclude"),
        ({"exclude": torch.tensor([0.0, 1.0, 2.0])}, TypeError, "exclude"),
        ({"exclude": [0, 1, 2]}, TypeError, "exclude"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], error: type, message: str) -> None:
    arguments = {"queries": torch.ones(3, 4), "keys": torch.ones(3, 4), **options}
    with pytest.raises(error, match=message):
        xr.ops.contrastive_log_sums(**arguments)
