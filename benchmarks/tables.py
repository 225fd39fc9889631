"""A record of races as text: a summary per kind of work, then every time with its error."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

BUSY = 0.05  # of the machine, by other processes
Race = dict[str, Any]
Summary = Callable[[list[Race]], tuple[list[str], list[list[str]]]]


def render(record: dict[str, Any]) -> str:
    """All tables."""
    about = record["machine"]
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, "
        f"{about['torch_simd']}, load {about['load']} -> {record.get('load_at_the_end')}",
        f"versions {about['versions']}; xrisk_ext {about['xrisk_ext']}",
        "median [lower - upper quartile]; a ratio is peer / ours, taken in each round",
    ]
    works = {race["work"]: None for race in record["races"]}
    for work in works:
        races = [race for race in record["races"] if race["work"] == work]
        if work in SUMMARIES:
            lines += ["", f"== {work} ==", "", *_table(*SUMMARIES[work](races))]
    for work in works:
        races = [race for race in record["races"] if race["work"] == work]
        lines += ["", f"== {work}: every contestant ==", "", *_table(*_everything(races))]
    lines += ["", *_warnings(record["races"])]
    left_out: dict[str, list[str]] = {}
    for race in record["races"]:
        for name, reason in race["left_out"].items():
            left_out.setdefault(f"{name} in {race['work']}: {reason}", []).append(race["case"])
    for what, absent in left_out.items():
        lines.append(f"left out {len(absent)} times: {what} (first: {absent[0]})")
    return "\n".join(lines)


def markdown(record: dict[str, Any]) -> str:
    """The AP and state tables, for the README."""
    about = record["machine"]
    lines = [
        f"Measured on {about['cpu']}, {about['cores']} cores, {about['threads']} threads: medians "
        "of per-round ratios with their quartiles.",
    ]
    for work in ("average_precision", "moving_average"):
        races = [race for race in record["races"] if race["work"] == work]
        if races:
            head, rows = SUMMARIES[work](races)
            lines += [
                "",
                *("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)),
            ]
    return "\n".join(lines) + "\n"


def _average_precision(races: list[Race]) -> tuple[list[str], list[list[str]]]:
    head = ["batch", "ours ms", "error", "LibAUC/ours", "LibAUC -O/ours", "eager/ours"]
    head += [
        "eager_dense/ours",
        "eager_sorted/ours",
        "autograd/ours",
        "floor ms",
        "ours MB",
        "LibAUC MB",
    ]
    rows = []
    for race in races:
        ours = race["contestants"]["ours"]
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                _error(ours["error"]),
                _ratio(race, "libauc"),
                _ratio(race.get("under_o"), "libauc"),
                _ratio(race, "eager"),
                _ratio(race, "eager_dense"),
                _ratio(race, "eager_sorted"),
                _ratio(race, "autograd_eager"),
                _median_ms(race, "empty_function"),
                _megabytes(race, "ours"),
                _megabytes(race, "libauc"),
            ]
        )
    return head, rows


def _moving_average(races: list[Race]) -> tuple[list[str], list[list[str]]]:
    head = ["rows", "ours ms", "ours ns/row", "error", "eager ms", "eager error", "eager/ours"]
    head += ["eager_unique/ours"]
    rows = []
    for race in races:
        ours, eager = race["contestants"]["ours"], race["contestants"].get("eager")
        rows.append(
            [
                race["case"],
                _range(ours["ms"]),
                f"{ours['ms']['median'] * 1e6 / race['rows']:.2f}",
                _error(ours["error"]),
                _median_ms(race, "eager"),
                _error(eager["error"]) if eager else "-",
                _ratio(race, "eager"),
                _ratio(race, "eager_unique"),
            ]
        )
    return head, rows


def _pairwise_sums(races: list[Race]) -> tuple[list[str], list[list[str]]]:
    named = dict.fromkeys(n for race in races for n in race["contestants"] if n != "auto")
    head = ["case", "auto ms", "error", "best", "auto/best", *(f"{name} ms" for name in named)]
    rows, worst = [], []
    for race in races:
        auto, best = race["contestants"]["auto"], race["fastest_rival"]
        worst.append((best["ratio"]["median"], race["case"]))
        rows.append(
            [
                race["case"],
                _range(auto["ms"]),
                _error(auto["error"]),
                best["name"],
                _range(best["ratio"]),
                *(_median_ms(race, name) for name in named),
            ]
        )
    middle = statistics.median(r for r, _ in worst)
    rows.append([f"worst auto/best {max(worst)[0]:.2f} at {max(worst)[1]}; median {middle:.2f}"])
    return head, rows


# A kind of work without a summary still gets the full table.
SUMMARIES: dict[str, Summary] = {
    "average_precision": _average_precision,
    "moving_average": _moving_average,
    "pairwise_sums": _pairwise_sums,
}


def _warnings(races: list[Race]) -> list[str]:
    """Races during which the machine was not ours alone."""
    busy = []
    for race in races:
        for found in (race, race.get("under_o", {})):
            share = found.get("foreign_load")
            if share is not None and share > BUSY:
                busy.append((share, f"{race['work']} {race['case']}"))
    if not busy:
        return ["the machine was quiet throughout"]
    share, case = max(busy)
    return [
        f"BUSY MACHINE: in {len(busy)} races other processes took more than {BUSY:.0%} of the CPU "
        f"(most: {share:.0%} in {case}); their ratios are not to be quoted"
    ]


def _everything(races: list[Race]) -> tuple[list[str], list[list[str]]]:
    head = ["case", "contestant", "ms", "float64 error", "ratio", "MB", "first call MB", "rounds"]
    head += ["others' CPU"]
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
                    f"{found['memory_mb']:.1f}",
                    f"{found['first_call_mb']:.1f}",
                    str(source["rounds"]),
                    "-" if source["foreign_load"] is None else f"{source['foreign_load']:.0%}",
                ]
            )
    return head, rows


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


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
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
