"""The summary of each kind of work: a caption, and one row a race, ours against its peers."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from xrisk_ext.bench.cells import (
    Race,
    Table,
    error_cell,
    median_ms,
    megabytes,
    of_limit,
    ratio,
    time_range,
    without_empty,
)
from xrisk_ext.testing.libauc_cases import NOT_RUNNING


class Summary(NamedTuple):
    """A table that explains itself: what is timed, what the cases and the peers are."""

    caption: str
    table: Callable[[list[Race]], Table]


def _average_precision(races: list[Race]) -> Table:
    head = ["batch", "ours ms", "error", "of limit", "LibAUC/ours", "LibAUC -O/ours", "eager/ours"]
    head += ["eager_dense/ours", "eager_sorted/ours", "autograd/ours", "compiled eager/ours"]
    head += ["compiled autograd/ours", "floor ms", "ours MB", "LibAUC MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                ratio(race, "libauc"),
                ratio(race.get("under_o"), "libauc"),
                ratio(race, "eager"),
                ratio(race, "eager_dense"),
                ratio(race, "eager_sorted"),
                ratio(race, "autograd_eager"),
                ratio(race, "compiled_eager"),
                ratio(race, "compiled_autograd"),
                median_ms(race, "empty_function"),
                megabytes(race, "ours"),
                megabytes(race, "libauc"),
            ]
        )
    return without_empty(head, rows)


def _moving_average(races: list[Race]) -> Table:
    head = ["rows", "ours ms", "ours ns/row", "error", "of limit", "eager ms", "eager error"]
    head += ["eager/ours", "eager_unique/ours"]
    rows = []
    for race in races:
        ours, eager = race["contestants"]["ours"], race["contestants"].get("eager")
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                f"{ours['ms']['median'] * 1e6 / race['rows']:.2f}",
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                median_ms(race, "eager"),
                error_cell(eager["error"]) if eager else "-",
                ratio(race, "eager"),
                ratio(race, "eager_unique"),
            ]
        )
    return without_empty(head, rows)


def _pairwise_sums(races: list[Race]) -> Table:
    named = dict.fromkeys(n for race in races for n in race["contestants"] if n != "auto")
    head = ["case", "auto ms", "error", "of limit", "best", "auto/best"]
    head += [f"{name} ms" for name in named]
    rows, worst = [], []
    for race in races:
        if "fastest_rival" not in race:  # no other algorithm was asked for
            continue
        auto, best = race["contestants"]["auto"], race["fastest_rival"]
        worst.append((best["ratio"]["median"], race["case"]))
        rows.append(
            [
                race["case"],
                time_range(auto["ms"]),
                error_cell(auto["error"]),
                of_limit(race, "auto"),
                best["name"],
                time_range(best["ratio"]),
                *(median_ms(race, name) for name in named),
            ]
        )
    head, rows = without_empty(head, rows)
    if worst:
        middle = statistics.median(r for r, _ in worst)
        rows.append(
            [f"worst auto/best {max(worst)[0]:.2f} at {max(worst)[1]}; median {middle:.2f}"]
        )
    return head, rows


def _scaling(races: list[Race]) -> Table:
    head = ["pairs", "smooth ms", "error", "of limit", "sort ms", "direct ms", "eager ms"]
    head += ["direct/smooth", "eager/smooth", "eager error"]
    rows = []
    for race in races:
        ours, eager = race["contestants"]["smooth"], race["contestants"].get("eager")
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                of_limit(race, "smooth"),
                *(median_ms(race, name) for name in ("sort", "direct", "eager")),
                ratio(race, "direct"),
                ratio(race, "eager"),
                error_cell(eager["error"]) if eager else "-",
            ]
        )
    return without_empty(head, rows)


def _retrieval(races: list[Race]) -> Table:
    peers = dict.fromkeys(n for race in races for n in race["contestants"] if n != "ours")
    head = ["case", "ours ms", "error", "of limit", *(f"{name}/ours" for name in peers)]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        ratios = [ratio(race, name) for name in peers]
        own = [time_range(ours["ms"]), error_cell(ours["error"]), of_limit(race, "ours")]
        rows.append([race["case"], *own, *ratios])
    return without_empty(head, rows)


def _baselines(races: list[Race]) -> Table:
    fused = ("inf_cl", "liger", "quack")
    head = ["loss", "ours ms", "error", "of limit", "eager/ours", "compiled/ours"]
    head += ["metric_learning/ours"]
    head += [f"{name}/ours" for name in fused]
    head += ["ours MB", "eager MB", "metric_learning MB", "inf_cl MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                ratio(race, "eager"),
                *(ratio(race, name) for name in ("compiled", "metric_learning", *fused)),
                *(megabytes(race, name) for name in ("ours", "eager", "metric_learning", "inf_cl")),
            ]
        )
    return without_empty(head, rows)


def _partial_auc(races: list[Race]) -> Table:
    head = ["rule and batch", "ours ms", "error", "of limit", "LibAUC/ours", "LibAUC -O/ours"]
    head += ["eager/ours", "compiled eager/ours", "ours MB", "LibAUC MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                ratio(race, "libauc"),
                ratio(race.get("under_o"), "libauc"),
                ratio(race, "eager"),
                ratio(race, "compiled_eager"),
                megabytes(race, "ours"),
                megabytes(race, "libauc"),
            ]
        )
    return without_empty(head, rows)


def _ndcg(races: list[Race]) -> Table:
    head = ["step", "ours ms", "error", "of limit", "LibAUC/ours", "eager/ours"]
    head += ["compiled eager/ours", "ours MB", "LibAUC MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                ratio(race, "libauc"),
                ratio(race, "eager"),
                ratio(race, "compiled_eager"),
                megabytes(race, "ours"),
                megabytes(race, "libauc"),
            ]
        )
    return without_empty(head, rows)


def _sort(races: list[Race]) -> Table:
    head = ["scores", "ours ms", "ours ns/score", "error", "of limit", "torch/ours"]
    head += ["numpy values/ours", "numpy argsort/ours"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                f"{ours['ms']['median'] * 1e6 / race['size']:.2f}",
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                ratio(race, "torch"),
                ratio(race, "numpy_values"),
                ratio(race, "numpy_argsort"),
            ]
        )
    return without_empty(head, rows)


def _metrics(races: list[Race]) -> Table:
    head = ["metric", "ours ms", "error", "of limit", "scikit-learn ms", "scikit-learn error"]
    head += ["scikit-learn/ours", "ours MB", "scikit-learn MB"]
    rows = []
    for race in races:
        ours, theirs = race["contestants"]["ours"], race["contestants"].get("sklearn")
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                median_ms(race, "sklearn"),
                error_cell(theirs["error"]) if theirs else "-",
                ratio(race, "sklearn"),
                megabytes(race, "ours"),
                megabytes(race, "sklearn"),
            ]
        )
    return without_empty(head, rows)


def _selection(races: list[Race]) -> Table:
    head = ["scores", "ours ms", "ours ns/score", "error", "of limit", "kthvalue/ours"]
    head += ["NumPy partition/ours", "topk/ours", "sort/ours", "flashinfer/ours"]
    head += ["smooth ms", "smooth/ours", "smooth error"]
    rows = []
    for race in races:
        ours, smooth = race["contestants"]["ours"], race["contestants"].get("ours_smooth")
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                f"{ours['ms']['median'] * 1e6 / race['size']:.2f}",
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                ratio(race, "kthvalue"),
                ratio(race, "numpy_partition"),
                ratio(race, "topk"),
                ratio(race, "sort"),
                ratio(race, "flashinfer"),
                median_ms(race, "ours_smooth"),
                ratio(race, "ours_smooth"),
                error_cell(smooth["error"]) if smooth else "-",
            ]
        )
    return without_empty(head, rows)


def _libauc(races: list[Race]) -> Table:
    head = ["loss", "ours ms", "error", "LibAUC error", "LibAUC/ours", "LibAUC -O/ours"]
    head += ["ours MB", "LibAUC MB"]
    rows = []
    for race in races:
        ours, theirs = race["contestants"]["ours"], race["contestants"].get("libauc")
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                error_cell(theirs["error"]) if theirs else "-",
                ratio(race, "libauc"),
                ratio(race.get("under_o"), "libauc"),
                megabytes(race, "ours"),
                megabytes(race, "libauc"),
            ]
        )
    for name, (call, failure) in NOT_RUNNING.items():
        rows.append([name, "-", "-", "-", f"`{call}`: {failure}", "-", "-", "-"])
    return head, rows


def _contrastive(races: list[Race]) -> Table:
    head = ["case", "ours ms", "error", "of limit", "LibAUC/ours", "eager/ours"]
    head += ["compiled eager/ours", "ours MB", "LibAUC MB", "eager MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                time_range(ours["ms"]),
                error_cell(ours["error"]),
                of_limit(race, "ours"),
                *(ratio(race, name) for name in ("libauc", "eager", "compiled_eager")),
                *(megabytes(race, name) for name in ("ours", "libauc", "eager")),
            ]
        )
    return without_empty(head, rows)


# A kind of work without a summary still gets the full table.
SUMMARIES: dict[str, Summary] = {
    "average_precision": Summary(
        "One step of the average precision loss (loss, gradient, state) on B scores, a tenth of "
        "them positive (a hundredth of a million). *ties*: all scores equal. *bits*: random bits "
        "from 2^-30 to 2^5, so that no byte of a sort key can be skipped. *eager* is the "
        "closed-form gradient tuned by hand in PyTorch, *eager_dense* the same without slices, "
        "*eager_sorted* our algorithm in PyTorch ops, *autograd* the formula differentiated by "
        "PyTorch, *compiled* what `torch.compile` makes of it, *floor* an autograd Function that "
        "does nothing",
        _average_precision,
    ),
    "moving_average": Summary(
        "The state update `moving_average_update_`: rows of a batch of a table, averaged in place "
        "in float32. *eager* keeps its workspaces and trusts the ids, *eager_unique* keeps our "
        "contract (ids checked, duplicates averaged). *log*: the state is a logarithm",
        _moving_average,
    ),
    "pairwise_sums": Summary(
        "`pairwise_sums`, values and both gradients: the algorithm that `auto` chooses against "
        "every other",
        _pairwise_sums,
    ),
    "retrieval_average_precision": Summary(
        "Average precision of lists, against pytorch-metric-learning", _retrieval
    ),
    "contrastive_baselines": Summary(
        "Batch contrastive losses, loss and both gradients, B rows of dimension d", _baselines
    ),
    "partial_auc": Summary("One step of the partial AUC losses on B scores", _partial_auc),
    "ndcg": Summary(
        "One step of NDCGLoss (SONG) and its top-K form (K-SONG): queries x (relevant + other) "
        "items",
        _ndcg,
    ),
    "listwise": Summary("One step of the listwise losses: lists x items", _retrieval),
    "sort": Summary(
        "The sort of scores with their places, which the metrics and the sorted algorithms use. "
        "*numpy values* sorts without the places, *numpy argsort* and ours return them",
        _sort,
    ),
    "metrics": Summary("The metrics of `xr.metrics` on a million scores", _metrics),
    "libauc": Summary(
        "One step of each loss of LibAUC against its drop-in of `xrisk_ext.libauc`", _libauc
    ),
    "scaling": Summary(
        "`pairwise_sums` of logistic pairs, n anchors against n items, values and both gradients, "
        "by algorithm. *scale*: one over the temperature; *ties*, *clusters*, *Cauchy*, "
        "*outlier*, *spread*: scores that are hard for the near-linear algorithm",
        _scaling,
    ),
    "selection": Summary(
        "`topk_threshold`: the K-th largest score of each row, exactly (*ours*) and as the "
        "smoothed bilevel problem of K-SONG (*smooth*, which no peer solves), rows x scores",
        _selection,
    ),
    "global_contrastive": Summary(
        "One step of the global contrastive loss (SogCLR, two views): B samples, dimension d",
        _contrastive,
    ),
    "bimodal_global_contrastive": Summary(
        "One step of the bimodal global contrastive loss (image and text, SogCLR): B pairs, "
        "dimension d",
        _contrastive,
    ),
}
