"""The house rules that a compiler does not check: who includes and imports whom, what is listed."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC, PACKAGE = ROOT / "csrc", ROOT / "xrisk_ext"
CPP = (".cpp", ".h", ".cu", ".cuh")
# what a layer may include of csrc/; core <- cpu, cuda <- torch
LAYERS = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "simt": {"simt"},
    "torch": {"core", "cpu", "cuda", "torch"},
    "tests": {"core", "cpu", "cuda", "simt", "tests"},
}
# the one door from kernels to the shim that runs them on the host
MAY_ALSO_INCLUDE = {"cuda/platform.h": {"simt"}}
HOST_INTERFACES = (
    "contrastive_step.h",
    "entrywise.h",
    "listwise_step.h",
    "moving_average.h",
    "pairs.h",
    "partial_auc_step.h",
    "partial_pairs.h",
    "ranking_step.h",
    "scaled_gradient.h",
    "score_step.h",
    "similarity.h",
    "surrogate_values.h",
    "topk.h",
)
CUDA_HEADERS = {name: ("cuda_runtime_api.h",) for name in HOST_INTERFACES} | {
    "platform.h": ("cuda_runtime.h",),
    "device_sort.cu": ("cub/device/device_radix_sort.cuh",),
}
TORCH_HEADERS = re.compile(r"(ATen|torch|c10|caffe2|pybind11)/|Python\.h")
LONGEST = 450
MOST_TORCH_UNITS = 5


def cpp_files() -> list[Path]:
    files = sorted(p for p in CSRC.rglob("*") if p.suffix in CPP)
    assert len(files) > 30
    return files


def python_files(*folders: Path) -> list[Path]:
    files = sorted(p for folder in folders for p in folder.rglob("*.py"))
    assert files
    return files


def includes(path: Path) -> list[tuple[str, str]]:
    """The file's includes, as ("<" or '"', what)."""
    text = path.read_text()
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', text, re.MULTILINE)


def imports(path: Path) -> Iterator[str]:
    """The modules that a Python file imports anywhere in it, relative ones made absolute."""
    package = list(path.relative_to(ROOT).with_suffix("").parts)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def folder_of(path: Path) -> str:
    """The folder of the package that a file of it is in, at whatever depth."""
    return path.relative_to(PACKAGE).parts[0]


def within(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def listed_sources() -> list[tuple[str, str]]:
    lines = (CSRC / "sources.txt").read_text().splitlines()
    return [(kind, path) for kind, path in (s.split() for s in lines if s and s[0] != "#")]


# ------------------------------------------------------------------------------------------- csrc


@pytest.mark.parametrize("path", cpp_files(), ids=lambda p: str(p.relative_to(CSRC)))
def test_a_file_includes_its_own_layer_and_those_below(path: Path) -> None:
    layer = path.relative_to(CSRC).parts[0]
    assert layer in LAYERS, f"{path}: which layer is this?"
    allowed = LAYERS[layer] | MAY_ALSO_INCLUDE.get(str(path.relative_to(CSRC)), set())
    for bracket, what in includes(path):
        if bracket == '"':
            assert what.split("/")[0] in allowed, f"{path} includes {what}"
            assert (CSRC / what).is_file(), f"{path} includes {what}, which is not in csrc/"
        elif TORCH_HEADERS.match(what):
            assert layer == "torch", f"{path} includes {what}: only csrc/torch may"
        else:
            assert layer not in ("core", "cpu") or not what.startswith("cuda"), f"{path}: {what}"
            # CUDA's headers come through platform.h, cub's through a wrapper with a host branch
            through_platform = re.match(r"cuda_(?!bf16|fp16)|cub/|cooperative_groups|mma\.h", what)
            if layer == "cuda" and through_platform:
                assert what in CUDA_HEADERS.get(path.name, ()), f"{path}: {what}"


def test_kernels_start_no_threads() -> None:
    # they get an Executor: results must not depend on who runs the chunks
    banned = re.compile(
        r"<(thread|future|omp\.h|mutex|condition_variable)>|#\s*pragma\s+omp|pthread"
    )
    for path in cpp_files():
        if path.relative_to(CSRC).parts[0] in ("core", "cpu", "cuda", "simt"):
            assert not banned.search(path.read_text()), path


def test_every_source_is_listed_once_and_exists() -> None:
    listed = [path for _, path in listed_sources()]
    assert len(listed) == len(set(listed))
    # simt/ and the tests of one build alone are listed by their own CMakeLists.txt
    apart = (CSRC / "simt", CSRC / "tests", CSRC / "tests" / "simt")
    built = (p for p in cpp_files() if p.suffix in (".cpp", ".cu") and p.parent not in apart)
    assert sorted(listed) == sorted(str(p.relative_to(ROOT)) for p in built)


def test_the_kind_of_a_source_is_its_folder_and_few_include_torch() -> None:
    sources = listed_sources()
    folders = {"kernels": "cpu", "cuda": "cuda", "cuda_test": "tests/cuda"}
    folders |= {"torch": "torch", "torch_cuda": "torch"}
    for kind, path in sources:
        assert (ROOT / path).parent == CSRC / folders[kind], path
    units = [path for kind, path in sources if kind.startswith("torch")]
    assert 0 < len(units) <= MOST_TORCH_UNITS, "torch's headers cost 20 s a unit"


def test_builds_read_the_list() -> None:
    tops = (ROOT / "setup.py", ROOT / "CMakeLists.txt")
    for build in (*tops, *sorted(CSRC.rglob("CMakeLists.txt"))):
        text = build.read_text()
        assert build not in tops or "sources.txt" in text
        assert not re.search(r"csrc/(cpu|cuda|torch)/\w+\.(cpp|cu)\b", text), build


def test_no_fast_math_and_no_target_flags() -> None:
    banned = re.compile(
        r"-f(fast-math|unsafe-math-optimizations|associative-math|finite-math-only|no-signed-zeros)"
        r"|-Ofast|-march=|-mtune=|-mavx|-use_fast_math|--use_fast_math|-ftz=true"
    )
    builds = [ROOT / n for n in ("setup.py", "CMakeLists.txt", "CMakePresets.json", "Makefile")]
    builds += CSRC.rglob("CMakeLists.txt")
    for path in (*builds, *cpp_files()):
        found = banned.search(path.read_text())
        assert not found, f"{path}: {found.group() if found else ''}"
    for path in cpp_files():
        # of a function or a file, which no flag of the build shows
        assert not re.search(
            r"GCC optimize|optimize\s*\(\s*\"|fp contract|float_control", path.read_text()
        )


def test_schemas_are_on_one_page() -> None:
    pages = [p for p in cpp_files() if re.search(r"^TORCH_LIBRARY\b", p.read_text(), re.MULTILINE)]
    assert pages == [CSRC / "torch" / "module.cpp"]


@pytest.mark.parametrize("variant", ["avx2", "avx512"])
def test_a_simd_variant_exports_nothing_weak(variant: str, tmp_path: Path) -> None:
    """A weak function compiled for AVX-512 may be the copy that the linker keeps for everyone.

    Weak data, which nm calls V and u, is the same in all copies.
    """
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    output = built_object(variant) or compiled_object(variant, tmp_path / "kernels.o")
    listing = subprocess.run(
        ["nm", "-C", "--defined-only", output], check=True, capture_output=True, text=True
    ).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines()]
    weak = [name for kind, name in symbols if kind in "Ww"]
    outside = [name for name in weak if f"xrisk::cpu::{variant}::" not in name]
    assert not outside, outside
    strong = [name for kind, name in symbols if kind in "TDBR"]
    assert strong
    assert all(variant in name for name in strong), strong


def built_object(variant: str) -> Path | None:
    """The object that is shipped, where the build left it, if it is of these sources."""
    path = ROOT / "build" / "objects" / "csrc" / "cpu" / f"isa_{variant}.o"
    sources = [p for folder in ("core", "cpu") for p in (CSRC / folder).iterdir()]
    newest = max(source.stat().st_mtime for source in sources)
    return path if path.exists() and path.stat().st_mtime > newest else None


def compiled_object(variant: str, output: Path) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++, or objects of the build")
    flags = ["-std=c++17", "-O1", "-Wno-psabi", "-I", str(CSRC)]
    source = CSRC / "cpu" / f"isa_{variant}.cpp"
    subprocess.run([compiler, *flags, "-c", str(source), "-o", str(output)], check=True)
    return output


# ----------------------------------------------------------------------------------------- Python


def test_the_reference_stands_alone() -> None:
    allowed = ("torch", "math", "typing", "collections", "itertools", "xrisk_ext.reference")
    for path in python_files(PACKAGE / "reference"):
        for module in imports(path):
            assert within(module, *allowed), f"{path} imports {module}"


def test_ops_do_not_import_losses_losses_not_the_reference_and_data_neither() -> None:
    package = {"torch", "typing", "collections", "math", "abc"}
    allowed = {
        "ops": ("xrisk_ext.ops",),
        "losses": ("xrisk_ext.losses", "xrisk_ext.ops", "xrisk_ext.state"),
        "data": ("xrisk_ext.data", "abc"),
    }
    for folder, below in allowed.items():
        for path in python_files(PACKAGE / folder):
            for module in imports(path):
                known = module == "xrisk_ext._C" or within(module, *package, *below)
                assert known, f"{path} imports {module}"
    assert not any(within(m, "xrisk_ext") for m in imports(PACKAGE / "state.py"))


def test_the_package_itself_needs_torch_alone() -> None:
    # the demo and the benchmarks have requirements of their own
    for path in python_files(PACKAGE):
        if folder_of(path) in ("demo", "bench") or path.name == "__main__.py":
            continue
        for module in imports(path):
            assert not within(module, "numpy", "scipy", "sklearn", "libauc", "matplotlib", "tqdm")
            assert not within(module, "pytest", "pytorch_metric_learning"), f"{path}: {module}"


def test_the_package_itself_imports_no_demo_benchmark_or_test_input() -> None:
    allowed = {"demo": ("demo",), "bench": ("bench", "testing"), "testing": ("testing",)}
    for path in python_files(PACKAGE):
        if path.name == "__main__.py":
            continue
        for module in imports(path):
            for aside in allowed.keys() - {*allowed.get(folder_of(path), ())}:
                assert not within(module, f"xrisk_ext.{aside}"), f"{path} imports {module}"


def test_the_cases_need_torch_alone() -> None:
    allowed = ("torch", "math", "typing", "collections", "dataclasses", "__future__")
    for path in python_files(PACKAGE / "testing"):
        for module in imports(path):
            assert within(module, *allowed, "xrisk_ext.testing"), f"{path} imports {module}"


def test_the_extra_test_lists_what_the_tests_import() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    extra = re.search(r"^test = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    assert extra
    listed = set(re.findall(r'"([\w-]+)', extra.group(1)))
    tests = python_files(ROOT / "python_tests")
    local = {
        "xrisk_ext",
        "benchmarks",
        *(p.stem for p in (*tests, *python_files(ROOT / "examples"))),
    }
    # the benchmarks' peers are optional: the extra `bench` has them
    package = [p for p in python_files(PACKAGE) if folder_of(p) != "bench"]
    modules = {m.split(".")[0] for p in (*tests, *package) for m in imports(p)}
    imported = modules - local - set(sys.stdlib_module_names)
    assert {"torch", "libauc", "pytest"} <= imported
    # torch is a dependency of the package; LibAUC is installed without its own (pyproject.toml)
    needed = {m.replace("_", "-") for m in imported - {"torch", "libauc", "sklearn"}}

    needed |= {"numpy", "scipy", "scikit-learn", "tqdm"}  # by LibAUC's losses
    assert needed <= listed, needed - listed


# ------------------------------------------------------------------------------------- every file


def test_files_are_short() -> None:
    folders = [ROOT / name for name in ("python_tests", "benchmarks", "examples")]
    python = python_files(PACKAGE, *(f for f in folders if f.is_dir()))
    others = [*cpp_files(), ROOT / "setup.py", ROOT / "CMakeLists.txt", ROOT / "Makefile"]
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in [*python, *others]
    }
    assert len(lengths) > 60
    assert not {name: n for name, n in lengths.items() if n > LONGEST}
