"""Pictures of a record: an AP step against the batch size, pair sums against theirs; log-log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STYLE = {
    "ours": ("xrisk_ext", "tab:blue"),
    "libauc": ("LibAUC", "tab:red"),
    "libauc -O": ("LibAUC, python -O", "tab:pink"),
    "eager": ("tuned eager, closed form", "tab:orange"),
    "eager_sorted": ("our sort in eager", "tab:olive"),
    "autograd_eager": ("eager, autograd", "tab:gray"),
    "compiled_eager": ("torch.compile of the closed form", "tab:green"),
    "compiled_autograd": ("torch.compile of autograd", "tab:brown"),
}
SCALING_STYLE = {
    "smooth": ("smooth (logistic)", "tab:blue"),
    "sort": ("sort (squared hinge)", "tab:green"),
    "direct": ("direct (logistic)", "tab:purple"),
    "eager": ("tuned eager (logistic)", "tab:orange"),
}
Points = dict[str, list[tuple[int, dict[str, float]]]]


def draw_step_times(record: dict[str, Any], target: Path) -> bool:
    """Write the PNG; False where there is nothing to draw (or nothing to draw with)."""
    races = [
        race
        for race in record["races"]
        if race["work"] == "average_precision" and race.get("scores", "normal") == "normal"
    ]
    points: Points = {}
    for race in races:
        found = {name: c["ms"] for name, c in race["contestants"].items()}
        if "under_o" in race:
            found["libauc -O"] = race["under_o"]["contestants"]["libauc"]["ms"]
        for name, times in found.items():
            points.setdefault(name, []).append((race["batch"], times))
    about = record["machine"]
    return _draw(
        points,
        STYLE,
        target,
        xlabel="batch size (10% positive; 1% at a million)",
        ylabel="forward + backward + state, ms",
        title=f"AP step, float32, {about['threads']} threads of {about['cpu']}",
    )


def draw_scaling(record: dict[str, Any], target: Path) -> bool:
    """The same for the algorithms of the pair sums, n anchors against n items."""
    points: Points = {}
    for race in record["races"]:
        if race["work"] != "scaling" or not race["plain"]:
            continue
        for name, contestant in race["contestants"].items():
            points.setdefault(name, []).append((race["size"], contestant["ms"]))
    about = record["machine"]
    return _draw(
        points,
        SCALING_STYLE,
        target,
        xlabel="n: anchors, and as many items",
        ylabel="sums and both gradients, ms",
        title=f"n x n pair sums, float32, {about['threads']} threads of {about['cpu']}",
    )


def _draw(points: Points, style: dict[str, tuple[str, str]], target: Path, **labels: str) -> bool:
    if not points:
        return False
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 5))
    for name, (label, color) in style.items():
        if name not in points:
            continue
        sizes, times = zip(*sorted(points[name], key=lambda p: p[0]), strict=True)
        middle = [t["median"] for t in times]
        below = [t["median"] - t["q1"] for t in times]
        above = [t["q3"] - t["median"] for t in times]
        axes.errorbar(
            sizes, middle, yerr=[below, above], marker="o", capsize=3, label=label, color=color
        )
    axes.set(xscale="log", yscale="log", **labels)
    axes.grid(True, which="major", alpha=0.4)
    axes.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(target, dpi=140)
    pyplot.close(figure)
    return True
