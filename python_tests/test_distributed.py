"""Losses of a batch that processes share, on gloo: all checks of distributed_*checks.py."""

import contextlib
import functools
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from process_helpers import (
    process_group,
    record_checks,
    run_checks_in_processes,
    run_in_processes,
)

import xrisk_ext as xr

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROCESSES = 4


def _run_checks(rank: int, folder: str) -> None:
    import distributed_checks
    import distributed_embedding_checks
    import distributed_family_checks

    found = {
        **vars(distributed_checks),
        **vars(distributed_embedding_checks),
        **vars(distributed_family_checks),
    }
    with process_group(rank, PROCESSES, folder):
        ranks = distributed_checks.Ranks()
        names = [name for name in found if name.startswith("check_")]
        checks = {name: functools.partial(found[name], ranks) for name in names}
        record_checks(checks, Path(folder, f"{rank}.txt"))


def test_four_processes(subtests: pytest.Subtests) -> None:
    assert len(run_checks_in_processes(PROCESSES, _run_checks, subtests)) > 20


def _run_example(rank: int, port: int, output: str) -> None:
    """As torchrun starts it."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    sys.path.insert(0, str(EXAMPLES))
    import distributed as example

    with open(output if rank == 0 else os.devnull, "w") as file, contextlib.redirect_stdout(file):
        example.main(["--steps", "30"])


def test_the_example_trains_as_one_process_would(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run_in_processes(2, _run_example, port, str(tmp_path / "output"))
    output = (tmp_path / "output").read_text()
    assert re.search(r"2 processes: loss -0\.\d+, averages of \d+ samples", output), output
    gap = re.search(r"parameters differ by (\S+)", output)
    assert gap
    assert float(gap[1]) < 1e-3, output


def test_a_loss_needs_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        xr.distributed.DistributedLoss(xr.PairwiseAUCLoss())
