"""Fixtures and hypothesis profiles. XRISK_HYPOTHESIS=long searches; the default is repeatable.
XRISK_HYPOTHESIS=third takes a third of the default's examples.

XRISK_EXAMPLES changes how many examples of a test the long profile takes.
"""

import gc
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import use_bfloat16, use_simd
from hypothesis import settings

from xrisk_ext import _C

settings.register_profile("fast", derandomize=True, max_examples=50, deadline=None)
settings.register_profile("third", derandomize=True, max_examples=17, deadline=None)
settings.register_profile(
    "long",
    max_examples=int(os.environ.get("XRISK_EXAMPLES", "1200")),
    deadline=None,
    print_blob=True,  # how to repeat what it found
)
settings.load_profile(os.environ.get("XRISK_HYPOTHESIS", "fast"))


# Where cores are shared the dense reference spends itself on waking threads. The tests of threads
# ask for two, and compare with one.
torch.set_num_threads(1)

# Or Inductor compiles seven programs, to know what its own code may use.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")


# What the imports and thousands of collected tests hold stays to the end. A collector that need not
# walk over it again and again saves a quarter of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on the SIMD variant that `each_simd` names."""
    before = _C.build_info()["simd"]
    use_simd(request.param)
    yield request.param
    _C.select_simd(before)


@pytest.fixture
def bfloat16(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on "amx" or "float32" products of bfloat16, of the best SIMD variant."""
    simd, before = _C.build_info()["simd"], _C.build_info()["bfloat16"]
    _C.select_simd("auto")
    use_bfloat16(request.param)
    yield request.param
    _C.select_bfloat16(before)
    _C.select_simd(simd)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


_START = time.monotonic()
_FUZZED: dict[str, int] = {}  # examples of each fuzz test, also of the processes of pytest-xdist
_WHY_NO_CUDA: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    fuzzing = sys.modules.get("fuzzing")
    if fuzzing is None:
        return
    workeroutput = getattr(session.config, "workeroutput", None)
    if workeroutput is None:
        _note(dict(fuzzing.EXAMPLES), fuzzing.WHY_NO_CUDA)
    else:
        workeroutput["fuzzed"] = (dict(fuzzing.EXAMPLES), fuzzing.WHY_NO_CUDA)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if "fuzzed" in getattr(node, "workeroutput", {}):
        _note(*node.workeroutput["fuzzed"])


def _note(examples: dict[str, int], why_no_cuda: str | None) -> None:
    for test, count in examples.items():
        _FUZZED[test] = _FUZZED.get(test, 0) + count
    if why_no_cuda and not _WHY_NO_CUDA:
        _WHY_NO_CUDA.append(why_no_cuda)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was fuzzed, where it was."""
    if not _FUZZED:
        return
    seconds = time.monotonic() - _START
    terminalreporter.write_line(
        f"fuzz: {sum(_FUZZED.values())} examples of {len(_FUZZED)} tests, session {seconds:.0f} s"
        + (f"; CUDA NOT FUZZED: {_WHY_NO_CUDA[0]}" if _WHY_NO_CUDA else "")
    )
