"""Kernel launches, copies and host synchronisations of one call on CUDA, from torch.profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# How the CUDA runtime's calls begin, by what they cost.
KINDS = {
    "launches": ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"),
    "copies": ("cudaMemcpy",),
    "syncs": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
}


def count(call: Callable[[], Any]) -> dict[str, int]:
    """Run `call` once under the profiler; its own synchronisation at the end is not counted."""
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with (
        torch.profiler.profile(activities=activities) as profiler,
        torch.profiler.record_function(MARK),
    ):
        call()
    torch.cuda.synchronize()
    events = profiler.events() or []
    inside = [
        event.time_range
        for event in events
        if event.name == MARK and str(event.device_type).endswith("CPU")
    ]
    return tally(
        event.name
        for event in events
        if inside and inside[0].start <= event.time_range.start <= inside[0].end
    )


def tally(names: Iterable[str]) -> dict[str, int]:
    """How many of these runtime calls are of each kind."""
    found = dict.fromkeys(KINDS, 0)
    for name in names:
        for kind, beginnings in KINDS.items():
            found[kind] += name.startswith(beginnings)
    return found


MARK = "xrisk_ext.bench.launches"
