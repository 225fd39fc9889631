"""Everything that only a GPU can show, in stages: build, tests, sanitizers, ceilings, races.

python benchmarks/gpu_check.py                    all stages
python benchmarks/gpu_check.py --only build tests
python benchmarks/gpu_check.py --resume           those that have not passed yet
python benchmarks/gpu_check.py --programs DIR     the kernels' tests are linked already, in DIR

Needs no network: the Python that runs it must have torch with CUDA, pytest, pytest-benchmark and
hypothesis; nvcc, CMake and ninja are taken from the machine. After each stage the report is
written again to benchmarks/results/<gpu>-<date>.json, so that calls of ten minutes add up, and its
table goes into the README. What is missing (compute-sanitizer, a peer) is recorded and does not
fail.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARKER, END_MARKER = "<!-- gpu -->", "<!-- /gpu -->"
CMAKE_BUILD = ROOT / "build" / "cmake" / "gpu"
programs: Path | None = None  # folder of the kernels' linked tests, where they were built before
KEPT = 12000  # characters of a command's output
AT_A_TIME = min(8, os.cpu_count() or 1)  # tests that share the card; never what is timed
STAGE_SECONDS = 540  # a stage must fit a call of ten minutes
SANITIZED_TESTS = (
    "test_block_reduce", "test_last_block", "test_moving_average", "test_score_step",
    "test_info_nce", "test_tensor_core", "test_streamed_similarity", "test_half_similarity",
)  # fmt: skip

Report = dict[str, Any]


def run(command: list[str], kept: int = KEPT, **environment: str) -> Report:
    """Runs a command in the checkout; how it ended, how long it took, the end of its output."""
    start = time.perf_counter()
    # A session of its own: what the command started has the pipe, and must end with it.
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=STAGE_SECONDS)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = 124
    print(output, flush=True)
    output = output.replace(f"{ROOT}/", "")
    seconds = round(time.perf_counter() - start, 1)
    return {"passed": status == 0, "status": status, "seconds": seconds, "tail": output[-kept:]}


def build(_: Report) -> Report:
    """The extension with its CUDA kernels, in place."""
    return run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], XRISK_CUDA="1")


def kernels(_: Report) -> Report:
    """The kernels' own tests (those that csrc/simt runs on the host), compiled by nvcc."""
    if programs is not None:
        tests = sorted(programs.glob("test_*"))
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            ended = pool.map(lambda program: run([str(program)]), tests)
            found = {program.name: one for program, one in zip(tests, ended, strict=True)}
        failed = [name for name, one in found.items() if not one["passed"]]
        seconds = round(sum(one["seconds"] for one in found.values()), 1)
        counts = {"passed": len(found) - len(failed), "failed": len(failed)}
        tails = "".join(found[name]["tail"] for name in failed)
        passed = bool(found) and not failed
        return {"passed": passed, "seconds": seconds, "counts": counts, "tail": tails}
    for command in (
        ["cmake", "-S", ".", "-B", str(CMAKE_BUILD), "-G", "Ninja", "-DXRISK_NVCC=ON",
         "-DXRISK_CUDA_TESTS=ON"],
        ["cmake", "--build", str(CMAKE_BUILD)],
    ):  # fmt: skip
        found = run(command)
        if not found["passed"]:
            return found
    return run(["ctest", "--test-dir", str(CMAKE_BUILD), "--output-on-failure"])


def tests(_: Report) -> Report:
    """The Python tests of CUDA: agreement with the CPU, no wait, graphs, determinism; the fuzz."""
    files = sorted(str(f) for f in (ROOT / "python_tests").glob("test_cuda*.py"))
    workers = ["-n", str(AT_A_TIME)] if importlib.util.find_spec("xdist") else []
    tests = ["-q", "-k", "cuda", *files, "python_tests/fuzz"]
    found = run([sys.executable, "-m", "pytest", *workers, *tests])
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", found["tail"])
    return found | {"counts": {what: int(number) for number, what in counts}}


def sanitizer(_: Report) -> Report:
    """compute-sanitizer over the kernels' small tests."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"passed": True, "absent": "compute-sanitizer"}
    folder = programs or CMAKE_BUILD
    runs: dict[str, list[str]] = {}
    for check in ("memcheck", "racecheck"):
        for test in SANITIZED_TESTS:
            program = next(iter(folder.rglob(test)), None)
            if program is None:
                tail = f"{test} is not built: run the stage kernels first"
                return {"passed": False, "tail": tail}
            command = [tool, "--tool", check, "--error-exitcode", "9", str(program)]
            runs[f"{check} {test}"] = command
    found: Report = {"passed": True}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for name, one in zip(runs, pool.map(run, runs.values()), strict=True):
            # racecheck's warnings count in its status: what the hardware orders within a warp
            clean = one["passed"] or (" 0 failed" in one["tail"] and "(0 errors" in one["tail"])
            found[name] = {"passed": clean, "seconds": one["seconds"]}
            found["passed"] &= clean
    return found


def ceilings(_: Report) -> Report:
    """What the card can do at most: a device copy, float32 multiply-adds of a matrix product."""
    import torch
    from device_time import milliseconds  # beside this script, which is in the path

    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy_ms = milliseconds(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    product_ms = milliseconds(lambda: a @ b)
    return {
        "passed": True,
        "copy_gb_s": round(2 * source.numel() * 4 / copy_ms / 1e6),
        "float32_tflop_s": round(2 * 8192**3 / product_ms / 1e9, 1),
    }


def profile(_: Report) -> Report:
    """Each family of kernels at the sizes that are asked for: its times and its limits."""
    found = run([sys.executable, "-m", "benchmarks.gpu_kernels"], kept=200_000)
    lines = [json.loads(line) for line in found["tail"].splitlines() if line.startswith("{")]
    cases = {str(line.pop("case")): line for line in lines if "case" in line}
    rates = next((line["rates"] for line in lines if "rates" in line), None)
    return found | {"tail": found["tail"][-KEPT:], "rates_per_ms": rates, "cases": cases}


def similarities(_: Report) -> Report:
    """The ways to the similarities of 16-bit embeddings: against float64, and their times."""
    found = run([sys.executable, "-m", "benchmarks.streamed_similarities"], kept=4 * KEPT)
    lines = [line for line in found["tail"].splitlines() if line.startswith("{")]
    return found | {"cases": {str(k): json.loads(line) for k, line in enumerate(lines)}}


def crossovers(_: Report) -> Report:
    """The direct way and the near-linear one at sizes between which they cross."""
    found = run([sys.executable, "-m", "benchmarks.gpu_crossovers"], kept=4 * KEPT)
    lines = [json.loads(line) for line in found["tail"].splitlines() if line.startswith("{")]
    ways = {line.pop("work"): line for line in lines if "work" in line}
    return found | {"tail": "" if found["passed"] else found["tail"][-KEPT:], "ways": ways}


def races(*chosen: str) -> Callable[[Report], Report]:
    """A part of the benchmarks: a race that is cut off loses the figures of its whole part."""

    def stage(report: Report) -> Report:
        # one record of them all; what an earlier report raced is not kept beside them
        raced = any(found.get("raced") for found in report["stages"].values())
        earlier = ["--add"] if raced and (RESULTS / "cuda.json").exists() else []
        return {"raced": True} | run(
            [sys.executable, "-m", "xrisk_ext", "bench", "--device", "cuda", "--name", "cuda",
             "--race-seconds", "0.4", *earlier, *chosen]
        )  # fmt: skip

    stage.__doc__ = f"The benchmarks on the GPU with the peers that are there: {' '.join(chosen)}."
    return stage


AP = ("--op", "average_precision")
STAGES: dict[str, Callable[[Report], Report]] = {
    "build": build,
    "kernels": kernels,
    "tests": tests,
    "sanitizer": sanitizer,
    "ceilings": ceilings,
    "profile": profile,
    "similarities": similarities,
    "crossovers": crossovers,
    "races_small": races(*AP, "--case", "B=64", "--case", "B=256", "--case", "B=1024"),
    "races_medium": races(*AP, "--case", "B=4096", "--case", "B=16384"),
    "races_large": races(*AP, "--case", "B=1000000"),
    "races_state": races("--op", "moving_average"),
    "races_pairs": races("--op", "pairwise_sums"),
    "races_scaling": races("--op", "scaling"),
    "races_selection": races("--op", "selection"),
    "races_ndcg": races("--op", "ndcg"),
    "races_partial_auc": races("--op", "partial_auc"),
    "races_listwise": races("--op", "listwise"),
    "races_contrastive": races("--op", "global_contrastive"),
    "races_bimodal": races("--op", "bimodal_global_contrastive"),
    "races_baselines": races("--op", "contrastive_baselines"),
}


def describe() -> Report:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("gpu_check: no GPU is visible to torch; nothing was run or recorded")
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
    }


def table(report: Report) -> str:
    """The stages and what they found, in Markdown; what the kernels take under it."""
    return stage_table(report) + kernel_table(report)


def kernel_table(report: Report) -> str:
    """Steps in a CUDA graph, microseconds: forward, backward, and the state's update."""
    cases = report["stages"].get("profile", {}).get("cases", {})
    if not cases:
        return ""
    lines = [
        "",
        "A step is forward, backward and the state's update. *In a graph*: replayed from a CUDA "
        "graph, which leaves the kernels' own time. *From Python*: issued by Python, launches and "
        "autograd included. *Least possible*: by the card's measured bandwidth, or its rates of "
        "arithmetic.",
        "",
        "| step | in a graph | from Python | kernels | least possible | by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, case in cases.items():
        if "error" in case:
            lines.append(f"| {name} | {case['error'].splitlines()[0]} | | | | |")
            continue
        graph = f"{1e3 * case['graph_ms']:.1f} us" if "graph_ms" in case else "-"
        least = f"{1e3 * case['limit_ms']:.2g} us"
        cells = [name, graph, f"{1e3 * case['ms']:.0f} us", str(case.get("launches", "-"))]
        lines.append(f"| {' | '.join([*cells, least, case['bound']])} |")
    return "\n".join(lines) + "\n"


def stage_table(report: Report) -> str:
    lines = [
        f"{report['machine']['gpu']}, torch {report['machine']['torch']}, {report['taken']}.",
        "",
        "| stage | result | seconds | |",
        "| --- | --- | --- | --- |",
    ]
    for stage, found in report["stages"].items():
        notes = {k: v for k, v in found.items() if k not in ("passed", "status", "seconds", "tail")}
        text = ", ".join(
            f"{k}: {v}" for k, v in notes.items() if not isinstance(v, (dict, type(None)))
        )
        counts = ", ".join(f"{v} {k}" for k, v in found.get("counts", {}).items())
        result = "passed" if found["passed"] else "FAILED"
        lines.append(f"| {stage} | {result} | {found.get('seconds', '-')} | {counts or text} |")
    return "\n".join(lines) + "\n"


def save(report: Report, target: Path) -> None:
    RESULTS.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n")
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(MARKER, 1)
    _, after = rest.split(END_MARKER, 1)
    readme.write_text(f"{before}{MARKER}\n{table(report)}{END_MARKER}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--resume", action="store_true", help="skip stages that passed today")
    parser.add_argument("--programs", type=Path, help="folder of the kernels' linked tests")
    options = parser.parse_args()
    global programs
    programs = options.programs and options.programs.resolve()
    machine = describe()
    taken = datetime.now(timezone.utc).date().isoformat()
    name = re.sub(r"\W+", "-", machine["gpu"]).strip("-").lower() + f"-{taken}"
    target = RESULTS / f"{name}.json"
    report: Report = {"name": name, "taken": taken, "machine": machine, "stages": {}}
    if target.exists():  # earlier calls of the same day add up
        report["stages"] = json.loads(target.read_text())["stages"]
    for stage in options.only:
        if options.resume and report["stages"].get(stage, {}).get("passed"):
            continue
        print(f"=== {stage}: {STAGES[stage].__doc__}", flush=True)
        report["stages"][stage] = STAGES[stage](report)
        save(report, target)
    print(table(report))
    return 0 if all(found["passed"] for found in report["stages"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
