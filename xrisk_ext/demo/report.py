"""The tables, the verdict and the picture of the demo."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from xrisk_ext.demo import ranking
from xrisk_ext.demo.data import Floats, Split, Task
from xrisk_ext.demo.methods import CROSS_ENTROPY, LIBAUC, OURS, StepCost
from xrisk_ext.demo.training import Outcome

RECALLS = np.linspace(0.0, 1.0, 201)
COLOURS = {CROSS_ENTROPY: "tab:gray", OURS: "tab:red", LIBAUC: "tab:blue"}


@dataclass(frozen=True)
class TaskResult:
    task: Task
    splits: Sequence[Split]
    outcomes: dict[str, Outcome]  # by the method's name

    def auprc(self, method: str) -> Floats:
        """Test AUPRC of every seed."""
        return np.array([run.test for run in self.outcomes[method].runs])


@dataclass(frozen=True)
class Paired:
    """The differences of two methods over the seeds: same split, batches and initial weights."""

    mean: float
    error: float  # standard error of the mean; NaN for one seed
    won: int
    seeds: int


def paired(a: Floats, b: Floats) -> Paired:
    difference = a - b
    count = len(difference)
    error = float(difference.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Paired(float(difference.mean()), error, int((difference > 0).sum()), count)


def _spread(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1_000_000 else f"{size / 1e3:.1f} kB"


def _plus_minus(value: str, error: float) -> str:
    return value if math.isnan(error) else f"{value} ± {error:.4f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the columns padded to their widest cell, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if position else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table of rows of cells, the first of them the head."""
    return "\n".join(_align(rows))


def _method_row(result: TaskResult, name: str, cost: StepCost) -> list[str]:
    auprc, outcome = result.auprc(name), result.outcomes[name]
    seconds = statistics.median(run.step_seconds for run in outcome.runs)
    row = [f"  {name}", _plus_minus(f"{auprc.mean():.4f}", _spread(auprc))]
    if name == CROSS_ENTROPY:
        row += ["", ""]
    else:
        against = paired(auprc, result.auprc(CROSS_ENTROPY))
        row.append(_plus_minus(f"{against.mean:+.4f}", against.error))
        row.append(f"{against.won} of {against.seeds}")
    return [
        *row,
        f"{seconds * 1e6:.0f} us",
        _bytes(cost.peak_bytes),
        f"{outcome.trial.learning_rate:g}",
        f"{outcome.trial.weight_decay:g}",
    ]


def results_table(results: Sequence[TaskResult], costs: dict[str, StepCost]) -> str:
    """A heading for every task, then a line for every method."""
    rows = [["", "test AUPRC", "minus cross entropy", "seeds won", "loss step", "peak memory"]]
    rows[0] += ["lr", "decay"]
    for result in results:
        rows += [_method_row(result, name, costs[name]) for name in result.outcomes]
    lines = iter(_align(rows))
    header = next(lines)
    table = [header, "-" * len(header)]
    for result in results:
        split = result.splits[0]
        table.append(
            f"{result.task.name} (train {split.train.counts()}, "
            f"validation {split.validation.counts()}, test {split.test.counts()})"
        )
        table += [next(lines) for _ in result.outcomes]
    return "\n".join(table)


def cost_table(costs: dict[int, dict[str, StepCost]]) -> str:
    """Loss steps alone, by method and batch size."""
    rows = [["batch", "method", "loss step", "peak memory"]]
    for batch, by_method in costs.items():
        for name, cost in by_method.items():
            rows.append([str(batch), name, f"{cost.seconds * 1e6:.0f} us", _bytes(cost.peak_bytes)])
    return "\n".join(_align(rows))


def verdict(results: Sequence[TaskResult]) -> str:
    """In how many tasks our AP loss beat cross entropy: counted, whatever comes out."""
    differences = [paired(r.auprc(OURS), r.auprc(CROSS_ENTROPY)) for r in results]
    higher = sum(d.mean > 0 for d in differences)
    clearly = sum(d.mean > 2 * d.error for d in differences)
    clearly_lower = sum(d.mean < -2 * d.error for d in differences)
    return (
        f"The mean test AUPRC of {OURS} is higher than that of cross entropy in {higher} of "
        f"{len(results)} tasks;\nby more than two standard errors it is higher in {clearly} and "
        f"lower in {clearly_lower}."
    )


def mean_precision(result: TaskResult, method: str) -> Floats:
    """Precision at each of RECALLS, averaged over the seeds."""
    curves = []
    for split, run in zip(result.splits, result.outcomes[method].runs, strict=True):
        precision, recall, _ = precision_recall_curve(split.test.labels, run.test_scores)
        curves.append(np.interp(RECALLS, recall[::-1], precision[::-1]))
    return np.asarray(np.mean(curves, axis=0), dtype=np.float64)


def plot_curves(
    results: Sequence[TaskResult], ranked: dict[str, ranking.Outcome], path: Path
) -> None:
    """The precision-recall curves of every task, and the NDCG of the ranking task."""
    panels = len(results) + 1
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes, result in zip(grid, results, strict=False):
        for name in result.outcomes:
            dashed = "--" if name == LIBAUC else "-"
            label = f"{name} ({result.auprc(name).mean():.3f})"
            precision = mean_precision(result, name)
            axes.plot(RECALLS, precision, dashed, color=COLOURS[name], label=label)
        axes.set_title(result.task.name, fontsize="medium")
        axes.set(xlabel="recall", ylabel="precision", ylim=(0.4, 1.01))
        axes.legend(loc="lower left", title="mean test AUPRC", fontsize="small")
    ranking.draw(grid[len(results)], ranked)
    for axes in grid[panels:]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)
