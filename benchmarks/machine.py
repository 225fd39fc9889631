"""What a figure was measured on: machine, load, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

THREADS = 2
PACKAGES = ("torch", "libauc", "numpy", "pytest-benchmark")


def describe() -> dict[str, Any]:
    """JSON-ready; `load` is there so that a figure taken on a busy machine shows it."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
        "xrisk_ext": _build_info(),
        "system": platform.platform(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
    }


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
