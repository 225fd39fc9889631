"""What a figure was measured on: machine, load, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

THREADS = 2
PACKAGES = ("torch", "libauc", "pytorch-metric-learning", "numpy", "pytest-benchmark")


def describe() -> dict[str, Any]:
    """JSON-ready; `load` is there so that a figure taken on a busy machine shows it."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
        "xrisk_ext": _build_info(),
        "system": platform.platform(),
        "load": load(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
    }


def load() -> list[float] | None:
    """Processes that wanted to run, over 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


class ForeignLoad:
    """Share of the machine that other processes (and the hypervisor) took since construction.

    Interleaving does not save a race on a busy machine: work in many small parallel regions, as
    PyTorch's is, waits for a descheduled thread at the end of each, and suffers far more than work
    in one region. So every race says how much of the machine was not its own.
    """

    def __init__(self) -> None:
        self._start = self._read()

    def share(self) -> float | None:
        """0 to 1; None where the system does not tell."""
        now = self._read()
        if now is None or self._start is None:
            return None
        total, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return round(max(0.0, busy - own) / total, 3) if total > 0 else None

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds of CPU so far: all, not idle, this process and its children."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return None
        # user nice system idle iowait irq softirq steal; then guest time, counted in user already
        ticks = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]]
        total = sum(ticks) / os.sysconf("SC_CLK_TCK")
        idle = (ticks[3] + ticks[4]) / os.sysconf("SC_CLK_TCK")
        return total, total - idle, sum(os.times()[:4])


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _build_info() -> Any:
    """What the extension says of itself (version, SIMD), where it is built and says it."""
    try:
        import xrisk_ext

        info = {"version": getattr(xrisk_ext, "__version__", None)}
        build_info = getattr(getattr(xrisk_ext, "_C", None), "build_info", None)
        if build_info is not None:
            built = build_info()
            info["build"] = built if isinstance(built, (dict, list, str)) else str(built)
        return info
    except ImportError as error:
        return f"not importable: {error}"


def settle() -> None:
    """The same number of threads for everybody, in the tests' process and in its children."""
    torch.set_num_threads(THREADS)
