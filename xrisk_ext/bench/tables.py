"""A record of races as text: a summary per kind of work, then every time with its error."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from textwrap import wrap
from typing import Any

from xrisk_ext.bench.cells import Race, Table, error_cell, of_limit, time_range, without_empty
from xrisk_ext.bench.summaries import SUMMARIES

BUSY = 0.05  # of the machine, by other processes
LAUNCHES = ("launches", "copies", "syncs")  # of one call, on CUDA
# in the README
PUBLISHED = (
    "average_precision",
    "moving_average",
    "sort",
    "metrics",
    "scaling",
    "selection",
    "ndcg",
    "global_contrastive",
    "bimodal_global_contrastive",
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
            caption, summary = SUMMARIES[work]
            lines += ["", f"== {work} ==", *wrap(caption, 100), "", *table(*summary(races))]
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


def markdown(record: dict[str, Any], works: Collection[str] = PUBLISHED) -> str:
    """The tables of these works, for a page of the documentation."""
    about = record["machine"]
    place = f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads"
    if about.get("device") == "cuda":
        place = f"{about['gpu']}, torch {about['versions']['torch']}"
    lines = [
        f"Measured on {place}: medians of per-round ratios with their quartiles.",
    ]
    shown = [race for race in record["races"] if race["work"] in works]
    if busy_races(shown):
        lines += ["", *_warnings(shown)]
    for work in works:
        races = [race for race in record["races"] if race["work"] == work]
        if races:
            caption, summary = SUMMARIES[work]
            head, rows = summary(races)
            lines += [
                "",
                f"{caption}.",
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
                    time_range(found["ms"]),
                    error_cell(found["error"]),
                    time_range(found["ratio"]),
                    of_limit(race, found),
                    *(str(found.get("launches", {}).get(kind, "-")) for kind in LAUNCHES),
                    f"{found['memory_mb']:.1f}",
                    f"{found['first_call_mb']:.1f}",
                    str(source["rounds"]),
                    "-" if source["foreign_load"] is None else f"{source['foreign_load']:.0%}",
                ]
            )
    return without_empty(head, rows)


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
