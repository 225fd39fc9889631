"""The same race in a process of its own under `python -O`: ours against LibAUC without asserts.

LibAUC's asserts cost it a kernel a sample, so it is raced both ways, ours beside it each time.
`python -O -m benchmarks.optimized --batch 256` prints the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cases, machine
from benchmarks.peers import build_all
from benchmarks.race import Budget, Race

ROOT = Path(__file__).resolve().parent.parent


def race_in_child(case: cases.AveragePrecisionCase, budget: Budget) -> dict[str, Any]:
    """Run the race of this case under -O and return its result."""
    options = [f"--{key.replace('_', '-')}={value}" for key, value in asdict(budget).items()]
    command = [sys.executable, "-O", "-m", "benchmarks.optimized", f"--batch={case.batch}"]
    child = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        raise RuntimeError(f"the race under python -O failed:\n{child.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, required=True)
    defaults = Budget()
    parser.add_argument("--seconds", type=float, default=defaults.seconds)
    parser.add_argument("--min-rounds", type=int, default=defaults.min_rounds)
    parser.add_argument("--max-rounds", type=int, default=defaults.max_rounds)
    options = parser.parse_args()

    machine.settle()
    case = next(c for c in cases.AVERAGE_PRECISION if c.batch == options.batch)
    contestants, left_out = build_all(
        "average_precision", ("ours", "libauc"), lambda: cases.average_precision_inputs(case)
    )
    budget = Budget(options.seconds, options.min_rounds, options.max_rounds)
    result = Race(contestants, budget).finish()
    print(json.dumps(result | {"optimize": sys.flags.optimize, "left_out": left_out}))


if __name__ == "__main__":
    main()
