"""What stands in the cells of the tables: times with their spread, ratios, errors, memory."""

from __future__ import annotations

from typing import Any

Race = dict[str, Any]
Table = tuple[list[str], list[list[str]]]  # head and rows


def without_empty(head: list[str], rows: list[list[str]]) -> Table:
    """Without the columns that say nothing: a peer not raced, launches where there is no GPU."""
    kept = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def of_limit(race: Race, contestant: str | dict[str, Any]) -> str:
    if "limit" not in race:
        return "-"
    found = race["contestants"][contestant] if isinstance(contestant, str) else contestant
    return f"{race['limit']['ms'] / found['ms']['median']:.2%} {race['limit']['bound']}"


def ratio(race: Race | None, name: str) -> str:
    if race is None or name not in race["contestants"]:
        return "-"
    return time_range(race["contestants"][name]["ratio"])


def median_ms(race: Race, name: str) -> str:
    found = race["contestants"].get(name)
    return f"{found['ms']['median']:.4g}" if found else "-"


def megabytes(race: Race, name: str) -> str:
    """The larger of a first call and a warm one."""
    found = race["contestants"].get(name)
    return f"{max(found['memory_mb'], found['first_call_mb']):.1f}" if found else "-"


def error_cell(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def time_range(values: dict[str, float]) -> str:
    return f"{values['median']:.4g} [{values['q1']:.4g} - {values['q3']:.4g}]"
