"""Times of calls on a GPU, by its own clock."""

from collections.abc import Callable
from typing import Any

import torch


def milliseconds(call: Callable[[], Any]) -> float:
    """The median of ten, after two that warm up."""
    times = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[2:])[5]
