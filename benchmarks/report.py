"""Runs the benchmarks, prints the ratio tables with their spreads, records the results.

python -m benchmarks.report                     all races, results/cpu.json and results/cpu.png
python -m benchmarks.report --name epyc         ... under that name
python -m benchmarks.report --quick             short races, printed only
python -m benchmarks.report --quick -k "step"   some of them (pytest's -k)
python -m benchmarks.report --from results/cpu.json    print and plot an earlier run again
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine, tables
from benchmarks.plot import draw_step_times

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
MARKER, END_MARKER = "<!-- bench -->", "<!-- /bench -->"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", help="of the results; default cpu, with --quick: none recorded")
    parser.add_argument("--quick", action="store_true", help="short races: noisy, minutes")
    parser.add_argument("--race-seconds", type=float, help="length of one race")
    parser.add_argument("-k", dest="select", help="pytest's selection")
    parser.add_argument("--from", dest="source", type=Path, help="a recorded or pytest JSON")
    options = parser.parse_args()

    status = 0
    if options.source:
        record = load(options.source)
    else:
        record, status = run(options)
    print(tables.render(record))

    name = options.name or (None if options.quick or options.source else "cpu")
    if name:
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"{name}.json"
        target.write_text(json.dumps(record | {"name": name}, indent=1) + "\n")
        written = [target]
        if draw_step_times(record, RESULTS / f"{name}.png"):
            written.append(RESULTS / f"{name}.png")
        if name == "cpu":
            refresh_readme(record)
            written.append(README)
        print("wrote", *written)
    return status


def refresh_readme(record: dict[str, Any]) -> None:
    """The summaries between the README's markers, from the record that was just written."""
    before, rest = README.read_text().split(MARKER, 1)
    _, after = rest.split(END_MARKER, 1)
    table = f"{MARKER}\n{tables.markdown(record)}{END_MARKER}"
    README.write_text(f"{before}{table}{after}")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Run pytest on this folder; a failed test does not lose the others' figures."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider"]
        command += [f"--benchmark-json={target}", "--benchmark-columns=min,median,iqr,rounds"]
        command += ["--quick"] if options.quick else []
        command += [f"--race-seconds={options.race_seconds}"] if options.race_seconds else []
        command += ["-k", options.select] if options.select else []
        status = subprocess.run(command, cwd=HERE.parent, check=False).returncode
        if not target.exists() or not target.stat().st_size:
            raise SystemExit(f"pytest left no results (exit status {status})")
        record = load(target)
    record["quick"] = bool(options.quick)
    record["load_at_the_end"] = machine.describe()["load"]
    return record, status


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


def _without_laps(found: Any) -> Any:
    """Medians and quartiles are kept; the single laps would be most of the file."""
    if not isinstance(found, dict):
        return found
    return {key: _without_laps(value) for key, value in found.items() if key != "laps_ms"}


if __name__ == "__main__":
    sys.exit(main())
