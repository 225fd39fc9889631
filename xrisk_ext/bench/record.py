"""Runs the races in a pytest of their own; keeps, reads and publishes what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from xrisk_ext.bench import machine, tables
from xrisk_ext.bench.plot import draw_scaling, draw_step_times
from xrisk_ext.bench.selection import Selection

HERE = Path(__file__).resolve().parent
INTERRUPTED = 2  # the exit status of a pytest that Ctrl-C ended
MARKER, END_MARKER = "<!-- bench -->", "<!-- /bench -->"
# By the name of a record: the page that shows it between the markers, and what of it.
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "cpu": ("README.md", tables.PUBLISHED),
    "libauc": ("docs/from_libauc.md", ("libauc",)),
    "cuda": (
        "docs/gpu_races.md",
        (
            "average_precision",
            "moving_average",
            "pairwise_sums",
            "scaling",
            "selection",
            "ndcg",
            "partial_auc",
            "listwise",
            "global_contrastive",
            "bimodal_global_contrastive",
            "contrastive_baselines",
        ),
    ),
}


def checkout() -> Path | None:
    """The root of the source tree that this package lies in; None of an installed one."""
    root = HERE.parent.parent
    return root if (root / "benchmarks" / "results").is_dir() else None


def run(selection: Selection) -> tuple[dict[str, Any], int]:
    """Run pytest on the suite; a failed race does not lose the others' figures.

    Whatever pytest is configured to do in the current directory, or by a pytest that called us, is
    none of its business: a worker of pytest-xdist would keep pytest-benchmark from measuring.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", str(HERE / "suite.py"), "-q", "-ra"]
        command += [
            "-c",
            os.devnull,
            f"--rootdir={HERE}",
            "--noconftest",
            "--import-mode=importlib",
        ]
        command += ["-p", "no:cacheprovider", "-p", "xrisk_ext.bench.plugin"]
        command += [f"--benchmark-json={target}", "--benchmark-quiet"]
        status = _wait_for([*command, *selection.as_options()], environment)
        if not target.exists() or not target.stat().st_size:
            raise SystemExit(f"pytest left no results (exit status {status})")
        record = load(target)
    record["quick"] = selection.quick
    record["load_at_the_end"] = machine.load()
    return record, status


def _wait_for(command: list[str], environment: dict[str, str]) -> int:
    """Ctrl-C ends pytest, which then writes what was raced so far: half an hour is not lost."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait()


def load(source: Path) -> dict[str, Any]:
    """A record of ours as it is, or what we keep of pytest-benchmark's JSON."""
    data: dict[str, Any] = json.loads(source.read_text())
    if "races" in data:
        return data
    return {
        "taken": data.get("datetime") or datetime.now(timezone.utc).isoformat(),
        "machine": data["machine_info"]["xrisk"],
        "races": [
            _without_laps(b["extra_info"])
            for b in data["benchmarks"]
            if "contestants" in b["extra_info"]
        ],
    }


def why_not_added_to(earlier: dict[str, Any]) -> str | None:
    """Ratios of two machines, or of two versions of a peer, do not belong in one table."""
    here = machine.describe()
    for what in ("cpu", "torch_simd", "gpu", "versions"):
        was = earlier["machine"].get(what)
        if was != here[what]:
            return f"{what} was {was}, is {here[what]}: run all races"
    return None


def add(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The later record and, at their old places, the races of the earlier that it lacks."""
    fresh = {(race["work"], race["case"]): race for race in later["races"]}
    races = [fresh.pop((race["work"], race["case"]), race) for race in earlier["races"]]
    return later | {"races": [*races, *fresh.values()]}


def publish(record: dict[str, Any], name: str, folder: Path) -> list[Path]:
    """Write JSON and plot; refresh the page that shows this record, if it is the checkout's."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.json"]
    written[0].write_text(json.dumps(record | {"name": name}, indent=1) + "\n")
    if draw_step_times(record, folder / f"{name}.png"):
        written.append(folder / f"{name}.png")
    if draw_scaling(record, folder / f"{name}_scaling.png"):
        written.append(folder / f"{name}_scaling.png")
    root = checkout()
    if root and name in PAGES and folder.resolve() == (root / "benchmarks" / "results"):
        page, works = PAGES[name]
        refresh_page(record, root / page, works)
        written.append(root / page)
    return written


def refresh_page(record: dict[str, Any], page: Path, works: tuple[str, ...]) -> None:
    """The summaries between the page's markers, from this record."""
    before, rest = page.read_text().split(MARKER, 1)
    _, after = rest.split(END_MARKER, 1)
    table = f"{MARKER}\n{tables.markdown(record, works)}{END_MARKER}"
    page.write_text(f"{before}{table}{after}")


def _without_laps(found: Any) -> Any:
    """Medians and quartiles are kept; the single laps would be most of the file."""
    if not isinstance(found, dict):
        return found
    return {key: _without_laps(value) for key, value in found.items() if key != "laps_ms"}
