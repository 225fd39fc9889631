"""Products of bfloat16 embeddings on AMX tiles: as good as float32's on the same numbers."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from contrastive_helpers import Truth, Views, each_kind, make, step
from helpers import INF, NAN, randn
from loss_helpers import bits_equal
from torch import Tensor

import xrisk_ext as xr
from xrisk_ext import _C, reference

on_tiles = pytest.mark.parametrize("bfloat16", ["amx"], indirect=True)
SHAPES = [(1, 7), (17, 1), (17, 33), (300, 7), (40, 256)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def related(size: int, width: int, seed: int = 0, scale: float = 1.0) -> Views:
    """Views that resemble each other; an id a sample, of few."""
    shared = randn(size, width, seed=seed)
    first, second = (
        ((1.5 * shared + randn(size, width, seed=seed + k)) * scale).to(torch.bfloat16)
        for k in (100, 200)
    )
    return Views(first, second, torch.arange(size) % 9)


def fused_step(loss: Any, first: Tensor, second: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    """The value, and the gradient of the embeddings before it is rounded to their dtype."""
    state = None if loss.state is None else loss.state.value
    own = loss.temperatures
    return torch.ops.xrisk_ext.contrastive_step_(  # type: ignore[no-any-return]
        first, second, index, state, None if own is None else own.value,
        None if own is None else own.momentum, loss.gamma, loss.temperature.detach(), loss.eta,
        *loss._options, True, True,
    )  # fmt: skip


def with_gradients(f: Any, q: Tensor, k: Tensor, **options: Any) -> tuple[Tensor, ...]:
    leaves = [t.detach().clone().requires_grad_() for t in (q, k)]
    value = f(*leaves, **options)
    weights = torch.cos(torch.arange(value.numel(), dtype=value.dtype))
    return value.detach(), *torch.autograd.grad(value, leaves, weights)


def assert_like(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.dtype == expected.dtype
    assert torch.equal(actual.isfinite(), expected.isfinite())
    actual, expected = (t.nan_to_num(0.0, 0.0, 0.0) for t in (actual, expected))
    size = float(expected.abs().max()) if expected.numel() else 0.0
    assert float((actual - expected).abs().max()) <= tolerance * max(size, 1e-3)


@each_kind
@each_shape
@on_tiles
def test_steps_are_those_of_float32(kind: str, shape: tuple[int, int], bfloat16: str) -> None:
    tiled, widened = make(kind), make(kind)
    for seed in (0, 1):
        first, second, index = related(*shape, seed=seed)
        actual = fused_step(tiled, first, second, index)
        expected = fused_step(widened, first.float(), second.float(), index)
        # a similarity is off by 1e-7 over the temperature, a weight by 2^-17
        for a, e in zip(actual, expected, strict=True):
            assert_like(a, e, 1e-4)
        if min(shape) > 7:
            assert not torch.equal(actual[1], expected[1])  # else nothing was compared
    for a, e in zip(tiled.buffers(), widened.buffers(), strict=True):
        assert_like(a, e, 1e-4)


@pytest.mark.parametrize("kind", ["sogclr", "bimodal"])
@pytest.mark.parametrize("bfloat16", ["amx", "float32"], indirect=True)
def test_low_temperature_is_accurate_on_the_inputs(kind: str, bfloat16: str) -> None:
    first, second, _ = related(120, 64)
    views = Views(first, second, torch.arange(120))
    loss = make(kind, 120, temperature=0.01)
    exact = Truth(make(kind, 120, temperature=0.01))
    value, by_first, by_second, _ = exact.step(views)
    actual = fused_step(loss, *views)
    assert float((actual[0].double() - value).abs()) <= 1e-5 * float(value.abs())
    for a, e in zip(actual[1], (by_first, by_second), strict=True):
        # One bfloat16 a weight would be off by 1e-3.
        assert float((a.double() - e).norm() / e.norm()) <= 2e-5


@pytest.mark.parametrize("exclude", [False, True])
@each_shape
@on_tiles
def test_log_sums_are_those_of_float32(
    shape: tuple[int, int], exclude: bool, bfloat16: str
) -> None:
    rows, width = shape
    q, k, _ = related(rows, width, scale=0.3)
    k = torch.cat([k, q, k])[: 2 * rows + 3]
    options: dict[str, Any] = {"temperature": torch.linspace(0.2, 2.0, rows)}
    if exclude:
        options["exclude"] = torch.arange(rows)[:, None].repeat(1, 2) % 5 - 1
    actual = with_gradients(xr.ops.contrastive_log_sums, q, k, **options)
    expected = with_gradients(xr.ops.contrastive_log_sums, q.float(), k.float(), **options)
    truth = with_gradients(reference.contrastive_log_sums, q.double(), k.double(), **options)
    assert_like(actual[0], expected[0], 1e-5)
    for a, e, t in zip(actual[1:], expected[1:], truth[1:], strict=True):
        size = float(t.abs().max())
        assert float((e - t).abs().max()) <= 1e-4 * size
        rounding = torch.finfo(a.dtype).eps / 2 * t.abs()
        assert float(((a.double() - t).abs() - rounding).max()) <= 1e-4 * size


@each_kind
@on_tiles
def test_strides_and_threads_change_nothing(
    kind: str, bfloat16: str, restore_threads: None
) -> None:
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = make(kind)
        first, second, index = related(300, 33)
        results.append([*fused_step(loss, first, second, index), *loss.buffers()])
    loss = make(kind)
    wide = torch.stack([first, first], 2)[:, :, 1]
    results.append([*fused_step(loss, wide, second.T.contiguous().T, index), *loss.buffers()])
    assert not wide.is_contiguous()
    for other in results[1:]:
        assert all(bits_equal(a, b) for a, b in zip(results[0], other, strict=True))


@on_tiles
def test_one_of_two_dtypes_is_not_enough(bfloat16: str) -> None:
    first, second, index = related(40, 16)
    expected = fused_step(make("sogclr"), first.float(), second.float(), index)
    for a, b in ((first.float(), second), (first, second.float()), (first.half(), second)):
        mine = fused_step(make("sogclr"), a, b, index)
        plain = fused_step(make("sogclr"), a.float(), b.float(), index)
        assert all(bits_equal(x, y) for x, y in zip(mine, plain, strict=True))
    assert not torch.equal(fused_step(make("sogclr"), first, second, index)[1], expected[1])


@on_tiles
def test_numbers_below_the_normal_range(bfloat16: str) -> None:
    # The tiles take them for zero. Rows that will be normalised are scaled first.
    size = 2.0**-131
    first, second, index = related(40, 16, scale=size)
    assert bool(((first.float().abs() < 2.0**-126) & (first != 0)).any())
    actual = fused_step(make("bimodal"), first, second, index)
    expected = fused_step(make("bimodal"), first.float(), second.float(), index)
    assert_like(actual[0], expected[0], 1e-5)
    # Others: float32 takes over.
    large = torch.full_like(second, 2.0**100)
    mine = xr.ops.contrastive_log_sums(first, large, temperature=1e-9)
    plain = xr.ops.contrastive_log_sums(first.float(), large.float(), temperature=1e-9)
    assert float(plain.abs().max()) > 0.1
    assert bits_equal(mine, plain)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@on_tiles
def test_what_is_not_finite(bad: float, bfloat16: str) -> None:
    first, second, index = related(40, 16)
    first[21, 3] = bad
    loss = make("sogclr")
    before = [b.clone() for b in loss.buffers()]
    value, *gradients, _ = step(loss, Views(first, second, index))
    assert value.isnan()
    assert all(bool(g.isnan().all()) for g in gradients)
    assert all(bits_equal(a, b) for a, b in zip(before, loss.buffers(), strict=True))
    actual = xr.ops.contrastive_log_sums(first, second)
    expected = xr.ops.contrastive_log_sums(first.float(), second.float())
    assert torch.equal(actual.isfinite(), expected.isfinite())
    assert not bool(actual[21].isfinite())


@on_tiles
def test_belongs_to_the_avx512_kernels(bfloat16: str) -> None:
    assert _C.build_info()["bfloat16_built"][0] == "amx"
    _C.select_simd("avx2")  # the fixture restores it
    assert _C.build_info()["bfloat16"] == "float32"
    _C.select_simd("avx512")
    assert _C.build_info()["bfloat16"] == "amx"
    with pytest.raises(ValueError, match="no products avx2"):
        _C.select_bfloat16("avx2")


def test_the_environment_chooses() -> None:
    code = "from xrisk_ext import _C; print(_C.build_info()['bfloat16'])"
    environment = {**os.environ, "XRISK_BFLOAT16": "float32"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "float32"
