"""The comparison study runs from end to end, and its table, record and picture are complete."""

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
matplotlib_image = pytest.importorskip("matplotlib.image")

from benchmarks import study  # noqa: E402
from xrisk_ext.demo import data  # noqa: E402


def test_study_compares_every_method_on_every_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, record = tmp_path / "study.png", tmp_path / "study.json"
    arguments = ["--quick", "--seeds", "2", "--output", str(picture), "--json", str(record)]
    assert study.main(arguments) == 0
    output = capsys.readouterr().out
    recorded = json.loads(record.read_text())["tasks"]
    assert [*recorded] == [task.name for task in data.TASKS[:2]]
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in output.splitlines()
            if line.startswith("| ")}  # fmt: skip
    for method in study.METHODS:
        cells = rows[method.name]
        for task, cell in zip(recorded, cells, strict=False):
            runs = recorded[task][method.name]["test_auprc"]
            assert len(runs) == 2
            assert all(0 < value <= 1 for value in runs)
            assert float(cell.split("±")[0]) == pytest.approx(sum(runs) / 2, abs=6e-4)
    assert rows["cross entropy"][3].strip() == ""
    assert matplotlib_image.imread(picture).shape[0] > 200


def test_methods_are_those_of_the_published_comparison() -> None:
    names = [method.name for method in study.METHODS]
    assert len(names) == len(set(names))
    published = {"cross entropy", "class-balanced", "focal", "LDAM", "AUC-M", "Smooth-AP", "FastAP"}
    assert published | {"min-max AUC", "SOAP"} <= set(names)
