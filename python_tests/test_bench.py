"""The benchmark harness: its command from outside the checkout, what it leaves out, its records."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xrisk_ext.bench import cli, launches, limits, machine, peers, record, selection, suite, tables
from xrisk_ext.bench.race import Budget, Contestant, Race
from xrisk_ext.testing import cases
from xrisk_ext.testing.baseline_cases import BASELINES, BaselineCase
from xrisk_ext.testing.ranking_cases import MetricCase, SortCase

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "results" / "cpu.json"
needs_benchmark = pytest.mark.skipif(
    importlib.util.find_spec("pytest_benchmark") is None, reason="needs pytest-benchmark"
)


@needs_benchmark
def test_the_command_races_records_and_compares(tmp_path: Path) -> None:
    """One tiny race, from a folder with a pytest configuration that would break it."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    command = [sys.executable, "-m", "xrisk_ext", "bench"]
    choice = ["--quick", "--op", "average_precision", "--case", "B=64", "--peer", "eager"]
    search = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    ran = subprocess.run(
        [*command, *choice, "--race-seconds", "0.05", "--output", "out"],
        cwd=tmp_path,
        env=os.environ | search,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "eager/ours" in ran.stdout
    assert "measured limits: copy" in ran.stdout
    found = json.loads((tmp_path / "out" / "cpu.json").read_text())
    (race,) = found["races"]
    assert (race["work"], race["case"], race["leader"]) == ("average_precision", "B=64", "ours")
    assert {*race["contestants"]} == {"ours", "eager"}
    assert all(c["error"] < 1e-5 for c in race["contestants"].values())
    assert race["limit"]["ms"] > 0
    assert "laps_ms" not in race["contestants"]["ours"]
    assert found["machine"]["rates"].keys() == {"copy_gb_s", "fma_g_s"}
    assert found["quick"]
    path = str(tmp_path / "out" / "cpu.json")
    assert cli.main(["--compare", path, path]) in (0, 2)  # 2: the machine was busy


def test_a_missing_peer_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    peers.names_of("average_precision")  # loads them
    for package in ("libauc.losses", "pytorch_metric_learning"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    case = cases.AveragePrecisionCase(16, 2)
    contestants, left_out = peers.build_all(case, ["libauc", "eager"])
    assert [c.name for c in contestants] == ["ours", "eager"]
    assert "libauc" in left_out["libauc"]
    _, left_out = peers.build_all(cases.RetrievalCase(2, 2))
    assert left_out.keys() == {"metric_learning_smooth_ap", "metric_learning_fast_ap"}
    race = {"work": case.work, "case": case.name, "left_out": left_out}
    assert "left out 1 times: metric_learning_fast_ap in average_precision" in "\n".join(
        tables.absences([race])
    )


def test_a_peer_that_holds_all_pairs_is_left_out_of_the_largest_case() -> None:
    case = next(c for c in cases.AVERAGE_PRECISION if c.batch == 1_000_000)
    assert case.pairs > peers.PAIRS_HELD
    _, left_out = peers.build_all(case, ["eager", "libauc", "compiled_eager"])
    assert left_out.keys() == {"eager", "libauc", "compiled_eager"}


def test_a_peer_that_holds_pairs_of_pairs_is_left_out_sooner() -> None:
    reasons = []
    for batch in (256, 1024):
        _, left_out = peers.build_all(BaselineCase("NTXent", batch), ["metric_learning"])
        reasons.append(left_out)
    assert reasons == [{}, {"metric_learning": "holds pairs of pairs, 69 GB here"}]


def test_products_are_the_limit_of_the_contrastive_baselines() -> None:
    for case in BASELINES:
        limit = case.limit()
        if limit is None:  # bfloat16: no rate of the machine's is measured for it
            assert case.devices == ("cuda",)
            continue
        assert limit.bytes == float("inf")
        a_product = case.batch * (case.queue or case.batch) * case.dimension
        assert limit.lanes == {"CLIP": 3, "MoCo": 2}.get(case.loss, 6) * a_product


def test_an_algorithm_that_a_surrogate_lacks_does_not_race_there() -> None:
    contestants, left_out = peers.build_all(cases.PairwiseSumsCase(4, 6, "sigmoid"))
    assert [c.name for c in contestants][:2] == ["auto", "direct"]
    assert "sort" not in left_out


def test_a_compiler_that_fails_is_a_reason_and_a_wrong_formula_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def compiled(*args: Any) -> None:
            raise RuntimeError("no C++ compiler\nhere")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    _, left_out = peers.build_all(cases.AveragePrecisionCase(16, 2), ["compiled_eager"])
    assert left_out == {"compiled_eager": "torch.compile: no C++ compiler"}
    from xrisk_ext.bench.peers import compiled

    monkeypatch.setattr(compiled, "_blend_", None)
    with pytest.raises(TypeError):
        peers.build_all(cases.AveragePrecisionCase(16, 2), ["compiled_eager"])


def test_without_pytest_benchmark_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "NEEDED", ("pytest", "pytest_benchmark_that_is_not_there"))
    assert cli.main(["--quick"]) == 2
    found = capsys.readouterr().err
    assert "pytest-benchmark-that-is-not-there not found" in found
    assert "the extra bench" in found


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--op", "sums"], "unknown op 'sums', expected one of: average_precision"),
        (["--peer", "lib"], "unknown peer 'lib'"),
        (["--op", "moving_average", "--peer", "libauc"], "unknown peer 'libauc'"),
        (
            ["--op", "average_precision", "--case", "B=3"],
            "unknown case 'B=3', expected one of: B=64",
        ),
    ],
)
def test_unknown_names(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert what in capsys.readouterr().err


def test_a_selection() -> None:
    everything = selection.Selection()
    assert everything.everything
    assert everything.cases() == [case for case in cases.CASES if "cpu" in case.devices]
    on_gpu = selection.Selection(device="cuda")
    assert on_gpu.everything
    assert on_gpu.cases() == cases.CASES
    assert "unknown case" in (
        selection.Selection(names=["CLIP bfloat16, B=256, d=128"]).complaint() or ""
    )
    quick = selection.Selection(quick=True)
    assert not quick.everything
    assert 0 < len(quick.cases()) <= 3 * len(cases.WORKS)
    libauc = selection.Selection(peers=["libauc"])
    assert [c for c in libauc.cases() if c.work == "average_precision"] == cases.AVERAGE_PRECISION
    assert not {case.work for case in libauc.cases()} & {"sort", "metrics", "selection"}
    named = selection.Selection(quick=True, works=["average_precision"], names=["B=16384"])
    assert [case.name for case in named.cases()] == ["B=16384"]
    assert named.complaint() is None
    assert selection.Selection(names=["B=64"], peers=["direct"]).complaint() == (
        "no case has all that was asked for"
    )


# --------------------------------------------------------------------------------------- records


@pytest.mark.parametrize("name", record.PAGES)
def test_the_recorded_results_render_as_their_page_shows_them(name: str, tmp_path: Path) -> None:
    found = record.load(RECORD.with_name(f"{name}.json"))
    page, works = record.PAGES[name]
    text = (ROOT / page).read_text()
    assert f"== {works[0]} ==" in tables.render(found)
    copy = tmp_path / "page.md"
    start, end = text.index(record.MARKER), text.index(record.END_MARKER)
    copy.write_text(text[:start] + record.MARKER + "stale" + text[end:])
    record.refresh_page(found, copy, works)
    assert copy.read_text() == text


@pytest.mark.parametrize("case", [SortCase(50), MetricCase("auroc", size=50)])
def test_the_sort_and_the_metrics_reach_the_readme(case: cases.Case) -> None:
    """Raced and printed, every contestant right to the last float64 digits."""
    contestants, left_out = peers.build_all(case)
    result = Race(contestants, Budget(0.0, 1, 1)).finish()
    found = [c["error"] for c in result["contestants"].values()]
    assert len(found) == len(peers.names_of(case.work)) and max(found) < 1e-14
    race = {"work": case.work, "case": case.name, **case.notes, **result, "left_out": left_out}
    (*_, head, _, row) = tables.markdown(record.load(RECORD) | {"races": [race]}).splitlines()
    assert head.count("/ours") == len(found) - 1
    assert row.startswith(f"| {case.name} |")


def test_from_prints_and_publishes_only_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = RECORD.read_bytes(), (ROOT / "README.md").read_bytes()
    assert cli.main(["--from", str(RECORD)]) == 0
    assert "wrote" not in capsys.readouterr().out
    assert cli.main(["--from", str(RECORD), "--output", str(tmp_path / "a"), "--name", "cpu"]) == 0
    assert "README" not in capsys.readouterr().out
    assert record.load(tmp_path / "a" / "cpu.json")["races"] == record.load(RECORD)["races"]
    assert (RECORD.read_bytes(), (ROOT / "README.md").read_bytes()) == before


def test_races_are_added_to_a_record_of_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def race(case: str, leader: str) -> dict[str, Any]:
        return {"work": "ndcg", "case": case, "leader": leader}

    about = machine.describe()
    earlier = {"machine": about, "races": [race("a", "old"), race("b", "old")]}
    later = {"machine": about, "races": [race("c", "new"), race("b", "new")]}
    races = record.add(earlier, later)["races"]
    assert races == [race("a", "old"), race("b", "new"), race("c", "new")]

    monkeypatch.setattr(record, "run", lambda _: pytest.fail("nothing may be run in vain"))
    command = ["--op", "ndcg", "--output", str(tmp_path), "--add"]
    assert cli.main(command) == 2
    assert "not found" in capsys.readouterr().err
    other = earlier | {"machine": about | {"cpu": "another"}}
    (tmp_path / "cpu.json").write_text(json.dumps(other))
    assert cli.main(command) == 2
    assert "cpu was another" in capsys.readouterr().err


def test_columns_that_say_nothing_are_not_shown() -> None:
    found = record.load(RECORD)
    (race, *_) = (r for r in found["races"] if r["case"] == "B=4096")
    # without what the recorded run has, whichever machine it was
    found["machine"].pop("rates", None)
    race.pop("limit", None)
    for name in [name for name in race["contestants"] if "compiled" in name]:
        del race["contestants"][name]
    for word in ("launches", "of limit", "compiled eager"):
        assert word not in tables.render(found | {"races": [race]})
    ours = race["contestants"]["ours"]
    race["limit"] = {"ms": ours["ms"]["median"] / 4, "bound": "bytes", "amount": 1.0}
    ours["launches"] = {"launches": 17, "copies": 2, "syncs": 1}
    lines = tables.render(found | {"races": [race]}).splitlines()
    assert any("25.00% bytes" in line and " 17 " in line for line in lines)
    assert any("launches  copies  syncs" in line for line in lines)


def test_limits_become_times() -> None:
    rates = {"copy_gb_s": 10.0, "fma_g_s": 100.0}
    assert limits.note(cases.Limit(1e7), rates) == {"ms": 1.0, "bound": "bytes", "amount": 1e7}
    found = limits.note(cases.Limit(1e7, 2e7), rates)
    assert (found["bound"], round(found["ms"], 12)) == ("lanes", 0.2)


def test_the_runtime_calls_are_told_apart() -> None:
    names = ["cudaLaunchKernel", "cudaLaunchKernelExC", "cudaMemcpyAsync", "aten::add"]
    names += ["cudaStreamSynchronize", "cuLaunchKernel", "cudaMemsetAsync", "cudaStreamWaitEvent"]
    assert launches.tally(names) == {"launches": 3, "copies": 1, "syncs": 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_launches_are_counted() -> None:
    x = torch.zeros(10, device="cuda")
    x.add_(1)
    assert launches.count(lambda: x.add_(1).add_(2)) == {"launches": 2, "copies": 0, "syncs": 0}
    assert launches.count(lambda: x.sum().item())["syncs"] >= 1
    assert Contestant("x", lambda: None, device="cuda").wait() is None


@pytest.mark.parametrize("error", [1e9, math.nan, 0.0])
def test_a_wrong_result_is_not_recorded(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    (case, *_) = (case for case in cases.CASES if case.work == "average_precision")
    benchmark = SimpleNamespace(extra_info={})
    found = {"contestants": {"ours": {"error": None}, "peer": {"error": error}}}
    monkeypatch.setattr(suite, "build_all", lambda *_: ([], {}))

    def race() -> None:
        suite.test_race(case, lambda *_: found, selection.Selection(), benchmark)

    if error == 0.0:
        race()
        assert benchmark.extra_info == found
        return
    with pytest.raises(pytest.fail.Exception, match="peer"):
        race()
    assert not benchmark.extra_info


@pytest.mark.parametrize(
    ("status", "options", "name"),
    [(0, [], "cpu"), (1, [], "cpu"), (2, [], "cpu-part"), (2, ["--name", "cpu"], "cpu-part")],
)
def test_an_interrupted_run_replaces_no_record(
    status: int, options: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    monkeypatch.setattr(record, "run", lambda _: (record.load(RECORD), status))
    monkeypatch.setattr(record, "publish", lambda _, name, folder: names.append(name) or [])
    assert cli.main(options) == status
    assert names == [name]


@pytest.mark.parametrize(
    "command",
    [
        ["--quick", "--add"],
        ["--race-seconds", "-1"],
        ["--from", str(RECORD), "--op", "ndcg"],
        ["--compare", str(RECORD), str(RECORD), "--case", "B=64"],
    ],
)
def test_options_that_do_not_go_together(command: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 2
