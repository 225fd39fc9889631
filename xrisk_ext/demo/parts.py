"""The parts of the demo, which know nothing of each other, run side by side in processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from tqdm import tqdm

from xrisk_ext.demo import data, methods, training


@dataclass(frozen=True)
class Job:
    name: str
    call: Callable[..., Any]  # called with the arguments and progress(runs done)
    arguments: tuple[Any, ...]
    runs: int


def train_task(
    number: int, names: Sequence[str], plan: training.Plan, progress: Callable[[int], object]
) -> tuple[list[data.Split], dict[str, training.Outcome]]:
    """Every method that is named, on one of the tasks, which itself cannot go to a process."""
    compared = [m for m in methods.available_methods()[0] if m.name in names]
    splits = [data.split(data.TASKS[number], seed) for seed in range(plan.seeds)]
    return splits, {m.name: training.tune_and_train(m, splits, plan, progress) for m in compared}


def run(work: Sequence[Job], jobs: int, threads: int) -> list[Any]:
    """The results, in the order of the work. It is started in that order: longest first."""
    with tqdm(total=sum(job.runs for job in work), unit="run", disable=None, leave=False) as bar:
        if jobs == 1:
            return [_here(job, bar) for job in work]
        # spawn: a process that has used OpenMP must not fork
        with ProcessPoolExecutor(min(jobs, len(work)), get_context("spawn")) as pool:
            started = {pool.submit(_there, job, threads): job for job in work}
            for done in as_completed(started):
                bar.update(started[done].runs)
            return [future.result() for future in started]


def _here(job: Job, bar: Any) -> Any:
    bar.set_description(job.name)
    return job.call(*job.arguments, bar.update)


def _there(job: Job, threads: int) -> Any:
    torch.set_num_threads(threads)
    return job.call(*job.arguments, _no_progress)


def _no_progress(runs: int) -> None:
    """A process cannot move the bar of another."""
