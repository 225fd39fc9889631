"""What is public, and the table of the contract tests, which has all of it."""

import inspect
from typing import Any

import pytest
from libauc_subjects import LIBAUC, SAME
from loss_subjects import LOSSES
from op_subjects import METRICS, OPS
from subjects import Subject
from torch import nn

from xrisk_ext import libauc, losses, metrics, ops

TABLES: dict[str, tuple[Any, dict[str, Subject]]] = {
    "losses": (losses, LOSSES),
    "ops": (ops, OPS),
    "libauc": (libauc, LIBAUC),
    "metrics": (metrics, METRICS),
}
SUBJECTS = {
    f"{place}.{name}": subject
    for place, (_, table) in TABLES.items()
    for name, subject in table.items()
}
each_subject = pytest.mark.parametrize("name", SUBJECTS)


def subjects_with(attribute: str) -> Any:
    """A parameter of the subjects that have one of these."""
    names = [name for name, subject in SUBJECTS.items() if getattr(subject, attribute)]
    return pytest.mark.parametrize("name", names)


def names_not_in_the_table() -> list[str]:
    """Public names without a subject, and subjects without a public name; helpers are no loss."""
    wrong = []
    for place, (module, table) in TABLES.items():
        there = {name.split(" ")[0] for name in table}
        same = SAME if place == "libauc" else {}
        wrong += [
            n for n, other in same.items() if getattr(module, n) is not getattr(module, other)
        ]
        wanted = {name for name in module.__all__ if name not in same}
        if place == "losses":
            wanted = {name for name in wanted if _is_module(getattr(module, name))}
        wrong += [f"{place}.{name}" for name in wanted ^ there]
    return wrong


def _is_module(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)
