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
    records = set()
    for name, stage in gpu_check.STAGES.items():
        if name.startswith("races"):
            records.add(stage({"name": "card"})["record"])
    assert len(records) == len(commands) == 8
    for command in commands:
        assert command[:4] == [sys.executable, "-m", "xrisk_ext", "bench"]
        assert bench([*command[4:], "--list"]) == 0, shlex.join(command)
    assert "B=4096" in capsys.readouterr().out
