"""Fixtures and hypothesis profiles. XRISK_HYPOTHESIS=long searches; the default is repeatable."""

import os
from collections.abc import Iterator

import pytest
import torch
from helpers import use_simd
from hypothesis import settings

from xrisk_ext import _C

settings.register_profile("fast", derandomize=True, max_examples=50, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("XRISK_HYPOTHESIS", "fast"))


# Where cores are shared the dense reference spends itself on waking threads. The tests of threads
# ask for two, and compare with one.
torch.set_num_threads(1)


@pytest.fixture
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on the SIMD variant that `each_simd` names."""
    before = _C.build_info()["simd"]
    use_simd(request.param)
    yield request.param
    _C.select_simd(before)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
