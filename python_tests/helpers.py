"""What several test files share: names, random inputs, comparisons, and the accuracy rule."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xrisk_ext import _C, reference

INF, NAN = math.inf, math.nan
DIFFERENTIABLE = tuple(name for name in reference.SURROGATES if name != "zero_one")
LIBAUC_SURROGATES = ("squared", "squared_hinge", "hinge", "barrier_hinge", "logistic")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIMD_VARIANTS = ("baseline", "avx2", "avx512")
# (margin, scale) that suit every surrogate and are not round numbers in binary
MARGIN, SCALE = 0.7, 1.3

# Runs a test once per SIMD variant, see the fixture `simd` in conftest.py.
each_simd = pytest.mark.parametrize("simd", SIMD_VARIANTS, indirect=True)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).split(".")[1])


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype that the ops compute scores of this dtype in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


SMOOTH_SURROGATES = ("logistic", "sigmoid")
# What the docstring of pairwise_sums promises of the smooth algorithm, by the dtype computed in.
SMOOTH_BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-12}


def algorithms_of(name: str) -> tuple[str, ...]:
    return ("direct", "smooth" if name in SMOOTH_SURROGATES else "sort", "auto")


def may_be_smooth(name: str, algorithm: str) -> bool:
    """Whether the smooth algorithm's bound is what may be asked for, and not the accuracy rule."""
    return name in SMOOTH_SURROGATES and algorithm != "direct"


SURROGATE_ALGORITHMS = [
    (name, algorithm) for name in reference.SURROGATES for algorithm in algorithms_of(name)
]
each_surrogate_algorithm = pytest.mark.parametrize(("name", "algorithm"), SURROGATE_ALGORITHMS)


def use_simd(variant: str) -> None:
    """Selects the kernels of a variant. Skips only where the CPU has no such instructions.

    torch looks at the CPU on its own, so a variant that the dispatch fails to offer is no skip.
    """
    try:
        _C.select_simd(variant)
    except ValueError:
        needs = {"avx2": ("AVX2", "AVX512"), "avx512": ("AVX512",)}
        assert variant != "baseline", "the baseline runs everywhere"
        assert torch.backends.cpu.get_cpu_capability() not in needs[variant]
        pytest.skip(f"this CPU has no {variant}")
    assert _C.build_info()["simd"] == variant


def use_bfloat16(products: str) -> None:
    """Selects how bfloat16 embeddings are multiplied. Skips only where the CPU has no tiles."""
    try:
        _C.select_bfloat16(products)
    except ValueError:
        assert products == "amx", "float32 works everywhere"
        cpu = Path("/proc/cpuinfo")
        flags = cpu.read_text().split() if cpu.exists() else []
        assert not {"amx_tile", "amx_bf16", "avx512bw"} <= set(flags)
        pytest.skip("this CPU has no AMX")
    assert _C.build_info()["bfloat16"] == products


def phi(name: str, d: float, m: float, s: float) -> float:
    """The table of surrogates, once more, for one difference."""
    return {
        "squared": lambda: (m + d) ** 2,
        "squared_hinge": lambda: max(m + d, 0.0) ** 2,
        "hinge": lambda: max(m + d, 0.0),
        "barrier_hinge": lambda: max(s * (d - m) + m, m + d, -s * (d + m)),
        "logistic": lambda: math.log(1.0 + math.exp(s * d)),
        "sigmoid": lambda: 1.0 / (1.0 + math.exp(-s * d)),
        "exponential": lambda: math.exp(s * d),
        "zero_one": lambda: 1.0 if d > 0 else 0.5 if d == 0 else 0.0,
    }[name]()


def libauc_hyperparameter(name: str) -> Any:
    """LibAUC's one hyper-parameter; its barrier hinge unpacks (margin, scale)."""
    return {"logistic": SCALE, "barrier_hinge": (MARGIN, SCALE)}.get(name, MARGIN)


def plain_surrogate(name: str, d: Tensor, m: float, s: float) -> Tensor:
    """What one writes in PyTorch: in the dtype of d, autograd by PyTorch, a NaN stays a NaN."""
    if name == "squared":
        return (m + d).square()
    if name == "squared_hinge":
        return (m + d).relu().square()
    if name == "hinge":
        return (m + d).relu()
    if name == "barrier_hinge":
        return torch.maximum(torch.maximum(s * (d - m) + m, m + d), -s * (d + m))
    if name == "logistic":
        return torch.logaddexp(s * d, torch.zeros_like(d))
    if name == "sigmoid":
        return torch.sigmoid(s * d)
    if name == "exponential":
        return torch.exp(s * d)
    return torch.heaviside(d.detach(), torch.full_like(d, 0.5)) + 0.0 * d  # zero_one


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_labels(*shape: int, seed: int = 0) -> Tensor:
    """About a third of ones; the first two entries are a positive and a negative."""
    generator = torch.Generator().manual_seed(seed + 1000)
    labels = (torch.rand(*shape, generator=generator) < 0.35).long()
    labels[0] = 1
    labels[1:2] = 0  # of a batch of one: nothing
    return labels


def finite_differences(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """d sum(f) / d at, by central differences."""
    gradient = torch.zeros_like(at)
    for k in range(at.numel()):
        shift = torch.zeros_like(at).view(-1)
        shift[k] = step
        shift = shift.view_as(at)
        gradient.view(-1)[k] = (f(at + shift) - f(at - shift)).sum() / (2.0 * step)
    return gradient


def value_and_gradients(
    f: Callable[..., Tensor],
    anchors: Tensor,
    items: Tensor,
    upstream: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """f(anchors, items), and the gradients of its sum weighted by `upstream` (ones)."""
    x, y = anchors.detach().requires_grad_(), items.detach().requires_grad_()
    value = f(x, y, **options)
    weights = torch.ones_like(value) if upstream is None else upstream.to(value.dtype)
    by_anchor, by_item = torch.autograd.grad(value, (x, y), weights)
    return value.detach(), by_anchor, by_item


def assert_close(actual: Tensor, expected: Any, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    assert actual.dtype == torch.float64
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)


def assert_bitwise(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0.0, atol=0.0, equal_nan=True
    )


def assert_within(
    what: str, actual: Tensor, truth: Tensor, magnitude: Tensor, bound: float
) -> None:
    """Error <= bound * magnitude; what the output's own dtype rounds away is forgiven."""
    assert actual.shape == truth.shape, what
    assert bool(actual.isfinite().all()), f"{what} is not finite"
    if truth.numel() == 0:
        return
    output = torch.finfo(actual.dtype)
    rounding = 0.5 * (output.eps * truth.abs()).clamp(min=output.smallest_normal * output.eps)
    error = ((actual.double() - truth).abs() - rounding) / magnitude.clamp(min=1e-30)
    worst = float(error.max())
    assert worst <= bound, f"{what}: error {worst:.3g} at {int(error.argmax())}, bound {bound:.3g}"


def assert_accurate(
    what: str, actual: Tensor, plain: Tensor, truth: Tensor, magnitude: Tensor
) -> None:
    """The accuracy rule: error <= 2x the error of plain PyTorch plus a few roundings.

    Errors are relative to `magnitude`, the sum of the absolute values of what was summed; plain is
    in the dtype that the op computes in. What the output's own dtype rounds away is forgiven. In
    float64 plain PyTorch and the truth are one and the same: the roundings are all there is.
    """
    assert truth.dtype == torch.float64
    assert actual.shape == truth.shape, what
    assert bool(actual.isfinite().all()), f"{what} is not finite"
    if truth.numel() == 0:
        return
    size = magnitude.clamp(min=1e-30)
    roundings = 64.0 if plain.dtype == torch.float64 else 8.0
    output, computed = torch.finfo(actual.dtype), torch.finfo(plain.dtype)
    rounding = 0.5 * (output.eps * truth.abs()).clamp(min=output.smallest_normal * output.eps)
    error = ((actual.double() - truth).abs() - rounding).clamp(min=0.0) / size
    plain_error = (plain.double() - truth).abs() / size
    bound = 2.0 * float(plain_error.max()) + roundings * computed.eps
    assert float(error.max()) <= bound, (
        f"{what}: error {float(error.max()):.3g} at {int(error.argmax())}, allowed {bound:.3g}"
    )
