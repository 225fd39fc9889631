"""A record of races as text: a summary per kind of work, then every time with its error."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

BUSY = 0.05  # of the machine, by other processes
Race = dict[str, Any]
Table = tuple[list[str], list[list[str]]]  # head and rows
Summary = Callable[[list[Race]], Table]
LAUNCHES = ("launches", "copies", "syncs")  # of one call, on CUDA
# in the README
PUBLISHED = (
    "average_precision",
    "moving_average",
    "sort",
    "metrics",
    "scaling",
    "selection",
    "libauc",
)


def render(record: dict[str, Any]) -> str:
    """All tables."""
    about = record["machine"]
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, "
        f"{about['torch_simd']}, load {about['load']} -> {record.get('load_at_the_end')}",
        f"versions {about['versions']}; xrisk_ext {about['xrisk_ext']}",
        "median [lower - upper quartile]; a ratio is peer / ours, taken in each round",
        *_rates(about.get("rates")),
    ]
    works = {race["work"]: None for race in record["races"]}
    for work in works:
        races = [race for race in record["races"] if race["work"] == work]
        if work in SUMMARIES:
            lines += ["", f"== {work} ==", "", *table(*SUMMARIES[work](races))]
    for work in works:
        races = [race for race in record["races"] if race["work"] == work]
        lines += ["", f"== {work}: every contestant ==", "", *table(*_everything(races))]
    lines += ["", *_warnings(record["races"]), *absences(record["races"])]
    return "\n".join(lines)


def absences(races: list[Race]) -> list[str]:
    """Who did not race, where and why."""
    left_out: dict[str, list[str]] = {}
    for race in races:
        for name, reason in race["left_out"].items():
            left_out.setdefault(f"{name} in {race['work']}: {reason}", []).append(race["case"])
    return [
        f"left out {len(absent)} times: {what} (first: {absent[0]})"
        for what, absent in left_out.items()
    ]


def markdown(record: dict[str, Any]) -> str:
    """The tables of PUBLISHED, for the README."""
    about = record["machine"]
    lines = [
        f"Measured on {about['cpu']}, {about['cores']} cores, {about['threads']} threads: medians "
        "of per-round ratios with their quartiles.",
    ]
    for work in PUBLISHED:
        races = [race for race in record["races"] if race["work"] == work]
        if races:
            head, rows = SUMMARIES[work](races)
            lines += [
                "",
                *("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)),
            ]
    return "\n".join(lines) + "\n"


def _rates(rates: dict[str, float] | None) -> list[str]:
    if rates is None:
        return []
    return [
        f"measured limits: copy {rates['copy_gb_s']:.1f} GB/s, {rates['fma_g_s']:.0f}e9 float32 "
        "multiply-adds/s; of limit: the least time by them, over the contestant's (in the caches "
        "it may pass 100%)"
    ]


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
                _range(ours["ms"]),
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _ratio(race, "libauc"),
                _ratio(race.get("under_o"), "libauc"),
                _ratio(race, "eager"),
                _ratio(race, "eager_dense"),
                _ratio(race, "eager_sorted"),
                _ratio(race, "autograd_eager"),
                _ratio(race, "compiled_eager"),
                _ratio(race, "compiled_autograd"),
                _median_ms(race, "empty_function"),
                _megabytes(race, "ours"),
                _megabytes(race, "libauc"),
            ]
        )
    return _without_empty(head, rows)


def _moving_average(races: list[Race]) -> Table:
    head = ["rows", "ours ms", "ours ns/row", "error", "of limit", "eager ms", "eager error"]
    head += ["eager/ours", "eager_unique/ours"]
    rows = []
    for race in races:
        ours, eager = race["contestants"]["ours"], race["contestants"].get("eager")
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                f"{ours['ms']['median'] * 1e6 / race['rows']:.2f}",
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _median_ms(race, "eager"),
                _error(eager["error"]) if eager else "-",
                _ratio(race, "eager"),
                _ratio(race, "eager_unique"),
            ]
        )
    return _without_empty(head, rows)


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
                _range(auto["ms"]),
                _error(auto["error"]),
                _of_limit(race, "auto"),
                best["name"],
                _range(best["ratio"]),
                *(_median_ms(race, name) for name in named),
            ]
        )
    head, rows = _without_empty(head, rows)
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
                _range(ours["ms"]),
                _error(ours["error"]),
                _of_limit(race, "smooth"),
                *(_median_ms(race, name) for name in ("sort", "direct", "eager")),
                _ratio(race, "direct"),
                _ratio(race, "eager"),
                _error(eager["error"]) if eager else "-",
            ]
        )
    return _without_empty(head, rows)


def _retrieval(races: list[Race]) -> Table:
    peers = dict.fromkeys(n for race in races for n in race["contestants"] if n != "ours")
    head = ["case", "ours ms", "error", *(f"{name}/ours" for name in peers)]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        ratios = [_ratio(race, name) for name in peers]
        rows.append([race["case"], _range(ours["ms"]), _error(ours["error"]), *ratios])
    return head, rows


def _baselines(races: list[Race]) -> Table:
    head = ["loss", "ours ms", "error", "of limit", "eager/ours", "metric_learning/ours"]
    head += ["ours MB", "eager MB", "metric_learning MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _ratio(race, "eager"),
                _ratio(race, "metric_learning"),
                *(_megabytes(race, name) for name in ("ours", "eager", "metric_learning")),
            ]
        )
    return _without_empty(head, rows)


def _partial_auc(races: list[Race]) -> Table:
    head = ["rule and batch", "ours ms", "error", "of limit", "LibAUC/ours", "LibAUC -O/ours"]
    head += ["eager/ours", "ours MB", "LibAUC MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _ratio(race, "libauc"),
                _ratio(race.get("under_o"), "libauc"),
                _ratio(race, "eager"),
                _megabytes(race, "ours"),
                _megabytes(race, "libauc"),
            ]
        )
    return _without_empty(head, rows)


def _ndcg(races: list[Race]) -> Table:
    head = ["step", "ours ms", "error", "of limit", "LibAUC/ours", "eager/ours"]
    head += ["compiled eager/ours", "ours MB", "LibAUC MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _ratio(race, "libauc"),
                _ratio(race, "eager"),
                _ratio(race, "compiled_eager"),
                _megabytes(race, "ours"),
                _megabytes(race, "libauc"),
            ]
        )
    return _without_empty(head, rows)


def _sort(races: list[Race]) -> Table:
    head = ["scores", "ours ms", "ours ns/score", "error", "of limit", "torch/ours"]
    head += ["numpy values/ours", "numpy argsort/ours"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                f"{ours['ms']['median'] * 1e6 / race['size']:.2f}",
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _ratio(race, "torch"),
                _ratio(race, "numpy_values"),
                _ratio(race, "numpy_argsort"),
            ]
        )
    return _without_empty(head, rows)


def _metrics(races: list[Race]) -> Table:
    head = ["metric", "ours ms", "error", "of limit", "scikit-learn ms", "scikit-learn error"]
    head += ["scikit-learn/ours", "ours MB", "scikit-learn MB"]
    rows = []
    for race in races:
        ours, theirs = race["contestants"]["ours"], race["contestants"].get("sklearn")
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _median_ms(race, "sklearn"),
                _error(theirs["error"]) if theirs else "-",
                _ratio(race, "sklearn"),
                _megabytes(race, "ours"),
                _megabytes(race, "sklearn"),
            ]
        )
    return _without_empty(head, rows)


def _selection(races: list[Race]) -> Table:
    head = ["scores", "ours ms", "ours ns/score", "error", "of limit", "kthvalue/ours"]
    head += ["NumPy partition/ours", "topk/ours", "sort/ours", "smooth ms", "smooth/ours"]
    head += ["smooth error"]
    rows = []
    for race in races:
        ours, smooth = race["contestants"]["ours"], race["contestants"].get("ours_smooth")
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                f"{ours['ms']['median'] * 1e6 / race['size']:.2f}",
                _error(ours["error"]),
                _of_limit(race, "ours"),
                _ratio(race, "kthvalue"),
                _ratio(race, "numpy_partition"),
                _ratio(race, "topk"),
                _ratio(race, "sort"),
                _median_ms(race, "ours_smooth"),
                _ratio(race, "ours_smooth"),
                _error(smooth["error"]) if smooth else "-",
            ]
        )
    return _without_empty(head, rows)


def _libauc(races: list[Race]) -> Table:
    head = ["loss", "ours ms", "error", "LibAUC error", "LibAUC/ours", "LibAUC -O/ours"]
    head += ["ours MB", "LibAUC MB"]
    rows = []
    for race in races:
        ours, theirs = race["contestants"]["ours"], race["contestants"].get("libauc")
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                _error(ours["error"]),
                _error(theirs["error"]) if theirs else "-",
                _ratio(race, "libauc"),
                _ratio(race.get("under_o"), "libauc"),
                _megabytes(race, "ours"),
                _megabytes(race, "libauc"),
            ]
        )
    return _without_empty(head, rows)


def _contrastive(races: list[Race]) -> Table:
    head = ["case", "ours ms", "error", "of limit", "LibAUC/ours", "eager/ours"]
    head += ["compiled eager/ours", "ours MB", "LibAUC MB", "eager MB"]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                _error(ours["error"]),
                _of_limit(race, "ours"),
                *(_ratio(race, name) for name in ("libauc", "eager", "compiled_eager")),
                *(_megabytes(race, name) for name in ("ours", "libauc", "eager")),
            ]
        )
    return _without_empty(head, rows)


# A kind of work without a summary still gets the full table.
SUMMARIES: dict[str, Summary] = {
    "average_precision": _average_precision,
    "moving_average": _moving_average,
    "pairwise_sums": _pairwise_sums,
    "retrieval_average_precision": _retrieval,
    "contrastive_baselines": _baselines,
    "partial_auc": _partial_auc,
    "ndcg": _ndcg,
    "listwise": _retrieval,
    "sort": _sort,
    "metrics": _metrics,
    "libauc": _libauc,
    "scaling": _scaling,
    "selection": _selection,
    "global_contrastive": _contrastive,
    "bimodal_global_contrastive": _contrastive,
}


def busy_races(races: list[Race]) -> list[tuple[float, str]]:
    """Races during which the machine was not ours alone, and how much was not."""
    busy = []
    for race in races:
        for found in (race, race.get("under_o", {})):
            share = found.get("foreign_load")
            if share is not None and share > BUSY:
                busy.append((share, f"{race['work']} {race['case']}"))
    return busy


def _warnings(races: list[Race]) -> list[str]:
    busy = busy_races(races)
    if not busy:
        return ["the machine was quiet throughout"]
    share, case = max(busy)
    return [
        f"BUSY MACHINE: in {len(busy)} races other processes took more than {BUSY:.0%} of the CPU "
        f"(most: {share:.0%} in {case}); their ratios are not to be quoted"
    ]


def _everything(races: list[Race]) -> Table:
    head = ["case", "contestant", "ms", "float64 error", "ratio", "of limit", *LAUNCHES, "MB"]
    head += ["first call MB", "rounds", "others' CPU"]
    rows = []
    for race in races:
        named = [(name, found, race) for name, found in race["contestants"].items()]
        if "under_o" in race:
            child = race["under_o"]
            named += [(f"{name} -O", found, child) for name, found in child["contestants"].items()]
        for name, found, source in named:
            rows.append(
                [
                    race["case"],
                    name,
                    _range(found["ms"]),
                    _error(found["error"]),
                    _range(found["ratio"]),
                    _of_limit(race, found),
                    *(str(found.get("launches", {}).get(kind, "-")) for kind in LAUNCHES),
                    f"{found['memory_mb']:.1f}",
                    f"{found['first_call_mb']:.1f}",
                    str(source["rounds"]),
                    "-" if source["foreign_load"] is None else f"{source['foreign_load']:.0%}",
                ]
            )
    return _without_empty(head, rows)


def _without_empty(head: list[str], rows: list[list[str]]) -> Table:
    """Without the columns that say nothing: a peer not raced, launches where there is no GPU."""
    kept = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _of_limit(race: Race, contestant: str | dict[str, Any]) -> str:
    if "limit" not in race:
        return "-"
    found = race["contestants"][contestant] if isinstance(contestant, str) else contestant
    return f"{race['limit']['ms'] / found['ms']['median']:.2%} {race['limit']['bound']}"


def _ratio(race: Race | None, name: str) -> str:
    if race is None or name not in race["contestants"]:
        return "-"
    return _range(race["contestants"][name]["ratio"])


def _median_ms(race: Race, name: str) -> str:
    found = race["contestants"].get(name)
    return f"{found['ms']['median']:.4g}" if found else "-"


def _megabytes(race: Race, name: str) -> str:
    """The larger of a first call and a warm one."""
    found = race["contestants"].get(name)
    return f"{max(found['memory_mb'], found['first_call_mb']):.1f}" if found else "-"


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def _range(values: dict[str, float]) -> str:
    return f"{values['median']:.4g} [{values['q1']:.4g} - {values['q3']:.4g}]"


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Aligned columns; a row of one cell is a remark."""
    body = list(rows)
    cells = [head, *(row for row in body if len(row) > 1)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for row in [head, ["-" * w for w in widths], *body]:
        if len(row) == 1:
            lines.append(row[0])
        else:
            padded = [cell.ljust(w) for cell, w in zip(row, widths, strict=True)]
            lines.append("  ".join(padded).rstrip())
    return lines
