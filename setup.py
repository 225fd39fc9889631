"""Builds the compiled extension `xrisk_ext._C` against the torch that is installed.

Environment:
  XRISK_CUDA=auto|0|1   whether to build the CUDA kernels (auto: if torch has CUDA)
  XRISK_SANITIZE=1      AddressSanitizer and UBSan (run Python with libasan preloaded)
  MAX_JOBS              compile jobs; the default leaves 2 GB of memory to each
"""

import json
import os
import re
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    sys.exit(
        "xrisk_ext: torch was not found. Its extension must be compiled against the torch that "
        "will run it:\n  1. install torch (>= 2.11)\n  2. pip install --no-build-isolation ."
    )


def read_version() -> str:
    text = (ROOT / "xrisk_ext" / "_version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text).group(1)


def read_sources() -> list[str]:
    """What is compiled into _C: not the CUDA kernels yet, and no tests."""
    lines = (ROOT / "csrc" / "sources.txt").read_text().splitlines()
    listed = [line.split() for line in lines if line and not line.startswith("#")]
    return [path for kind, path in listed if kind in ("kernels", "torch")]


def wants_cuda() -> bool:
    """XRISK_CUDA, and a loud error where it asks for what cannot be built."""
    switch = os.environ.get("XRISK_CUDA", "auto")
    if switch not in ("auto", "0", "1"):
        sys.exit(f"xrisk_ext: expected XRISK_CUDA to be auto, 0 or 1, got {switch!r}")
    if switch == "0" or (switch == "auto" and torch.version.cuda is None):
        return False
    # The CUDA kernels are not written yet. Never build a CPU-only package in silence for a CUDA
    # torch: whoever wants that says so.
    sys.exit(
        "xrisk_ext: this version has no CUDA kernels yet; set XRISK_CUDA=0 for the CPU build "
        f"(torch {torch.__version__} has CUDA {torch.version.cuda}, XRISK_CUDA={switch})"
    )


def default_jobs() -> int:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(os.cpu_count() or 1, int(memory_gb // 2), 8))


class Build(BuildExtension):
    """Also notes which torch the extension was built for, to be compared at import."""

    def run(self) -> None:
        super().run()
        folder = Path(self.get_ext_fullpath("xrisk_ext._C")).parent
        config = {"torch": torch.__version__, "cuda": wants_cuda()}
        (folder / "_build_config.json").write_text(json.dumps(config) + "\n")


os.environ.setdefault("MAX_JOBS", str(default_jobs()))
wants_cuda()
version = read_version()
flags = ["-O3", "-g0", "-Wall", "-Wno-psabi", "-fvisibility=hidden"]
link_flags: list[str] = []
# Without it at::parallel_for, a template in torch's headers, silently runs on one thread.
if torch.backends.openmp.is_available() and sys.platform == "linux":
    flags.append("-fopenmp")
    link_flags.append("-fopenmp")
if os.environ.get("XRISK_SANITIZE") == "1":
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    flags += [*sanitize, "-g", "-O1", "-fno-omit-frame-pointer"]
    link_flags += sanitize

setup(
    ext_modules=[
        CppExtension(
            "xrisk_ext._C",
            sources=read_sources(),
            include_dirs=[str(ROOT / "csrc")],
            define_macros=[("XRISK_VERSION", f'"{version}"')],
            extra_compile_args=flags,
            extra_link_args=link_flags,
        )
    ],
    cmdclass={"build_ext": Build},
)
