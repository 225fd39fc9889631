"""Peak memory of one call: how far the process's resident set rose above where it stood.

On Linux the kernel keeps the high-water mark itself (VmHWM) and resets it on request
(`echo 5 > /proc/self/clear_refs`): exact, and it misses no short-lived buffer, which a sampling
thread may in a call of a few milliseconds. That thread is the fallback elsewhere.

The allocator's free pages are handed back first, so that reused ones count as growth too. What a
contestant keeps from an earlier call (a workspace) does not count in a later one; therefore the
race measures a contestant's first call as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATM = Path("/proc/self/statm")


def peak_growth_mb(call: Callable[[], Any], device: str = "cpu") -> float:
    """Run `call` once; return the rise of the resident set while it ran, in MB (2**20 bytes).

    On CUDA: of the memory that torch's allocator gave out.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    _trim()
    if _reset_high_water():
        before = _status_kb("VmRSS")
        call()
        return max(0.0, (_status_kb("VmHWM") - before) / 1024)
    return _sampled_growth_mb(call)


def _trim() -> None:
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water() -> bool:
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _status_kb(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"{_STATUS} has no {key}")


def _resident_mb() -> float:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _sampled_growth_mb(call: Callable[[], Any]) -> float:
    """Sees what lives longer than a sample takes, about 0.1 ms."""
    if not _STATM.exists():
        call()
        return float("nan")
    before = peak = _resident_mb()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident_mb())
            time.sleep(5e-5)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(peak, _resident_mb()) - before
