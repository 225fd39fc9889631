"""What the fuzz tests share: a decorator that counts examples, devices, threads, SIMD variants."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import SIMD_VARIANTS, use_simd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xrisk_ext import _C

# Examples run so far, by test: conftest.py prints the total.
EXAMPLES: Counter[str] = Counter()

WHY_NO_CUDA = (
    "this build of xrisk_ext has no CUDA kernels"
    if not _C.build_info()["cuda"]
    else ""
    if torch.cuda.is_available()
    else "torch sees no CUDA device"
)
each_device = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(bool(WHY_NO_CUDA), reason=f"NOT FUZZED: {WHY_NO_CUDA}")
        ),
    ],
)


def fuzz(test: Callable[..., None], share: int = 1) -> Callable[..., None]:
    """Runs test(data, ...) on what hypothesis draws, as often as the profile says; counts."""

    @functools.wraps(test)
    def counted(*args: Any, **options: Any) -> None:
        EXAMPLES[test.__qualname__] += 1
        test(*args, **options)

    slow = settings(
        max_examples=max(2, settings.default.max_examples // share),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return slow(given(data=st.data())(counted))


def fuzz_less(test: Callable[..., None]) -> Callable[..., None]:
    """As `fuzz`, a fourth as often: where the reference takes its time."""
    return fuzz(test, share=4)


def fuzz_a_little(test: Callable[..., None]) -> Callable[..., None]:
    """As `fuzz`, more seldom: for a test that is there once for every public name."""
    return fuzz(test, share=15)


@contextmanager
def drawn_simd(data: st.DataObject) -> Iterator[None]:
    """Under one of the SIMD variants that this CPU has."""
    before = _C.build_info()["simd"]
    try:
        use_simd(data.draw(st.sampled_from(available_variants()), label="simd"))
        yield
    finally:
        _C.select_simd(before)


@functools.cache
def available_variants() -> tuple[str, ...]:
    before = _C.build_info()["simd"]
    available: list[str] = []
    for variant in SIMD_VARIANTS:
        try:
            use_simd(variant)
        except pytest.skip.Exception:  # the CPU has no such instructions: helpers.py made sure
            continue
        available.append(variant)
    _C.select_simd(before)
    return tuple(available)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
