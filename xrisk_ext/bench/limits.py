"""What this machine can do at most, measured once a run, and how much of it a contestant reached.

A case states the least work it needs (`Limit` in xrisk_ext/testing/cases.py); divided by the rates
measured here that is the time nobody can beat, except where the data sits in the caches: bandwidth
is that of memory, so small cases may read more than 100%. The rates are taken with PyTorch, on as
many threads as the races: a copy of COPY_BYTES, and a float32 product, whose every multiply-add is
one lane slot.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch

from xrisk_ext.testing.cases import Limit

COPY_BYTES = 1 << 27
SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices
TRIES = 10


@functools.lru_cache(maxsize=1)
def measure(device: str) -> dict[str, float]:
    """GB/s of a copy (read + written), and 1e9 float32 multiply-adds a second."""
    source = torch.zeros(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _best(lambda: target.copy_(source), device)
    side = SIDE[device]
    left, right = torch.ones(side, side, device=device), torch.ones(side, side, device=device)
    product = torch.empty_like(left)
    product_s = _best(lambda: torch.mm(left, right, out=product), device)
    return {"copy_gb_s": 2e-9 * COPY_BYTES / copy_s, "fma_g_s": 1e-9 * side**3 / product_s}


def note(limit: Limit, rates: dict[str, float]) -> dict[str, Any]:
    """The limit in milliseconds, and which of the two sets it; JSON-ready."""
    by = {
        "bytes": limit.bytes / rates["copy_gb_s"] * 1e-6,
        "lanes": limit.lanes / rates["fma_g_s"] * 1e-6,
    }
    bound = min(by, key=lambda kind: by[kind])
    return {"ms": by[bound], "bound": bound, "amount": getattr(limit, bound)}


def _best(call: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest try: a limit is what the machine can do undisturbed."""
    times = []
    for _ in range(TRIES + 1):  # the first one warms up
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
