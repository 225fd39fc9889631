"""``python -m benchmarks.study``: the losses of the published comparison, in small.

Ten losses train the same small network on the imbalanced tasks of the demo, with the same splits,
batches, first weights and number of steps, and the same trials of learning rate and weight decay,
chosen on validation data. Whatever comes out is printed and drawn. Takes about 5 minutes on an idle
core with the defaults; ``--quick`` takes seconds and shows that it runs.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import xrisk_ext as xr
from xrisk_ext.demo import data, report, training
from xrisk_ext.demo.methods import CROSS_ENTROPY, GAMMA, MARGIN, Method, cross_entropy

PROTOCOL = """\
{steps} steps of {batch} samples, {positives} of them positive; {trials} trials of learning rate and
weight decay, chosen by validation AUPRC on the first {tuning} seeds; {seeds} seeds. The losses that
rank (and AUC-M, min-max) see sigmoid scores after {warm_up:.0%} of the steps as cross entropy. The
hyper-parameters of the losses are those of their papers, but: margin {margin} for the average
precision loss and 1 for AUC-M and min-max; LDAM sees 2 sigmoid - 1, a score in [-1, 1] like its
paper's cosines; class counts are those that the sampler shows."""

SHARE = training.BATCH_POSITIVES / training.BATCH


class Dual(nn.Module):
    """AUC-M or min-max with its a, b and alpha, which take a gradient step of their own a call."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)

    def forward(self, scores: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        self.optimizer.step()  # of the call before
        self.optimizer.zero_grad()
        value: Tensor = self.loss(scores, labels)
        return value


def _pointwise(make: Callable[[Sequence[float]], nn.Module]) -> Callable[[int], Any]:
    def make_loss(num_samples: int) -> Any:
        loss = make((num_samples * (1 - SHARE), num_samples * SHARE))
        return lambda scores, labels, index: loss(scores, labels)

    return make_loss


def _ldam(num_samples: int) -> Any:
    loss = xr.LDAMLoss((num_samples * (1 - SHARE), num_samples * SHARE))
    return lambda scores, labels, index: loss(2 * torch.sigmoid(scores) - 1, labels)


METHODS = (
    Method(CROSS_ENTROPY, lambda n: cross_entropy, ranks=False),
    Method("class-balanced", _pointwise(xr.ClassBalancedCrossEntropyLoss), ranks=False),
    Method("focal", _pointwise(lambda counts: xr.FocalLoss()), ranks=False),
    Method("LDAM", _ldam, ranks=False),
    Method("AUC-M", lambda n: Dual(xr.AUCMarginLoss()), ranks=True),
    Method("min-max AUC", lambda n: Dual(xr.MinMaxAUCLoss()), ranks=True),
    Method("pairwise AUC", _pointwise(lambda counts: xr.PairwiseAUCLoss()), ranks=True),
    Method("Smooth-AP", _pointwise(lambda counts: xr.SmoothAPLoss()), ranks=True),
    Method("FastAP", _pointwise(lambda counts: xr.FastAPLoss(score_range=(0.0, 1.0))), ranks=True),
    Method("SOAP", lambda n: xr.AveragePrecisionLoss(n, margin=MARGIN, gamma=GAMMA), ranks=True),
)


@dataclass(frozen=True)
class Summary:
    """A method over all tasks."""

    name: str
    mean: float  # of the tasks' mean test AUPRC
    difference: report.Paired  # to cross entropy, over tasks and seeds
    rank: float  # mean over tasks and seeds, 1 is best
    clearly_better: int  # tasks where it beats cross entropy by more than two standard errors
    clearly_worse: int


def summarize(results: Sequence[report.TaskResult]) -> list[Summary]:
    names = [*results[0].outcomes]
    # [methods, tasks, seeds]
    auprc = np.array([[result.auprc(name) for result in results] for name in names])
    ranks = (-auprc).argsort(0).argsort(0) + 1
    summaries = []
    for k, name in enumerate(names):
        by_task = [report.paired(r.auprc(name), r.auprc(CROSS_ENTROPY)) for r in results]
        summaries.append(
            Summary(
                name,
                float(auprc[k].mean()),
                report.paired(auprc[k].ravel(), auprc[names.index(CROSS_ENTROPY)].ravel()),
                float(ranks[k].mean()),
                sum(d.mean > 2 * d.error for d in by_task),
                sum(d.mean < -2 * d.error for d in by_task),
            )
        )
    return summaries


def table(results: Sequence[report.TaskResult], summaries: Sequence[Summary]) -> str:
    """Markdown: a row for every method, a column for every task."""
    tasks = [result.task.name for result in results]
    lines = [
        "| | " + " | ".join(tasks) + " | mean | minus cross entropy | mean rank | better, worse |",
        "|---|" + "---|" * (len(tasks) + 4),
    ]
    for summary in summaries:
        cells = []
        for result in results:
            values = result.auprc(summary.name)
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.3f} ± {spread:.3f}")
        difference = "" if summary.name == CROSS_ENTROPY else f"{summary.difference.mean:+.4f}"
        won = "" if not difference else f"{summary.clearly_better}, {summary.clearly_worse}"
        lines.append(
            f"| {summary.name} | "
            + " | ".join(cells)
            + f" | {summary.mean:.4f} | {difference} | {summary.rank:.1f} | {won} |"
        )
    return "\n".join(lines)


def draw(results: Sequence[report.TaskResult], path: Path) -> None:
    """A panel for every task: the difference to cross entropy with two standard errors."""
    names = [name for name in results[0].outcomes if name != CROSS_ENTROPY]
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for axes, result in zip(grid, results, strict=False):
        base = result.auprc(CROSS_ENTROPY)
        differences = [report.paired(result.auprc(name), base) for name in names]
        means = [d.mean for d in differences]
        errors = [0.0 if np.isnan(d.error) else 2 * d.error for d in differences]
        places = range(len(names), 0, -1)
        colours = ["tab:red" if name == "SOAP" else "tab:gray" for name in names]
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.hlines(
            places,
            [m - e for m, e in zip(means, errors, strict=True)],
            [m + e for m, e in zip(means, errors, strict=True)],
            colors=colours,
        )
        axes.scatter(means, places, color=colours, zorder=3)
        axes.set_yticks(list(places), names)
        axes.set_title(f"{result.task.name}\n(cross entropy {base.mean():.3f})", fontsize="medium")
        axes.set_xlabel("test AUPRC minus cross entropy's")
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=110)


def _recorded(result: report.TaskResult) -> dict[str, Any]:
    return {
        name: {
            "test_auprc": [round(run.test, 5) for run in outcome.runs],
            "learning_rate": outcome.trial.learning_rate,
            "weight_decay": outcome.trial.weight_decay,
            "loss_step_us": round(
                1e6 * statistics.median(run.step_seconds for run in outcome.runs)
            ),
        }
        for name, outcome in result.outcomes.items()
    }


def _restored(task: data.Task, recorded: dict[str, Any]) -> report.TaskResult:
    outcomes = {
        name: training.Outcome(
            training.Trial(found["learning_rate"], found["weight_decay"]),
            [
                training.Run(np.nan, auprc, np.empty(0), found["loss_step_us"] / 1e6)
                for auprc in found["test_auprc"]
            ],
        )
        for name, found in recorded.items()
    }
    return report.TaskResult(task, [], outcomes)


def _as_text(record: dict[str, Any]) -> str:
    """JSON with the numbers of a list on one line."""
    text = json.dumps(record, indent=1)
    lists = re.compile(r"\[[^\[\]{}]*\]")
    return lists.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def run(seeds: int, quick: bool, path: Path | None) -> list[report.TaskResult]:
    """All tasks; those that `path` records for this plan already are taken from there."""
    plan = training.make_plan(seeds, quick)
    about = {"seeds": seeds, "steps": plan.steps, "methods": [m.name for m in METHODS]}
    record: dict[str, Any] = {**about, "torch": torch.__version__, "seconds": 0, "tasks": {}}
    if path is not None and path.exists():
        before = json.loads(path.read_text())
        if about.items() <= before.items():
            record = before
    results = []
    for task in data.TASKS[:2] if quick else data.TASKS:
        if task.name not in record["tasks"]:
            start = time.perf_counter()
            splits = [data.split(task, seed) for seed in range(seeds)]
            outcomes = {}
            for method in METHODS:
                print(f"  {task.name}: {method.name}", file=sys.stderr)
                outcomes[method.name] = training.tune_and_train(
                    method, splits, plan, lambda count: None
                )
            record["tasks"][task.name] = _recorded(report.TaskResult(task, splits, outcomes))
            record["seconds"] += round(time.perf_counter() - start)
            if path is not None:
                path.write_text(_as_text(record))
        results.append(_restored(task, record["tasks"][task.name]))
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--seeds", type=int, default=12, help="runs per method (default: 12)")
    parser.add_argument("--quick", action="store_true", help="a few steps of two tasks only")
    parser.add_argument("--output", type=Path, default=Path("study.png"), help="the picture")
    parser.add_argument(
        "--json", type=Path, help="record of the tasks that are done; goes on from it"
    )
    arguments = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so small a network the fastest
    start = time.perf_counter()
    try:
        plan = training.make_plan(arguments.seeds, arguments.quick)
        protocol = PROTOCOL.format(
            steps=plan.steps,
            batch=training.BATCH,
            positives=training.BATCH_POSITIVES,
            trials=len(plan.trials),
            tuning=plan.tuning_seeds,
            seeds=plan.seeds,
            warm_up=training.WARM_UP,
            margin=MARGIN,
        )
        print(protocol)
        results = run(arguments.seeds, arguments.quick, arguments.json)
    finally:
        torch.set_num_threads(threads)
    seconds = time.perf_counter() - start
    print(f"\n{table(results, summarize(results))}\n")
    print("Test AUPRC, mean ± standard deviation over the seeds; mean rank over tasks and seeds;")
    print("better, worse: tasks that differ from cross entropy by over two standard errors.")
    draw(results, arguments.output)
    print(f"\nPicture: {arguments.output.resolve()}\n{seconds:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
