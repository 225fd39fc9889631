"""Losses of a batch that processes share, on gloo: all checks of distributed_*checks.py."""

import contextlib
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import xrisk_ext as xr

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROCESSES = 4


def run_in_processes(count: int, target: Callable[..., None], *arguments: Any) -> None:
    """``target(rank, *arguments)`` in processes that share one import of torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "xrisk_ext"])
    processes = [
        context.Process(target=_with_path, args=(sys.path, target, rank, *arguments), daemon=True)
        for rank in range(count)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for process in processes:
            process.start()
    deadline = time.monotonic() + 150
    for process in processes:
        process.join(timeout=max(deadline - time.monotonic(), 0))
    ended = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert ended == [0] * count


def _with_path(path: list[str], target: Callable[..., None], *arguments: Any) -> None:
    sys.path[:] = path
    torch.set_num_threads(1)
    target(*arguments)


def _run_checks(rank: int, folder: str) -> None:
    import distributed_checks
    import distributed_embedding_checks
    import distributed_family_checks

    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=40),  # where one fails, the others do not wait for ever
    )
    ranks = distributed_checks.Ranks()
    results = Path(folder, f"{rank}.txt")
    checks = {
        **vars(distributed_checks),
        **vars(distributed_embedding_checks),
        **vars(distributed_family_checks),
    }
    for name in [n for n in checks if n.startswith("check_")]:
        with results.open("a") as file:
            try:
                checks[name](ranks)
                print(f"{name} passed", file=file)
            except Exception:
                print(f"{name} {traceback.format_exc()!r}", file=file)
        dist.barrier()
    dist.destroy_process_group()


def test_four_processes(subtests: pytest.Subtests) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_in_processes(PROCESSES, _run_checks, folder)
        finally:
            lines = [Path(folder, f"{r}.txt").read_text().splitlines() for r in range(PROCESSES)]
            results = [dict(line.split(" ", 1) for line in of_rank) for of_rank in lines]
            for name in results[0]:
                for rank in range(PROCESSES):
                    with subtests.test(name, rank=rank):
                        result = results[rank].get(name, "did not end")
                        assert result == "passed", result.replace("\\n", "\n")
    assert len(results[0]) > 20


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
