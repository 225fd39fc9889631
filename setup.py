"""Builds the compiled extension `xrisk_ext._C` against the torch that is installed.

Environment:
  XRISK_CUDA=auto|0|1   whether to build the CUDA kernels (auto: if torch has CUDA)
  XRISK_WERROR=1        warnings are errors, and there are more of them
  XRISK_SANITIZE=1      AddressSanitizer and UBSan (`make test-sanitize` runs Python with it)
  MAX_JOBS              compile jobs; the default leaves 2 GB of memory to each
"""

import json
import os
import re
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SANITIZE = os.environ.get("XRISK_SANITIZE") == "1"
# What the sanitized build does without, by the start of a unit's name, to be compiled in half of
# the time. Vectors' functions are all inlined: the ends of all their scopes would be marked. The
# ops take no time beside the kernels.
CHEAPER = {"isa_": ["-fno-sanitize-address-use-after-scope"], "module": ["-O0"]}
# Lines in AddressSanitizer's stacks are a tenth of the time: on CI functions have to do.
LINES = "-g0" if os.environ.get("CI") else "-g1"

try:
    import torch
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import BuildExtension
except ImportError:
    sys.exit(
        "xrisk_ext: torch was not found. Its extension must be compiled against the torch that "
        "will run it:\n  1. install torch (>= 2.11)\n  2. pip install --no-build-isolation ."
    )


def read_version() -> str:
    text = (ROOT / "xrisk_ext" / "_version.py").read_text()
    return re.search(r'__version__ = "(.+)"', text).group(1)


def read_sources(cuda: bool) -> list[str]:
    """What is compiled into _C; no tests."""
    kinds = {"kernels", "torch"} | ({"cuda", "torch_cuda"} if cuda else set())
    lines = (ROOT / "csrc" / "sources.txt").read_text().splitlines()
    listed = [line.split() for line in lines if line and not line.startswith("#")]
    return [path for kind, path in listed if kind in kinds]


def read_headers() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h"))


def wants_cuda() -> bool:
    """XRISK_CUDA, and a loud error where it asks for what cannot be built."""
    switch = os.environ.get("XRISK_CUDA", "auto")
    if switch not in ("auto", "0", "1"):
        sys.exit(f"xrisk_ext: expected XRISK_CUDA to be auto, 0 or 1, got {switch!r}")
    if switch == "0" or (switch == "auto" and torch.version.cuda is None):
        return False
    # Never a CPU-only package in silence for a CUDA torch: whoever wants that says so.
    if torch.version.cuda is None:
        sys.exit(
            f"xrisk_ext: XRISK_CUDA=1, but torch {torch.__version__} was built without CUDA; "
            "install a torch with CUDA, or set XRISK_CUDA=0 for the CPU build"
        )
    home = cpp_extension.CUDA_HOME
    if home is None or not (Path(home) / "bin" / "nvcc").exists():
        sys.exit(
            f"xrisk_ext: torch {torch.__version__} has CUDA {torch.version.cuda}, but nvcc was not "
            "found (CUDA_HOME, PATH); install the toolkit, or set XRISK_CUDA=0 for the CPU build"
        )
    return True


def choose_architectures() -> str:
    """TORCH_CUDA_ARCH_LIST, else those of the visible GPUs, else sm_90 and PTX."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if not listed:
        found = {torch.cuda.get_device_capability(k) for k in range(torch.cuda.device_count())}
        listed = ";".join(f"{major}.{minor}" for major, minor in sorted(found)) or "9.0+PTX"
        os.environ["TORCH_CUDA_ARCH_LIST"] = listed
    return listed.replace(" ", ";")


def default_jobs() -> int:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(os.cpu_count() or 1, int(memory_gb // 2), 8))


class Build(BuildExtension):
    """Also notes which torch the extension was built for, to be compared at import."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # An editable build would forget its objects. Kept, a wheel need not compile them again:
        # ninja compares commands, sources and headers.
        self.build_temp = str(ROOT / "build" / ("sanitize" if SANITIZE else "objects"))

    def build_extension(self, ext) -> None:
        if SANITIZE:
            for start, extra in CHEAPER.items():
                units = [path for path in ext.sources if Path(path).name.startswith(start)]
                ext.sources = [path for path in ext.sources if path not in units]
                ext.extra_objects += self.compiler.compile(
                    units,
                    output_dir=self.build_temp,
                    macros=ext.define_macros,
                    include_dirs=ext.include_dirs,
                    extra_postargs={"cxx": [*ext.extra_compile_args["cxx"], *extra]},
                    depends=ext.depends,
                )
        super().build_extension(ext)

    def run(self) -> None:
        super().run()
        folder = Path(self.get_ext_fullpath("xrisk_ext._C")).parent
        config = {"torch": torch.__version__, "cuda": cuda}
        (folder / "_build_config.json").write_text(json.dumps(config) + "\n")


os.environ.setdefault("MAX_JOBS", str(default_jobs()))
cuda = wants_cuda()
version = read_version()
macros = [("XRISK_VERSION", f'"{version}"')]
flags = ["-O3", "-g0", "-Wall", "-Wno-psabi", "-fvisibility=hidden"]
if os.environ.get("XRISK_WERROR") == "1":  # torch's headers have unused parameters
    flags += ["-Wextra", "-Wno-unused-parameter", "-Werror"]
link_flags: list[str] = []
# Without it at::parallel_for, a template in torch's headers, silently runs on one thread.
if torch.backends.openmp.is_available() and sys.platform == "linux":
    flags.append("-fopenmp")
    link_flags.append("-fopenmp")
if SANITIZE:  # as in CMakeLists.txt
    checks = "address,undefined,float-cast-overflow"
    # what AddressSanitizer sees as well only makes the build longer
    seen = "null,object-size,vptr,pointer-overflow,alignment"
    flags += [f"-fsanitize={checks}", f"-fno-sanitize={seen}"]
    flags += [f"-fno-sanitize-recover={checks}"]
    # an access is checked by a call: inline checks take twice as long to compile
    flags += ["--param=asan-instrumentation-with-call-threshold=0"]
    flags += [LINES, "-O1", "-fno-omit-frame-pointer", "-D_GLIBCXX_ASSERTIONS"]
    link_flags.append(f"-fsanitize={checks}")

compile_args = {"cxx": flags}
if cuda:
    macros.append(("XRISK_CUDA_ARCHS", f'"{choose_architectures()}"'))
    compile_args["nvcc"] = ["-O3", "-Xcompiler", "-fvisibility=hidden"]
    extension = cpp_extension.CUDAExtension
else:
    extension = cpp_extension.CppExtension

setup(
    ext_modules=[
        extension(
            "xrisk_ext._C",
            sources=read_sources(cuda),
            depends=read_headers(),  # or a build folder that is kept would miss their changes
            include_dirs=[str(ROOT / "csrc")],
            define_macros=macros,
            extra_compile_args=compile_args,
            extra_link_args=link_flags,
        )
    ],
    cmdclass={"build_ext": Build},
)
