"""The same race in a process of its own under `python -O`: ours against LibAUC without asserts.

LibAUC's asserts cost it a kernel a sample, so it is raced both ways, ours beside it each time.
`python -O -m xrisk_ext.bench.optimized --work average_precision --case B=256 --peer libauc` prints
the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from xrisk_ext.bench import machine
from xrisk_ext.bench.peers import build_all
from xrisk_ext.bench.race import Budget, Race
from xrisk_ext.testing.cases import CASES, Case


def race_in_child(case: Case, peers: list[str], budget: Budget) -> dict[str, Any]:
    """Run the race of this case under -O and return its result."""
    options = [f"--{key.replace('_', '-')}={value}" for key, value in asdict(budget).items()]
    options += [f"--work={case.work}", f"--case={case.name}", *(f"--peer={p}" for p in peers)]
    command = [sys.executable, "-O", "-m", "xrisk_ext.bench.optimized", *options]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        raise RuntimeError(f"the race under python -O failed:\n{child.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--case", required=True)
    parser.add_argument("--peer", action="append", default=[])
    defaults = Budget()
    parser.add_argument("--seconds", type=float, default=defaults.seconds)
    parser.add_argument("--min-rounds", type=int, default=defaults.min_rounds)
    parser.add_argument("--max-rounds", type=int, default=defaults.max_rounds)
    options = parser.parse_args()

    machine.settle()
    case = next(c for c in CASES if (c.work, c.name) == (options.work, options.case))
    contestants, left_out = build_all(case, options.peer)
    budget = Budget(options.seconds, options.min_rounds, options.max_rounds)
    result = Race(contestants, budget).finish()
    print(json.dumps(result | {"optimize": sys.flags.optimize, "left_out": left_out}))


if __name__ == "__main__":
    main()
