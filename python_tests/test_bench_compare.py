"""The regression check on synthetic records: ratios count, times do not."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from xrisk_ext.bench import cli, compare

Times = dict[str, float]


def make_record(races: dict[str, Times], under_o: Times | None = None, **about: Any) -> Any:
    """One race per case, in the work "w", with the times of the contestants; ours leads."""
    machine = {"cpu": "c", "threads": 2, "torch_simd": "s", "versions": {"torch": "2"}} | about

    def contestants(times: Times) -> dict[str, Any]:
        def spread(x: float) -> Times:
            return {"median": x, "q1": x, "q3": x}

        return {
            name: {"ms": spread(time), "ratio": spread(time / times["ours"])}
            for name, time in times.items()
        }

    found = [
        {"work": "w", "case": case, "leader": "ours", "contestants": contestants(times)}
        for case, times in races.items()
    ]
    if under_o:
        found[0]["under_o"] = {"leader": "ours", "contestants": contestants(under_o)}
    return {"machine": machine, "races": found}


def run(tmp_path: Path, old: Any, new: Any, *options: str) -> int:
    paths = tmp_path / "old.json", tmp_path / "new.json"
    for path, record in zip(paths, (old, new), strict=True):
        path.write_text(json.dumps(record))
    return cli.main(["--compare", *map(str, paths), *options])


OLD = make_record({"a": {"ours": 1.0, "x": 10.0, "y": 20.0}, "b": {"ours": 2.0, "x": 8.0}})


def test_a_machine_ten_times_slower_is_no_regression(tmp_path: Path) -> None:
    new = make_record({"a": {"ours": 10.0, "x": 100.0, "y": 200.0}, "b": {"ours": 20.0, "x": 80.0}})
    assert run(tmp_path, OLD, new) == 0


def test_ours_slower_beside_every_peer_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = make_record({"a": {"ours": 1.0, "x": 10.0, "y": 20.0}, "b": {"ours": 2.6, "x": 8.0}})
    assert run(tmp_path, OLD, new) == 1
    lines = capsys.readouterr().out.splitlines()
    (marked,) = (line for line in lines if "REGRESSION" in line)
    assert marked.split()[:3] == ["w", "b", "1.30"]
    assert "1 of 2 cases" in lines[-1]


def test_the_tolerance(tmp_path: Path) -> None:
    new = make_record({"a": {"ours": 1.2, "x": 10.0, "y": 20.0}})
    assert run(tmp_path, OLD, new) == 0
    assert run(tmp_path, OLD, new, "--tolerance", "1.1") == 1


def test_a_faster_ours_is_none(tmp_path: Path) -> None:
    assert run(tmp_path, OLD, make_record({"a": {"ours": 0.1, "x": 10.0, "y": 20.0}})) == 0


def test_one_peer_of_three_that_got_faster_does_not_decide(tmp_path: Path) -> None:
    old = make_record({"a": {"ours": 1.0, "x": 10.0, "y": 20.0, "z": 30.0}})
    new = make_record({"a": {"ours": 1.0, "x": 1.0, "y": 20.0, "z": 30.0}})
    assert run(tmp_path, old, new) == 0
    assert run(tmp_path, old, new, "--peer", "x") == 1
    (change,), _ = compare.changes(old, new)
    assert change.by_peer == pytest.approx({"x": 10.0, "y": 1.0, "z": 1.0})


def test_the_race_under_o_counts(tmp_path: Path) -> None:
    old = make_record({"a": {"ours": 1.0, "x": 2.0}}, under_o={"ours": 1.0, "x": 2.0})
    new = make_record({"a": {"ours": 1.0, "x": 2.0}}, under_o={"ours": 3.0, "x": 2.0})
    assert run(tmp_path, old, new, "--peer", "x -O") == 1
    assert run(tmp_path, old, new, "--peer", "x") == 0


def test_our_other_algorithms_are_no_peers(tmp_path: Path) -> None:
    """All of them got slower: beside each other they did not."""
    old = make_record({"a": {"ours": 1.0, "smooth": 1.0, "sort": 2.0, "direct": 4.0, "eager": 9.0}})
    old["races"][0]["work"] = "scaling"
    new = copy.deepcopy(old)
    new["races"][0]["contestants"]["eager"]["ratio"]["median"] = 3.0
    assert run(tmp_path, old, new) == 1
    (change,), _ = compare.changes(old, new)
    assert change.by_peer == pytest.approx({"eager": 3.0})


def test_what_cannot_be_compared_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = make_record({"b": {"ours": 2.0, "x": 8.0}, "c": {"ours": 1.0, "x": 1.0}}, threads=1)
    assert run(tmp_path, OLD, new | {"quick": True}) == 0
    out = capsys.readouterr().out
    assert "only in the old record, of w: 1 (first: a)" in out
    assert "only in the new record, of w: 1 (first: c)" in out
    assert "threads differs: 2 before, 1 now" in out
    assert "the new record is of short races" in out


@pytest.mark.parametrize("which", [0, 1])
def test_a_race_on_a_busy_machine_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], which: int
) -> None:
    new = make_record({"a": {"ours": 3.0, "x": 10.0, "y": 20.0}, "b": {"ours": 2.0, "x": 8.0}})
    assert run(tmp_path, OLD, new) == 1
    records = copy.deepcopy(OLD), new
    records[which]["races"][0]["foreign_load"] = 0.5
    assert run(tmp_path, *records) == 0
    assert "busy machine, not judged" in capsys.readouterr().out
    records[which]["races"][1]["foreign_load"] = 0.5
    assert run(tmp_path, *records) == 2  # a machine that is always busy finds nothing


def test_nothing_in_common_is_an_error_of_its_own(tmp_path: Path) -> None:
    new = copy.deepcopy(OLD)
    for race in new["races"]:
        race["case"] += "'"
    assert run(tmp_path, OLD, new) == 2


@pytest.mark.parametrize("option", ["--compare", "--from"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), *((text, "is no record of races") for text in ("{}", "[]", "[1"))],
)
def test_what_is_no_record_is_a_fault_of_the_command_line(
    option: str,
    content: str | None,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        cli.main([option, *[str(path)] * (2 if option == "--compare" else 1)])
    assert stopped.value.code == 2
    assert f"{path}" in (error := capsys.readouterr().err) and said in error
