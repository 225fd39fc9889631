"""Losses of a batch that four processes share, on gloo: all checks of distributed_*checks.py."""

import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import xrisk_ext as xr

PROCESSES = 4


def _run(rank: int, folder: str, path: list[str]) -> None:
    sys.path[:] = path
    import distributed_checks
    import distributed_embedding_checks

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES
    )
    ranks = distributed_checks.Ranks()
    results = Path(folder, f"{rank}.txt")
    checks = {**vars(distributed_checks), **vars(distributed_embedding_checks)}
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
    context = multiprocessing.get_context("forkserver")  # imports torch once
    context.set_forkserver_preload(["torch", "xrisk_ext"])
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with tempfile.TemporaryDirectory() as folder:
            processes = [
                context.Process(target=_run, args=(rank, folder, sys.path), daemon=True)
                for rank in range(PROCESSES)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join(timeout=100)
            ended = [process.exitcode for process in processes]
            for process in processes:
                process.kill()
            results = [
                dict(
                    line.split(" ", 1) for line in Path(folder, f"{r}.txt").read_text().splitlines()
                )
                for r in range(PROCESSES)
            ]
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    assert len(results[0]) > 10
    for name in results[0]:
        for rank in range(PROCESSES):
            with subtests.test(name, rank=rank):
                result = results[rank].get(name, "did not end")
                assert result == "passed", result.replace("\\n", "\n")
    assert ended == [0] * PROCESSES


def test_a_loss_needs_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        xr.distributed.DistributedLoss(xr.PairwiseAUCLoss())
