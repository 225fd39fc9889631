"""Checks that run on several processes at a time (gloo), each reported by itself."""

import contextlib
import io
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist


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


@contextlib.contextmanager
def process_group(rank: int, count: int, folder: str) -> Iterator[None]:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=40),  # where one fails, the others do not wait for ever
    )
    yield
    dist.destroy_process_group()


def record_checks(checks: Mapping[str, Callable[[], Any]], results: Path) -> None:
    """Calls all, in step with the other processes of the group, and writes how each ended."""
    for name, check in checks.items():
        with results.open("a") as file:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    check()
                print(f"{name}\tpassed", file=file)
            except Exception:
                print(f"{name}\t{traceback.format_exc()!r}", file=file)
        dist.barrier()


def run_checks_in_processes(
    count: int, target: Callable[[int, str], None], subtests: pytest.Subtests
) -> list[str]:
    """``target(rank, folder)`` records its checks in ``folder/<rank>.txt``; the names of them."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_in_processes(count, target, folder)
        finally:
            lines = [Path(folder, f"{rank}.txt").read_text().splitlines() for rank in range(count)]
            results = [dict(line.split("\t", 1) for line in of_rank) for of_rank in lines]
            for name in results[0]:
                for rank in range(count):
                    with subtests.test(name, rank=rank):
                        result = results[rank].get(name, "did not end")
                        assert result == "passed", result.replace("\\n", "\n")
    return list(results[0])
