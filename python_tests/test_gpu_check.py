"""benchmarks/gpu_check.py, as far as a machine without a GPU can show it."""

import importlib.util
import shlex
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from xrisk_ext.bench.cli import main as bench

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu_check.py"


@pytest.fixture
def gpu_check() -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("not a checkout")
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_stage_ends_in_time_with_all_that_it_started(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "STAGE_SECONDS", 0.5)
    late = tmp_path / "late"
    child = f"sleep 2; touch {shlex.quote(str(late))}"
    found = gpu_check.run(["sh", "-c", f"echo begun; sh -c {shlex.quote(child)}; echo ended"])
    assert not found["passed"] and found["status"] == 124
    assert found["tail"] == "begun\n"
    time.sleep(2)
    assert not late.exists()


def test_the_races_of_every_stage_exist(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []
    monkeypatch.setattr(gpu_check, "run", lambda command: commands.append(command) or {})
    races = [stage for name, stage in gpu_check.STAGES.items() if name.startswith("races")]
    report: dict[str, dict] = {"stages": {}}
    for number, stage in enumerate(races):
        report["stages"][str(number)] = stage(report)
    assert len(commands) == len(races) > 8
    assert "--add" not in commands[0]  # what an earlier report found does not stay
    for command in commands:
        assert command[:4] == [sys.executable, "-m", "xrisk_ext", "bench"]
        listed = [word for word in command[4:] if word != "--add"]  # to a GPU's record
        assert bench([*listed, "--list"]) == 0, shlex.join(command)
    assert "B=4096" in capsys.readouterr().out


def test_the_table_has_the_stages_and_the_kernels(gpu_check: ModuleType) -> None:
    case = {"ms": 0.2, "graph_ms": 0.0051, "launches": 3, "limit_ms": 0.001, "bound": "bytes"}
    cases = {"AP 448": case, "AP 9": {"error": "RuntimeError: no\nmore"}}
    stages = {
        "build": {"passed": True, "seconds": 3.5},
        "kernels": {"passed": False, "counts": {"passed": 3, "failed": 1}, "tail": "long"},
        "profile": {"passed": True, "cases": cases, "rates_per_ms": {"bytes": 4.1e9}},
    }
    report = {"machine": {"gpu": "Card", "torch": "2"}, "taken": "today", "stages": stages}
    lines = gpu_check.table(report).splitlines()
    assert "| build | passed | 3.5 |  |" in lines
    assert "| kernels | FAILED | - | 3 passed, 1 failed |" in lines
    assert "| AP 448 | 5.1 us | 200 us | 3 | 1 us | bytes |" in lines
    assert "| AP 9 | RuntimeError: no | | | | |" in lines


def test_linked_programs_are_run_one_by_one(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, status in (("test_good", 0), ("test_bad", 3), ("other", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name}\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(gpu_check, "programs", tmp_path)
    found = gpu_check.kernels({})
    assert found["counts"] == {"passed": 1, "failed": 1} and not found["passed"]
    assert found["tail"] == "test_bad\n"
    (tmp_path / "test_bad").unlink()
    assert gpu_check.kernels({})["passed"]
    (tmp_path / "test_good").unlink()
    assert not gpu_check.kernels({})["passed"], "nothing was run"
